//! `tfgraft retrain`: the main job.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use super::gate::GateArgs;
use super::output;
use super::runtime::RuntimeArgs;
use crate::data::{Dataset, LabelMap, load};
use crate::error::Error;
use crate::head::understand;
use crate::input;
use crate::policy;
use crate::retrain::report::Validation;
use crate::retrain::{Options, Plan, Report, Views, retrain};
use crate::saved_model::SavedModel;
use crate::train::Strategy;
use crate::train::cache::DEFAULT_LIMIT;
use crate::train::copy_back::DescentOptions;
use crate::train::frozen_columns::FitOptions;

/// Add the new classes of labelled pictures to a model: grow, train, check, export
#[derive(Debug, Parser)]
pub struct Args {
    /// SavedModel folder, zoo folder with saved_model/, or frozen_inference_graph.pb
    pub model: PathBuf,
    /// Labelled pictures: COCO JSON, folder of Pascal VOC XML, TFRecord, CSV or YOLO; may be given several times
    #[arg(long, required = true, num_args = 1.., value_name = "DATA")]
    pub data: Vec<PathBuf>,
    /// Folder to make: saved_model/, label_map.pbtxt, pipeline.config, report.json, report.html
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Replace the output folder where it exists
    #[arg(long)]
    pub overwrite: bool,
    /// New classes by name, in this order [default: the categories of DATA that the label map lacks]
    #[arg(long, num_args = 1.., value_name = "NAME")]
    pub add: Vec<String>,
    /// How the new columns are made
    #[arg(long, value_enum, default_value_t = StrategyName::FrozenColumns)]
    pub strategy: StrategyName,
    /// Augmented views of each picture [default: by the number of pictures]
    #[arg(long, value_name = "N")]
    pub views: Option<usize>,
    /// As many views of each picture as the network sees in about so many seconds, 32 at most; the report says how many
    /// these are
    #[arg(long, value_name = "SECONDS", conflicts_with = "views")]
    pub view_seconds: Option<f64>,
    /// Seed of views and random weights; the same seed gives the same bytes
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Folder for features: those that do not fit into memory, and all of them for the case that this run is killed; the
    /// same command then goes on from there [default: beside the output, and nothing is kept]
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Most megabytes of features in memory
    #[arg(long, value_name = "MB", default_value_t = DEFAULT_LIMIT >> 20)]
    pub cache_limit: u64,
    /// Names of the old classes; default: label_map.pbtxt beside the model, else COCO's for 90 classes
    #[arg(long, value_name = "FILE")]
    pub label_map: Option<PathBuf>,
    /// Folder of the pictures, where they are not beside DATA
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// Pictures that may show unlabelled new objects: a text file, one file name or pattern (`*.jpg`) a line. COCO files
    /// can say it with LVIS's `not_exhaustive_category_ids`
    #[arg(long, value_name = "FILE")]
    pub incomplete: Option<PathBuf>,
    /// Take what scores like a typical new object in such pictures for one, instead of ignoring it
    #[arg(long)]
    pub pseudo_labels: bool,
    /// Most false detections of a new class in a picture from score 0.5 on, as far as pictures of DATA tell that a fit did not
    /// see, such as 0.01; objects are then found with lower scores
    #[arg(long, value_name = "RATE")]
    pub cap_false_positives: Option<f64>,
    /// Held-back data to measure on: DATA, or a fraction of DATA such as 0.2
    #[arg(long, value_name = "DATA|FRACTION")]
    pub validation: Option<PathBuf>,
    /// Name that the model will serve under: heads report.html, and `publish` writes it into warm-up requests
    #[arg(long, value_name = "NAME", value_parser = serving_name)]
    pub model_name: Option<String>,
    /// Limits on the held-back data; where a class breaks one, nothing is published.
    #[command(flatten)]
    pub gate: GateArgs,
    /// Tell what would be done, and stop before TensorFlow is loaded
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON document: the report
    #[arg(long)]
    pub json: bool,
    /// How to run TensorFlow.
    #[command(flatten)]
    pub runtime: RuntimeArgs,
}

