//! Grafts new classes onto a trained TensorFlow object detector.
//!
//! The way through the crate is the way of a retraining (see `ARCHITECTURE.md`): [`saved_model`] reads bytes,
//! [`graph`] indexes and edits them, [`head`] finds and widens the class head, [`runtime`] runs what came out,
//! [`data`] holds pictures and labels, [`eval`] measures, [`detect`] shows.

pub mod cli;
pub mod data;
pub mod detect;
pub mod error;
pub mod eval;
pub mod export;
pub mod graft;
pub mod graph;
pub mod head;
pub mod input;
pub mod inspect;
pub mod pb;
pub mod pipeline_config;
pub mod policy;
pub mod progress;
pub mod publish;
mod random;
pub mod retrain;
pub mod runtime;
pub mod saved_model;
mod side_by_side;
pub mod train;
pub mod verify;
pub mod worker;

pub use error::{Error, Result};
