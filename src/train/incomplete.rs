//! Pictures whose labels are not complete: an unlabelled object must not teach that it is background.
//!
//! In such pictures an anchor without a target may lie on an object that nobody labelled. The fit is done in rounds: in
//! the first all those anchors count little; then those that score like labelled objects are ignored, the others count in
//! full, and the fit is done again. (DCFS, NeurIPS 2022, and the federated data set LVIS leave the classes that a picture
//! does not label wholly out of its loss; with few pictures their plain background is worth keeping.)

use std::collections::BTreeMap;

use super::kept::KeptRows;
use super::parameters::Columns;
use super::shape::LayerSize;
use crate::error::{Error, Result};
use crate::runtime::AnyTensor;

/// What an anchor without a target weighs in the first round.
const FIRST_WEIGHT: f32 = 0.25;
/// Target from which on an anchor shows how a labelled object scores.
const LABELLED: f32 = 0.5;
/// The part of labelled anchors that score lower than what is ignored.
const QUANTILE: f64 = 0.1;
/// Fits after the first one.
pub const ROUNDS: usize = 2;

/// Weights of chunks, by layer and chunk, that stand in for those of the cache.
pub type Weights = BTreeMap<(usize, usize), AnyTensor>;

/// Weights for the first round.
pub fn first(kept: KeptRows<'_>, sizes: &[LayerSize], classes: usize) -> Result<Weights> {
    reweigh(kept, sizes, classes, |_, _, _| FIRST_WEIGHT)
}

/// Weights for the next round by the columns of the last one, and how many anchors are ignored.
pub fn next(
    kept: KeptRows<'_>,
    sizes: &[LayerSize],
    classes: usize,
    columns: &[Columns],
) -> Result<(Weights, usize)> {
    let limits = labelled_scores(kept, sizes, classes, columns)?;
    let mut ignored = 0;
    let weights = reweigh(kept, sizes, classes, |layer, row, at| {
        let class = at % classes;
        let like_an_object = limits[class].is_some_and(|limit| row.score(&columns[layer], at) >= limit);
        ignored += usize::from(like_an_object);
        if like_an_object { 0.0 } else { 1.0 }
    })?;
    Ok((weights, ignored))
}

/// Multiplies the weights of anchors without target in open rows by what `factor` says of layer, row and column. A row
/// of a softmax, which has one weight, is without target where no column has one, and the least factor of its open
/// classes holds.
fn reweigh(
    kept: KeptRows<'_>,
    sizes: &[LayerSize],
    classes: usize,
    mut factor: impl FnMut(usize, Row<'_>, usize) -> f32,
) -> Result<Weights> {
    let mut out = Weights::new();
    for (number, (layer, size)) in kept.open().iter().zip(sizes).enumerate() {
        let wide = size.anchors * classes;
        let (mut first, mut open) = (0, &layer.open[..]);
        for chunk in 0..kept.chunks(number) {
            let made = kept.read(number, chunk, |parts| {
                let rows = Rows::new(parts, size.depth, wide)?;
                let mut weights = rows.weights.to_vec();
                let (mine, rest) = open.split_at(open.partition_point(|(row, _)| *row < first + rows.count));
                open = rest;
                for (at_row, open_classes) in mine {
                    let row = rows.row(at_row - first);
                    let weights = &mut weights[(at_row - first) * rows.per_row..][..rows.per_row];
                    let columns = (0..wide).filter(|at| open_classes.contains(&(at % classes)));
                    if let [weight] = weights {
                        if row.targets.iter().all(|y| *y == 0.0) && *weight > 0.0 {
                            *weight *= columns.map(|at| factor(number, row, at)).fold(1.0, f32::min);
                        }
                        continue;
                    }
                    for at in columns.filter(|&at| row.targets[at] == 0.0) {
                        if weights[at] > 0.0 {
                            weights[at] *= factor(number, row, at);
                        }
                    }
                }
                first += rows.count;
                let shape = [rows.count, rows.per_row];
                (!mine.is_empty()).then(|| AnyTensor::new(&shape, &weights)).transpose()
            })?;
            if let Some(weights) = made.flatten() {
                out.insert((number, chunk), weights);
            }
        }
    }
    Ok(out)
}

/// For each class the score that all but [`QUANTILE`] of the labelled anchors reach.
fn labelled_scores(
    kept: KeptRows<'_>,
    sizes: &[LayerSize],
    classes: usize,
    columns: &[Columns],
) -> Result<Vec<Option<f64>>> {
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
    let limit = |mut scores: Vec<f64>| {
        scores.sort_by(f64::total_cmp);
        scores.get((scores.len() as f64 * QUANTILE) as usize).copied()
    };
    Ok(scores.into_iter().map(limit).collect())
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
                    cache.read(0, at, |parts| Ok(weights.get(&(0, at)).unwrap_or(&parts[2]).f32()?.to_vec()))
                };
                (0..cache.chunks(0)).flat_map(|at| of(at).unwrap().unwrap()).collect()
            };
            let first = super::first(kept, &[SIZE], 2).unwrap();
            assert_eq!(all(&first), [2.0, 2.0, 2.0, 2.0, 0.5, 2.0, 2.0, 2.0, 0.5, 2.0], "{chunk}");
            let (next, ignored) = super::next(kept, &[SIZE], 2, &columns).unwrap();
            assert_eq!(ignored, 1);
            assert_eq!(all(&next), [2.0, 2.0, 2.0, 2.0, 0.0, 2.0, 2.0, 2.0, 2.0, 2.0], "{chunk}");
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
        let weights = |weights: Weights| weights[&(0, 0)].f32().unwrap().to_vec();
        assert_eq!(weights(super::first(kept, &[SIZE], 2).unwrap()), [2.0, 0.5, 0.5, 2.0, 2.0]);
        let columns = [Columns { kernel: vec![1.0, 1.0], biases: vec![0.0, 0.0] }];
        let (next, ignored) = super::next(kept, &[SIZE], 2, &columns).unwrap();
        assert_eq!((weights(next), ignored), (vec![2.0, 0.0, 2.0, 2.0, 2.0], 1));
    }
}
