//! Pictures whose labels are not complete: an unlabelled object must not teach that it is background.
//!
//! In such pictures an anchor without a target may lie on an object that nobody labelled. The fit is done in rounds: in
//! the first all those anchors count little; then those that score like labelled objects are ignored, the others count in
//! full, and the fit is done again. (DCFS, NeurIPS 2022, and the federated data set LVIS leave the classes that a picture
//! does not label wholly out of its loss; with few pictures their plain background is worth keeping.)

use std::collections::BTreeMap;
use std::rc::Rc;

use super::cache::FeatureCache;
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

/// The kept rows that come from pictures with incomplete labels.
#[derive(Debug, Clone, Default)]
pub struct OpenRows {
    layers: Vec<Layer>,
}

/// Kept rows, and which of them are open.
#[derive(Debug, Clone, Copy)]
pub struct Kept<'a> {
    /// Features, targets and weights.
    pub cache: &'a FeatureCache,
    /// Rows whose background may be unlabelled objects.
    pub open: &'a OpenRows,
}

#[derive(Debug, Clone, Default)]
struct Layer {
    /// Rows kept so far, open or not.
    rows: usize,
    /// Numbers of open rows, and the classes that are not fully labelled there.
    open: Vec<(usize, Rc<[usize]>)>,
}

impl OpenRows {
    /// For so many class layers.
    pub fn new(layers: usize) -> Self {
        Self { layers: vec![Layer::default(); layers] }
    }

    /// Notes that a row was kept; `classes` are those that its picture does not fully label.
    pub fn push(&mut self, layer: usize, classes: &Rc<[usize]>) {
        if let Some(layer) = self.layers.get_mut(layer) {
            if !classes.is_empty() {
                layer.open.push((layer.rows, Rc::clone(classes)));
            }
            layer.rows += 1;
        }
    }

    /// Whether all pictures are fully labelled.
    pub fn is_empty(&self) -> bool {
        self.layers.iter().all(|layer| layer.open.is_empty())
    }

    /// Weights for the first round.
    pub fn first(&self, cache: &FeatureCache, sizes: &[LayerSize], classes: usize) -> Result<Weights> {
        self.reweigh(cache, sizes, classes, |_, _, _, _| FIRST_WEIGHT)
    }

    /// Weights for the next round by the columns of the last one, and how many anchors are ignored.
    pub fn next(
        &self,
        cache: &FeatureCache,
        sizes: &[LayerSize],
        classes: usize,
        columns: &[Columns],
    ) -> Result<(Weights, usize)> {
        let limits = labelled_scores(cache, sizes, classes, columns)?;
        let mut ignored = 0;
        let weights = self.reweigh(cache, sizes, classes, |layer, x, at, class| {
            let like_an_object = limits[class].is_some_and(|limit| score(&columns[layer], x, at) >= limit);
            ignored += usize::from(like_an_object);
            if like_an_object { 0.0 } else { 1.0 }
        })?;
        Ok((weights, ignored))
    }

    /// Multiplies the weights of anchors without target in open rows by what `factor` says of layer, features, column
    /// and class.
    fn reweigh(
        &self,
        cache: &FeatureCache,
        sizes: &[LayerSize],
        classes: usize,
        mut factor: impl FnMut(usize, &[f32], usize, usize) -> f32,
    ) -> Result<Weights> {
        let mut out = Weights::new();
        for (number, (layer, size)) in self.layers.iter().zip(sizes).enumerate() {
            let wide = size.anchors * classes;
            let (mut first, mut open) = (0, &layer.open[..]);
            for chunk in 0..cache.chunks(number) {
                let made = cache.read(number, chunk, |parts| {
                    let [x, y, v] = three(parts)?;
                    let (x, y) = (x.f32()?, y.f32()?);
                    let mut weights = v.f32()?.to_vec();
                    let rows = weights.len() / wide.max(1);
                    let (mine, rest) = open.split_at(open.partition_point(|(row, _)| *row < first + rows));
                    open = rest;
                    for (row, classes_here) in mine {
                        let row = row - first;
                        let features = &x[row * size.depth..(row + 1) * size.depth];
                        for at in 0..wide {
                            let place = row * wide + at;
                            if classes_here.contains(&(at % classes))
                                && y[place] == 0.0
                                && weights[place] > 0.0
                            {
                                weights[place] *= factor(number, features, at, at % classes);
                            }
                        }
                    }
                    first += rows;
                    (!mine.is_empty()).then(|| AnyTensor::new(&[rows, wide], &weights)).transpose()
                })?;
                if let Some(weights) = made.flatten() {
                    out.insert((number, chunk), weights);
                }
            }
        }
        Ok(out)
    }
}

