//! Copy-back under a softmax: regions of two stages.
//!
//! The cross entropy of a region has the derivative (p_j − y_j)·x in column j, and these sum to zero over the columns: while a
//! new column rises, the background and the old columns beside it fall. Put back, they are where they were before, and the
//! scale of the new logits against them is another. What that costs depends on the region and cannot be mended in whole; the
//! one number that is free for each new class, its bias, is set to what fits the training data best with the old columns in
//! their places. [`Comparison`] tells the losses at each stage, and what the convex fit reaches on the same rows.

use std::time::Instant;

use serde::Serialize;

use super::super::frozen_columns::{self, FitOptions};
use super::super::kept::KeptRows;
use super::super::lbfgs::{self, Limits};
use super::super::loss::{Logits, LossGraph};
use super::super::rois::log_sum;
use super::super::task::Task;
use super::descent::{self, Layer, Step};
use super::{DescentOptions, DescentResult};
use crate::error::{Error, Result};
use crate::head::columns::{LayerValues, NewColumns, new_columns};
use crate::runtime::{AnyTensor, SessionConfig};

/// Width of the part that rows have behind those of [`Loss::Softmax`](super::super::task::Loss::Softmax): the column of the whole
/// layer that a region should be, background first, then old, then new classes.
pub(in crate::train) const LABEL: usize = 1;

/// When the offsets are found: they are few, and the loss is convex in them.
const OFFSET_LIMITS: Limits = Limits { iterations: 100, tolerance: 1e-9 };

/// What putting the old columns back did to new ones that were trained beside others.
///
/// Losses are cross entropies of the new classes' shares and the common share of all else, the mean of a sampled region, over all
/// training regions: they say how the columns fit, not how well they find what training has not seen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Beside the columns that they were trained with.
    pub as_trained: f64,
    /// Beside the old columns.
    pub put_back: f64,
    /// What was then added to the bias of each new class; zero for a class that no region shows.
    pub offsets: Vec<f64>,
    /// With it: what the result has.
    pub with_offsets: f64,
    /// What the strategy `frozen-columns` reaches on the same regions, with priors that hold it back from fitting all of them.
    pub frozen_columns: f64,
}

impl Comparison {
    /// The same in words.
    pub fn sentence(&self) -> String {
        let offsets: Vec<String> = self.offsets.iter().map(|offset| format!("{offset:+.2}")).collect();
        format!(
            "mean loss of a training region {:.4} beside the columns trained along, {:.4} with the old ones put back, {:.4} with {} \
             added to the biases; frozen-columns, which its priors hold back, has {:.4} on the same \
             regions",
            self.as_trained,
            self.put_back,
            self.with_offsets,
            offsets.join(", "),
            self.frozen_columns
        )
    }
}

