//! One training from data to columns: what both strategies need, and that of frozen columns.

mod budget;
mod copy_back;
mod strategy;
mod trained;

pub use budget::views_within;
pub use strategy::Strategy;
pub use trained::{Fitted, Statistics, Trained};

use std::collections::BTreeMap;
use std::time::Instant;

use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::head::columns::{LayerValues, NewColumns};
use crate::train::cache::{CacheOptions, FeatureCache};
use crate::train::copy_back::regions::LABEL;
use crate::train::features::{Seen, Showing};
use crate::train::frozen_columns::FitOptions;
use crate::train::held_out::HeldOut;
use crate::train::kept::{KeptRows, OpenRows};
use crate::train::mask_rows::Masks;
use crate::train::parameters::old_columns;
use crate::train::task::{Frozen, Loss, Map, Task, ViewRows, first_layer};
use crate::train::views::automatic_count;

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
    options.strategy.admits(dataset)?;
    let tasks = network.tasks(background)?;
    for task in &tasks {
        old_columns(&task.sizes, &task.old(old)?)?;
    }
    let views = options.views.unwrap_or_else(|| automatic_count(dataset.images.len()));
    let maps = network.maps(&tasks);
    let statistics = Statistics {
        images: dataset.images.len(),
        views_per_picture: views,
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
        (Strategy::CopyBack(descent), Some(backbone)) => run.copy_back_anchors(backbone, classes, descent),
        (Strategy::CopyBack(descent), None) => run.copy_back(&tasks, classes, descent),
    }
}

/// The widths of the parts of a row, for each layer of the tasks; `labelled` rows of a softmax end with a label.
fn row_widths(tasks: &[Task], added: usize, labelled: bool) -> Vec<Vec<usize>> {
    let widths = |task: &Task| -> Vec<_> {
        let widths = |&size| {
            let mut widths = task.loss.row_widths(size, added);
            widths.extend((task.loss == Loss::Softmax && labelled).then_some(LABEL));
            widths
        };
        task.sizes.iter().map(widths).collect()
    };
    tasks.iter().flat_map(widths).collect()
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

    /// Shows everything and keeps rows of all tasks. Where `first_new` is not zero, rows of a softmax have labels and every view
    /// ends a chunk.
    fn rows(&mut self, tasks: &[Task], added: usize, by_view: bool) -> Result<(FeatureCache, OpenRows)> {
        let first_new = self.showing.first_new;
        let widths = row_widths(tasks, added, first_new > 0);
        let mut cache = FeatureCache::new(widths, self.cache.clone());
        let mut open = OpenRows::new(cache.layers());
        let first = resume(&mut cache, &mut self.statistics)?;
        let total = self.statistics.views;
        let network = self.network;
        let rows_of =
            |seen: Seen| Ok((seen.number, ViewRows::of(network, &seen, tasks, (first_new, added))?));
        self.showing.run(network.input(), first, rows_of, |(number, rows)| {
            let matched = &mut self.statistics.matched_by_map;
            rows.keep(&mut cache, &mut open, matched)?;
            if by_view {
                cache.finish_view()?;
            }
            cache.view_done(|| flat_counts(matched))?;
            (self.progress)(Phase::Features { done: number + 1, total });
            Ok(())
        })?;
        cache.features_done()?;
        cache.finish()?;
        let layers: Vec<usize> = tasks.iter().flat_map(|task| &task.layers).copied().collect();
        self.note(&layers, &cache, added);
        Ok((cache, open))
    }

    fn frozen_columns(
        mut self,
        tasks: &[Task],
        classes: &'a Classes,
        options: &FitOptions,
    ) -> Result<Trained> {
        let finder = self.network.finder();
        if finder.is_none() && options.most_false.is_some() {
            return Err(Error::Usage(
                "false positives cannot be capped: it is not known what this model detects in a held-out picture".into(),
            ));
        }
        let added = classes.new.len();
        self.number(classes, 0);
        let (cache, open) = self.rows(tasks, added, false)?;
        let mut trained = self.nothing_trained();
        let limit = options.limits.iterations;
        let held_out = finder.as_deref().map(|finder| HeldOut::new(finder, &self.showing));
        for (number, task) in tasks.iter().enumerate() {
            let first = first_layer(tasks, number);
            let mut kept = KeptRows::new(&cache, &open, first..first + task.layers.len())?;
            if let Some(held_out) = &held_out {
                kept = kept.held_out_by(held_out);
            }
            let (done_before, all) = (number * limit, tasks.len() * limit);
            trained.fit(task, kept, (self.old, added), &options.for_task(task), |done, loss| {
                (self.progress)(Phase::Fit { done: (done_before + done).min(all), total: all, loss });
            })?;
        }
        Ok(trained)
    }

    /// What is known before anything is fitted.
    fn nothing_trained(&mut self) -> Trained {
        let empty = NewColumns { kernel: Vec::new(), biases: Vec::new() };
        let mut statistics = std::mem::take(&mut self.statistics);
        statistics.positives = vec![Vec::new(); self.old.len()];
        Trained {
            columns: vec![empty; self.old.len()],
            fits: Vec::new(),
            comparison: None,
            losses: Vec::new(),
            iterations: 0,
            statistics,
        }
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
