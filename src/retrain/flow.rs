//! The steps of a retraining, in order.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::clock::Clock;
use super::look::{Look, check_gate, of_classes};
use super::page;
use super::plan::Plan;
use super::report::{GraphChanges, OldLoss, Report, Training, Validation, peak_memory};
use super::summary::{mask_columns, training};
use crate::data::{Dataset, LabelMap, Picture};
use crate::error::{Error, Result};
use crate::eval::{Gate, Verdict};
use crate::export::prove::{outputs_on, probe_pictures};
use crate::export::{Staging, VariableValues, Weights, flat, layer_values};
use crate::graft::{Graft, NewClass};
use crate::head::{Init, Kind, LayerValues, Understood};
use crate::input;
use crate::pipeline_config::{ClassLoss, class_loss};
use crate::progress;
use crate::runtime::{self, SessionConfig};
use crate::saved_model::fingerprint::hash_bytes;
use crate::saved_model::{Fingerprint, SavedModel};
use crate::train::cache::CacheOptions;
use crate::train::network::{self, Parts, check_trainable};
use crate::train::shards::{Keep, key};
use crate::train::{Classes, Frozen, Phase, Strategy, TrainOptions, Trained, train, views_within};

/// Everything a retraining is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder to make.
    pub output: PathBuf,
    /// Whether an existing one may be replaced.
    pub overwrite: bool,
    /// How new columns are made.
    pub strategy: Strategy,
    /// Views of each picture.
    pub views: Views,
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
    /// Limits that the held-back data must confirm, else nothing is published.
    pub gate: Gate,
    /// The name it will serve under.
    pub model_name: Option<String>,
    /// The options as given, for the report.
    pub given: serde_json::Value,
}

/// How many views of each picture are shown.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Views {
    /// By the number of pictures.
    #[default]
    ByPictures,
    /// So many.
    Each(usize),
    /// As many as the network sees in about so many seconds.
    Within(f64),
}

impl Views {
    fn check(self) -> Result<()> {
        match self {
            Self::Within(seconds) if !(seconds > 0.0 && seconds.is_finite()) => {
                Err(Error::Usage(format!("--view-seconds {seconds}: expected a number above 0")))
            }
            _ => Ok(()),
        }
    }
}

/// What came out.
#[derive(Debug)]
pub struct Retrained {
    /// The folder made; none where the gate said no.
    pub output: Option<PathBuf>,
    /// Its report.
    pub report: Report,
}

/// Grows a model by the plan's classes, trains them on `data`, checks and writes everything.
///
/// Errors: every error, and a gate that says no, leaves the output folder as it was.
pub fn retrain(
    model: SavedModel,
    understood: Understood,
    data: &Dataset,
    validation: Option<&Dataset>,
    plan: &Plan,
    options: &Options,
) -> Result<Retrained> {
    let mut clock = Clock::default();
    match validation {
        Some(held_back) => check_gate(&options.gate, held_back, plan)?,
        None if options.gate.is_open() => {}
        None => {
            return Err(Error::Usage(
                "a gate needs held-back data: give --validation DATA or a fraction".into(),
            ));
        }
    }
    options.strategy.admits(data)?;
    options.views.check()?;
    let adds: Vec<NewClass> =
        plan.new.iter().map(|c| NewClass { name: c.name.clone(), init: Init::Silent }).collect();
    let graft = Graft::new(model, understood, &adds)?;
    check_trainable(&graft.understood)?;
    let old_loss = old_loss(&graft)?;
    let tuned = old_loss.as_ref().map(|old| {
        let strategy = options.strategy.clone().for_scores(old.loss);
        Options { strategy, ..options.clone() }
    });
    let options = tuned.as_ref().unwrap_or(options);
    let sharing = options.strategy.sharing(graft.understood.located.kind);
    let tensorflow = runtime::start(options.tensorflow.as_deref(), options.threads, sharing)?;
    let quick = SessionConfig { threads: options.threads, optimize: false };
    let staging = Staging::new(&options.output, options.overwrite)?;
    let source = Fingerprint::of(graft.model.source.path())?;
    clock.lap("understand");

    let spinner = progress::spinner("proving the graph");
    let probes = probes(data)?;
    let variables = VariableValues::read(&graft.model, &graft.understood)?;
    let old = layer_values(&graft.model, &variables, &graft.understood.layers)?;
    let mut weights = Weights::of(&variables);
    let served = flat::serve_source(&graft.model, &variables, &mut weights, &quick)?;
    let before = outputs_on(&served, &probes)?;
    let proof = graft.prove_silent(&before, &variables, &mut weights, &old, &quick, &probes)?;
    spinner.finish_and_clear();
    clock.lap("prove");

    let session = SessionConfig { threads: options.threads, optimize: true };
    let weights = RefCell::new(weights);
    let parts = Parts {
        model: &graft.model,
        understood: &graft.understood,
        variables: &variables,
        values: &old,
        weights: &weights,
    };
    let network = network::open(parts, &session)?;
    drop(weights);
    drop(variables);
    let masks = mask_columns(network.masks(), data, plan);
    clock.lap("open network");
    let background = graft.understood.located.background;
    let views = match options.views {
        Views::ByPictures => None,
        Views::Each(views) => Some(views),
        Views::Within(seconds) => {
            let views = views_within(seconds, network.as_ref(), data, background)?;
            tracing::info!(
                "{views} views of each picture in about {seconds} s; --views {views} makes the same again"
            );
            Some(views)
        }
    };
    // Which kept rows belong to incomplete pictures is known only to the run that showed them.
    let complete = data.images.iter().all(|image| image.incomplete.is_complete());
    let keep = options.cache_dir.as_ref().filter(|_| complete).map(|dir| -> Result<Keep> {
        Ok(Keep {
            dir: dir.clone(),
            key: features_key(&source, data, plan, (options, views), &tensorflow.version)?,
        })
    });
    let keep = keep.transpose()?;
    let cache = CacheOptions { keep: keep.clone(), ..staging_cache(&staging, options) };
    let trained = run_training(network.as_ref(), data, plan, (&old, background), cache, (options, views))?;
    let maps = network.single_stage().map_or_else(Vec::new, |backbone| {
        page::gather(backbone.shape(), &trained.statistics.matched_by_map, plan.new.len())
    });
    drop(network);
    clock.set("features", trained.statistics.feature_seconds);
    clock.set("fit", trained.statistics.fit_seconds);
    clock.skip();

    let spinner = progress::spinner("writing and checking");
    let weights = graft.write(&staging, &old, &trained.columns)?;
    graft.write_companions(&staging, &plan.labels)?;
    clock.lap("write");
    let training = Training { masks, old_loss, ..training(&trained, options, &graft, maps, plan.new.len()) };
    let graph = GraphChanges {
        changed: graft.grown.changes.changed.clone(),
        added: graft.grown.changes.added.clone(),
    };
    let (old_scores, written) = graft.into_reload().verify(&staging, &before, &quick, &probes)?;
    clock.lap("verify");
    spinner.finish_and_clear();

    let look = Look::take(data, validation, [served, written], plan)?;
    let validation = look.held_back.then(|| look.validation());
    let gate = validation.as_ref().filter(|_| !options.gate.is_open());
    let gate = gate.map(|validation| judge(&options.gate, validation, plan)).transpose()?;
    clock.lap("look");
    let mut result = Fingerprint::of(&staging.path().join("saved_model"))?;
    result.path = options.output.join("saved_model").display().to_string();
    let mut report = Report {
        schema: 1,
        model_name: options.model_name.clone(),
        versions: BTreeMap::from([
            ("tfgraft", env!("CARGO_PKG_VERSION").to_owned()),
            ("tensorflow", tensorflow.version.clone()),
        ]),
        source,
        result,
        plan: plan.clone(),
        options: options.given.clone(),
        data_problems: data.problems.clone(),
        training,
        proof,
        old_scores,
        weights,
        graph,
        validation,
        gate,
        seconds: clock.seconds(),
        peak_memory_bytes: peak_memory(),
    };
    if report.gate.as_ref().is_some_and(|verdict| !verdict.passed) {
        // The staging folder goes, the report is all there is.
        return Ok(Retrained { output: None, report });
    }
    let file = staging.path().join("report.html");
    fs::write(&file, page::html(&report, &look)?).map_err(|e| Error::io(&file, e))?;
    clock.lap("page");
    report.seconds = clock.seconds();
    report.write(&staging.path().join("report.json"))?;
    let output = staging.publish()?;
    if let Some(keep) = keep {
        keep.remove();
    }
    Ok(Retrained { output: Some(output), report })
}

