//! Training of new class columns on a frozen network.
//!
//! [`views`] and [`render`] show the network parts of the pictures, [`targets`] say what its anchors should answer,
//! [`cache`] keeps the features of the cells that matter, [`frozen_columns`] fits columns to them.

pub mod cache;
pub mod frozen_columns;
pub mod lbfgs;
pub mod loss;
pub mod objective;
pub mod parameters;
mod random;
pub mod render;
pub mod shape;
pub mod targets;
pub mod views;
