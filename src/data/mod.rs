//! Pictures, boxes and names.

mod assemble;
pub mod boxes;
mod checks;
pub mod coco;
mod coco_names;
pub mod csv;
pub mod dataset;
pub mod label_map;
mod label_map_text;
mod load;
pub mod picture;
pub mod problems;
pub mod records;
mod rle;
mod segmentation;
mod text;
pub mod tfrecord;
pub mod voc;
pub mod yolo;

pub use boxes::BoxYxyx;
pub use dataset::{Dataset, ImageSource, Incomplete, LabelledImage, Object};
pub use label_map::{Item, LabelMap};
pub use load::load;
pub use picture::Picture;
pub use problems::{ProblemKind, Problems};
pub use rle::Rle;
pub use segmentation::Segmentation;
