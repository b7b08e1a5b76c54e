//! Copy-back of single stages: a whole class layer for each feature map, with the focal loss and the OD API's assignment.

use std::time::Instant;

use super::super::cache::FeatureCache;
use super::super::features::Seen;
use super::super::loss::{Logits, LossGraph};
use super::super::parameters::{Columns, old_columns};
use super::super::shape::{LayerSize, NetworkShape, ViewFeatures};
use super::super::targets::{Truth, matched, select};
use super::descent::{self, Layer, Step};
use super::{DescentOptions, DescentResult};
use crate::data::BoxYxyx;
use crate::error::{Error, Result};
use crate::head::columns::{LayerValues, NewColumns, new_columns};
use crate::runtime::{AnyTensor, SessionConfig};

/// The score from which on a detection of the old model is an example of its class, as a logit.
const CONFIDENT: f32 = 0.0;
/// Overlap from which on two boxes of a class are the same object; the suppression threshold of SSD models.
const SAME: f32 = 0.6;

/// Parts of a kept row: features [depth], matched column of each anchor or −1 [anchors], cells it stands for [1].
pub(in crate::train) fn row_widths(size: LayerSize) -> Vec<usize> {
    vec![size.depth, size.anchors, 1]
}

/// Puts views into a cache, with what their anchors should say. Columns are numbered background, old, new.
pub(in crate::train) struct Examples<'a> {
    shape: &'a NetworkShape,
    background: bool,
    kernels: Vec<(AnyTensor, AnyTensor)>,
    columns: usize,
    logits: Logits,
}

impl<'a> Examples<'a> {
    pub(in crate::train) fn new(
        shape: &'a NetworkShape,
        sizes: &[LayerSize],
        old: &[LayerValues],
        background: bool,
        threads: Option<usize>,
    ) -> Result<Self> {
        let columns = old_columns(sizes, old)?;
        let tensors = sizes.iter().zip(old).map(|(size, old)| {
            let wide = size.anchors * columns;
            Ok((AnyTensor::new(&[size.depth, wide], &old.kernel)?, AnyTensor::new(&[wide], &old.biases)?))
        });
        let logits = Logits::new(&SessionConfig { threads, optimize: false })?;
        Ok(Self { shape, background, kernels: tensors.collect::<Result<_>>()?, columns, logits })
    }

    /// What the old model finds with confidence, once each.
    fn found(&self, seen: &Seen, features: &ViewFeatures) -> Result<Vec<Truth>> {
        let mut candidates: Vec<(f32, usize, BoxYxyx)> = Vec::new();
        for (level, x) in self.shape.levels.iter().zip(&features.levels) {
            let Some((kernel, biases)) = self.kernels.get(level.layer) else { continue };
            let logits = self.logits.run(x, kernel, biases)?;
            for (at, &logit) in logits.f32()?.iter().enumerate() {
                let (anchor, column) = (level.first_anchor + at / self.columns, at % self.columns);
                if logit > CONFIDENT && !(self.background && column == 0) {
                    candidates.push((logit, column, features.boxes[anchor].clip()));
                }
            }
        }
        candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut found: Vec<Truth> = Vec::new();
        for (_, class, bbox) in candidates {
            let known = found.iter().chain(&seen.truths);
            if !known.into_iter().any(|t| t.class == class && t.bbox.iou(&bbox) > SAME) {
                found.push(Truth { class, bbox, visible: 1.0, crowd: false });
            }
        }
        Ok(found)
    }

