//! Training of new class columns on a frozen network.
//!
//! [`features`] goes over the pictures, [`views`] and [`render`] choose and draw parts of them. A [`network`] of one of
//! three kinds is run on each and turned into rows of features, targets and weights: `anchors` with [`targets`] for single
//! stages, [`rois`] for regions of two stages (`bins`: of position-sensitive layers), `mask_rows` with `outlines` for the pixels
//! of their masks, [`gaussian`] for the cells of a heatmap. [`task`] says what rows there are,
//! [`cache`] keeps them, [`shards`] for a run that goes on where another was killed. Then a strategy makes columns:
//! [`frozen_columns`] by convex fits over [`kept`] rows ([`parameters`], [`objective`], [`lbfgs`]; in rounds for
//! [`incomplete`] labels; the strength of the prior and the score of one half as [`held_out`] pictures say), [`copy_back`] by gradient descent from
//! random weights. Neither touches an old weight. [`focal`] tells how the old scores are scaled.

mod anchors;
pub mod bins;
pub mod cache;
pub mod copy_back;
pub mod division;
pub mod features;
pub mod finder;
pub mod focal;
pub mod frozen_columns;
pub mod gaussian;
pub mod held_out;
pub mod incomplete;
pub mod kept;
pub mod lbfgs;
pub mod loss;
mod mask_rows;
pub mod network;
pub mod objective;
mod outlines;
pub mod parameters;
pub mod render;
pub mod rois;
mod run;
pub mod shape;
pub mod shards;
mod solver;
pub mod targets;
pub mod task;
pub mod views;

pub use mask_rows::Masks;
pub use run::{Classes, Fitted, Phase, Statistics, Strategy, TrainOptions, Trained, train, views_within};
pub use shape::{Backbone, Geometry, Input, Level, NetworkShape, ViewFeatures};
pub use task::Frozen;
