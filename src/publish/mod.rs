//! Putting a model where TensorFlow Serving looks for versions.
//!
//! | file | idea |
//! |---|---|
//! | `version` | the steps: stage, verify in a fresh process, appear as the next number |
//! | `copy` | a model's files with their hashes, saved_model.pb last |
//! | `warmup` | requests that a server replays before it takes traffic |
//! | `replay` | what the fresh process does |

mod copy;
pub mod replay;
mod version;
pub mod warmup;

pub use copy::Manifest;
pub use version::{Options, Published, publish};
