//! The main job: from a model and labelled pictures to a model with more classes.
//!
//! [`plan`] decides what is new, [`flow`] does the steps of a retraining in order, [`look`] holds source and result
//! against each other, [`report`] says what happened (`summary` and `clock` what it took), and `page` shows
//! it.

mod clock;
pub mod flow;
pub mod look;
mod page;
pub mod plan;
pub mod report;
mod summary;

pub use flow::{Options, Retrained, Views, retrain};
pub use page::MapEvidence;
pub use plan::{Plan, PlannedClass};
pub use report::Report;
