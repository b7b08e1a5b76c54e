//! The strategy `frozen-columns`: one convex fit of the new columns, everything else as it was.
//!
//! With sigmoid scores the loss is a sum over classes, so that the best new columns do not depend on the old ones; what
//! remains is logistic regression on frozen features, and the same numbers come out every time. Under a softmax the old
//! columns matter only by the logarithm of the sum of their exponentials, one number for each row. Boxes are a linear
//! regression towards the mean of the old columns.

use std::time::Instant;

use super::division::Division;
use super::focal;
use super::held_out::Asked;
use super::incomplete::{self, Alike, ROUNDS, Weights};
use super::kept::KeptRows;
use super::lbfgs::Limits;
use super::objective;
use super::parameters::{Columns, Parameters, Penalties};
use super::shape::LayerSize;
use super::solver::{Effort, Solver, USUAL};
use super::task::{Loss, Task};
use crate::error::Result;
use crate::head::columns::{LayerValues, NewColumns};
use crate::head::locate::Role;

/// How the fit is done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FitOptions {
    /// What is minimised.
    pub loss: Loss,
    /// The priors.
    pub penalties: Penalties,
    /// How much more a full target of sigmoids weighs than background.
    pub positive_weight: f32,
    /// When the solver stops. Stopping early is part of the regularisation; held-out pictures may ask for more steps.
    pub limits: Limits,
    /// What columns are multiplied by in the end.
    pub calibration: f64,
    /// Whether what scores like a typical object in a picture with incomplete labels counts as one.
    pub pseudo_labels: bool,
    /// Whether held-out pictures say which score divides objects from all else, and it becomes one half.
    pub divide: bool,
    /// How many false detections of a class a held-out picture may have from one half on; as the F-measure says without it.
    pub most_false: Option<f64>,
    /// Threads of TensorFlow; its own choice without it.
    pub threads: Option<usize>,
}

impl Default for FitOptions {
    fn default() -> Self {
        Self {
            loss: Loss::Sigmoid,
            penalties: Penalties::default(),
            positive_weight: 2.0,
            limits: Limits { iterations: 60, tolerance: 1e-5 },
            calibration: SLOPE,
            pseudo_labels: false,
            divide: true,
            most_false: None,
            threads: None,
        }
    }
}

/// What new columns are multiplied by.
///
/// The best score of a class under the focal loss (arXiv 1708.02002) is, to 0.003 in probability, an affine map of the logit of
/// its true probability, of slope 0.371 for γ = 2 (found numerically). Old columns were trained so; without a slope new low scores
/// would be far lower than old ones of the same worth and lose their places among the best hundred. This fit stops early and is held
/// back by its priors, so that it is less sure of background than the truth is: with 0.371 two new classes took 32 of the hundred
/// places of a picture on testdata/scenes/old, where the median old class takes one, and old detections lost theirs.
/// docs/TRAINING.md has what 0.5 and 0.65 give.
const SLOPE: f64 = 0.5;

/// What new columns are multiplied by beside old ones that were trained with this γ of the focal loss: [`FitOptions::calibration`].
/// Of other γ the slopes are as those of the best scores; never more than the fit's own.
pub fn calibration(gamma: f64) -> f64 {
    (SLOPE * focal::slope(gamma) / focal::slope(2.0)).min(1.0)
}

/// Standard deviation that the prior gives to what a new box column adds to the mean of the old ones, in the box coder's
/// units: a few boxes can correct a systematic error of the frozen regression, and not learn noise.
const BOX_SPREAD: f64 = 0.3;

/// Standard deviation that the prior gives to what a new column of masks adds to the mean of the old ones, as a logit: all
/// classes' masks outline what a region shows, and one picture's outline should not undo that.
const MASK_SPREAD: f64 = 1.0;

/// How much the priors of columns weigh for a heatmap, of what they weigh for anchors: an object has one centre there, and here
/// every anchor that overlaps it, each counting twice. docs/TRAINING.md has what ten times more and less give.
const ONE_CENTRE: f64 = 0.1;

