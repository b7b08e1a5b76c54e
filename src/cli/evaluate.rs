//! `tfgraft evaluate`: COCO's measures of a model on labelled pictures, and the gate.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use serde::{Deserialize, Serialize};

use super::gate::GateArgs;
use super::measures;
use super::output;
use super::runtime::RuntimeArgs;
use crate::data::{self, Dataset, Problems};
use crate::detect::{Detector, DetectorOptions, RunOptions};
use crate::error::Error;
use crate::eval::{
    Assessment, ClassMetrics, Roster, Verdict, assess, class_ids, class_names, evaluate, masks_missing,
    run_images,
};
use crate::input;
use crate::progress;

/// Measure a model on labelled pictures: COCO's average precision and recall, per class and for old, new, all classes
#[derive(Debug, Parser)]
pub struct Args {
    /// SavedModel folder, zoo folder with saved_model/, or frozen_inference_graph.pb
    pub model: PathBuf,
    /// Labelled pictures: COCO JSON, folder of Pascal VOC XML, TFRecord files (a glob), CSV, or YOLO (data.yaml or a folder)
    #[arg(long, required = true, num_args = 1.., value_name = "DATA")]
    pub data: Vec<PathBuf>,
    /// Folder of the pictures, when they are not beside the labels
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// Names of the classes; default: label_map.pbtxt beside the model, else COCO's for 90 classes
    #[arg(long, value_name = "FILE")]
    pub label_map: Option<PathBuf>,
    /// Ids up to N are the old classes, those above the new ones
    #[arg(long, value_name = "N", conflicts_with = "new")]
    pub old_classes: Option<u32>,
    /// Names of the new classes [default with --baseline: those that it lacks]
    #[arg(long, num_args = 1.., value_name = "NAME")]
    pub new: Vec<String>,
    /// The model before, or what `evaluate --json` printed of it on the same data
    #[arg(long, value_name = "MODEL|JSON")]
    pub baseline: Option<PathBuf>,
    /// Limits.
    #[command(flatten)]
    pub gate: GateArgs,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// How to run TensorFlow.
    #[command(flatten)]
    pub runtime: RuntimeArgs,
}

#[derive(Serialize)]
struct Report {
    model: String,
    label_map: String,
    #[serde(flatten)]
    found: Assessment,
    /// Why masks were not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_masks: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    baseline: Option<Before>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gate: Option<Verdict>,
    data_problems: Problems,
}

/// What the model before is known for, by the names of the classes of the model measured.
#[derive(Serialize)]
struct Before {
    from: String,
    per_class: BTreeMap<String, ClassMetrics>,
}

enum Baseline {
    Model(Box<Detector>),
    Stored(Stored),
}

/// What is read of a stored evaluation.
#[derive(Deserialize)]
struct Stored {
    images: usize,
    per_class: BTreeMap<String, ClassMetrics>,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let gate = args.gate.gate();
    if gate.max_old_drop.is_some() && args.baseline.is_none() {
        return Err(Error::Usage(
            "--max-old-drop needs the model before: name it, or its stored evaluation, with --baseline"
                .into(),
        )
        .into());
    }
    let spinner = progress::spinner("reading the data");
    let mut data = data::load(&args.data, args.images.as_deref())?;
    spinner.finish_and_clear();
    let run = RunOptions { pictures: data.images.len(), ..args.runtime.options() };
    let options = DetectorOptions { label_map: args.label_map.clone(), run };
    let spinner = progress::spinner("loading the model");
    let baseline = args.baseline.as_deref().map(|path| Baseline::open(path, &options.run)).transpose()?;
    let detector = Detector::load(&args.model, &options)?;
    spinner.finish_and_clear();
    data.name_classes(&detector.labels);
    let ids = class_ids(&data, &detector.labels, &detector.labels_from, &BTreeSet::new())?;
    let roster = roster(&args, &detector, &ids, baseline.as_ref())?;
    let objects = |new: bool| objects(&data, &ids, &roster, new);
    gate.check_data(
        objects(true).iter().map(|(n, c)| (n.as_str(), *c)),
        objects(false).iter().map(|(n, c)| (n.as_str(), *c)),
    )?;

