//! Pictures whose labels are not complete: an unlabelled object must not teach that it is background.
//!
//! In such pictures an anchor without a target may lie on an object that nobody labelled. The fit is done in rounds: in
//! the first all those anchors count little; then those that score like labelled objects are ignored, the others count in
//! full, and the fit is done again. (DCFS, NeurIPS 2022, and the federated data set LVIS leave the classes that a picture
//! does not label wholly out of its loss; with few pictures their plain background is worth keeping.) With pseudo-labels, those
//! that score like a typical labelled object count as one.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::kept::KeptRows;
use super::parameters::Columns;
use super::shape::LayerSize;
use super::task::{TARGETS, WEIGHTS};
use crate::error::{Error, Result};
use crate::runtime::AnyTensor;

/// What an anchor without a target weighs in the first round.
const FIRST_WEIGHT: f32 = 0.25;
/// Target from which on an anchor shows how a labelled object scores.
const LABELLED: f32 = 0.5;
/// The part of labelled anchors that score lower than what is ignored.
const QUANTILE: f64 = 0.1;
/// The part of labelled anchors that score lower than what is taken for an object.
const TYPICAL: f64 = 0.5;
/// Fits after the first one.
pub const ROUNDS: usize = 2;

/// What stands in for parts of a chunk of kept rows.
#[derive(Debug)]
pub struct StandIn {
    /// Its weights.
    pub weights: AnyTensor,
    /// Its targets, where they are others.
    pub targets: Option<Arc<AnyTensor>>,
}

impl StandIn {
    /// What stands in for the part of this name.
    pub fn part(&self, name: &str) -> Option<&AnyTensor> {
        match name {
            WEIGHTS => Some(&self.weights),
            TARGETS => self.targets.as_deref(),
            _ => None,
        }
    }
}

/// Stand-ins by layer and chunk.
pub type Weights = BTreeMap<(usize, usize), StandIn>;

/// What becomes of an anchor without a target.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    /// Its weight is multiplied.
    Weighs(f32),
    /// It counts as labelled.
    Object,
}

/// Anchors of open pictures that score like labelled objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Alike {
    /// Those that were ignored.
    pub ignored: usize,
    /// Those that were taken for objects.
    pub taken: usize,
}

/// Weights for the first round.
pub fn first(kept: KeptRows<'_>, sizes: &[LayerSize], classes: usize) -> Result<Weights> {
    reweigh(kept, sizes, classes, |_, _, _| Fate::Weighs(FIRST_WEIGHT))
}

/// Weights for the next round by the columns of the last one, and what became of anchors that score like objects: with
/// `pseudo_labels` those count as objects that score as high as half of the labelled ones.
pub fn next(
    kept: KeptRows<'_>,
    sizes: &[LayerSize],
    classes: usize,
    columns: &[Columns],
    pseudo_labels: bool,
) -> Result<(Weights, Alike)> {
    let labelled = labelled_scores(kept, sizes, classes, columns)?;
    let mut alike = Alike::default();
    let weights = reweigh(kept, sizes, classes, |layer, row, at| {
        let (score, labelled) = (row.score(&columns[layer], at), &labelled[at % classes]);
        let reaches = |part: f64| quantile(labelled, part).is_some_and(|limit| score >= limit);
        if pseudo_labels && reaches(TYPICAL) {
            alike.taken += 1;
            Fate::Object
        } else if reaches(QUANTILE) {
            alike.ignored += 1;
            Fate::Weighs(0.0)
        } else {
            Fate::Weighs(1.0)
        }
    })?;
    Ok((weights, alike))
}

/// Of sorted values the one that this part of them lies below.
fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    sorted.get((sorted.len() as f64 * part) as usize).copied()
}

