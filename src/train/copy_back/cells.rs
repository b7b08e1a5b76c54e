//! Copy-back of heatmaps.
//!
//! The loss is a sum over columns, and momentum moves each weight by itself: the old columns of a whole new layer would learn
//! what is thrown away, and change nothing of the new ones. Only these are trained.

use std::time::Instant;

use super::super::kept::KeptRows;
use super::super::loss::LossGraph;
use super::super::shape::LayerSize;
use super::super::task::Loss;
use super::descent::{self, Layer, Step};
use super::{DescentOptions, DescentResult};
use crate::error::{Error, Result};
use crate::head::columns::NewColumns;
use crate::runtime::SessionConfig;

/// Bias that the API gives a heatmap (`center_net_meta_arch`, `class_prediction_bias_init`): a probability of 0.1.
const FIRST_BIAS: f32 = -2.19;

/// Trains columns of `classes` new classes on rows of [`Loss::Focal`], one chunk for each view.
///
/// The loss of a step is divided by the objects of its views, as `center_net_meta_arch.py` does, by one where they show none.
pub(in crate::train) fn train(
    kept: KeptRows<'_>,
    size: LayerSize,
    classes: usize,
    options: &DescentOptions,
    step: impl FnMut(usize, f64),
) -> Result<DescentResult> {
    let start = Instant::now();
    let config = SessionConfig { threads: options.threads, optimize: false };
    let graph = LossGraph::of(Loss::Focal, 1.0, &config)?;
    let mut layers = [Layer::random(size, classes, options.seed)?.biased(FIRST_BIAS)];
    let slopes = |layers: &[Layer], batch: &[usize]| {
        let mut said = Step::default();
        for layer in layers {
            // Weights are divided by the views of a picture: an object counts what the heaviest row does.
            let (mut objects, mut one) = (0.0, 0f32);
            let (loss, slopes) = layer.over(batch, |view, w, b| {
                kept.read(0, view, |parts| {
                    let [x, y, v] = parts else {
                        return Err(Error::Data("kept rows without features, targets and weights".into()));
                    };
                    for (&y, &v) in y.f32()?.iter().zip(v.f32()?) {
                        objects += f64::from(y * v);
                        one = one.max(v);
                    }
                    graph.run(&[("x", x), ("w", w), ("b", b), ("y", y), ("v", v)])
                })
            })?;
            said.loss += loss;
            said.worth = objects.max(f64::from(one)).max(f64::MIN_POSITIVE);
            said.slopes.push(slopes);
        }
        Ok(said)
    };
    let losses = descent::descend(&mut layers, kept.chunks(0), options, slopes, step)?;
    let columns = layers.map(|layer| NewColumns { kernel: layer.kernel, biases: layer.biases });
    Ok(DescentResult { columns: columns.to_vec(), losses, seconds: start.elapsed().as_secs_f64() })
}

#[cfg(test)]
mod tests {
    use super::super::super::cache::{CacheOptions, FeatureCache};
    use super::super::super::kept::OpenRows;
    use super::*;
    use crate::random::SplitMix;
    use crate::runtime::testing;

    #[test]
    fn learns_where_centres_are_and_repeats() {
        if testing::library().is_none() {
            return;
        }
        let size = LayerSize { depth: 2, anchors: 1 };
        let mut random = SplitMix::new(2, &[]);
        let mut cache = FeatureCache::new(vec![Loss::Focal.row_widths(size, 2)], CacheOptions::default());
        for _ in 0..6 {
            for row in 0..20 {
                let centre = row % 10 == 0;
                let noise = random.uniform(0.0, 0.5) as f32;
                // The second class is never there.
                let y = [f32::from(u8::from(centre)), 0.0];
                cache.push(0, &[&[if centre { 2.0 } else { noise }, noise], &y, &[0.5; 2]]).unwrap();
            }
            cache.finish_view().unwrap();
        }
        let open = OpenRows::new(1);
        let kept = KeptRows::new(&cache, &open, 0..1).unwrap();
        let options = DescentOptions { steps: 200, batch: 2, rate: 0.05, ..DescentOptions::default() };
        let run = || train(kept, size, 2, &options, |_, _| {}).unwrap();
        let found = run();
        assert_eq!(found.columns, run().columns);
        assert!(found.losses[199] < 0.3 * found.losses[0], "{:?}", found.losses);
        let NewColumns { kernel, biases } = &found.columns[0];
        let logit =
            |x: [f32; 2], class: usize| x[0] * kernel[class] + x[1] * kernel[2 + class] + biases[class];
        assert!(logit([2.0, 0.2], 0) > 0.0 && logit([0.2, 0.2], 0) < -2.0, "{kernel:?} {biases:?}");
        assert!(logit([2.0, 0.2], 1) < -2.0, "{kernel:?} {biases:?}");
    }
}
