//! The strategy `copy-back`: the original recipe, kept as the baseline.
//!
//! A whole new class layer, old and new columns, starts from random weights and learns by gradient descent with the
//! focal loss and the OD API's assignment, old classes from what objects of theirs are labelled and from the old
//! model's own confident detections. Afterwards only the new columns are kept: the old ones are put back.

use std::time::Instant;

use super::cache::FeatureCache;
use super::features::Seen;
use super::loss::{Logits, LossGraph};
use super::objective::accumulate;
use super::parameters::Columns;
use super::shape::{LayerSize, NetworkShape, ViewFeatures};
use super::targets::{Truth, matched, select};
use crate::data::BoxYxyx;
use crate::error::{Error, Result};
use crate::head::axis::{ClassAxis, Growth};
use crate::head::columns::{Init, LayerValues, NewColumns, initial};
use crate::random::SplitMix;
use crate::runtime::{AnyTensor, SessionConfig};

/// How the layer is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DescentOptions {
    /// Steps.
    pub steps: usize,
    /// Views in a step.
    pub batch: usize,
    /// Learning rate, constant after [`DescentOptions::warmup`] steps of linear growth.
    pub rate: f64,
    /// Steps of growing rate.
    pub warmup: usize,
    /// Momentum.
    pub momentum: f64,
    /// α of the focal loss: the weight of positives; negatives have 1−α.
    pub alpha: f32,
    /// γ of the focal loss.
    pub gamma: f32,
    /// Seed of the start and of the order of views.
    pub seed: u64,
    /// Threads of TensorFlow; its own choice without it.
    pub threads: Option<usize>,
}

impl Default for DescentOptions {
    /// The focal loss of `ssd_mobilenet_v2_320x320_coco17_tpu-8.config`; rate and momentum of the original recipe.
    fn default() -> Self {
        Self {
            steps: 300,
            batch: 8,
            rate: 0.01,
            warmup: 0,
            momentum: 0.9,
            alpha: 0.75,
            gamma: 2.0,
            seed: 0,
            threads: None,
        }
    }
}

/// The score from which on a detection of the old model is an example of its class, as a logit.
const CONFIDENT: f32 = 0.0;
/// Overlap from which on two boxes of a class are the same object; the suppression threshold of SSD models.
const SAME: f32 = 0.6;

/// Parts of a kept row: features [depth], matched column of each anchor or −1 [anchors], cells it stands for [1].
pub(super) fn row_widths(size: LayerSize) -> Vec<usize> {
    vec![size.depth, size.anchors, 1]
}

/// Puts views into a cache, with what their anchors should say. Columns are numbered background, old, new.
pub(super) struct Examples<'a> {
    shape: &'a NetworkShape,
    background: bool,
    kernels: Vec<(AnyTensor, AnyTensor)>,
    columns: usize,
    logits: Logits,
}