    /// Keeps a view as one chunk; gives the number of matched anchors of each class to `positives`.
    pub(in crate::train) fn keep(
        &self,
        cache: &mut FeatureCache,
        seen: &Seen,
        features: &ViewFeatures,
        mut positive: impl FnMut(usize, usize, usize),
    ) -> Result<()> {
        let mut truths = seen.truths.clone();
        truths.extend(self.found(seen, features)?);
        let matched = matched(&self.shape.anchors, &truths);
        let near: Vec<f32> = (self.shape.anchors.iter().zip(&features.boxes))
            .map(|(anchor, decoded)| {
                let decoded = decoded.clip();
                truths.iter().map(|t| t.bbox.iou(anchor).max(t.bbox.iou(&decoded))).fold(0.0, f32::max)
            })
            .collect();
        for (map, (level, x)) in self.shape.levels.iter().zip(&features.levels).enumerate() {
            let x = x.f32()?;
            let view = (seen.number, seen.of_all);
            for kept in select(level, view, &near, |anchor| matched[anchor].is_some()) {
                let first = level.first_anchor + kept.cell * level.anchors;
                let mut classes = Vec::with_capacity(level.anchors);
                for a in 0..level.anchors {
                    let class = matched[first + a].map(|t| truths[t].class);
                    if let Some(class) = class {
                        positive(map, a, class);
                    }
                    classes.push(class.map_or(-1.0, |class| class as f32));
                }
                let row = &x[kept.cell * level.depth..(kept.cell + 1) * level.depth];
                cache.push(level.layer, &[row, &classes, &[kept.stands_for]])?;
            }
        }
        cache.finish_view()
    }
}

/// Trains whole layers on a cache of one chunk per view and gives their last `added` columns.
///
/// `old` is the number of old columns, background included. The loss is divided by the matched anchors of the batch
/// (at least one), as `ssd_meta_arch.py` does.
pub fn descend(
    cache: &FeatureCache,
    sizes: &[LayerSize],
    old: usize,
    added: usize,
    options: &DescentOptions,
    step: impl FnMut(usize, f64),
) -> Result<DescentResult> {
    let start = Instant::now();
    let total = old + added;
    let config = SessionConfig { threads: options.threads, optimize: false };
    let graph = LossGraph::focal(options.alpha, options.gamma, total, &config)?;
    let random = |(number, &size)| Layer::random(size, total, options.seed.wrapping_add(number as u64));
    let mut layers = sizes.iter().enumerate().map(random).collect::<Result<Vec<_>>>()?;
    let said = |layers: &[Layer], batch: &[usize]| {
        let mut said = Step::default();
        for (number, layer) in layers.iter().enumerate() {
            let (loss, positives, slope) = slope(layer, &graph, cache, number, batch)?;
            said.loss += loss;
            said.worth += positives;
            said.slopes.push(slope);
        }
        said.worth = said.worth.max(1.0);
        Ok(said)
    };
    let losses = descent::descend(&mut layers, cache.chunks(0), options, said, step)?;
    let columns = layers.iter().map(|layer| NewColumns {
        kernel: new_columns(&layer.kernel, old, added),
        biases: new_columns(&layer.biases, old, added),
    });
    Ok(DescentResult { columns: columns.collect(), losses, seconds: start.elapsed().as_secs_f64() })
}

/// Loss, matched anchors and slopes of a layer over the views of a batch.
fn slope(
    layer: &Layer,
    graph: &LossGraph,
    cache: &FeatureCache,
    number: usize,
    batch: &[usize],
) -> Result<(f64, f64, Columns)> {
    let anchors = layer.size.anchors;
    let mut positives = 0.0;
    let (loss, slopes) = layer.over(batch, |view, w, b| {
        cache.read(number, view, |parts| {
            let [x, classes, stands_for] = parts else {
                return Err(Error::Data("kept rows without features, matches and weights".into()));
            };
            let classes: Vec<i32> = classes.f32()?.iter().map(|&class| class as i32).collect();
            let weights = stands_for.f32()?.iter().flat_map(|&w| std::iter::repeat_n(w, anchors));
            let weights: Vec<f32> = weights.collect();
            let class = AnyTensor::new(&[classes.len()], &classes)?;
            let v = AnyTensor::new(&[weights.len(), 1], &weights)?;
            positives += classes.iter().filter(|&&class| class >= 0).count() as f64;
            graph.run(&[("x", x), ("w", w), ("b", b), ("class", &class), ("v", &v)])
        })
    })?;
    Ok((loss, positives, slopes))
}

#[cfg(test)]
mod tests {
    use super::super::super::cache::CacheOptions;
    use super::*;
    use crate::random::SplitMix;
    use crate::runtime::testing;

