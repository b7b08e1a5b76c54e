//! The class head: find it, follow the class axis, widen it. No IO, no TensorFlow.

pub mod axis;
pub mod columns;
mod extent;
pub mod flow;
pub mod grow;
pub mod locate;
mod loops;
mod metadata;
mod notes;
mod repeat;
mod rules;
pub mod trace;
pub mod unroll;
pub mod variables;

pub use axis::{ClassAxis, Growth};
pub use columns::{Init, LayerValues, NewColumns};
pub use flow::ClassFlow;
pub use grow::{ClassLayer, Grown, Understood, Weights, grow, understand};
pub use locate::{Activation, Kind, Located, Role, Root};
pub use variables::{Variable, Variables};
