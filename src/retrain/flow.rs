//! The steps of a retraining, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

use super::plan::Plan;
use super::report::{Fit, GraphChanges, Report, Training, Validation, peak_memory};
use crate::data::{Dataset, LabelMap, Picture};
use crate::detect::Detector;
use crate::error::{Error, Result};
use crate::eval::{EvalImage, class_ids, eval_image, evaluate};
use crate::export::prove::probe_pictures;
use crate::export::{Staging, VariableValues, flat, layer_values};
use crate::graft::{Graft, NewClass};
use crate::head::locate::Role;
use crate::head::{Init, Kind, LayerValues, Understood};
use crate::progress;
use crate::runtime::{self, ServingModel, SessionConfig};
use crate::saved_model::{Fingerprint, SavedModel};
use crate::train::cache::CacheOptions;
use crate::train::network::{self, Parts, check_trainable};
use crate::train::{Classes, Fitted, Frozen, Phase, Strategy, TrainOptions, Trained, train};

/// Everything a retraining is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder to make.
    pub output: PathBuf,
    /// Whether an existing one may be replaced.
    pub overwrite: bool,
    /// How new columns are made.
    pub strategy: Strategy,
    /// Views of each picture; automatic without.
    pub views: Option<usize>,
    /// Seed of views and random weights.
    pub seed: u64,
    /// Threads of TensorFlow; all cores without.
    pub threads: Option<usize>,
    /// Folder of TensorFlow's library.
    pub tensorflow: Option<PathBuf>,
    /// Folder for features that do not fit into memory.
    pub cache_dir: Option<PathBuf>,
    /// Most bytes of features in memory.
    pub cache_limit: u64,
    /// The options as given, for the report.
    pub given: serde_json::Value,
}

/// What came out.
#[derive(Debug)]
pub struct Retrained {
    /// The folder made.
    pub output: PathBuf,
    /// Its report.
    pub report: Report,
}

/// Grows a model by the plan's classes, trains them on `data`, checks and writes everything.
///
/// Errors: every error leaves the output folder as it was.
pub fn retrain(
    model: SavedModel,
    understood: Understood,
    data: &Dataset,
    validation: Option<&Dataset>,
    plan: &Plan,
    options: &Options,
) -> Result<Retrained> {
    let mut clock = Clock::default();
    let adds: Vec<NewClass> =
        plan.new.iter().map(|c| NewClass { name: c.name.clone(), init: Init::Silent }).collect();
    let graft = Graft::new(model, understood, &adds)?;
    check_trainable(&graft.understood)?;
    let single_stage = graft.understood.located.kind == Kind::SingleStage;
    if matches!(options.strategy, Strategy::CopyBack(_)) && !single_stage {
        return Err(Error::Usage(format!(
            "--strategy copy-back trains single-stage models only, and this is {}; use --strategy frozen-columns",
            graft.understood.located.name()
        )));
    }
    let tensorflow = runtime::start(options.tensorflow.as_deref(), options.threads)?;
    let quick = SessionConfig { threads: options.threads, optimize: false };
    let staging = Staging::new(&options.output, options.overwrite)?;
    let source = Fingerprint::of(graft.model.source.path())?;
    clock.lap("understand");

    let spinner = progress::spinner("proving the graph");
    let probes = probes(data)?;
    let variables = VariableValues::read(&graft.model, &graft.understood)?;
    let old = layer_values(&graft.model, &variables, &graft.understood.layers)?;
    let served = flat::serve_source(&graft.model, &variables, &quick)?;
    let proof = graft.prove_silent(&served, &variables, &old, &quick, &probes)?;
    spinner.finish_and_clear();
    clock.lap("prove");

    let session = SessionConfig { threads: options.threads, optimize: true };
    let parts =
        Parts { model: &graft.model, understood: &graft.understood, variables: &variables, values: &old };
    let network = network::open(parts, &session)?;
    drop(variables);
    clock.lap("open network");
    let background = graft.understood.located.background;
    let cache = staging_cache(&staging, options);
    let trained = run_training(network.as_ref(), data, plan, &old, background, cache, options)?;
    drop(network);
    clock.seconds.insert("features", trained.statistics.feature_seconds);
    clock.seconds.insert("fit", trained.statistics.fit_seconds);
    clock.skip();

    let spinner = progress::spinner("writing and checking");
    let weights = graft.write(&staging, &old, &trained.columns)?;
    graft.write_companions(&staging, &plan.labels)?;
    clock.lap("write");
    let (old_scores, written) = graft.verify(&staging, &served, &quick, &probes)?;
    clock.lap("verify");
    spinner.finish_and_clear();

    let validation = match validation {
        None => None,
        Some(v) => Some(validate(v, served, written, plan)?),
    };
    if validation.is_some() {
        clock.lap("validate");
    }
    let mut result = Fingerprint::of(&staging.path().join("saved_model"))?;
    result.path = options.output.join("saved_model").display().to_string();
    let report = Report {
        schema: 1,
        versions: BTreeMap::from([
            ("tfgraft", env!("CARGO_PKG_VERSION").to_owned()),
            ("tensorflow", tensorflow.version.clone()),
        ]),
        source,
        result,
        plan: plan.clone(),
        options: options.given.clone(),
        data_problems: data.problems.clone(),
        training: training(&trained, options, &graft, plan.new.len()),
        proof,
        old_scores,
        weights,
        graph: GraphChanges {
            changed: graft.grown.changes.changed.clone(),
            added: graft.grown.changes.added.clone(),
        },
        validation,
        seconds: clock.finish(),
        peak_memory_bytes: peak_memory(),
    };
    report.write(&staging.path().join("report.json"))?;
    let output = staging.publish()?;
    Ok(Retrained { output, report })
}

