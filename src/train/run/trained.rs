//! What comes out of a training.

use crate::error::Result;
use crate::head::columns::{LayerValues, NewColumns};
use crate::head::locate::Role;
use crate::train::copy_back::regions::Comparison;
use crate::train::division::Division;
use crate::train::frozen_columns::{FitOptions, fit};
use crate::train::incomplete::Alike;
use crate::train::kept::KeptRows;
use crate::train::task::Task;

/// What the data was and what it cost.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    /// Pictures.
    pub images: usize,
    /// Labelled objects of each new class, crowds included.
    pub boxes: Vec<usize>,
    /// Views of all pictures.
    pub views: usize,
    /// Views of a picture with objects.
    pub views_per_picture: usize,
    /// Views of these whose features an earlier run had left.
    pub resumed: usize,
    /// Kept rows of each layer.
    pub rows: Vec<usize>,
    /// Anchors, regions or centres matched to each new class as the OD API matches them, in all views: for each layer
    /// [anchors, classes].
    pub matched: Vec<Vec<usize>>,
    /// Sums of weight · target, one unit per picture's worth of views: for each layer [anchors, classes]. Empty for
    /// copy-back.
    pub positives: Vec<Vec<f64>>,
    /// The same by map instead of class layer, which several maps may share.
    pub matched_by_map: Vec<Vec<usize>>,
    /// Pictures with incomplete labels.
    pub incomplete: usize,
    /// Anchors of those that score like objects, by class.
    pub alike: Alike,
    /// Seconds until all features were there.
    pub feature_seconds: f64,
    /// Seconds of the solver.
    pub fit_seconds: f64,
    /// Bytes of kept features in memory.
    pub memory_bytes: u64,
    /// Bytes of kept features on disk.
    pub disk_bytes: u64,
}

/// One fit.
#[derive(Debug, Clone)]
pub struct Fitted {
    /// What its columns are.
    pub role: Role,
    /// The numbers of its class layers.
    pub layers: Vec<usize>,
    /// The loss before the first step and after each; empty where nothing was kept, and columns are the mean of old ones.
    pub losses: Vec<f64>,
    /// How many times as strong the prior was as usual; none where there was no prior.
    pub strength: Option<f64>,
    /// For each class where its score of one half was put.
    pub divisions: Vec<Division>,
}

/// New columns and how they came about.
#[derive(Debug, Clone)]
pub struct Trained {
    /// New columns of each layer, kernel [depth, anchors, classes].
    pub columns: Vec<NewColumns>,
    /// The fits, that of the scores first.
    pub fits: Vec<Fitted>,
    /// What putting back did to columns of a softmax; of copy-back alone.
    pub comparison: Option<Comparison>,
    /// The loss of the scores by step.
    pub losses: Vec<f64>,
    /// Steps taken for the scores.
    pub iterations: usize,
    /// What the data was.
    pub statistics: Statistics,
}

impl Trained {
    /// Adds the convex fit of a task to `added` new classes; `old` are all old layers.
    pub(super) fn fit(
        &mut self,
        task: &Task,
        kept: KeptRows<'_>,
        (old, added): (&[LayerValues], usize),
        options: &FitOptions,
        step: impl FnMut(usize, f64),
    ) -> Result<()> {
        let result = fit(kept, &task.sizes, &task.old(old)?, task.background, added, options, step)?;
        for ((&layer, columns), positives) in task.layers.iter().zip(result.columns).zip(result.positives) {
            self.columns[layer] = task.ungrouped(columns, added);
            self.statistics.positives[layer] = positives;
        }
        self.statistics.fit_seconds += result.seconds;
        self.statistics.alike.ignored += result.alike.ignored;
        self.statistics.alike.taken += result.alike.taken;
        if self.fits.is_empty() {
            (self.losses, self.iterations) = (result.losses.clone(), result.iterations);
        }
        self.fits.push(Fitted {
            role: task.role,
            layers: task.layers.clone(),
            losses: result.losses,
            strength: Some(result.strength),
            divisions: result.divisions,
        });
        Ok(())
    }
}
