//! The strategy `frozen-columns`: one convex fit of the new columns, everything else as it was.
//!
//! With sigmoid scores the loss is a sum over classes, so that the best new columns do not depend on the old ones; what
//! remains is logistic regression on frozen features, and the same numbers come out every time.

use std::time::Instant;

use super::cache::FeatureCache;
use super::incomplete::{Kept, ROUNDS};
use super::lbfgs::{self, Limits};
use super::objective::{self, Objective};
use super::parameters::{Parameters, Penalties};
use super::shape::LayerSize;
use crate::error::Result;
use crate::head::columns::{LayerValues, NewColumns};

/// How the fit is done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FitOptions {
    /// The priors.
    pub penalties: Penalties,
    /// How much more a full target weighs than background.
    pub positive_weight: f32,
    /// When the solver stops. Stopping early is part of the regularisation.
    pub limits: Limits,
    /// What columns are multiplied by in the end, see [`focal_slope`].
    pub calibration: f64,
    /// Threads of TensorFlow; its own choice without it.
    pub threads: Option<usize>,
}

impl Default for FitOptions {
    fn default() -> Self {
        Self {
            penalties: Penalties::default(),
            positive_weight: 2.0,
            limits: Limits { iterations: 60, tolerance: 1e-5 },
            calibration: focal_slope(2.0),
            threads: None,
        }
    }
}

/// The slope of the logit that the focal loss (arXiv 1708.02002) with this γ makes best, over the true logit.
///
/// The best score of a class under the focal loss is, to 0.003 in probability, an affine map of the logit of its true
/// probability, of slope 0.371 for γ = 2 and 0.444 for γ = 1.5 (found numerically; for γ = 0 it is the identity; linear
/// between). Old columns were trained so; the cross entropy here gives true logits. Without the map new low scores
/// would be far lower than old ones of the same worth and lose their places among the best hundred. The map's offset,
/// which depends on α, is left out: it would move the point where a score is one half.
pub fn focal_slope(gamma: f64) -> f64 {
    const KNOWN: [(f64, f64); 3] = [(0.0, 1.0), (1.5, 0.444), (2.0, 0.371)];
    let between = KNOWN.windows(2).find(|pair| gamma <= pair[1].0);
    let [(g0, s0), (g1, s1)] = between.map_or([KNOWN[1], KNOWN[2]], |pair| [pair[0], pair[1]]);
    (s0 + (gamma.max(0.0) - g0) / (g1 - g0) * (s1 - s0)).max(0.1)
}

/// What a fit gives.
#[derive(Debug, Clone)]
pub struct FitResult {
    /// New columns of each layer, kernel [depth, anchors, classes].
    pub columns: Vec<NewColumns>,
    /// The loss before the first step and after each.
    pub losses: Vec<f64>,
    /// Steps taken.
    pub iterations: usize,
    /// Evaluations of the loss.
    pub evaluations: usize,
    /// Effective positives, sums of weight · target: for each layer [anchors, classes].
    pub positives: Vec<Vec<f64>>,
    /// Anchors of pictures with incomplete labels that score like labelled objects and were ignored, by class.
    pub ignored: usize,
    /// Seconds.
    pub seconds: f64,
}

/// Fits the new columns to the kept rows; `step` hears of each step's number and loss.
///
/// `old` are the old layers, of which column 0 is the background where `background` says so. Where rows are `open` the
/// fit is done in rounds, see [`super::incomplete`]; losses and steps are then those of all rounds, one after the other.
pub fn fit(
    kept: Kept<'_>,
    sizes: &[LayerSize],
    old: &[LayerValues],
    background: bool,
    classes: usize,
    options: &FitOptions,
    mut step: impl FnMut(usize, f64),
) -> Result<FitResult> {
    let Kept { cache, open } = kept;
    let start = Instant::now();
    let moments = objective::moments(cache, sizes)?;
    let positives = positives(cache, sizes, classes)?;
    let parameters = Parameters::new(sizes, old, background, moments, classes, &options.penalties)?;
    let mut objective =
        Objective::new(cache, &parameters, sizes, classes, options.positive_weight, options.threads)?;
    let mut solve = |objective: &Objective<'_>| {
        let evaluate = |t: &[f64]| objective.evaluate(t);
        lbfgs::minimise(evaluate, vec![0.0; parameters.len()], options.limits, &mut step)
    };
    if !open.is_empty() {
        objective.reweigh(open.first(cache, sizes, classes)?);
    }
    let mut minimum = solve(&objective)?;
    let (mut losses, mut evaluations, mut ignored) = (minimum.values.clone(), minimum.evaluations, 0);
    let more = if open.is_empty() { 0 } else { ROUNDS };
    for _ in 0..more {
        let weights;
        (weights, ignored) = open.next(cache, sizes, classes, &parameters.columns(&minimum.point))?;
        objective.reweigh(weights);
        minimum = solve(&objective)?;
        losses.extend(&minimum.values);
        evaluations += minimum.evaluations;
    }
    let scaled = |values: &[f64]| values.iter().map(|v| (v * options.calibration) as f32).collect();
    let columns = parameters
        .columns(&minimum.point)
        .iter()
        .map(|c| NewColumns { kernel: scaled(&c.kernel), biases: scaled(&c.biases) })
        .collect();
    Ok(FitResult {
        columns,
        iterations: minimum.values.len() - 1,
        losses,
        evaluations,
        positives,
        ignored,
        seconds: start.elapsed().as_secs_f64(),
    })
}

fn positives(cache: &FeatureCache, sizes: &[LayerSize], classes: usize) -> Result<Vec<Vec<f64>>> {
    let mut out = Vec::with_capacity(sizes.len());
    for (layer, size) in sizes.iter().enumerate() {
        let mut sums = vec![0.0; size.anchors * classes];
        for chunk in 0..cache.chunks(layer) {
            cache.read(layer, chunk, |parts| {
                if let [_, y, v] = parts {
                    for (at, (y, v)) in y.f32()?.iter().zip(v.f32()?).enumerate() {
                        sums[at % (size.anchors * classes)] += f64::from(y * v);
                    }
                }
                Ok(())
            })?;
        }
        out.push(sums);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_of_the_focal_loss() {
        for (gamma, slope) in [(0.0, 1.0), (1.5, 0.444), (2.0, 0.371), (0.75, 0.722)] {
            assert!((focal_slope(gamma) - slope).abs() < 1e-9, "{gamma}");
        }
        assert!(focal_slope(5.0) > 0.0 && focal_slope(5.0) < 0.371 && focal_slope(-1.0) == 1.0);
    }
}
