//! Training of new class columns on a frozen network.
//!
//! [`views`] and [`render`] show the network parts of the pictures, [`features`] runs it over them, [`targets`] say
//! what its anchors should answer, [`cache`] keeps the features of the cells that matter, and [`shards`] keeps them for a run that
//! goes on where another was killed. Then a strategy makes columns: [`frozen_columns`] by one convex fit ([`parameters`],
//! [`objective`], [`lbfgs`]; in rounds for [`incomplete`] labels), [`copy_back`] by gradient descent
//! from random weights. Neither touches an old weight.

pub mod cache;
pub mod copy_back;
pub mod features;
pub mod frozen_columns;
pub mod incomplete;
pub mod lbfgs;
pub mod loss;
pub mod network;
pub mod objective;
pub mod parameters;
pub mod render;
mod run;
pub mod shape;
pub mod shards;
pub mod targets;
pub mod views;

pub use network::Network;
pub use run::{Classes, Phase, Statistics, Strategy, TrainOptions, Trained, train};
pub use shape::{Backbone, Geometry, Level, NetworkShape, ViewFeatures};
