//! COCO's measures.

mod coco_map;
mod matching;
mod run;

pub use coco_map::{ClassMetrics, EvalImage, Metrics, evaluate};
pub use matching::{Scored, Truth};
pub use run::{class_ids, eval_image};
