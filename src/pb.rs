//! The messages of a SavedModel, compiled from `proto/`.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

include!(concat!(env!("OUT_DIR"), "/tfgraft.pb.rs"));

/// The compiled `FileDescriptorSet` of `proto/`, from which the wire check reads field numbers.
pub(crate) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
