//! One training from data to columns.

use std::collections::BTreeMap;
use std::time::Instant;

use super::cache::{CacheOptions, FeatureCache};
use super::copy_back::{self, DescentOptions, Examples, descend};
use super::features::{Showing, Shown};
use super::frozen_columns::{FitOptions, fit};
use super::incomplete::{Kept, OpenRows};
use super::objective;
use super::parameters::old_columns;
use super::shape::{Backbone, NetworkShape};
use super::targets::{matched, soft};
use super::views::automatic_count;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::head::columns::{LayerValues, NewColumns};

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
    /// Anchors matched to each new class as the OD API matches them, in all views: for each layer [anchors, classes].
    pub matched: Vec<Vec<usize>>,
    /// Sums of weight · target, one unit per picture's worth of views: for each layer [anchors, classes]. Empty for
    /// copy-back.
    pub positives: Vec<Vec<f64>>,
    /// The same by feature map instead of class layer, which several maps may share.
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

/// New columns and how they came about.
#[derive(Debug, Clone)]
pub struct Trained {
    /// New columns of each layer, kernel [depth, anchors, classes].
    pub columns: Vec<NewColumns>,
    /// The loss by step.
    pub losses: Vec<f64>,
    /// Steps taken.
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
    backbone: &dyn Backbone,
    dataset: &Dataset,
    classes: &Classes,
    old: &[LayerValues],
    background: bool,
    options: &TrainOptions,
    progress: &mut dyn FnMut(Phase),
) -> Result<Trained> {
    let start = Instant::now();
    let shape = backbone.shape();
    let sizes = shape.layers()?;
    let columns = old_columns(&sizes, old)?;
    let added = classes.new.len();
    let boxes = count_boxes(dataset, classes)?;
    if options.views == Some(0) {
        return Err(Error::Usage("--views 0 shows the network nothing; expected at least 1".into()));
    }
    let copy_back = matches!(options.strategy, Strategy::CopyBack(_));
    if copy_back && dataset.images.iter().any(|image| !image.incomplete.is_complete()) {
        return Err(Error::Usage(
            "the data has pictures with incomplete labels, which --strategy copy-back would take for background; use \
             frozen-columns"
                .into(),
        ));
    }
    let first_new = if copy_back { columns } else { 0 };
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    if copy_back {
        numbers
            .extend(classes.old.iter().filter(|(_, c)| **c < columns).map(|(name, c)| (name.as_str(), *c)));
    }
    numbers.extend(classes.new.iter().enumerate().map(|(n, name)| (name.as_str(), first_new + n)));
    let views = options.views.unwrap_or_else(|| automatic_count(dataset.images.len()));
    let showing = Showing { dataset, classes: numbers, first_new, views, seed: options.seed };
    let total = showing.count(shape.geometry);
    let mut statistics = Statistics {
        images: dataset.images.len(),
        incomplete: dataset.images.iter().filter(|image| !image.incomplete.is_complete()).count(),
        boxes,
        views: total,
        matched: sizes.iter().map(|size| vec![0; size.anchors * added]).collect(),
        matched_by_map: shape.levels.iter().map(|level| vec![0; level.anchors * added]).collect(),
        ..Statistics::default()
    };
    let cache = options.cache.clone();
    let trained = match &options.strategy {
        Strategy::FrozenColumns(fit_options) => {
            let widths = sizes.iter().map(|&size| objective::row_widths(size, added)).collect();
            let mut cache = FeatureCache::new(widths, cache);
            let first = resume(&mut cache, shape, &mut statistics)?;
            let mut open = OpenRows::new(sizes.len());
            showing.run(backbone, first, |shown| {
                keep_soft(&mut cache, &mut open, shape, &shown, added)?;
                count_matched(&mut statistics, shape, &shown, added);
                cache.view_done(|| flat_counts(&statistics.matched_by_map))?;
                progress(Phase::Features { done: shown.number + 1, total });
                Ok(())
            })?;
            cache.features_done()?;
            cache.finish()?;
            note(&mut statistics, &cache, start);
            let limit = fit_options.limits.iterations;
            let kept = Kept { cache: &cache, open: &open };
            let result = fit(kept, &sizes, old, background, added, fit_options, |done, loss| {
                progress(Phase::Fit { done, total: limit, loss });
            })?;
            statistics.positives = result.positives;
            statistics.ignored = result.ignored;
            statistics.fit_seconds = result.seconds;
            let (columns, losses, iterations) = (result.columns, result.losses, result.iterations);
            Trained { columns, losses, iterations, statistics }
        }
        Strategy::CopyBack(descent) => {
            let widths = sizes.iter().map(|&size| copy_back::row_widths(size)).collect();
            let mut cache = FeatureCache::new(widths, cache);
            let examples = Examples::new(shape, &sizes, old, background, descent.threads)?;
            let first = resume(&mut cache, shape, &mut statistics)?;
            showing.run(backbone, first, |shown| {
                examples.keep(&mut cache, &shown, |map, anchor, class| {
                    if let Some(new) = class.checked_sub(columns).filter(|new| *new < added) {
                        count_one(&mut statistics, shape, map, anchor * added + new);
                    }
                })?;
                cache.view_done(|| flat_counts(&statistics.matched_by_map))?;
                progress(Phase::Features { done: shown.number + 1, total });
                Ok(())
            })?;
            cache.features_done()?;
            note(&mut statistics, &cache, start);
            let result = descend(&cache, &sizes, columns, added, descent, |done, loss| {
                progress(Phase::Fit { done, total: descent.steps, loss });
            })?;
            statistics.fit_seconds = result.seconds;
            Trained {
                columns: result.columns,
                iterations: result.losses.len(),
                losses: result.losses,
                statistics,
            }
        }
    };
    Ok(trained)
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

fn keep_soft(
    cache: &mut FeatureCache,
    open: &mut OpenRows,
    shape: &NetworkShape,
    shown: &Shown,
    classes: usize,
) -> Result<()> {
    let targets = soft(&shape.anchors, &shown.features.boxes, &shown.truths, classes);
    let of_picture = shown.of_picture.max(1) as f32;
    let mut weights = Vec::new();
    for (level, x) in shape.levels.iter().zip(&shown.features.levels) {
        let x = x.f32()?;
        let wide = level.anchors * classes;
        for kept in targets.select(level, shown.number) {
            let first = level.first_anchor * classes + kept.cell * wide;
            weights.clear();
            weights
                .extend(targets.weight[first..first + wide].iter().map(|w| w * kept.stands_for / of_picture));
            let features = &x[kept.cell * level.depth..(kept.cell + 1) * level.depth];
            cache.push(level.layer, &[features, &targets.target[first..first + wide], &weights])?;
            open.push(level.layer, &shown.open);
        }
    }
    Ok(())
}

fn count_matched(statistics: &mut Statistics, shape: &NetworkShape, shown: &Shown, added: usize) {
    let matched = matched(&shape.anchors, &shown.truths);
    for (map, level) in shape.levels.iter().enumerate() {
        for at in 0..level.cells() * level.anchors {
            if let Some(t) = matched[level.first_anchor + at] {
                count_one(statistics, shape, map, at % level.anchors * added + shown.truths[t].class);
            }
        }
    }
}

/// Takes over what a killed run has left: the number of the first view that is still to be shown.
fn resume(cache: &mut FeatureCache, shape: &NetworkShape, statistics: &mut Statistics) -> Result<usize> {
    let (views, counts) = cache.resume()?;
    let mut counts = counts.into_iter();
    for (map, level) in shape.levels.iter().enumerate() {
        let total = &mut statistics.matched[level.layer];
        for ((here, total), kept) in statistics.matched_by_map[map].iter_mut().zip(total).zip(&mut counts) {
            *here = kept as usize;
            *total += kept as usize;
        }
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

fn count_one(statistics: &mut Statistics, shape: &NetworkShape, map: usize, place: usize) {
    statistics.matched[shape.levels[map].layer][place] += 1;
    statistics.matched_by_map[map][place] += 1;
}

fn note(statistics: &mut Statistics, cache: &FeatureCache, start: Instant) {
    statistics.rows = (0..cache.layers()).map(|layer| cache.rows(layer)).collect();
    (statistics.memory_bytes, statistics.disk_bytes) = cache.bytes();
    statistics.feature_seconds = start.elapsed().as_secs_f64();
}
