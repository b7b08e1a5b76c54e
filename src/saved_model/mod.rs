//! Models on disk: resolve, read, check.

pub mod checkpoint_index;
pub mod fingerprint;
pub mod frozen;
pub mod read;
pub mod source;
pub mod tree;
pub mod wire;

pub use fingerprint::Fingerprint;
pub use read::SavedModel;
pub use source::{ModelSource, SourceKind};