/// Names of the strategies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StrategyName {
    /// One convex fit of the new columns; old ones are frozen
    FrozenColumns,
    /// The original recipe: a whole new layer from random weights, then the old columns are put back
    CopyBack,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    if args.output.exists() && !args.overwrite {
        // Before anything is read: a mistake here should not cost minutes.
        return Err(Error::Usage(format!(
            "{} exists; name another folder, or give --overwrite to replace it",
            args.output.display()
        ))
        .into());
    }
    if args.pseudo_labels && args.strategy == StrategyName::CopyBack {
        return Err(Error::Usage("--pseudo-labels is for --strategy frozen-columns".into()).into());
    }
    let model = SavedModel::read(&args.model)?;
    policy::admit(&model, args.runtime.trust)?;
    let understood = understand(model.meta())?;
    check_cap(&args)?;
    let classes = understood.located.classes;
    let mut data = load(&args.data, args.images.as_deref())?;
    if let Some(file) = &args.incomplete {
        let list = input::read_text(file)?;
        data.mark_incomplete(&list, &file.display().to_string())?;
    }
    let (labels, labels_from) =
        LabelMap::for_model(args.label_map.as_deref(), model.source.label_map.as_deref(), || {
            Ok(classes as u32)
        })?;
    data.name_classes(&labels);
    let validation = held_back(&args, &mut data, &labels)?;
    let plan = Plan::new(&data, &labels, &labels_from, classes, &args.add)?;
    if args.pseudo_labels && data.images.iter().all(|image| image.incomplete.is_complete()) {
        return Err(Error::Usage(
            "--pseudo-labels looks for unlabelled objects, and every picture is said to be labelled completely: name \
             those that are not with --incomplete"
                .into(),
        )
        .into());
    }
    let lines = plan_lines(&plan, &data, &labels_from, args.pseudo_labels);
    if args.dry_run {
        if args.json {
            return output::json(&plan);
        }
        return Ok(lines.iter().try_for_each(|line| output::line(line))?);
    }
    lines.iter().for_each(|line| tracing::info!("{line}"));
    let strategy = match args.strategy {
        StrategyName::FrozenColumns => {
            let (pseudo_labels, most_false) = (args.pseudo_labels, args.cap_false_positives);
            let threads = args.runtime.threads;
            Strategy::FrozenColumns(FitOptions {
                pseudo_labels,
                most_false,
                threads,
                ..FitOptions::default()
            })
        }
        StrategyName::CopyBack => Strategy::CopyBack(DescentOptions {
            threads: args.runtime.threads,
            seed: args.seed,
            ..DescentOptions::default()
        }),
    };
    let options = Options {
        output: args.output.clone(),
        overwrite: args.overwrite,
        strategy,
        views: match (args.views, args.view_seconds) {
            (Some(views), _) => Views::Each(views),
            (None, Some(seconds)) => Views::Within(seconds),
            (None, None) => Views::ByPictures,
        },
        seed: args.seed,
        threads: args.runtime.threads,
        tensorflow: args.runtime.tensorflow.clone(),
        cache_dir: args.cache_dir.clone(),
        cache_limit: args.cache_limit << 20,
        gate: args.gate.gate(),
        model_name: args.model_name.clone(),
        given: given(&args),
    };
    let done = retrain(model, understood, &data, validation.as_ref(), &plan, &options)?;
    if args.json {
        output::json(&done.report)?;
    } else {
        let place = done.output.map_or_else(|| "not published".to_owned(), |path| path.display().to_string());
        for line in result_lines(&done.report, &place) {
            output::line(&line)?;
        }
    }
    Ok(done.report.gate.map_or(Ok(()), |verdict| verdict.check())?)
}

/// A name that can stand in a server's addresses, as in `/v1/models/NAME:predict`.
fn serving_name(text: &str) -> std::result::Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if text.is_empty() || !text.chars().all(fits) {
        return Err("expected letters, digits, `_`, `-` and `.` alone, as in forklift_detector".to_owned());
    }
    Ok(text.to_owned())
}

fn check_cap(args: &Args) -> Result<(), Error> {
    let wrong = |why: &str| Err(Error::Usage(format!("--cap-false-positives {why}")));
    match args.cap_false_positives {
        None => Ok(()),
        Some(rate) if !(rate.is_finite() && rate >= 0.0) => {
            wrong(&format!("{rate}: expected a number of false detections a picture, such as 0.01"))
        }
        Some(_) if args.strategy == StrategyName::CopyBack => wrong("is for --strategy frozen-columns"),
        Some(_) => Ok(()),
    }
}

/// Held-back data: a fraction of DATA (every k-th picture, in order), or data of its own.
fn held_back(args: &Args, data: &mut Dataset, labels: &LabelMap) -> Result<Option<Dataset>> {
    let Some(spec) = &args.validation else { return Ok(None) };
    if let Some(fraction) = spec.to_str().and_then(|s| s.parse::<f64>().ok()).filter(|_| !spec.exists()) {
        if !(fraction > 0.0 && fraction < 1.0) {
            return Err(
                Error::Usage(format!("--validation {fraction}: a fraction lies between 0 and 1")).into()
            );
        }
        let count = ((data.images.len() as f64 * fraction).round() as usize)
            .clamp(1, data.images.len().saturating_sub(1).max(1));
        let chosen = |i: usize| (i + 1) * count / data.images.len() > i * count / data.images.len();
        let (mut kept, mut held) = (Vec::new(), Vec::new());
        for (i, image) in data.images.iter().enumerate() {
            if chosen(i) { held.push(image.clone()) } else { kept.push(image.clone()) }
        }
        data.images = kept;
        return Ok(Some(Dataset {
            images: held,
            categories: data.categories.clone(),
            problems: Default::default(),
            left_out: Vec::new(),
        }));
    }
    let mut validation = load(std::slice::from_ref(spec), args.images.as_deref()).context("--validation")?;
    validation.name_classes(labels);
    Ok(Some(validation))
}

