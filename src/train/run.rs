//! One training from data to columns.

use std::collections::BTreeMap;
use std::time::Instant;

use super::anchors::features_of;
use super::cache::{CacheOptions, FeatureCache};
use super::copy_back::{self, DescentOptions, Examples, descend};
use super::division::Division;
use super::features::Showing;
use super::frozen_columns::{FitOptions, fit};
use super::held_out::HeldOut;
use super::kept::{KeptRows, OpenRows};
use super::mask_rows::Masks;
use super::parameters::old_columns;
use super::shape::Backbone;
use super::task::{Frozen, Map, RowSink, Task, first_layer};
use super::views::automatic_count;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::head::columns::{LayerValues, NewColumns};
use crate::head::locate::Role;

/// How new columns are made.
#[derive(Debug, Clone, PartialEq)]
pub enum Strategy {
    /// One convex fit with all old weights frozen.
    FrozenColumns(FitOptions),
    /// A whole layer from random weights; the old columns are put back.
    CopyBack(DescentOptions),
}

/// Which names of the data are which columns.
#[derive(Debug, Clone, Default)]
pub struct Classes {
    /// Names of the new classes, in the order of their columns.
    pub new: Vec<String>,
    /// Names of old classes and their columns within a group, the background counted. Only copy-back needs them.
    pub old: BTreeMap<String, usize>,
}

/// Options of a training.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// How new columns are made.
    pub strategy: Strategy,
    /// Views of each picture; without it as many as [`automatic_count`] says.
    pub views: Option<usize>,
    /// Seed of the views.
    pub seed: u64,
    /// Where features are kept.
    pub cache: CacheOptions,
}

impl Default for TrainOptions {
    fn default() -> Self {
        let strategy = Strategy::FrozenColumns(FitOptions::default());
        Self { strategy, views: None, seed: 0, cache: CacheOptions::default() }
    }
}

/// How far a training is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Phase {
    /// Views that went through the network.
    Features {
        /// So many.
        done: usize,
        /// Of so many.
        total: usize,
    },
    /// Steps of the solver.
    Fit {
        /// So many.
        done: usize,
        /// Of at most so many.
        total: usize,
        /// The loss now.
        loss: f64,
    },
}

/// What the data was and what it cost.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    /// Pictures.
    pub images: usize,
    /// Labelled objects of each new class, crowds included.
    pub boxes: Vec<usize>,
    /// Views of all pictures.
    pub views: usize,
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
    /// Anchors of those that were ignored since they score like objects, by class.
    pub ignored: usize,
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
    /// The loss of the scores by step.
    pub losses: Vec<f64>,
    /// Steps taken for the scores.
    pub iterations: usize,
    /// What the data was.
    pub statistics: Statistics,
}

/// Trains columns for new classes.
///
/// `old` holds the old class layers by number, column 0 of each anchor being the background where `background` says so.
///
/// Errors: [`Error::Data`] when nothing of a new class is in the data or a picture cannot be read; [`Error::Usage`] for
/// options out of range; those of TensorFlow.
pub fn train(
    network: &dyn Frozen,
    dataset: &Dataset,
    classes: &Classes,
    old: &[LayerValues],
    background: bool,
    options: &TrainOptions,
    progress: &mut dyn FnMut(Phase),
) -> Result<Trained> {
    let boxes = count_boxes(dataset, classes)?;
    if options.views == Some(0) {
        return Err(Error::Usage("--views 0 shows the network nothing; expected at least 1".into()));
    }
    if let Strategy::CopyBack(_) = options.strategy
        && dataset.images.iter().any(|image| !image.incomplete.is_complete())
    {
        return Err(Error::Usage(
            "the data has pictures with incomplete labels, which --strategy copy-back would take for background; use \
             frozen-columns"
                .into(),
        ));
    }
    let tasks = network.tasks(background)?;
    for task in &tasks {
        old_columns(&task.sizes, &task.old(old)?)?;
    }
    let views = options.views.unwrap_or_else(|| automatic_count(dataset.images.len()));
    let maps = network.maps(&tasks);
    let statistics = Statistics {
        images: dataset.images.len(),
        incomplete: dataset.images.iter().filter(|image| !image.incomplete.is_complete()).count(),
        boxes,
        matched_by_map: maps.iter().map(|map| vec![0; map.anchors * classes.new.len()]).collect(),
        ..Statistics::default()
    };
    let run = Run {
        network,
        maps,
        showing: Showing {
            dataset,
            classes: BTreeMap::new(),
            first_new: 0,
            views,
            seed: options.seed,
            outlines: network.masks() == Masks::Learned,
        },
        old,
        background,
        cache: &options.cache,
        statistics,
        start: Instant::now(),
        progress,
    };
    match (&options.strategy, network.single_stage()) {
        (Strategy::FrozenColumns(fit), _) => run.frozen_columns(&tasks, classes, fit),
        (Strategy::CopyBack(descent), Some(backbone)) => run.copy_back(backbone, classes, descent),
        (Strategy::CopyBack(_), None) => Err(Error::Usage(
            "copy-back trains single-stage models with sigmoid scores only; use --strategy frozen-columns"
                .into(),
        )),
    }
}

