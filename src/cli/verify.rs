//! `tfgraft verify`: reference outputs for a build server, and two models side by side.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Parser, Subcommand};

use super::output;
use super::pictures::{self, Names};
use super::runtime::RuntimeArgs;
use crate::error::Error;
use crate::progress;
use crate::verify::numbers::Tolerance;
use crate::verify::{self, Kind, Outcome, RecordOptions, Verdict};

/// Record what a model gives for pictures; check that a model still gives it; compare two models
#[derive(Debug, Parser)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Record(RecordArgs),
    Check(CheckArgs),
    Compare(CompareArgs),
}

/// Run a model on pictures and keep pictures and outputs as a reference
#[derive(Debug, Parser)]
struct RecordArgs {
    /// SavedModel folder, zoo folder with saved_model/, or frozen_inference_graph.pb
    model: PathBuf,
    /// Pictures: JPEG, PNG, BMP or WebP files, or folders of them; they are copied
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Folder to make
    #[arg(short, long, value_name = "REF")]
    output: PathBuf,
    /// Outputs to keep [default: all]
    #[arg(long, num_args = 1.., value_name = "NAME")]
    outputs: Vec<String>,
    #[command(flatten)]
    tolerance: ToleranceArgs,
    /// Replace REF where it exists, and tell what changed
    #[arg(long)]
    update: bool,
    /// Let --update work where the variable CI is set
    #[arg(long, requires = "update")]
    update_in_ci: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

/// Run a model on a reference's pictures: exit code 1 where its outputs differ
#[derive(Debug, Parser)]
struct CheckArgs {
    /// SavedModel folder, zoo folder with saved_model/, or frozen_inference_graph.pb
    model: PathBuf,
    /// Folder made by `verify record`
    #[arg(value_name = "REF")]
    reference: PathBuf,
    /// The model has more classes than the reference: compare the old ones, pass over the new
    #[arg(long)]
    grown: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

/// Run two models on the same pictures; where NEW has more classes, compare the old ones
#[derive(Debug, Parser)]
struct CompareArgs {
    /// The model whose outputs are expected
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The model to check
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// Pictures: JPEG, PNG, BMP or WebP files, or folders of them
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    #[command(flatten)]
    tolerance: ToleranceArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

/// |got − expected| ≤ atol + rtol · |expected|
#[derive(Debug, clap::Args)]
struct ToleranceArgs {
    /// Relative part of the tolerance of numbers; detections have one of their own
    #[arg(long, value_name = "R", value_parser = not_negative)]
    rtol: Option<f64>,
    /// Absolute part of the tolerance of numbers
    #[arg(long, value_name = "A", value_parser = not_negative)]
    atol: Option<f64>,
}

impl ToleranceArgs {
    fn given(&self) -> Option<Tolerance> {
        let usual = verify::judge::CLOSE;
        let given = self.rtol.is_some() || self.atol.is_some();
        given.then(|| Tolerance {
            rtol: self.rtol.unwrap_or(usual.rtol),
            atol: self.atol.unwrap_or(usual.atol),
        })
    }
}

fn not_negative(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(v) if v >= 0.0 && v.is_finite() => Ok(v),
        _ => Err("expected a number of 0 or more".to_owned()),
    }
}

impl Args {
    /// How the models are run, and what is made.
    pub(super) fn runs(&self) -> (&RuntimeArgs, Option<&Path>) {
        match &self.command {
            Command::Record(args) => (&args.runtime, Some(&args.output)),
            Command::Check(args) => (&args.runtime, None),
            Command::Compare(args) => (&args.runtime, None),
        }
    }
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    match args.command {
        Command::Record(args) => record(args),
        Command::Check(args) => check(args),
        Command::Compare(args) => compare(args),
    }
}

fn record(args: RecordArgs) -> Result<()> {
    let in_ci = std::env::var_os("CI").is_some_and(|v| !v.is_empty() && v != "false" && v != "0");
    if args.update && in_ci && !args.update_in_ci {
        return Err(Error::Usage(
            "the variable CI is set: a build server that updates its own reference would pass whatever it is given; \
             record on your machine and commit, or give --update-in-ci"
                .into(),
        )
        .into());
    }
    if args.output.exists() && !args.update {
        return Err(Error::Usage(format!(
            "{} exists; give --update to replace it and see what changed",
            args.output.display()
        ))
        .into());
    }
    let images = Names::of(pictures::expand(&args.images)?);
    let options = RecordOptions {
        run: args.runtime.options(),
        outputs: args.outputs,
        tolerance: args.tolerance.given(),
        update: args.update,
    };
    let bar = progress::bar(images.len() as u64, "recording");
    let changed = verify::record(&args.model, &images, &args.output, &options, &mut || bar.inc(1))?;
    bar.finish_and_clear();
    if args.json {
        let recorded = serde_json::json!({
            "reference": args.output, "cases": images.len(), "changed": changed
        });
        return output::json(&recorded);
    }
    if let Some(changed) = &changed {
        output::line(&format!("against the reference that was there, {} pictures of both:", changed.cases))?;
        print(changed)?;
    }
    output::line(&format!("recorded {} pictures: {}", images.len(), args.output.display()))?;
    Ok(())
}

fn check(args: CheckArgs) -> Result<()> {
    let bar = progress::spinner("checking");
    let options = args.runtime.options();
    let outcome = verify::check(&args.model, &args.reference, args.grown, &options, &mut || bar.inc(1))?;
    bar.finish_and_clear();
    finish(&outcome, args.json)
}

fn compare(args: CompareArgs) -> Result<()> {
    let images = Names::of(pictures::expand(&args.images)?);
    let bar = progress::bar(images.len() as u64, "comparing");
    let options = args.runtime.options();
    let tolerance = args.tolerance.given();
    let outcome = verify::compare(&args.old, &args.new, &images, tolerance, &options, &mut || bar.inc(1))?;
    bar.finish_and_clear();
    finish(&outcome, args.json)
}

fn finish(outcome: &Outcome, json: bool) -> Result<()> {
    if json {
        output::json(outcome)?;
    } else {
        print(outcome)?;
    }
    Ok(outcome.check()?)
}

fn print(outcome: &Outcome) -> Result<()> {
    if let Some(growth) = &outcome.growth {
        output::line(&format!(
            "{} old classes are compared, {} new ones passed over",
            growth.classes, growth.added
        ))?;
    }
    for note in &outcome.notes {
        output::line(&format!("note  {note}"))?;
    }
    let width = outcome.outputs.iter().map(|v| v.output.len()).max().unwrap_or(0);
    for verdict in &outcome.outputs {
        output::line(&line(verdict, width))?;
    }
    Ok(())
}

/// How many differ, how far, where, and what would pass.
fn line(v: &Verdict, width: usize) -> String {
    let state = if v.passed { "ok  " } else { "FAIL" };
    let what = if v.kind == "detections" { "detections" } else { "numbers" };
    let mut text = format!("{state}  {:width$}  {} of {} {what} differ", v.output, v.differing, v.compared);
    if v.compared > 0 {
        let largest = if v.largest == 0.0 { "0".to_owned() } else { format!("{:.1e}", v.largest) };
        text += &match v.kind {
            "detections" => {
                format!("; matched scores within {largest}, IoU {:.4}", v.least_iou.unwrap_or(1.0))
            }
            _ => format!(", at most by {largest}"),
        };
    }
    if let Some(cut) = v.cut.filter(|n| *n > 0) {
        text += &format!("; {cut} at the end of a full list passed over");
    }
    if let (Some(worst), false) = (&v.worst, v.passed) {
        text +=
            &format!("; {} {:?}: got {}, expected {}", worst.case, worst.index, worst.got, worst.expected);
        text += &match &v.would_pass {
            Some(Kind::Close(t)) => format!("; rtol {:e} with atol {:e} would pass", t.rtol, t.atol),
            _ if v.kind == "close" => "; no tolerance would pass".to_owned(),
            _ => String::new(),
        };
    }
    for problem in &v.problems {
        text += &format!("; {problem}");
    }
    text
}