    let no_masks = masks_missing(&detector, &data, &ids);
    let runs = if matches!(baseline, Some(Baseline::Model(_))) { 2 } else { 1 };
    let bar = progress::bar((runs * data.images.len()) as u64, "evaluating");
    let images = run_images(&detector, &data, &ids, no_masks.is_none(), || bar.inc(1))?;
    let found = assess(&images, &roster, no_masks.is_none());
    let before = match (&baseline, &args.baseline) {
        (Some(baseline), Some(path)) => Some(Before {
            from: path.display().to_string(),
            per_class: baseline.measures(&data, &ids, &roster, || bar.inc(1))?,
        }),
        _ => None,
    };
    bar.finish_and_clear();

    let verdict = if gate.is_open() {
        None
    } else {
        let after = |new: bool| found.boxes.of_classes(|id| roster.is_new(id) == new);
        let empty = BTreeMap::new();
        let before = before.as_ref().map_or(&empty, |before| &before.per_class);
        Some(gate.judge(&after(true), before, &after(false))?)
    };
    let no_masks = no_masks.filter(|_| detector.has_masks());
    let report = Report {
        model: args.model.display().to_string(),
        label_map: detector.labels_from.clone(),
        found,
        no_masks,
        baseline: before,
        gate: verdict,
        data_problems: data.problems,
    };
    if args.json {
        output::json(&report)?;
    } else {
        let mut table = Vec::new();
        print_table(&mut table, &report, &roster)?;
        output::text(&table)?;
    }
    Ok(report.gate.map_or(Ok(()), |verdict| verdict.check())?)
}

/// All classes of the model, which of them the data labels, and which are new.
fn roster(
    args: &Args,
    detector: &Detector,
    ids: &BTreeMap<String, u32>,
    baseline: Option<&Baseline>,
) -> Result<Roster> {
    let labelled: BTreeSet<u32> = ids.values().copied().collect();
    let all = detector.labels.items.iter().map(|item| item.id);
    let names = class_names(all.chain(labelled.iter().copied()), &detector.labels);
    let new = match (&args.new[..], args.old_classes, baseline) {
        ([], None, None) => None,
        ([], None, Some(baseline)) => {
            let lacks = |(name, id): &(&String, &u32)| !baseline.has(name, names.get(*id));
            Some(ids.iter().filter(lacks).map(|(_, id)| *id).collect())
        }
        ([], Some(old), _) => Some(names.keys().copied().filter(|id| *id > old).collect()),
        (given, ..) => {
            let ids = given.iter().map(|name| detector.labels.require(name).map(|item| item.id));
            Some(ids.collect::<std::result::Result<_, Error>>().context("--new")?)
        }
    };
    Ok(Roster { names, labelled, new })
}

/// Objects that count, of each new or old class that the data labels.
fn objects(
    data: &Dataset,
    ids: &BTreeMap<String, u32>,
    roster: &Roster,
    new: bool,
) -> BTreeMap<String, usize> {
    let mine = |id: &u32| roster.new.is_some() && roster.is_new(*id) == new;
    let mut out: BTreeMap<String, usize> = roster
        .labelled
        .iter()
        .filter(|id| mine(id))
        .filter_map(|id| Some((roster.names.get(id)?.clone(), 0)))
        .collect();
    let counted = data.images.iter().flat_map(|image| &image.objects).filter(|o| !o.crowd && !o.difficult);
    for id in counted.filter_map(|object| ids.get(&object.class)).filter(|id| mine(id)) {
        if let Some(count) = roster.names.get(id).and_then(|name| out.get_mut(name)) {
            *count += 1;
        }
    }
    out
}

