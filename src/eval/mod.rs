//! COCO's measures.

mod coco_map;
mod matching;

pub use coco_map::{ClassMetrics, EvalImage, Metrics, evaluate};
pub use matching::{Scored, Truth};
