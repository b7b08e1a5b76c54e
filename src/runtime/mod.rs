//! The only neighbour of TensorFlow's C library: finding it, running graphs and models, reading and writing
//! checkpoints through it.
//!
//! Everything here takes and gives bytes, numbers and errors of this crate; the types of the crate `tensorflow`
//! stay inside. Every entry point loads the library first, so nothing here can call into a library that is not
//! there.

pub mod bundle;
pub mod gradients;
pub mod library;
pub mod pictures;
mod places;
pub mod serving;
pub mod session;
pub mod tensor;

pub use gradients::{Gradients, add_gradients};
pub use library::Library;
pub use serving::{ServingModel, TensorInfoLite};
pub use session::{Fed, GraphSession, SessionConfig, Sharing, runs_at_once, set_threads};
pub use tensor::AnyTensor;

#[cfg(test)]
pub(crate) mod testing;

use std::path::Path;

use crate::error::{Error, Result};

/// Loads the library, looked for in `folder` alone where it is given, and sets the threads of all sessions. Whichever
/// session comes first fixes the pools of the process, so this comes before any.
pub fn start(folder: Option<&Path>, threads: Option<usize>, sharing: Sharing) -> Result<&'static Library> {
    set_threads(threads, sharing);
    library::load(folder)
}

/// An error of TensorFlow, with what was being done when it came.
pub(crate) fn failed(doing: impl std::fmt::Display, status: impl std::fmt::Display) -> Error {
    Error::TensorFlow(format!("{doing}: {status}"))
}
