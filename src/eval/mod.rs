//! COCO's measures, what fires where, and the bar that a model must clear.

mod assess;
mod coco_map;
mod firing;
mod gate;
pub(crate) mod matching;
mod paste;
mod run;

pub use assess::{Assessment, ClassReport, Measures, assess};
pub use coco_map::{
    ClassMetrics, EvalImage, EvalMasks, Metrics, evaluate, evaluate_masks, precision_recall_curve,
};
pub use firing::{ClassFalsePositives, FalsePositives, FiredOn, OVERLAP, Roster, confusion, false_positives};
pub use gate::{Failure, Gate, Verdict};
pub use matching::{Scored, Truth};
pub use paste::paste;
pub use run::{class_ids, class_names, eval_image, masks_missing, run_images};
