//! Graphs as bytes: index, check, edit, flatten. No IO, no TensorFlow.

pub mod check;
pub mod edit;
pub mod flatten;
pub mod loops;
pub(crate) mod nodes;
pub mod ops;
pub mod tensor;
pub mod view;

pub use edit::{Changes, Editor};
pub use view::{GraphView, MAIN, Scope, Source, Use};
