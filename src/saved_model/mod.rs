//! Models on disk: resolve, read, write.

pub mod checkpoint_index;
