//! The class head: find it, follow the class axis, widen it. No IO, no TensorFlow.

pub mod axis;
pub mod flow;
pub mod locate;
mod rules;
pub mod trace;
pub mod variables;

pub use axis::{ClassAxis, Growth};
pub use flow::ClassFlow;
pub use locate::{Activation, Located, Root};
pub use variables::{Variable, Variables};