    const SIZE: LayerSize = LayerSize { depth: 3, anchors: 2 };

    /// Views whose first anchor shows class 2 where feature 0 is high and class 1 where feature 1 is.
    fn cache() -> FeatureCache {
        let mut random = SplitMix::new(4, &[]);
        let mut cache = FeatureCache::new(vec![row_widths(SIZE)], CacheOptions::default());
        for _ in 0..12 {
            for row in 0..10 {
                let x: Vec<f32> =
                    (0..3).map(|f| random.uniform(0.0, 1.0) as f32 + f32::from(f == row % 3) * 3.0).collect();
                let class = [2.0, 1.0, -1.0][row % 3];
                cache.push(0, &[&x, &[class, -1.0], &[1.0]]).unwrap();
            }
            cache.finish_view().unwrap();
        }
        cache
    }

    #[test]
    fn the_focal_loss_is_that_of_the_paper_and_so_is_its_slope() {
        if testing::library().is_none() {
            return;
        }
        let cache = cache();
        let (alpha, gamma, total) = (0.75f64, 2.0f64, 3);
        let graph = LossGraph::focal(alpha as f32, gamma as f32, total, &SessionConfig::default()).unwrap();
        let mut layer = Layer::random(SIZE, total, 1).unwrap();
        layer.kernel.iter_mut().for_each(|w| *w *= 60.0);
        layer.biases.iter_mut().for_each(|b| *b = 0.3);
        let by_hand = |layer: &Layer| -> f64 {
            let each = |parts: &[AnyTensor]| {
                let mut sum = 0.0;
                for (x, class) in parts[0].f32()?.chunks(3).zip(parts[1].f32()?.chunks(2)) {
                    for column in 0..2 * total {
                        let z = f64::from(layer.biases[column])
                            + (0..3)
                                .map(|f| f64::from(x[f]) * f64::from(layer.kernel[f * 2 * total + column]))
                                .sum::<f64>();
                        let p = 1.0 / (1.0 + (-z).exp());
                        let positive = class[column / total] == (column % total) as f32;
                        let (pt, at) = if positive { (p, alpha) } else { (1.0 - p, 1.0 - alpha) };
                        sum -= at * (1.0 - pt).powf(gamma) * pt.ln();
                    }
                }
                Ok(sum)
            };
            cache.read(0, 0, each).unwrap().unwrap()
        };
        let (loss, positives, got) = slope(&layer, &graph, &cache, 0, &[0]).unwrap();
        assert_eq!(positives, 7.0);
        let expected = by_hand(&layer);
        assert!((loss - expected).abs() < 1e-5 * expected, "{loss} and {expected}");
        for at in 0..layer.kernel.len() {
            let mut step = |by: f32| {
                let kept = layer.kernel[at];
                layer.kernel[at] += by;
                let value = (by_hand(&layer), layer.kernel[at]);
                layer.kernel[at] = kept;
                value
            };
            let ((up, high), (down, low)) = (step(1e-2), step(-1e-2));
            let difference = (up - down) / f64::from(high - low);
            assert!(
                (got.kernel[at] - difference).abs() < 1e-2 * difference.abs().max(1.0),
                "{at}: {} {difference}",
                got.kernel[at]
            );
        }
    }

    #[test]
    fn learns_and_repeats() {
        if testing::library().is_none() {
            return;
        }
        let cache = cache();
        let options = DescentOptions { steps: 150, batch: 4, rate: 0.3, ..DescentOptions::default() };
        let run = || descend(&cache, &[SIZE], 2, 1, &options, |_, _| {}).unwrap();
        let result = run();
        assert_eq!(result.columns, run().columns);
        assert_eq!(result.columns[0].kernel.len(), 3 * 2);
        assert!(result.losses[149] < 0.2 * result.losses[0], "{:?}", &result.losses[..3]);
        let of_first_anchor: Vec<f32> = result.columns[0].kernel.iter().step_by(2).copied().collect();
        assert!(of_first_anchor[0] > 0.5 && of_first_anchor[1] < 0.0, "{of_first_anchor:?}");
    }
}