/// For each class the score that all but [`QUANTILE`] of the labelled anchors reach.
fn labelled_scores(
    cache: &FeatureCache,
    sizes: &[LayerSize],
    classes: usize,
    columns: &[Columns],
) -> Result<Vec<Option<f64>>> {
    let mut scores: Vec<Vec<f64>> = vec![Vec::new(); classes];
    for (layer, size) in sizes.iter().enumerate() {
        let wide = size.anchors * classes;
        for chunk in 0..cache.chunks(layer) {
            cache.read(layer, chunk, |parts| {
                let [x, y, _] = three(parts)?;
                let x = x.f32()?;
                for (place, _) in y.f32()?.iter().enumerate().filter(|(_, y)| **y >= LABELLED) {
                    let (row, at) = (place / wide, place % wide);
                    let features = &x[row * size.depth..(row + 1) * size.depth];
                    scores[at % classes].push(score(&columns[layer], features, at));
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

fn score(columns: &Columns, x: &[f32], at: usize) -> f64 {
    let wide = columns.biases.len();
    let weights = columns.kernel.iter().skip(at).step_by(wide);
    columns.biases[at] + x.iter().zip(weights).map(|(x, w)| f64::from(*x) * w).sum::<f64>()
}

fn three(parts: &[AnyTensor]) -> Result<&[AnyTensor; 3]> {
    parts.try_into().map_err(|_| Error::Data("kept rows without features, targets and weights".into()))
}

#[cfg(test)]
mod tests {
    use super::super::cache::CacheOptions;
    use super::*;

    const SIZE: LayerSize = LayerSize { depth: 1, anchors: 1 };

    /// One layer, one feature, two classes: rows of feature, targets, and whether class 0 is open.
    fn rows(list: &[(f32, [f32; 2], bool)], chunk: usize) -> (FeatureCache, OpenRows) {
        let mut cache = FeatureCache::new(vec![vec![1, 2, 2]], CacheOptions::default());
        let mut open = OpenRows::new(1);
        for (number, (x, y, is_open)) in list.iter().enumerate() {
            cache.push(0, &[&[*x], y, &[2.0, 2.0]]).unwrap();
            open.push(0, &if *is_open { Rc::from([0]) } else { Rc::from([]) });
            if number % chunk == chunk - 1 {
                cache.finish().unwrap();
            }
        }
        cache.finish().unwrap();
        (cache, open)
    }

    #[test]
    fn what_looks_like_an_object_is_ignored_where_labels_are_open() {
        if crate::runtime::library::load(None).is_err() {
            eprintln!("skipped: no TensorFlow library");
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
            assert!(!open.is_empty());
            let all = |weights: &Weights| -> Vec<f32> {
                let of = |at| {
                    cache.read(0, at, |parts| Ok(weights.get(&(0, at)).unwrap_or(&parts[2]).f32()?.to_vec()))
                };
                (0..cache.chunks(0)).flat_map(|at| of(at).unwrap().unwrap()).collect()
            };
            let first = open.first(&cache, &[SIZE], 2).unwrap();
            assert_eq!(all(&first), [2.0, 2.0, 2.0, 2.0, 0.5, 2.0, 2.0, 2.0, 0.5, 2.0], "{chunk}");
            let (next, ignored) = open.next(&cache, &[SIZE], 2, &columns).unwrap();
            assert_eq!(ignored, 1);
            assert_eq!(all(&next), [2.0, 2.0, 2.0, 2.0, 0.0, 2.0, 2.0, 2.0, 2.0, 2.0], "{chunk}");
        }
        assert!(rows(&list[..1], 1).1.is_empty());
    }
}
