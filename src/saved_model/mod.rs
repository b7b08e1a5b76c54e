//! Models on disk: resolve, read, check, write.

pub mod frozen;
pub mod read;
pub mod source;
pub mod wire;

pub use read::SavedModel;
pub use source::{ModelSource, SourceKind};