fn given(args: &Args) -> serde_json::Value {
    serde_json::json!({
        "model": args.model, "data": args.data, "add": args.add, "strategy": format!("{:?}", args.strategy),
        "views": args.views, "view_seconds": args.view_seconds, "seed": args.seed, "threads": args.runtime.threads, "cache_limit_mb": args.cache_limit,
        "label_map": args.label_map, "images": args.images, "incomplete": args.incomplete,
        "pseudo_labels": args.pseudo_labels, "cap_false_positives": args.cap_false_positives, "validation": args.validation,
        "model_name": args.model_name, "min_new_ap": args.gate.min_new_ap, "max_old_drop": args.gate.max_old_drop,
    })
}

fn plan_lines(plan: &Plan, data: &Dataset, labels_from: &str, pseudo_labels: bool) -> Vec<String> {
    let mut lines = vec![
        format!("label map: {labels_from}"),
        format!("{} → {} classes, {} pictures", plan.classes_before, plan.classes_after(), data.images.len()),
    ];
    for class in &plan.new {
        lines.push(format!(
            "new class {} {}: {} objects in {} pictures",
            class.id, class.name, class.objects, class.pictures
        ));
    }
    for (counts, said) in [
        (&plan.old_in_data, "old classes in the data, negatives for the new ones"),
        (&plan.others_in_data, "classes of the data that are neither old nor added, background here"),
    ] {
        let counts: Vec<String> = counts.iter().map(|(name, n)| format!("{name} {n}")).collect();
        if !counts.is_empty() {
            lines.push(format!("{said}: {}", counts.join(", ")));
        }
    }
    let open = data.images.iter().filter(|image| !image.incomplete.is_complete()).count();
    if open > 0 {
        let fate = if pseudo_labels { "is ignored, or taken for one" } else { "is ignored" };
        lines.push(format!("{open} pictures may show unlabelled objects: what scores like one there {fate}"));
    }
    if !data.problems.is_empty() {
        lines.extend(data.problems.to_string().lines().map(str::to_owned));
    }
    lines
}

fn result_lines(report: &Report, output: &str) -> Vec<String> {
    let new: usize = report.weights.changed.iter().map(|c| c.new_values).sum();
    let seconds = |phase: &str| report.seconds.get(phase).copied().unwrap_or(0.0);
    let mut lines = vec![
        format!("{} → {} classes: {output}", report.plan.classes_before, report.plan.classes_after()),
        format!(
            "weights            {} unchanged bit for bit; {} class tensors wider by {new} new values, old columns bit-equal",
            report.weights.unchanged,
            report.weights.changed.len()
        ),
        format!(
            "old detections     {} on {} probe pictures keep their scores within {:.0e}",
            report.old_scores.detections,
            report.old_scores.pictures,
            report.old_scores.largest_difference.values().fold(0f32, |a, &b| a.max(b))
        ),
        format!(
            "seconds            {:.1} in all: {:.1} proof, {:.1} features ({} views), {:.1} fit, {:.1} writing and checking, {:.1} \
             report.html",
            seconds("total"),
            seconds("prove"),
            seconds("features"),
            report.training.views,
            seconds("fit"),
            seconds("write") + seconds("verify"),
            seconds("look") + seconds("page")
        ),
    ];
    for (number, said) in report.training.held_out(&report.plan.new).into_iter().enumerate() {
        lines.push(format!("{:<19}{said}", if number == 0 { "score 0.5" } else { "" }));
    }
    if let Some(comparison) = &report.training.copy_back {
        lines.push(format!("copy-back          {}", comparison.sentence()));
    }
    if let Some(memory) = report.peak_memory_bytes {
        lines.push(format!("peak memory        {} MB", memory >> 20));
    }
    if let Some(v) = &report.validation {
        let ap = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.3}"));
        lines.push(format!(
            "validation         {} pictures: new classes AP {} (AP50 {}); old classes AP {} before, {} after",
            v.images,
            ap(v.new_after.ap),
            ap(v.new_after.ap50),
            ap(v.old_before.ap),
            ap(v.old_after.ap)
        ));
        lines.extend(false_positive_line(report, v));
    }
    lines
}

fn false_positive_line(report: &Report, validation: &Validation) -> Option<String> {
    let found = &validation.false_positives;
    let rate = |name: &str| found.per_class.get(name).map_or(0.0, |class| class.per_image);
    let new: Vec<String> =
        report.plan.new.iter().map(|class| format!("{} {:.3}", class.name, rate(&class.name))).collect();
    let median = found.median_old?;
    let of = if found.old_labelled { "old classes in the data" } else { "all old classes, unlabelled here" };
    Some(format!(
        "false positives    a picture from score {} on: {}; median of {of} {median:.3}",
        found.score,
        new.join(", ")
    ))
}