/// What both strategies need.
struct Run<'a> {
    network: &'a dyn Frozen,
    maps: Vec<Map>,
    showing: Showing<'a>,
    old: &'a [LayerValues],
    background: bool,
    cache: &'a CacheOptions,
    statistics: Statistics,
    start: Instant,
    progress: &'a mut dyn FnMut(Phase),
}

impl<'a> Run<'a> {
    /// Numbers the classes of the data, new ones from `first` on, and counts the views.
    fn number(&mut self, classes: &'a Classes, first: usize) {
        let new = classes.new.iter().enumerate().map(|(n, name)| (name.as_str(), first + n));
        self.showing.classes.extend(new);
        self.showing.first_new = first;
        self.statistics.views = self.showing.count(self.network.input().geometry);
    }

    fn frozen_columns(
        mut self,
        tasks: &[Task],
        classes: &'a Classes,
        options: &FitOptions,
    ) -> Result<Trained> {
        let added = classes.new.len();
        self.number(classes, 0);
        let widths = |task: &Task| -> Vec<_> {
            task.sizes.iter().map(|&size| task.loss.row_widths(size, added)).collect()
        };
        let mut cache = FeatureCache::new(tasks.iter().flat_map(widths).collect(), self.cache.clone());
        let mut open = OpenRows::new(cache.layers());
        let first = resume(&mut cache, &mut self.statistics)?;
        let total = self.statistics.views;
        self.showing.run(self.network.input(), first, |seen| {
            let matched = &mut self.statistics.matched_by_map;
            let mut rows = RowSink { cache: &mut cache, open: &mut open, tasks, matched };
            self.network.keep(&seen, added, &mut rows)?;
            cache.view_done(|| flat_counts(&self.statistics.matched_by_map))?;
            (self.progress)(Phase::Features { done: seen.number + 1, total });
            Ok(())
        })?;
        cache.features_done()?;
        cache.finish()?;
        let layers: Vec<usize> = tasks.iter().flat_map(|task| &task.layers).copied().collect();
        self.note(&layers, &cache, added);

        let empty = NewColumns { kernel: Vec::new(), biases: Vec::new() };
        let mut trained = Trained {
            columns: vec![empty; self.old.len()],
            fits: Vec::new(),
            losses: Vec::new(),
            iterations: 0,
            statistics: self.statistics,
        };
        trained.statistics.positives = vec![Vec::new(); self.old.len()];
        let limit = options.limits.iterations;
        let held_out = self.network.single_stage().map(|backbone| HeldOut::new(backbone, &self.showing));
        for (number, task) in tasks.iter().enumerate() {
            let (old, options) = (task.old(self.old)?, options.for_task(task));
            let first = first_layer(tasks, number);
            let mut kept = KeptRows::new(&cache, &open, first..first + task.layers.len())?;
            if let Some(held_out) = &held_out {
                kept = kept.held_out_by(held_out);
            }
            let (done_before, all) = (number * limit, tasks.len() * limit);
            let result = fit(kept, &task.sizes, &old, task.background, added, &options, |done, loss| {
                (self.progress)(Phase::Fit { done: (done_before + done).min(all), total: all, loss });
            })?;
            for ((&layer, columns), positives) in task.layers.iter().zip(result.columns).zip(result.positives)
            {
                trained.columns[layer] = task.ungrouped(columns, added);
                trained.statistics.positives[layer] = positives;
            }
            trained.statistics.fit_seconds += result.seconds;
            trained.statistics.ignored += result.ignored;
            if number == 0 {
                (trained.losses, trained.iterations) = (result.losses.clone(), result.iterations);
            }
            trained.fits.push(Fitted {
                role: task.role,
                layers: task.layers.clone(),
                losses: result.losses,
                divisions: result.divisions,
            });
        }
        Ok(trained)
    }