/// Spilled features live in the staging folder unless told otherwise, so that they vanish with it.
fn staging_cache(staging: &Staging, options: &Options) -> CacheOptions {
    let dir = options.cache_dir.clone().unwrap_or_else(|| staging.path().to_owned());
    CacheOptions { dir: Some(dir), limit: options.cache_limit }
}

fn run_training(
    network: &dyn Frozen,
    data: &Dataset,
    plan: &Plan,
    old: &[LayerValues],
    background: bool,
    cache: CacheOptions,
    options: &Options,
) -> Result<Trained> {
    let classes = Classes {
        new: plan.new.iter().map(|c| c.name.clone()).collect(),
        old: old_columns(data, &plan.labels, plan.classes_before, background),
    };
    let train_options =
        TrainOptions { strategy: options.strategy.clone(), views: options.views, seed: options.seed, cache };
    let mut bar = None;
    let mut fitting = false;
    let trained = train(network, data, &classes, old, background, &train_options, &mut |phase| match phase {
        Phase::Features { done, total } => {
            bar.get_or_insert_with(|| progress::bar(total as u64, "features")).set_position(done as u64);
        }
        Phase::Fit { done, total, .. } => {
            if !fitting {
                fitting = true;
                if let Some(bar) = bar.take() {
                    bar.finish_and_clear();
                }
            }
            bar.get_or_insert_with(|| progress::bar(total as u64, "fit")).set_position(done as u64);
        }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    trained
}

/// Columns of old classes that the data labels, by the names the data uses.
fn old_columns(
    data: &Dataset,
    labels: &LabelMap,
    classes: usize,
    background: bool,
) -> BTreeMap<String, usize> {
    let column = |name: &String| {
        let id = labels.by_name(name)?.id as usize;
        (1..=classes).contains(&id).then(|| (name.clone(), id - 1 + usize::from(background)))
    };
    data.categories.iter().filter_map(column).collect()
}

/// Two of the user's pictures and one that is the same every time.
fn probes(data: &Dataset) -> Result<Vec<Picture>> {
    let mut probes: Vec<Picture> = data.images.iter().take(2).map(|i| i.picture()).collect::<Result<_>>()?;
    probes.extend(probe_pictures().into_iter().take(1));
    Ok(probes)
}

fn training(trained: &Trained, options: &Options, graft: &Graft, added: usize) -> Training {
    let s = &trained.statistics;
    let anchors = |layer: usize| graft.understood.layers[layer].axis.outer.unwrap_or(1);
    let rows = |(layer, counts): (usize, &Vec<usize>)| {
        counts.chunks(added.max(1)).take(anchors(layer)).map(<[usize]>::to_vec).collect()
    };
    Training {
        strategy: match options.strategy {
            Strategy::FrozenColumns(_) => "frozen-columns",
            Strategy::CopyBack(_) => "copy-back",
        },
        images: s.images,
        views: s.views,
        rows: s.rows.clone(),
        matched_anchors: s.matched.iter().enumerate().map(rows).collect(),
        losses: trained.losses.clone(),
        fits: trained.fits.iter().map(fit_summary).collect(),
        cache_bytes: [s.memory_bytes, s.disk_bytes],
    }
}

fn fit_summary(fitted: &Fitted) -> Fit {
    Fit {
        columns: match fitted.role {
            Role::Scores => "scores",
            Role::Boxes => "boxes",
            Role::Masks => "masks",
        },
        layers: fitted.layers.clone(),
        loss_before: fitted.losses.first().copied(),
        loss_after: fitted.losses.last().copied(),
    }
}

/// COCO measures on held-back data, old classes with both models.
fn validate(data: &Dataset, old: ServingModel, new: ServingModel, plan: &Plan) -> Result<Validation> {
    let ids = class_ids(data, &plan.labels, "of the result")?;
    let names: BTreeMap<u32, String> = ids.iter().map(|(name, &id)| (id, name.clone())).collect();
    let new_names: BTreeSet<&str> = plan.new.iter().map(|c| c.name.as_str()).collect();
    let bar = progress::bar(2 * data.images.len() as u64, "validation");
    let measure = |model: ServingModel| -> Result<_> {
        let detector = Detector::new(model, plan.labels.clone());
        let mut images: Vec<EvalImage> = Vec::new();
        for image in &data.images {
            images.push(eval_image(image, &ids, &detector.detect(&image.picture()?, 0.0)?));
            bar.inc(1);
        }
        Ok(evaluate(&images, &names))
    };
    let (before, after) = (measure(old)?, measure(new)?);
    bar.finish_and_clear();
    Ok(Validation {
        images: data.images.len(),
        old_before: before.mean(|name| !new_names.contains(name)),
        old_after: after.mean(|name| !new_names.contains(name)),
        new_after: after.mean(|name| new_names.contains(name)),
        per_class: after.per_class.clone(),
    })
}

/// Seconds by phase.
struct Clock {
    start: Instant,
    last: Instant,
    seconds: BTreeMap<&'static str, f64>,
}

impl Default for Clock {
    fn default() -> Self {
        let now = Instant::now();
        Self { start: now, last: now, seconds: BTreeMap::new() }
    }
}

impl Clock {
    fn lap(&mut self, phase: &'static str) {
        self.seconds.insert(phase, self.last.elapsed().as_secs_f64());
        self.skip();
    }

    fn skip(&mut self) {
        self.last = Instant::now();
    }

    fn finish(mut self) -> BTreeMap<&'static str, f64> {
        self.seconds.insert("total", self.start.elapsed().as_secs_f64());
        self.seconds
    }
}