/// Trains a whole layer on rows with labels, one chunk for each view, and gives its new columns as they do best beside `old`.
/// `convex` is the fit that they are compared with.
pub(in crate::train) fn train(
    kept: KeptRows<'_>,
    task: &Task,
    old: &LayerValues,
    classes: usize,
    (options, convex): (&DescentOptions, &FitOptions),
    step: impl FnMut(usize, f64),
) -> Result<(DescentResult, Comparison)> {
    let start = Instant::now();
    let &[size] = &task.sizes[..] else {
        return Err(Error::Data("the scores of regions come from more than one class layer".into()));
    };
    let config = SessionConfig { threads: options.threads, optimize: false };
    let before = old.biases.len();
    let graph = LossGraph::softmax(before + classes, &config)?;
    // Under a softmax a bias common to all columns says nothing.
    let mut layers = [Layer::random(size, before + classes, options.seed)?.biased(0.0)];
    let slopes = |layers: &[Layer], batch: &[usize]| {
        let mut said = Step::default();
        for layer in layers {
            let (loss, slopes) = layer.over(batch, |view, w, b| {
                kept.read(0, view, |parts| {
                    let [x, _, v, _, label] = parts else { return Err(unlabelled()) };
                    let labels: Vec<i32> = label.f32()?.iter().map(|&label| label as i32).collect();
                    said.worth += v.f32()?.iter().map(|&v| f64::from(v)).sum::<f64>();
                    let class = AnyTensor::new(&[labels.len()], &labels)?;
                    graph.run(&[("x", x), ("w", w), ("b", b), ("class", &class), ("v", v)])
                })
            })?;
            said.loss += loss;
            said.slopes.push(slopes);
        }
        // Views without any region change nothing.
        said.worth = said.worth.max(f64::MIN_POSITIVE);
        Ok(said)
    };
    let losses = descent::descend(&mut layers, kept.chunks(0), options, slopes, step)?;
    let [layer] = &layers;
    let mut columns = NewColumns {
        kernel: new_columns(&layer.kernel, before, classes),
        biases: new_columns(&layer.biases, before, classes),
    };
    let logits = Logits::new(&config)?;
    let judge = |kernel: &[f32], biases: &[f32]| Judged::new(kept, &logits, [kernel, biases], classes);
    let none = vec![0.0; classes];
    let as_trained = judge(&layer.kernel, &layer.biases)?.mean_loss(&none);
    let back = judge(&columns.kernel, &columns.biases)?;
    let offsets = back.offsets()?;
    for (bias, offset) in columns.biases.iter_mut().zip(&offsets) {
        *bias = (f64::from(*bias) + offset) as f32;
    }
    let (put_back, with_offsets) = (back.mean_loss(&none), back.mean_loss(&offsets));
    let old = std::slice::from_ref(old);
    let fitted = frozen_columns::fit(kept, &task.sizes, old, task.background, classes, convex, |_, _| {})?;
    let frozen = fitted.columns.first().map_or(Ok(f64::NAN), |columns| {
        Ok::<f64, Error>(judge(&columns.kernel, &columns.biases)?.mean_loss(&none))
    })?;
    let comparison = Comparison { as_trained, put_back, offsets, with_offsets, frozen_columns: frozen };
    let seconds = start.elapsed().as_secs_f64();
    Ok((DescentResult { columns: vec![columns], losses, seconds }, comparison))
}

fn unlabelled() -> Error {
    Error::Data("kept rows without features, targets, weights, old logits and labels".into())
}

/// What some columns say of all kept rows.
struct Judged {
    /// New logits over the logarithm of the sum of the old columns' exponentials, [rows, classes].
    over_old: Vec<f64>,
    /// For each row its weight and, where it shows one, its new class.
    rows: Vec<(f64, Option<usize>)>,
    classes: usize,
}

impl Judged {
    /// Of new columns alone, beside which the rows' own old logits stand; or of a whole layer.
    fn new(
        kept: KeptRows<'_>,
        logits: &Logits,
        [kernel, biases]: [&[f32]; 2],
        classes: usize,
    ) -> Result<Self> {
        let wide = biases.len();
        let w = AnyTensor::new(&[kernel.len() / wide.max(1), wide], kernel)?;
        let b = AnyTensor::new(&[wide], biases)?;
        let before = wide - classes.min(wide);
        let mut judged = Self { over_old: Vec::new(), rows: Vec::new(), classes };
        for view in 0..kept.chunks(0) {
            kept.read(0, view, |parts| {
                let [x, y, v, old, _] = parts else { return Err(unlabelled()) };
                let z = logits.run(x, &w, &b)?;
                let rows = z.f32()?.chunks_exact(wide.max(1)).zip(y.f32()?.chunks_exact(classes.max(1)));
                for ((z, y), (&v, &old)) in rows.zip(v.f32()?.iter().zip(old.f32()?)) {
                    let (beside, new) = z.split_at(before);
                    let old = if beside.is_empty() { old } else { log_sum(beside) };
                    judged.over_old.extend(new.iter().map(|&z| f64::from(z) - f64::from(old)));
                    judged.rows.push((f64::from(v), y.iter().position(|&y| y > 0.0)));
                }
                Ok(())
            })?;
        }
        Ok(judged)
    }