impl FitOptions {
    /// The options for a task, these being those for the scores of a single-stage model.
    ///
    /// Scores of a softmax and of the focal loss are what the old ones are and need no calibration; positives weigh what
    /// the OD API's sampling makes them weigh.
    pub fn for_task(&self, task: &Task) -> Self {
        let plain = Self { loss: task.loss, positive_weight: 1.0, calibration: 1.0, divide: false, ..*self };
        let depth = task.sizes.iter().map(|size| size.depth).max().unwrap_or(1) as f64;
        let within = |spread: f64, penalties: Penalties| {
            let precision = 1.0 / (spread * spread);
            Penalties { columns: depth * precision, biases: precision, ..penalties }
        };
        match (task.role, task.loss) {
            (Role::Boxes, _) => {
                let penalties = within(BOX_SPREAD, Penalties { share: 0.0, ..self.penalties });
                Self { penalties, ..plain }
            }
            (Role::Masks, _) => Self { penalties: within(MASK_SPREAD, self.penalties), ..plain },
            (Role::Scores, Loss::Sigmoid) => *self,
            (Role::Scores, Loss::Focal) => {
                let columns = ONE_CENTRE * self.penalties.columns;
                Self { divide: self.divide, penalties: Penalties { columns, ..self.penalties }, ..plain }
            }
            (Role::Scores, _) => Self { divide: self.divide, ..plain },
        }
    }
}

/// What a fit gives.
#[derive(Debug, Clone)]
pub struct FitResult {
    /// New columns of each layer, kernel [depth, anchors, classes].
    pub columns: Vec<NewColumns>,
    /// The loss before the first step and after each; empty where no row was kept, and columns are the prior's. Where the
    /// fit is done in rounds those of all rounds, one after the other.
    pub losses: Vec<f64>,
    /// Steps taken by the last round.
    pub iterations: usize,
    /// How many times as strong the prior was as [`FitOptions::penalties`] say.
    pub strength: f64,
    /// Evaluations of the loss.
    pub evaluations: usize,
    /// Effective positives, sums of weight · target: for each layer [anchors, classes].
    pub positives: Vec<Vec<f64>>,
    /// Anchors of pictures with incomplete labels that score like labelled objects, by class.
    pub alike: Alike,
    /// For each class where its score of one half was put.
    pub divisions: Vec<Division>,
    /// Seconds.
    pub seconds: f64,
}

/// Fits the new columns to the kept rows; `step` hears of each step's number and loss.
///
/// `old` are the old layers, of which column 0 is the background where `background` says so. Where rows are open the fit
/// is done in rounds, see [`super::incomplete`].
pub fn fit(
    kept: KeptRows<'_>,
    sizes: &[LayerSize],
    old: &[LayerValues],
    background: bool,
    classes: usize,
    options: &FitOptions,
    mut step: impl FnMut(usize, f64),
) -> Result<FitResult> {
    let start = Instant::now();
    let moments = objective::moments(kept, sizes)?;
    let positives = positives(kept, sizes, classes)?;
    let parameters = Parameters::new(sizes, old, background, moments, classes, &options.penalties)?;
    let mut solver = Solver::new(parameters, options);
    let rows = (0..kept.layers()).any(|layer| kept.rows(layer) > 0);
    let open = kept.any_open();
    let (mut weights, mut alike) =
        (if open { incomplete::first(kept, sizes, classes)? } else { Weights::new() }, Alike::default());
    let (mut losses, mut iterations) = (Vec::new(), 0);
    let mut learn = |solver: &mut Solver<'_>, weights: &Weights, effort: Effort| -> Result<Vec<Columns>> {
        let (mut fits, values) =
            solver.solve((kept, weights), effort.strength, &[effort.steps], &mut step)?;
        iterations = values.len().saturating_sub(1);
        losses.extend(values);
        Ok(fits.pop().unwrap_or_default())
    };
    let usual = Effort { strength: USUAL, steps: options.limits.iterations };
    let (mut columns, mut done) = (Vec::new(), None);
    // The fits by which pictures with incomplete labels are weighed; without such pictures there is nothing to weigh.
    for round in 0..if open { ROUNDS + 1 } else { 0 } {
        if round > 0 {
            (weights, alike) = incomplete::next(kept, sizes, classes, &columns, options.pseudo_labels)?;
        }
        columns = learn(&mut solver, &weights, usual)?;
        done = Some(usual);
    }
    let (effort, divisions) = match kept.unseen().filter(|_| options.divide && rows) {
        Some(unseen) => {
            let asked = Asked { classes, usual: usual.steps, most_false: options.most_false };
            unseen.judge((kept, &weights), asked, &mut solver)?
        }
        None => (usual, vec![Division::NONE; classes]),
    };
    if done != Some(effort) {
        columns = learn(&mut solver, &weights, effort)?;
    }
    let scaled = |values: &[f64]| values.iter().map(|v| (v * options.calibration) as f32).collect();
    let moved = |biases: &[f64]| -> Vec<f64> {
        biases.iter().zip(divisions.iter().cycle()).map(|(bias, division)| bias - division.logit).collect()
    };
    let columns = columns
        .iter()
        .map(|c| NewColumns { kernel: scaled(&c.kernel), biases: scaled(&moved(&c.biases)) })
        .collect();
    let seconds = start.elapsed().as_secs_f64();
    let (evaluations, strength) = (solver.evaluations, effort.strength);
    Ok(FitResult { columns, losses, iterations, strength, evaluations, positives, alike, divisions, seconds })
}

