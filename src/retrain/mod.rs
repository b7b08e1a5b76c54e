//! The main job: from a model and labelled pictures to a model with more classes.
//!
//! [`plan`] decides what is new, [`flow`] does the steps of a retraining in order, [`report`] says what happened.

pub mod flow;
pub mod plan;
pub mod report;

pub use flow::{Options, Retrained, retrain};
pub use plan::Plan;
pub use report::Report;