    /// The mean loss with something added to each class's logits, and its slope in that.
    ///
    /// A row's loss is log(1 + Σ e^(u_c + d_c)) − (u_n + d_n), u the logits over the old ones, d the offsets, n the class it
    /// shows; without the last where it shows none.
    fn loss(&self, offsets: &[f64]) -> (f64, Vec<f64>) {
        let (mut loss, mut slope, mut weights) = (0.0, vec![0.0; self.classes], 0.0);
        for (u, &(weight, shown)) in self.over_old.chunks_exact(self.classes.max(1)).zip(&self.rows) {
            let moved: Vec<f64> = u.iter().zip(offsets).map(|(u, d)| u + d).collect();
            let most = moved.iter().copied().fold(0.0, f64::max);
            let sum = (-most).exp() + moved.iter().map(|u| (u - most).exp()).sum::<f64>();
            loss += weight * (most + sum.ln() - shown.map_or(0.0, |class| moved[class]));
            for (class, (slope, u)) in slope.iter_mut().zip(&moved).enumerate() {
                *slope += weight * ((u - most).exp() / sum - f64::from(u8::from(shown == Some(class))));
            }
            weights += weight;
        }
        let weights = if weights > 0.0 { weights } else { 1.0 };
        slope.iter_mut().for_each(|slope| *slope /= weights);
        (loss / weights, slope)
    }

    fn mean_loss(&self, offsets: &[f64]) -> f64 {
        self.loss(offsets).0
    }

