//! `tfgraft grow`: graph surgery alone.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use serde::Serialize;

use super::output;
use super::runtime::RuntimeArgs;
use crate::data::LabelMap;
use crate::export::changes::WeightChanges;
use crate::export::prove::{Proof, outputs_on, probe_pictures};
use crate::export::{Staging, VariableValues, Weights, flat, layer_values};
use crate::graft::{Graft, NewClass};
use crate::head::understand;
use crate::policy;
use crate::progress;
use crate::runtime::{self, SessionConfig, Sharing};
use crate::saved_model::SavedModel;

/// Give a model room for more classes, without training
#[derive(Debug, Parser)]
pub struct Args {
    /// SavedModel folder, zoo folder with saved_model/, or frozen_inference_graph.pb
    pub model: PathBuf,
    /// A new class: NAME (silent: it never fires), NAME=random (seeded), NAME=like:ID (a copy of that class's columns)
    #[arg(long, required = true, value_name = "NAME[=INIT]")]
    pub add: Vec<NewClass>,
    /// Folder to make; the model goes to DIR/saved_model
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Replace the output folder where it exists
    #[arg(long)]
    pub overwrite: bool,
    /// Names of the old classes; default: label_map.pbtxt beside the model, else COCO's for 90 classes
    #[arg(long, value_name = "FILE")]
    pub label_map: Option<PathBuf>,
    /// Seed of random columns
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// How to run TensorFlow.
    #[command(flatten)]
    pub runtime: RuntimeArgs,
}

#[derive(Serialize)]
struct Report {
    output: String,
    classes_before: usize,
    classes_after: usize,
    proof: Proof,
    old_scores: Proof,
    weights: WeightChanges,
    nodes_changed: usize,
    nodes_added: usize,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let model = SavedModel::read(&args.model)?;
    policy::admit(&model, args.runtime.trust)?;
    let understood = understand(model.meta())?;
    let graft = Graft::new(model, understood, &args.add)?;
    let names = args.add.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
    let classes = graft.classes_before();
    let (mut labels, from) =
        LabelMap::for_model(args.label_map.as_deref(), graft.model.source.label_map.as_deref(), || {
            Ok(classes as u32)
        })?;
    labels.check_fits(classes, &from)?;
    labels.append(&names, classes as u32 + 1).with_context(|| format!("label map {from}"))?;
    runtime::start(args.runtime.tensorflow.as_deref(), args.runtime.threads, Sharing::Operations)?;
    let session = SessionConfig { threads: args.runtime.threads, optimize: false };
    let staging = Staging::new(&args.output, args.overwrite)?;
    let spinner = progress::spinner("proving the graph");
    let variables = VariableValues::read(&graft.model, &graft.understood)?;
    let old = layer_values(&graft.model, &variables, &graft.understood.layers)?;
    let probes = probe_pictures();
    let mut weights = Weights::of(&variables);
    // The source is gone before the grown graph is there: what is left of it are its outputs.
    let before = outputs_on(&flat::serve_source(&graft.model, &variables, &mut weights, &session)?, &probes)?;
    let proof = graft.prove_silent(&before, &variables, &mut weights, &old, &session, &probes)?;
    drop((weights, variables));
    spinner.finish_and_clear();
    let spinner = progress::spinner("writing and checking");
    let columns = graft.initial_columns(&old, args.seed)?;
    let weights = graft.write(&staging, &old, &columns)?;
    graft.write_companions(&staging, &labels)?;
    let changes = &graft.grown.changes;
    let (nodes_changed, nodes_added) = (changes.changed.len(), changes.added.len());
    let (old_scores, _) = graft.into_reload().verify(&staging, &before, &session, &probes)?;
    spinner.finish_and_clear();
    let output = staging.publish()?;
    let report = Report {
        output: output.display().to_string(),
        classes_before: classes,
        classes_after: classes + args.add.len(),
        proof,
        old_scores,
        weights,
        nodes_changed,
        nodes_added,
    };
    if args.json {
        return output::json(&report);
    }
    for line in lines(&report) {
        output::line(&line)?;
    }
    Ok(())
}

fn lines(report: &Report) -> Vec<String> {
    let largest =
        report.proof.largest_difference.iter().map(|(name, d)| format!("{name} {d:.1e}")).collect::<Vec<_>>();
    let mut lines = vec![
        format!("{} → {} classes: {}", report.classes_before, report.classes_after, report.output),
        format!(
            "proof              silent copy equals the source on {} pictures, {} detections (largest difference: {})",
            report.proof.pictures,
            report.proof.detections,
            largest.join(", ")
        ),
        format!(
            "reload             what was written loads as a SavedModel; {}",
            match report.old_scores.detections {
                0 => "old scores are the source's, or their share of the sum".to_owned(),
                found => format!("{found} old detections keep their scores"),
            }
        ),
        format!("graph              {} nodes changed, {} added", report.nodes_changed, report.nodes_added),
        format!("weights            {} unchanged bit for bit", report.weights.unchanged),
    ];
    for change in &report.weights.changed {
        lines.push(format!(
            "                   {} {:?} → {:?}, {} new values, old columns {}",
            change.tensor,
            change.before,
            change.after,
            change.new_values,
            if change.old_columns_bit_equal { "bit-equal" } else { "CHANGED" }
        ));
    }
    lines
}
