//! Models on disk: resolve, read, write.
