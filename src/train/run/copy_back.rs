//! The trainings of the strategy copy-back.

use super::{Classes, Fitted, Phase, Run, Trained, flat_counts, resume};
use crate::error::{Error, Result};
use crate::head::locate::Role;
use crate::train::anchors::features_of;
use crate::train::cache::FeatureCache;
use crate::train::copy_back::anchors::{self, Examples, descend};
use crate::train::copy_back::{DescentOptions, cells, regions};
use crate::train::division::Division;
use crate::train::features::Seen;
use crate::train::frozen_columns::FitOptions;
use crate::train::kept::KeptRows;
use crate::train::parameters::old_columns;
use crate::train::shape::Backbone;
use crate::train::task::{Loss, Task, first_layer};

impl<'a> Run<'a> {
    /// Of single stages.
    pub(super) fn copy_back_anchors(
        mut self,
        backbone: &dyn Backbone,
        classes: &'a Classes,
        descent: &DescentOptions,
    ) -> Result<Trained> {
        let (shape, added) = (backbone.shape(), classes.new.len());
        let sizes = shape.layers()?;
        let columns = old_columns(&sizes, self.old)?;
        let known = classes.old.iter().filter(|(_, column)| **column < columns);
        self.showing.classes.extend(known.map(|(name, column)| (name.as_str(), *column)));
        self.number(classes, columns);
        let widths = sizes.iter().map(|&size| anchors::row_widths(size)).collect();
        let mut cache = FeatureCache::new(widths, self.cache.clone());
        let examples = Examples::new(shape, &sizes, self.old, self.background, descent.threads)?;
        let first = resume(&mut cache, &mut self.statistics)?;
        let total = self.statistics.views;
        let show = |seen: Seen| features_of(backbone, &seen).map(|features| (seen, features));
        self.showing.run(shape.input, first, show, |(seen, features)| {
            let matched = &mut self.statistics.matched_by_map;
            examples.keep(&mut cache, &seen, &features, |map, anchor, class| {
                if let Some(new) = class.checked_sub(columns).filter(|new| *new < added) {
                    matched[map][anchor * added + new] += 1;
                }
            })?;
            cache.view_done(|| flat_counts(matched))?;
            (self.progress)(Phase::Features { done: seen.number + 1, total });
            Ok(())
        })?;
        cache.features_done()?;
        let layers: Vec<usize> = (0..sizes.len()).collect();
        self.note(&layers, &cache, added);
        let result = descend(&cache, &sizes, columns, added, descent, |done, loss| {
            (self.progress)(Phase::Fit { done, total: descent.steps, loss });
        })?;
        self.statistics.fit_seconds = result.seconds;
        let losses = result.losses.clone();
        let fits = vec![Fitted {
            role: Role::Scores,
            layers,
            losses,
            strength: None,
            divisions: vec![Division::NONE; added],
        }];
        Ok(Trained {
            columns: result.columns,
            fits,
            comparison: None,
            iterations: result.losses.len(),
            losses: result.losses,
            statistics: self.statistics,
        })
    }

    /// Of two stages and of heatmaps: the scores by descent; boxes and masks, whose columns do not see each other, by the convex
    /// fits that they have beside frozen columns too.
    pub(super) fn copy_back(
        mut self,
        tasks: &[Task],
        classes: &'a Classes,
        descent: &DescentOptions,
    ) -> Result<Trained> {
        let (added, scores) = (classes.new.len(), first(tasks)?);
        let old = scores.old(self.old)?;
        let columns = old_columns(&scores.sizes, &old)?;
        let softmax = scores.loss == Loss::Softmax;
        if softmax && !scores.background {
            return Err(Error::Usage(
                "the scores are a softmax without a background, of which copy-back knows no labels; use --strategy \
                 frozen-columns"
                    .into(),
            ));
        }
        if softmax {
            let known = classes.old.iter().filter(|(_, column)| **column < columns);
            self.showing.classes.extend(known.map(|(name, column)| (name.as_str(), *column)));
        }
        self.number(classes, if softmax { columns } else { 0 });
        let (cache, open) = self.rows(tasks, added, true)?;
        let mut trained = self.nothing_trained();

        let kept = KeptRows::new(&cache, &open, 0..scores.layers.len())?;
        let convex = FitOptions { threads: descent.threads, ..FitOptions::default() };
        let step = |done, loss| (self.progress)(Phase::Fit { done, total: descent.steps, loss });
        let result = match (&scores.sizes[..], &old[..]) {
            (_, [old]) if softmax => {
                let options = (descent, &convex.for_task(scores));
                let (result, comparison) = regions::train(kept, scores, old, added, options, step)?;
                trained.comparison = Some(comparison);
                result
            }
            (&[size], _) if scores.loss == Loss::Focal => cells::train(kept, size, added, descent, step)?,
            _ => {
                return Err(Error::Usage(
                    "copy-back knows no recipe for the scores of this model; use --strategy frozen-columns"
                        .into(),
                ));
            }
        };
        for (&layer, columns) in scores.layers.iter().zip(result.columns) {
            trained.columns[layer] = scores.ungrouped(columns, added);
        }
        trained.statistics.fit_seconds += result.seconds;
        (trained.losses, trained.iterations) = (result.losses.clone(), result.losses.len());
        let divisions = vec![Division::NONE; added];
        let layers = scores.layers.clone();
        trained.fits.push(Fitted {
            role: scores.role,
            layers,
            losses: result.losses,
            strength: None,
            divisions,
        });

        for (number, task) in tasks.iter().enumerate().skip(1) {
            let first = first_layer(tasks, number);
            let kept = KeptRows::new(&cache, &open, first..first + task.layers.len())?;
            trained.fit(task, kept, (self.old, added), &convex.for_task(task), |_, _| {})?;
        }
        Ok(trained)
    }
}

fn first(tasks: &[Task]) -> Result<&Task> {
    tasks.first().ok_or_else(|| Error::Data("the network has nothing to fit".into()))
}