/// Does to anchors without target in open rows what `fate` says of layer, row and column.
fn reweigh(
    kept: KeptRows<'_>,
    sizes: &[LayerSize],
    classes: usize,
    mut fate: impl FnMut(usize, Row<'_>, usize) -> Fate,
) -> Result<Weights> {
    let mut out = Weights::new();
    for (number, (layer, size)) in kept.open().iter().zip(sizes).enumerate() {
        let wide = size.anchors * classes;
        let (mut first, mut open) = (0, &layer.open[..]);
        for chunk in 0..kept.chunks(number) {
            let made = kept.read(number, chunk, |parts| {
                let rows = Rows::new(parts, size.depth, wide)?;
                let mut weights = rows.weights.to_vec();
                let mut objects = Vec::new();
                let (mine, rest) = open.split_at(open.partition_point(|(row, _)| *row < first + rows.count));
                open = rest;
                for (at_row, open_classes) in mine {
                    let number_here = at_row - first;
                    let row = rows.row(number_here);
                    let weights = &mut weights[number_here * rows.per_row..][..rows.per_row];
                    let columns = (0..wide).filter(|at| open_classes.contains(&(at % classes)));
                    let taken = settle(row, weights, columns, |at| fate(number, row, at));
                    objects.extend(taken.into_iter().map(|at| number_here * wide + at));
                }
                first += rows.count;
                if mine.is_empty() {
                    return Ok(None);
                }
                let targets = (!objects.is_empty()).then(|| {
                    let mut targets = rows.targets.to_vec();
                    objects.into_iter().for_each(|at| targets[at] = 1.0);
                    AnyTensor::new(&[rows.count, wide], &targets).map(Arc::new)
                });
                let weights = AnyTensor::new(&[rows.count, rows.per_row], &weights)?;
                Ok(Some(StandIn { weights, targets: targets.transpose()? }))
            })?;
            if let Some(stand_in) = made.flatten() {
                out.insert((number, chunk), stand_in);
            }
        }
    }
    Ok(out)
}

/// Does to the anchors of a row what `fate` says of its open `columns`; returns those that count as objects now.
///
/// A row of a softmax, which has one weight, is without target where no column has one; the first column that is taken for an
/// object has it, else the least factor of them holds. A plain cell can stand for many; an object stands for itself.
fn settle(
    row: Row<'_>,
    weights: &mut [f32],
    mut columns: impl Iterator<Item = usize>,
    mut fate: impl FnMut(usize) -> Fate,
) -> Vec<usize> {
    let mut taken = Vec::new();
    if let [weight] = weights {
        if *weight > 0.0 && row.targets.iter().all(|y| *y == 0.0) {
            let least = columns.try_fold(1.0f32, |least, at| match fate(at) {
                Fate::Weighs(factor) => Ok(least.min(factor)),
                Fate::Object => Err(at),
            });
            match least {
                Ok(factor) => *weight *= factor,
                Err(at) => {
                    *weight = weight.min(1.0);
                    taken.push(at);
                }
            }
        }
        return taken;
    }
    for at in columns {
        if row.targets[at] == 0.0 && weights[at] > 0.0 {
            match fate(at) {
                Fate::Weighs(factor) => weights[at] *= factor,
                Fate::Object => {
                    weights[at] = weights[at].min(1.0);
                    taken.push(at);
                }
            }
        }
    }
    taken
}

/// For each class the scores of the labelled anchors, the lowest first.
fn labelled_scores(
    kept: KeptRows<'_>,
    sizes: &[LayerSize],
    classes: usize,
    columns: &[Columns],
) -> Result<Vec<Vec<f64>>> {
    let mut scores: Vec<Vec<f64>> = vec![Vec::new(); classes];
    for (layer, size) in sizes.iter().enumerate() {
        let wide = size.anchors * classes;
        for chunk in 0..kept.chunks(layer) {
            kept.read(layer, chunk, |parts| {
                let rows = Rows::new(parts, size.depth, wide)?;
                for row in (0..rows.count).map(|number| rows.row(number)) {
                    for at in (0..wide).filter(|&at| row.targets[at] >= LABELLED) {
                        scores[at % classes].push(row.score(&columns[layer], at));
                    }
                }
                Ok(())
            })?;
        }
    }
    scores.iter_mut().for_each(|scores| scores.sort_by(f64::total_cmp));
    Ok(scores)
}

/// The rows of a chunk as plain numbers.
struct Rows<'a> {
    features: &'a [f32],
    targets: &'a [f32],
    weights: &'a [f32],
    /// Of a softmax, for each row the logarithm of the sum of the old columns' exponentials.
    old: Option<&'a [f32]>,
    count: usize,
    depth: usize,
    wide: usize,
    /// Weights of a row: one for each column, or one for all.
    per_row: usize,
}