impl Baseline {
    fn open(path: &Path, run: &RunOptions) -> Result<Self> {
        let stored =
            path.is_file() && path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
        if !stored {
            let options = DetectorOptions { label_map: None, run: run.clone() };
            return Ok(Self::Model(Box::new(Detector::load(path, &options).context("--baseline")?)));
        }
        let text = input::read(path, input::TEXT)?;
        let stored = serde_json::from_slice(&text).map_err(|e| {
            let path = path.display();
            Error::Data(format!("--baseline {path}: not what `tfgraft evaluate --json` prints: {e}"))
        })?;
        Ok(Self::Stored(stored))
    }

    /// Whether it knows a class, by the data's name of it or the one in reports.
    fn has(&self, name: &str, reported: Option<&String>) -> bool {
        match self {
            Self::Model(detector) => detector.labels.by_name(name).is_some(),
            Self::Stored(stored) => reported.is_some_and(|name| stored.per_class.contains_key(name)),
        }
    }

    /// Measures of the old classes that the data labels.
    fn measures(
        &self,
        data: &Dataset,
        ids: &BTreeMap<String, u32>,
        roster: &Roster,
        tick: impl FnMut(),
    ) -> Result<BTreeMap<String, ClassMetrics>> {
        let old = ids.iter().filter(|(_, id)| !roster.is_new(**id));
        match self {
            Self::Model(detector) => {
                let mine = |(name, id): (&String, &u32)| {
                    let own = detector.labels.by_name(name)?.id;
                    Some(((name.clone(), own), (own, roster.names.get(id)?.clone())))
                };
                let (ids, names): (BTreeMap<String, u32>, BTreeMap<u32, String>) = old.filter_map(mine).unzip();
                let images = run_images(detector, data, &ids, false, tick)?;
                Ok(evaluate(&images, &names).per_class)
            }
            Self::Stored(stored) if stored.images != data.images.len() => Err(Error::Data(format!(
                "--baseline: the stored evaluation is of {} pictures, the data has {}; measure both on the same data",
                stored.images,
                data.images.len()
            ))
            .into()),
            Self::Stored(stored) => Ok(old
                .filter_map(|(_, id)| stored.per_class.get_key_value(roster.names.get(id)?))
                .map(|(name, metrics)| (name.clone(), metrics.clone()))
                .collect()),
        }
    }
}

fn print_table(out: &mut impl Write, report: &Report, roster: &Roster) -> std::io::Result<()> {
    writeln!(out, "{} pictures, names from: {}", report.found.images, report.label_map)?;
    for line in report.data_problems.to_string().lines() {
        writeln!(out, "data: {line}")?;
    }
    let new: BTreeSet<&str> =
        roster.names.iter().filter(|(id, _)| roster.is_new(**id)).map(|(_, name)| name.as_str()).collect();
    measures::print(out, &report.found, &|name| new.contains(name))?;
    if let Some(why) = &report.no_masks {
        writeln!(out, "\nmasks are not measured: {why}")?;
    }
    if let Some(before) = &report.baseline {
        print_baseline(out, before, &report.found)?;
    }
    match &report.gate {
        Some(verdict) if verdict.passed => writeln!(out, "\ngate: passed"),
        Some(verdict) => {
            writeln!(out, "\ngate: failed")?;
            verdict.failures.iter().try_for_each(|failure| writeln!(out, "  {failure}"))
        }
        None => Ok(()),
    }
}

fn print_baseline(out: &mut impl Write, before: &Before, found: &Assessment) -> std::io::Result<()> {
    writeln!(out, "\nAP of old classes, {} → this model:", before.from)?;
    let mut measured = false;
    for (name, metrics) in &before.per_class {
        let after = found.boxes.per_class.get(name).and_then(|class| class.metrics.ap);
        if let Some((before, after)) = metrics.ap.zip(after) {
            measured = true;
            writeln!(out, "  {before:.4} → {after:.4}  {name}")?;
        }
    }
    if measured { Ok(()) } else { writeln!(out, "  the data has no object of them") }
}