    fn copy_back(
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
        let widths = sizes.iter().map(|&size| copy_back::row_widths(size)).collect();
        let mut cache = FeatureCache::new(widths, self.cache.clone());
        let examples = Examples::new(shape, &sizes, self.old, self.background, descent.threads)?;
        let first = resume(&mut cache, &mut self.statistics)?;
        let total = self.statistics.views;
        self.showing.run(shape.input, first, |seen| {
            let matched = &mut self.statistics.matched_by_map;
            examples.keep(&mut cache, &seen, &features_of(backbone, &seen)?, |map, anchor, class| {
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
        let fits =
            vec![Fitted { role: Role::Scores, layers, losses, divisions: vec![Division::NONE; added] }];
        Ok(Trained {
            columns: result.columns,
            fits,
            iterations: result.losses.len(),
            losses: result.losses,
            statistics: self.statistics,
        })
    }

    /// What was kept and matched, once all features are there; `layers` are those of the cache.
    fn note(&mut self, layers: &[usize], cache: &FeatureCache, added: usize) {
        let statistics = &mut self.statistics;
        statistics.rows = vec![0; self.old.len()];
        statistics.matched = vec![Vec::new(); self.old.len()];
        for (at, &layer) in layers.iter().enumerate() {
            statistics.rows[layer] = cache.rows(at);
        }
        for (map, counts) in self.maps.iter().zip(&statistics.matched_by_map) {
            let sums = &mut statistics.matched[map.layer];
            sums.resize(map.anchors * added, 0);
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum += count;
            }
        }
        (statistics.memory_bytes, statistics.disk_bytes) = cache.bytes();
        statistics.feature_seconds = self.start.elapsed().as_secs_f64();
    }
}

/// Takes over what a killed run has left: the number of the first view that is still to be shown.
fn resume(cache: &mut FeatureCache, statistics: &mut Statistics) -> Result<usize> {
    let (views, counts) = cache.resume()?;
    for (here, kept) in statistics.matched_by_map.iter_mut().flatten().zip(counts) {
        *here = kept as usize;
    }
    statistics.resumed = views;
    if views > 0 {
        tracing::info!("{views} of {} views were there from a run that did not end", statistics.views);
    }
    Ok(views)
}

fn flat_counts(matched: &[Vec<usize>]) -> Vec<u64> {
    matched.iter().flatten().map(|&n| n as u64).collect()
}

fn count_boxes(dataset: &Dataset, classes: &Classes) -> Result<Vec<usize>> {
    if classes.new.is_empty() {
        return Err(Error::Usage("nothing to train: name at least one new class".into()));
    }
    let counts = dataset.counts();
    let mut boxes = Vec::with_capacity(classes.new.len());
    for (number, name) in classes.new.iter().enumerate() {
        if classes.new[..number].contains(name) || classes.old.contains_key(name) {
            return Err(Error::Usage(format!(
                "the class {name:?} is named twice or is in the model already"
            )));
        }
        let examples =
            |image: &crate::data::LabelledImage| image.objects.iter().any(|o| o.class == *name && !o.crowd);
        if !dataset.images.iter().any(examples) {
            let has: Vec<&str> = dataset.categories.iter().map(String::as_str).collect();
            return Err(Error::Data(format!(
                "no object of the new class {name:?} is labelled in the data, which has: {}",
                if has.is_empty() { "no classes".into() } else { has.join(", ") }
            )));
        }
        boxes.push(counts.get(name).copied().unwrap_or(0));
    }
    Ok(boxes)
}