#[derive(Clone, Copy)]
struct Row<'a> {
    features: &'a [f32],
    targets: &'a [f32],
    old: f64,
}

impl<'a> Rows<'a> {
    fn new(parts: &'a [AnyTensor], depth: usize, wide: usize) -> Result<Self> {
        let [x, y, v, rest @ ..] = parts else {
            return Err(Error::Data("kept rows without features, targets and weights".into()));
        };
        let (features, targets, weights) = (x.f32()?, y.f32()?, v.f32()?);
        let count = targets.len() / wide.max(1);
        let old = rest.first().map(AnyTensor::f32).transpose()?;
        let per_row = weights.len() / count.max(1);
        Ok(Self { features, targets, weights, old, count, depth, wide, per_row })
    }

    fn row(&self, number: usize) -> Row<'a> {
        Row {
            features: &self.features[number * self.depth..][..self.depth],
            targets: &self.targets[number * self.wide..][..self.wide],
            old: self.old.map_or(0.0, |old| f64::from(old[number])),
        }
    }
}

impl Row<'_> {
    /// The logit of a column; of a softmax against all old columns together.
    fn score(&self, columns: &Columns, at: usize) -> f64 {
        let weights = columns.kernel.iter().skip(at).step_by(columns.biases.len());
        let product: f64 = self.features.iter().zip(weights).map(|(x, w)| f64::from(*x) * w).sum();
        columns.biases[at] + product - self.old
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::cache::{CacheOptions, FeatureCache};
    use super::super::kept::OpenRows;
    use super::*;
    use crate::runtime::testing;

    const SIZE: LayerSize = LayerSize { depth: 1, anchors: 1 };

    /// One layer, one feature, two classes: rows of feature, targets, and whether class 0 is open.
    fn rows(list: &[(f32, [f32; 2], bool)], chunk: usize) -> (FeatureCache, OpenRows) {
        let mut cache = FeatureCache::new(vec![vec![1, 2, 2]], CacheOptions::default());
        let mut open = OpenRows::new(1);
        for (number, (x, y, is_open)) in list.iter().enumerate() {
            cache.push(0, &[&[*x], y, &[2.0, 2.0]]).unwrap();
            open.push(0, &if *is_open { Arc::from([0]) } else { Arc::from([]) });
            if number % chunk == chunk - 1 {
                cache.finish().unwrap();
            }
        }
        cache.finish().unwrap();
        (cache, open)
    }

    #[test]
    fn what_looks_like_an_object_is_ignored_where_labels_are_open() {
        if testing::library().is_none() {
            return;
        }
        let list = [
            (1.0, [1.0, 0.0], false),
            (0.9, [1.0, 0.0], true),
            (0.95, [0.0, 0.0], true),
            (0.95, [0.0, 0.0], false),
            (0.1, [0.0, 0.0], true),
        ];
        let columns = [Columns { kernel: vec![1.0, 1.0], biases: vec![0.0, 0.0] }];
        for chunk in [1, 2, 3, 9] {
            let (cache, open) = rows(&list, chunk);
            let kept = KeptRows::new(&cache, &open, 0..1).unwrap();
            assert!(kept.any_open());
            let all = |weights: &Weights| -> Vec<f32> {
                let of = |at| {
                    cache.read(0, at, |parts| {
                        Ok(weights.get(&(0, at)).map_or(&parts[2], |s| &s.weights).f32()?.to_vec())
                    })
                };
                (0..cache.chunks(0)).flat_map(|at| of(at).unwrap().unwrap()).collect()
            };
            let first = super::first(kept, &[SIZE], 2).unwrap();
            assert_eq!(all(&first), [2.0, 2.0, 2.0, 2.0, 0.5, 2.0, 2.0, 2.0, 0.5, 2.0], "{chunk}");
            let (next, alike) = super::next(kept, &[SIZE], 2, &columns, false).unwrap();
            assert_eq!(alike, Alike { ignored: 1, taken: 0 });
            assert_eq!(all(&next), [2.0, 2.0, 2.0, 2.0, 0.0, 2.0, 2.0, 2.0, 2.0, 2.0], "{chunk}");
        }
        // With pseudo-labels the one that scores like half of the labelled ones or more is one.
        let list = [&list[..], &[(0.91, [0.0, 0.0], true)]].concat();
        for chunk in [1, 2, 9] {
            let (cache, open) = rows(&list, chunk);
            let kept = KeptRows::new(&cache, &open, 0..1).unwrap();
            let (next, alike) = super::next(kept, &[SIZE], 2, &columns, true).unwrap();
            // Scores of labelled ones: 1 and 0.9; half of them reach 1, all 0.9.
            assert_eq!(alike, Alike { ignored: 2, taken: 0 }, "{chunk}");
            assert!(next.values().all(|s| s.targets.is_none()));
            let steep = [Columns { kernel: vec![-1.0, 1.0], biases: vec![0.0, 0.0] }];
            let (next, alike) = super::next(kept, &[SIZE], 2, &steep, true).unwrap();
            // Now the darkest scores highest.
            assert_eq!(alike, Alike { ignored: 2, taken: 1 }, "{chunk}");
            let taken = next.values().find_map(|s| s.targets.as_ref().zip(Some(&s.weights))).unwrap();
            assert!(taken.0.f32().unwrap().contains(&1.0) && taken.1.f32().unwrap().contains(&1.0));
        }
        let (cache, open) = rows(&list[..1], 1);
        assert!(!KeptRows::new(&cache, &open, 0..1).unwrap().any_open());
    }

    #[test]
    fn a_row_of_a_softmax_has_one_weight() {
        if testing::library().is_none() {
            return;
        }
        let mut cache = FeatureCache::new(vec![vec![1, 2, 1, 1]], CacheOptions::default());
        let mut open = OpenRows::new(1);
        // Feature, targets, what the old columns say, whether class 0 is open. Labelled: logit 1 over the old ones.
        for (x, y, old, is_open) in [
            (2.0, [1.0, 0.0], 1.0, true),
            (2.0, [0.0, 0.0], 0.5, true),
            (2.0, [0.0, 0.0], 1.5, true),
            (2.0, [0.0, 1.0], 0.5, true),
            (2.0, [0.0, 0.0], 0.5, false),
        ] {
            cache.push(0, &[&[x], &y, &[2.0], &[old]]).unwrap();
            open.push(0, &if is_open { Arc::from([0]) } else { Arc::from([]) });
        }
        cache.finish().unwrap();
        let kept = KeptRows::new(&cache, &open, 0..1).unwrap();
        let weights = |weights: Weights| weights[&(0, 0)].weights.f32().unwrap().to_vec();
        assert_eq!(weights(super::first(kept, &[SIZE], 2).unwrap()), [2.0, 0.5, 0.5, 2.0, 2.0]);
        let columns = [Columns { kernel: vec![1.0, 1.0], biases: vec![0.0, 0.0] }];
        let (next, alike) = super::next(kept, &[SIZE], 2, &columns, false).unwrap();
        assert_eq!((weights(next), alike.ignored), (vec![2.0, 0.0, 2.0, 2.0, 2.0], 1));
        // The one that is ignored scores what half of the labelled ones do.
        let (next, alike) = super::next(kept, &[SIZE], 2, &columns, true).unwrap();
        assert_eq!(alike, Alike { ignored: 0, taken: 1 });
        let targets = next[&(0, 0)].targets.as_ref().unwrap().f32().unwrap().to_vec();
        assert_eq!(targets, [1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
        assert_eq!(weights(next), [2.0, 1.0, 2.0, 2.0, 2.0]);
    }
}
