//! Graphs as bytes: index, check, edit, flatten. No IO, no TensorFlow.

pub mod ops;
pub mod tensor;
pub mod view;

pub use view::{GraphView, MAIN, Scope, Source, Use};
