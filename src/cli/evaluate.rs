//! `tfgraft evaluate`: COCO's measures of a model on labelled pictures.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use serde::Serialize;

use super::runtime::RuntimeArgs;
use crate::data::{self, Problems};
use crate::detect::{Detector, DetectorOptions};
use crate::error::Error;
use crate::eval::{ClassMetrics, EvalImage, class_ids, eval_image, evaluate};
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
    /// Names of the new classes
    #[arg(long, num_args = 1.., value_name = "NAME")]
    pub new: Vec<String>,
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
    images: usize,
    groups: BTreeMap<&'static str, ClassMetrics>,
    per_class: BTreeMap<String, ClassReport>,
    data_problems: Problems,
}

#[derive(Serialize)]
struct ClassReport {
    id: u32,
    #[serde(flatten)]
    metrics: ClassMetrics,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let spinner = progress::spinner("reading the data");
    let mut data = data::load(&args.data, args.images.as_deref())?;
    spinner.finish_and_clear();
    let options = DetectorOptions { label_map: args.label_map.clone(), run: args.runtime.options() };
    let spinner = progress::spinner("loading the model");
    let detector = Detector::load(&args.model, &options)?;
    spinner.finish_and_clear();
    data.name_classes(&detector.labels);
    let ids = class_ids(&data, &detector.labels, &detector.labels_from)?;
    let new = new_ids(&args, &detector)?;

    let mut images: Vec<EvalImage> = Vec::with_capacity(data.images.len());
    let bar = progress::bar(data.images.len() as u64, "evaluating");
    for image in &data.images {
        let picture = image.picture()?;
        let found =
            detector.detect(&picture, 0.0).with_context(|| format!("{}: the model failed", image.name()))?;
        images.push(eval_image(image, &ids, &found));
        bar.inc(1);
    }
    bar.finish_and_clear();

    let names = class_names(&ids, &detector);
    let metrics = evaluate(&images, &names);
    let mut groups = BTreeMap::from([("all", metrics.mean(|_| true))]);
    if let Some(new) = new {
        let is_new: BTreeSet<&str> =
            names.iter().filter(|(id, _)| new.contains(id)).map(|(_, name)| name.as_str()).collect();
        groups.insert("new", metrics.mean(|name| is_new.contains(name)));
        groups.insert("old", metrics.mean(|name| !is_new.contains(name)));
    }
    let mut per_class: BTreeMap<String, ClassReport> = BTreeMap::new();
    for (id, name) in names {
        let metrics = metrics.per_class.get(&name).cloned().unwrap_or_default();
        per_class.insert(name, ClassReport { id, metrics });
    }
    let report = Report {
        model: args.model.display().to_string(),
        label_map: detector.labels_from.clone(),
        images: images.len(),
        groups,
        per_class,
        data_problems: data.problems,
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        print_table(&mut out, &report)?;
    }
    Ok(())
}

/// The names to report under, each of one class.
fn class_names(ids: &BTreeMap<String, u32>, detector: &Detector) -> BTreeMap<u32, String> {
    let mut used = BTreeSet::new();
    let ids: BTreeSet<u32> = ids.values().copied().collect();
    ids.into_iter()
        .map(|id| {
            let label = detector.labels.label(id);
            let name = if used.contains(&label) { format!("{label} (id {id})") } else { label };
            used.insert(name.clone());
            (id, name)
        })
        .collect()
}

/// Ids of the new classes; `None` when the caller did not say which they are.
fn new_ids(args: &Args, detector: &Detector) -> Result<Option<BTreeSet<u32>>> {
    if !args.new.is_empty() {
        let ids = args.new.iter().map(|name| detector.labels.require(name).map(|item| item.id));
        return Ok(Some(ids.collect::<std::result::Result<_, Error>>().context("--new")?));
    }
    let Some(old) = args.old_classes else { return Ok(None) };
    Ok(Some(detector.labels.items.iter().map(|item| item.id).filter(|id| *id > old).collect()))
}

fn print_table(out: &mut impl Write, report: &Report) -> std::io::Result<()> {
    writeln!(out, "{} pictures, names from: {}", report.images, report.label_map)?;
    for line in report.data_problems.to_string().lines() {
        writeln!(out, "data: {line}")?;
    }
    let named = report.per_class.keys().map(|name| name.chars().count());
    let width = named.chain([5]).max().unwrap_or(5);
    writeln!(
        out,
        "\n{:width$} {:>7} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6}",
        "class", "objects", "AP", "AP50", "AP75", "small", "medium", "large", "AR100"
    )?;
    let empty: Vec<&str> = report
        .per_class
        .iter()
        .filter(|(_, class)| class.metrics.objects == 0)
        .map(|(name, _)| name.as_str())
        .collect();
    for (name, class) in report.per_class.iter().filter(|(_, class)| class.metrics.objects > 0) {
        print_row(out, name, width, &class.metrics)?;
    }
    writeln!(out, "{}", "-".repeat(width + 1 + 8 + 7 * 7 - 1))?;
    for group in ["old", "new", "all"] {
        if let Some(metrics) = report.groups.get(group) {
            print_row(out, group, width, metrics)?;
        }
    }
    if !empty.is_empty() {
        writeln!(out, "\nwithout objects in the data, not measured: {}", empty.join(", "))?;
    }
    Ok(())
}

fn print_row(out: &mut impl Write, name: &str, width: usize, m: &ClassMetrics) -> std::io::Result<()> {
    write!(out, "{name:width$} {:>7}", m.objects)?;
    for value in [m.ap, m.ap50, m.ap75, m.ap_small, m.ap_medium, m.ap_large, m.ar100] {
        match value {
            Some(value) => write!(out, " {value:>6.3}")?,
            None => write!(out, " {:>6}", "-")?,
        }
    }
    writeln!(out)
}
