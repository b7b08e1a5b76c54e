//! From a grown graph and new columns to a SavedModel on disk, and the proof that it is what it should be.

pub mod changes;
pub mod flat;
pub mod prove;
mod rename;
pub mod staging;
pub mod values;
pub mod weights;
pub mod write;

pub use changes::{TensorChange, list_changes};
pub use prove::{Proof, prove};
pub use staging::Staging;
pub(crate) use staging::lock;
pub use values::{VariableValues, layer_values, widened};
pub use weights::Weights;
pub use write::write_model;