/// What the old scores of a single stage were trained with: by the pipeline.config beside the model, else the usual loss.
fn old_loss(graft: &Graft) -> Result<Option<OldLoss>> {
    if graft.understood.located.kind != Kind::SingleStage {
        return Ok(None);
    }
    if let Some(config) = &graft.model.source.pipeline_config {
        let from = config.display().to_string();
        if let Some(loss) = class_loss(&input::read_text(config)?, &from)? {
            return Ok(Some(OldLoss { loss, from: Some(from) }));
        }
    }
    Ok(Some(OldLoss { loss: ClassLoss::USUAL, from: None }))
}

fn judge(gate: &Gate, validation: &Validation, plan: &Plan) -> Result<Verdict> {
    let is_new = |name: &str| plan.new.iter().any(|class| class.name == name);
    let new = of_classes(&validation.per_class, is_new);
    let old = of_classes(&validation.per_class, |name| !is_new(name));
    gate.judge(&new, &validation.per_old_class_before, &old)
}

/// Spilled features live in the staging folder unless told otherwise, so that they vanish with it.
fn staging_cache(staging: &Staging, options: &Options) -> CacheOptions {
    let dir = options.cache_dir.clone().unwrap_or_else(|| staging.path().to_owned());
    CacheOptions { dir: Some(dir), limit: options.cache_limit, keep: None }
}

/// Names everything that features depend on: the programs, the model's bytes, every picture's bytes and boxes, the classes
/// and the options.
fn features_key(
    source: &Fingerprint,
    data: &Dataset,
    plan: &Plan,
    (options, views): (&Options, Option<usize>),
    tensorflow: &str,
) -> Result<String> {
    let mut parts = vec![
        env!("CARGO_PKG_VERSION").to_owned(),
        tensorflow.to_owned(),
        format!("{:?}", source.sha256),
        format!("{:?} {:?}", data.categories, plan.new.iter().map(|c| &c.name).collect::<Vec<_>>()),
        format!("{views:?} {:?} {:?}", options.seed, options.threads),
        format!("{:?}", options.strategy),
    ];
    for image in &data.images {
        parts.push(format!("{} {} {:?}", image.width, image.height, image.objects));
        parts.push(hash_bytes(&image.source.read()?));
    }
    Ok(key(&parts.iter().map(String::as_bytes).collect::<Vec<_>>()))
}

fn run_training(
    network: &dyn Frozen,
    data: &Dataset,
    plan: &Plan,
    (old, background): (&[LayerValues], bool),
    cache: CacheOptions,
    (options, views): (&Options, Option<usize>),
) -> Result<Trained> {
    let classes = Classes {
        new: plan.new.iter().map(|c| c.name.clone()).collect(),
        old: old_columns(data, &plan.labels, plan.classes_before, background),
    };
    let train_options = TrainOptions { strategy: options.strategy.clone(), views, seed: options.seed, cache };
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