fn positives(kept: KeptRows<'_>, sizes: &[LayerSize], classes: usize) -> Result<Vec<Vec<f64>>> {
    let mut out = Vec::with_capacity(sizes.len());
    for (layer, size) in sizes.iter().enumerate() {
        let mut sums = vec![0.0; size.anchors * classes];
        for chunk in 0..kept.chunks(layer) {
            kept.read(layer, chunk, |parts| {
                if let [_, y, v, ..] = parts {
                    let wide = size.anchors * classes;
                    // One weight for all of a row, or one for each target.
                    let weights = v.len() * wide / y.len().max(1);
                    let rows = y.f32()?.chunks_exact(wide).zip(v.f32()?.chunks_exact(weights.max(1)));
                    for (y, v) in rows {
                        for (at, sum) in sums.iter_mut().enumerate() {
                            *sum += f64::from(y[at] * v[at.min(v.len() - 1)]);
                        }
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
    use super::super::cache::{CacheOptions, FeatureCache};
    use super::super::kept::OpenRows;
    use super::super::lbfgs;
    use super::*;
    use crate::random::SplitMix;
    use crate::runtime::testing;

    const DEPTH: usize = 3;
    /// Background and three old classes, then two new ones.
    const OLD: usize = 4;
    const NEW: usize = 2;

    fn logit(x: &[f64], kernel: &[f64], biases: &[f64], column: usize) -> f64 {
        biases[column] + (0..DEPTH).map(|f| x[f] * kernel[f * biases.len() + column]).sum::<f64>()
    }

    /// Cross entropy of the whole softmax, all labels known, and its slope in the new columns [kernel, biases].
    fn whole_softmax(rows: &[(Vec<f64>, usize)], old: &LayerValues, new: &[f64]) -> (f64, Vec<f64>) {
        let wide = |values: &[f32]| values.iter().map(|v| f64::from(*v)).collect::<Vec<f64>>();
        let (kernel, biases) = (wide(&old.kernel), wide(&old.biases));
        let (new_kernel, new_biases) = new.split_at(DEPTH * NEW);
        let (mut loss, mut slope) = (0.0, vec![0.0; new.len()]);
        for (x, label) in rows {
            let mut z: Vec<f64> = (0..OLD).map(|c| logit(x, &kernel, &biases, c)).collect();
            z.extend((0..NEW).map(|c| logit(x, new_kernel, new_biases, c)));
            let most = z.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = z.iter().map(|z| (z - most).exp()).sum();
            loss += most + sum.ln() - z[*label];
            for c in 0..NEW {
                let off = (z[OLD + c] - most).exp() / sum - f64::from(u8::from(*label == OLD + c));
                (0..DEPTH).for_each(|f| slope[f * NEW + c] += off * x[f]);
                slope[DEPTH * NEW + c] += off;
            }
        }
        (loss, slope)
    }

    #[test]
    fn a_softmax_with_frozen_columns_needs_no_old_labels() {
        if testing::library().is_none() {
            return;
        }
        let mut random = SplitMix::new(8, &[]);
        let mut draw =
            |count: usize| (0..count).map(|_| random.uniform(-2.0, 2.0) as f32).collect::<Vec<f32>>();
        let old = LayerValues { kernel: draw(DEPTH * OLD), biases: draw(OLD) };
        let features: Vec<Vec<f32>> = (0..120).map(|_| draw(DEPTH)).collect();
        let size = LayerSize { depth: DEPTH, anchors: 1 };
        let mut cache = FeatureCache::new(vec![Loss::Softmax.row_widths(size, NEW)], CacheOptions::default());
        let mut rows = Vec::new();
        for (number, x) in features.iter().enumerate() {
            let wide: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
            let label = (number * 7 + usize::from(x[0] > 0.5) * 3) % (OLD + NEW);
            let z = (0..OLD)
                .map(|c| old.biases[c] + (0..DEPTH).map(|f| x[f] * old.kernel[f * OLD + c]).sum::<f32>());
            let s = z.map(f32::exp).sum::<f32>().ln();
            let y: Vec<f32> = (0..NEW).map(|c| f32::from(u8::from(label == OLD + c))).collect();
            cache.push(0, &[x, &y, &[1.0], &[s]]).unwrap();
            rows.push((wide, label));
        }
        cache.finish().unwrap();

        // With next to no prior both are the same multinomial regression.
        let limits = Limits { iterations: 2000, tolerance: 1e-13 };
        let penalties = Penalties { likeness: 1e-6, columns: 1e-6, share: 0.5, biases: 1e-6 };
        let options = FitOptions {
            loss: Loss::Softmax,
            penalties,
            positive_weight: 1.0,
            limits,
            calibration: 1.0,
            pseudo_labels: false,
            divide: false,
            most_false: None,
            threads: None,
        };
        let old_layers = std::slice::from_ref(&old);
        let open = OpenRows::new(1);
        let kept = KeptRows::new(&cache, &open, 0..1).unwrap();
        let result = fit(kept, &[size], old_layers, true, NEW, &options, |_, _| {}).unwrap();
        let brute = |t: &[f64]| Ok(whole_softmax(&rows, &old, t));
        let expected =
            lbfgs::minimise(brute, vec![0.0; (DEPTH + 1) * NEW], limits, |_, _, _| {}).unwrap().point;
        let got: Vec<f32> =
            result.columns[0].kernel.iter().chain(&result.columns[0].biases).copied().collect();
        assert!(expected.iter().any(|v| v.abs() > 0.1), "{expected:?}");
        for (got, expected) in got.iter().zip(&expected) {
            assert!((f64::from(*got) - expected).abs() < 1e-2, "{got} and {expected}");
        }
        let of_class = rows.iter().filter(|(_, label)| *label == OLD).count() as f64;
        assert_eq!(result.positives[0][0], of_class);
    }

    #[test]
    fn columns_are_steeper_where_old_ones_are() {
        assert_eq!(calibration(2.0), FitOptions::default().calibration);
        assert!((calibration(1.5) - 0.6).abs() < 0.002, "{}", calibration(1.5));
        assert_eq!(calibration(0.0), 1.0);
    }

    #[test]
    fn without_rows_columns_are_the_mean_of_the_old() {
        let old = LayerValues { kernel: vec![1.0, 3.0, 2.0, 6.0], biases: vec![0.0, 1.0] };
        let size = LayerSize { depth: 2, anchors: 1 };
        let cache = FeatureCache::new(vec![Loss::Sigmoid.row_widths(size, 1)], CacheOptions::default());
        let options = FitOptions { calibration: 1.0, ..FitOptions::default() };
        let open = OpenRows::new(1);
        let kept = KeptRows::new(&cache, &open, 0..1).unwrap();
        let result = fit(kept, &[size], &[old], false, 1, &options, |_, _| {}).unwrap();
        assert_eq!(result.columns[0], NewColumns { kernel: vec![2.0, 4.0], biases: vec![0.5] });
        assert!(result.losses.is_empty());
    }
}
