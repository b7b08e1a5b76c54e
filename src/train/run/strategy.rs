//! The ways to make new columns.

use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::head::Kind;
use crate::pipeline_config::ClassLoss;
use crate::runtime::Sharing;
use crate::train::copy_back::DescentOptions;
use crate::train::frozen_columns::{FitOptions, calibration};

/// How new columns are made.
#[derive(Debug, Clone, PartialEq)]
pub enum Strategy {
    /// One convex fit with all old weights frozen.
    FrozenColumns(FitOptions),
    /// A whole layer from random weights; the old columns are put back.
    CopyBack(DescentOptions),
}

impl Strategy {
    /// The strategy for single-stage scores that were trained with this loss.
    #[must_use]
    pub fn for_scores(self, loss: ClassLoss) -> Self {
        match self {
            Self::FrozenColumns(fit) => {
                Self::FrozenColumns(FitOptions { calibration: calibration(loss.gamma), ..fit })
            }
            // Without α both sides weigh the same, which is a half but for the learning rate.
            Self::CopyBack(descent) => Self::CopyBack(DescentOptions {
                gamma: loss.gamma as f32,
                alpha: loss.alpha.unwrap_or(0.5) as f32,
                ..descent
            }),
        }
    }

    /// What TensorFlow's threads are best for. A descent takes one step after the other; operations of two stages are large, and
    /// the single runs that prove and open such a network last longer than its views.
    pub fn sharing(&self, kind: Kind) -> Sharing {
        match self {
            Self::FrozenColumns(_) if kind != Kind::TwoStage => Sharing::Runs,
            _ => Sharing::Operations,
        }
    }

    /// Errors: [`Error::Usage`] where the strategy cannot learn from such data.
    pub fn admits(&self, dataset: &Dataset) -> Result<()> {
        match self {
            Self::CopyBack(_) if dataset.images.iter().any(|image| !image.incomplete.is_complete()) => {
                Err(Error::Usage(
                    "the data has pictures with incomplete labels, which --strategy copy-back would take for \
                     background; use frozen-columns"
                        .into(),
                ))
            }
            _ => Ok(()),
        }
    }
}