    /// The offsets of least loss. A class that no row shows has none: minus infinity would fit best.
    fn offsets(&self) -> Result<Vec<f64>> {
        let shown: Vec<bool> = (0..self.classes)
            .map(|class| self.rows.iter().any(|&(weight, shown)| weight > 0.0 && shown == Some(class)))
            .collect();
        let free = |offsets: &[f64]| {
            let (loss, mut slope) = self.loss(offsets);
            slope.iter_mut().zip(&shown).filter(|(_, shown)| !**shown).for_each(|(slope, _)| *slope = 0.0);
            Ok((loss, slope))
        };
        Ok(lbfgs::minimise(free, vec![0.0; self.classes], OFFSET_LIMITS, |_, _, _| {})?.point)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::cache::{CacheOptions, FeatureCache};
    use super::super::super::kept::OpenRows;
    use super::super::super::parameters::Penalties;
    use super::super::super::shape::LayerSize;
    use super::super::super::task::Loss;
    use super::*;
    use crate::head::locate::Role;
    use crate::random::SplitMix;
    use crate::runtime::testing;

    const DEPTH: usize = 4;
    /// Background and two old classes, then two new ones.
    const OLD: usize = 3;
    const NEW: usize = 2;

    fn task() -> Task {
        Task {
            role: Role::Scores,
            loss: Loss::Softmax,
            layers: vec![0],
            sizes: vec![LayerSize { depth: DEPTH, anchors: 1 }],
            background: true,
            bins: 1,
        }
    }

    /// Old columns that know their classes by a feature each, and views in which every class is shown.
    fn rows() -> (FeatureCache, LayerValues) {
        let old = LayerValues {
            kernel: vec![0.0, 0.0, 0.0, 0.0, 6.0, 0.0, 0.0, 0.0, 6.0, 0.0, 0.0, 0.0],
            biases: vec![0.0, -5.0, -5.0],
        };
        let mut widths = Loss::Softmax.row_widths(task().sizes[0], NEW);
        widths.push(LABEL);
        let mut cache = FeatureCache::new(vec![widths], CacheOptions::default());
        let mut random = SplitMix::new(6, &[]);
        for _ in 0..10 {
            for row in 0..20 {
                let label = row % (OLD + NEW);
                let x: Vec<f32> = (0..DEPTH)
                    .map(|f| random.uniform(0.0, 0.6) as f32 + f32::from(u8::from(f + 1 == label)))
                    .collect();
                let z: Vec<f32> = (0..OLD)
                    .map(|c| old.biases[c] + (0..DEPTH).map(|f| x[f] * old.kernel[f * OLD + c]).sum::<f32>())
                    .collect();
                let y: Vec<f32> = (0..NEW).map(|n| f32::from(u8::from(label == OLD + n))).collect();
                cache.push(0, &[&x, &y, &[0.5], &[log_sum(&z)], &[label as f32]]).unwrap();
            }
            cache.finish_view().unwrap();
        }
        (cache, old)
    }

    #[test]
    fn columns_are_set_right_beside_the_old_ones() {
        if testing::library().is_none() {
            return;
        }
        let (cache, old) = rows();
        let open = OpenRows::new(1);
        let kept = KeptRows::new(&cache, &open, 0..1).unwrap();
        let options = DescentOptions { steps: 400, batch: 4, rate: 0.3, ..DescentOptions::default() };
        // Next to no priors: the fit that it is compared with is then the best there is beside the old columns.
        let penalties = Penalties { likeness: 1e-6, columns: 1e-6, share: 0.5, biases: 1e-6 };
        let limits = Limits { iterations: 500, tolerance: 1e-12 };
        let convex = FitOptions { penalties, limits, ..FitOptions::default() }.for_task(&task());
        let run = || train(kept, &task(), &old, NEW, (&options, &convex), |_, _| {}).unwrap();
        let (result, told) = run();
        assert_eq!((result.columns.clone(), told.clone()), (run().0.columns, run().1));
        assert!(result.losses[399] < 0.3 * result.losses[0], "{:?}", &result.losses);
        assert_eq!((result.columns[0].kernel.len(), result.columns[0].biases.len()), (DEPTH * NEW, NEW));
        // Trained beside others, put back beside the old ones, moved to where they do best; the best columns do better.
        assert!(told.as_trained < told.put_back, "{told:?}");
        assert!(told.with_offsets < told.put_back - 0.01, "{told:?}");
        assert!(told.frozen_columns < told.with_offsets, "{told:?}");
        let said = told.sentence();
        assert!(said.contains(&format!("{:.4} with {:+.2}, ", told.with_offsets, told.offsets[0])), "{said}");
        assert!(told.offsets.iter().any(|offset| offset.abs() > 0.1), "{told:?}");
        // The loss of the columns that came out is what was told of them.
        let logits = Logits::new(&SessionConfig::default()).unwrap();
        let [NewColumns { kernel, biases }] = &result.columns[..] else { panic!("one layer") };
        let judged = Judged::new(kept, &logits, [kernel, biases], NEW).unwrap();
        assert!((judged.mean_loss(&[0.0; NEW]) - told.with_offsets).abs() < 1e-5);
    }

    #[test]
    fn offsets_are_where_the_loss_is_flat_and_its_slope_is_its_difference() {
        let mut random = SplitMix::new(1, &[]);
        let rows: Vec<(f64, Option<usize>)> =
            (0..60).map(|row| (random.uniform(0.1, 1.0), [None, Some(0), None][row % 3])).collect();
        let over_old = (0..180).map(|_| random.uniform(-6.0, 3.0)).collect();
        let judged = Judged { over_old, rows, classes: 3 };
        let at = [0.3, -1.0, 2.0];
        for class in 0..3 {
            let step = |by: f64| {
                let mut moved = at;
                moved[class] += by;
                judged.mean_loss(&moved)
            };
            let difference = (step(1e-5) - step(-1e-5)) / 2e-5;
            assert!((judged.loss(&at).1[class] - difference).abs() < 1e-8, "{class}");
        }
        let offsets = judged.offsets().unwrap();
        // Nothing shows the second and third class: they stay where they are.
        assert_eq!(offsets[1..], [0.0, 0.0]);
        assert!(judged.loss(&offsets).1[0].abs() < 1e-4, "{offsets:?}");
        for nearby in [offsets[0] - 0.1, offsets[0] + 0.1] {
            assert!(judged.mean_loss(&[nearby, 0.0, 0.0]) > judged.mean_loss(&offsets));
        }
    }
}
