//! The strategy `copy-back`: the original recipe, kept as the baseline.
//!
//! A whole new class layer, old and new columns, starts from random weights and learns by gradient descent with momentum.
//! Afterwards only the new columns are kept: the old ones are put back. What old classes learn from is the data's labels of
//! theirs and the old model's own confident answers.
//!
//! - [`anchors`]: single stages, the focal loss with the OD API's assignment.
//! - [`regions`]: two stages, the cross entropy of a softmax. Columns that learned beside other old ones are off by what those
//!   were off; one number for each class is set right afterwards, and what is left is told.
//! - [`cells`]: heatmaps, the focal loss.
//!
//! Columns of sigmoids do not see each other: there the columns that come out are those that would come out beside frozen ones.

pub mod anchors;
pub mod cells;
mod descent;
pub mod regions;

use crate::head::columns::NewColumns;

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
    /// α of the focal loss of single stages: the weight of positives; negatives have 1−α.
    pub alpha: f32,
    /// γ of the focal loss of single stages.
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

/// What the descent gives.
#[derive(Debug, Clone)]
pub struct DescentResult {
    /// New columns of each layer, kernel [depth, anchors, classes].
    pub columns: Vec<NewColumns>,
    /// The loss of each step, divided by the matched anchors, objects or sampled regions of its views.
    pub losses: Vec<f64>,
    /// Seconds.
    pub seconds: f64,
}