impl<'a> Examples<'a> {
    pub(super) fn new(
        shape: &'a NetworkShape,
        sizes: &[LayerSize],
        old: &[LayerValues],
        background: bool,
        threads: Option<usize>,
    ) -> Result<Self> {
        let columns = super::parameters::old_columns(sizes, old)?;
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
    pub(super) fn keep(
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
            for kept in select(level, seen.number, &near, |anchor| matched[anchor].is_some()) {
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

/// What the descent gives.
#[derive(Debug, Clone)]
pub struct DescentResult {
    /// New columns of each layer, kernel [depth, anchors, classes].
    pub columns: Vec<NewColumns>,
    /// The loss of each step, per matched anchor.
    pub losses: Vec<f64>,
    /// Seconds.
    pub seconds: f64,
}

struct Layer {
    size: LayerSize,
    kernel: Vec<f32>,
    biases: Vec<f32>,
    kernel_speed: Vec<f64>,
    bias_speed: Vec<f64>,
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
    mut step: impl FnMut(usize, f64),
) -> Result<DescentResult> {
    let start = Instant::now();
    let total = old + added;
    let config = SessionConfig { threads: options.threads, optimize: false };
    let graph = LossGraph::focal(options.alpha, options.gamma, total, &config)?;
    let mut layers = Vec::new();
    for (number, &size) in sizes.iter().enumerate() {
        layers.push(Layer::random(size, total, options.seed.wrapping_add(number as u64))?);
    }
    let views = cache.chunks(0);
    let mut order: Vec<usize> = (0..views).collect();
    let mut random = SplitMix::new(options.seed, &[1]);
    let mut next = views;
    let mut losses = Vec::with_capacity(options.steps);
    for number in 1..=options.steps {
        let mut batch = Vec::with_capacity(options.batch);
        while batch.len() < options.batch.clamp(1, views.max(1)) && views > 0 {
            if next == views {
                random.shuffle(&mut order);
                next = 0;
            }
            batch.push(order[next]);
            next += 1;
        }
        let (mut loss, mut positives) = (0.0, 0.0);
        let mut slopes = Vec::with_capacity(layers.len());
        for (layer, values) in layers.iter().enumerate() {
            let (l, p, slope) = values.slope(&graph, cache, layer, &batch, total)?;
            loss += l;
            positives += p;
            slopes.push(slope);
        }
        let normaliser = f64::max(positives, 1.0);
        loss /= normaliser;
        if !loss.is_finite() {
            return Err(Error::Data(format!("training diverged at step {number}: lower the learning rate")));
        }
        let rate = options.rate * (number as f64 / options.warmup.max(1) as f64).min(1.0);
        for (layer, slope) in layers.iter_mut().zip(&slopes) {
            advance(
                &mut layer.kernel,
                &mut layer.kernel_speed,
                &slope.kernel,
                normaliser,
                rate,
                options.momentum,
            );
            advance(
                &mut layer.biases,
                &mut layer.bias_speed,
                &slope.biases,
                normaliser,
                rate,
                options.momentum,
            );
        }
        losses.push(loss);
        step(number, loss);
    }
    let columns = layers.iter().map(|layer| NewColumns {
        kernel: crate::head::columns::new_columns(&layer.kernel, old, added),
        biases: crate::head::columns::new_columns(&layer.biases, old, added),
    });
    Ok(DescentResult { columns: columns.collect(), losses, seconds: start.elapsed().as_secs_f64() })
}

/// TensorFlow's momentum: speed ← momentum · speed + slope, value ← value − rate · speed.
fn advance(
    values: &mut [f32],
    speeds: &mut [f64],
    slopes: &[f64],
    normaliser: f64,
    rate: f64,
    momentum: f64,
) {
    for ((value, speed), slope) in values.iter_mut().zip(speeds).zip(slopes) {
        *speed = momentum * *speed + slope / normaliser;
        *value = (f64::from(*value) - rate * *speed) as f32;
    }
}

impl Layer {
    fn random(size: LayerSize, total: usize, seed: u64) -> Result<Self> {
        // No old columns: all of them are new, and random as the API makes them.
        let nothing =
            LayerValues { kernel: vec![0.0; size.depth * size.anchors], biases: vec![0.0; size.anchors] };
        let growth = Growth { classes: 1, added: total };
        let axis = ClassAxis::last(1, size.anchors, false);
        let drawn =
            initial(&nothing, &axis, crate::head::Role::Scores, growth, &vec![Init::Random; total], seed)?;
        Ok(Self {
            size,
            kernel_speed: vec![0.0; drawn.kernel.len()],
            bias_speed: vec![0.0; drawn.biases.len()],
            kernel: drawn.kernel,
            biases: drawn.biases,
        })
    }

    /// Loss, matched anchors and slopes over the views of a batch.
    fn slope(
        &self,
        graph: &LossGraph,
        cache: &FeatureCache,
        layer: usize,
        batch: &[usize],
        total: usize,
    ) -> Result<(f64, f64, Columns)> {
        let LayerSize { depth, anchors } = self.size;
        let w = AnyTensor::new(&[depth, anchors * total], &self.kernel)?;
        let b = AnyTensor::new(&[anchors * total], &self.biases)?;
        let (mut loss, mut positives) = (0.0, 0.0);
        let mut slopes =
            Columns { kernel: vec![0.0; self.kernel.len()], biases: vec![0.0; self.biases.len()] };
        for &view in batch {
            let got = cache.read(layer, view, |parts| {
                let [x, classes, stands_for] = parts else {
                    return Err(Error::Data("kept rows without features, matches and weights".into()));
                };
                let classes: Vec<i32> = classes.f32()?.iter().map(|&class| class as i32).collect();
                let weights = stands_for.f32()?.iter().flat_map(|&w| std::iter::repeat_n(w, anchors));
                let weights: Vec<f32> = weights.collect();
                let class = AnyTensor::new(&[classes.len()], &classes)?;
                let v = AnyTensor::new(&[weights.len(), 1], &weights)?;
                let run = graph.run(&[("x", x), ("w", &w), ("b", &b), ("class", &class), ("v", &v)])?;
                Ok((run, classes.iter().filter(|&&class| class >= 0).count()))
            })?;
            let Some((run, matched)) = got else { continue };
            loss += run.loss;
            positives += matched as f64;
            accumulate(&mut slopes.kernel, run.kernel.f32()?);
            accumulate(&mut slopes.biases, run.biases.f32()?);
        }
        Ok((loss, positives, slopes))
    }
}

#[cfg(test)]
mod tests {
    use super::super::cache::CacheOptions;
    use super::*;
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
        let (loss, positives, slope) = layer.slope(&graph, &cache, 0, &[0], total).unwrap();
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
                (slope.kernel[at] - difference).abs() < 1e-2 * difference.abs().max(1.0),
                "{at}: {} {difference}",
                slope.kernel[at]
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
