//! `tfgraft inspect`: what a model is, without loading TensorFlow.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

use super::output;
use crate::inspect::{Inspection, Tensor, inspect};
use crate::saved_model::SavedModel;

/// Tell what a model is and whether classes can be added to it, without loading TensorFlow
#[derive(Debug, Parser)]
pub struct Args {
    /// SavedModel folder, zoo folder with saved_model/, or frozen_inference_graph.pb
    pub model: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let inspection = inspect(&SavedModel::read(&args.model)?)?;
    if args.json {
        return output::json(&inspection);
    }
    for line in lines(&inspection) {
        output::line(&line)?;
    }
    Ok(())
}

fn lines(i: &Inspection) -> Vec<String> {
    let mut lines = vec![
        format!("model              {}", i.path),
        format!("export             {}", i.exporter),
        format!("TensorFlow         {}", if i.tensorflow.is_empty() { "not said" } else { &i.tensorflow }),
    ];
    let tensor = |kind: &str, alias: &str, t: &Tensor| {
        let shape = t.shape.as_ref().map_or("[?]".to_owned(), |s| format!("{s:?}"));
        format!("{kind:<18} {alias} {} {shape}", t.dtype)
    };
    lines.extend(i.inputs.iter().map(|(alias, t)| tensor("input", alias, t)));
    lines.extend(i.outputs.iter().map(|(alias, t)| tensor("output", alias, t)));
    if let Some(head) = &i.head {
        lines.push(format!("architecture       {}", head.meta_architecture));
        lines.push(format!(
            "classes            {}{}",
            head.classes,
            if head.background { " and a background column" } else { ", no background column" }
        ));
        lines.push(format!("scores             {}", head.activation));
        lines.push(format!(
            "boxes              {}",
            if head.boxes_per_class { "of each class's own" } else { "shared by all classes" }
        ));
        for layer in &head.layers {
            let times = if layer.applications > 1 {
                format!(", on {} feature maps", layer.applications)
            } else {
                String::new()
            };
            lines.push(format!(
                "class layer        {} {:?} = {} × {} columns of {}{times}",
                layer.kernel, layer.shape, layer.anchors, layer.columns, layer.role
            ));
        }
    }
    if !i.runs_at_load.is_empty() {
        lines.push(format!("runs at load       {}", i.runs_at_load.join(", ")));
    }
    for operation in &i.unsafe_operations {
        lines.push(format!("unsafe             {operation}"));
    }
    lines.push(match &i.reason {
        None => "can grow           yes".to_owned(),
        Some(reason) => format!("can grow           no: {reason}"),
    });
    lines
}
