//! Recording a reference, checking a model against it, comparing two models.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::array::{Outputs, capture};
use super::judge::{CLOSE, Growth, Judge, Kind, Verdict, kinds};
use super::numbers::Tolerance;
use super::reference::{Case, Recorder, Reference};
use crate::data::Picture;
use crate::detect::{Opened, RunOptions};
use crate::error::{Error, Result};
use crate::export::Staging;
use crate::runtime::library;
use crate::saved_model::Fingerprint;

/// What a check or a comparison found.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Whether everything is as expected, and there was something to compare.
    pub passed: bool,
    /// Pictures.
    pub cases: usize,
    /// Numbers and detections compared.
    pub compared: usize,
    /// New classes were passed over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth: Option<Growth>,
    /// Things that do not decide but explain: another file, another library.
    pub notes: Vec<String>,
    /// By output.
    pub outputs: Vec<Verdict>,
}

impl Outcome {
    fn new(cases: usize, growth: Option<Growth>, notes: Vec<String>, outputs: Vec<Verdict>) -> Self {
        let compared = outputs.iter().map(|v| v.compared).sum();
        Self {
            passed: compared > 0 && outputs.iter().all(|v| v.passed),
            cases,
            compared,
            growth,
            notes,
            outputs,
        }
    }

    /// Errors: [`Error::CheckFailed`] where it did not pass.
    pub fn check(&self) -> Result<()> {
        if self.passed {
            return Ok(());
        }
        if self.compared == 0 {
            return Err(Error::CheckFailed("nothing was compared: no picture, or no output".into()));
        }
        let failed: Vec<&str> =
            self.outputs.iter().filter(|v| !v.passed).map(|v| v.output.as_str()).collect();
        Err(Error::CheckFailed(format!(
            "{} of {} outputs are not as expected: {}",
            failed.len(),
            self.outputs.len(),
            failed.join(", ")
        )))
    }
}

/// What to record.
#[derive(Debug, Clone, Default)]
pub struct RecordOptions {
    /// How to run the model.
    pub run: RunOptions,
    /// Outputs to keep; all where there are none.
    pub outputs: Vec<String>,
    /// Tolerance of numbers.
    pub tolerance: Option<Tolerance>,
    /// Replace a reference that is there.
    pub update: bool,
}

/// Runs a model on pictures and writes what came out to a new folder. Cases are named after the pictures by `images`.
///
/// With `update`, also what has changed against the reference that was there.
pub fn record(
    model: &Path,
    images: &[(String, PathBuf)],
    output: &Path,
    options: &RecordOptions,
    progress: &mut dyn FnMut(),
) -> Result<Option<Outcome>> {
    if images.is_empty() {
        return Err(Error::CheckFailed(
            "no picture was given: a reference of nothing would always pass".into(),
        ));
    }
    let old = if options.update && output.exists() { Some(Reference::read(output)?) } else { None };
    let staging = Staging::new(output, options.update)?;
    let opened = Opened::load(model, &options.run)?;
    let mut fingerprint = Fingerprint::of(opened.model.source.path())?;
    // A reference is committed; where the model lay on this machine says nothing to others.
    fingerprint.path = model.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let library = library::load(None)?;
    let recorder = Recorder::here(&library.version, options.run.threads);
    let mut reference = Reference::new(fingerprint, opened.classes()?, recorder);
    let mut recorded = Vec::new();
    for (name, file) in images {
        let picture = Picture::open(file)?;
        let (mut outputs, strings) = capture(&opened.serving, &picture)?;
        let comparisons = comparisons(&mut outputs, &strings, options)?;
        if reference.compare.is_empty() {
            reference.compare = comparisons;
        }
        let case = Case { picture, outputs };
        reference.add_case(staging.path(), name, file, &case)?;
        recorded.push((name.clone(), case.outputs));
        progress();
    }
    if !reference.compare.values().any(|kind| !matches!(kind, Kind::None { .. })) {
        return Err(Error::CheckFailed("the model gives no output that could be compared".into()));
    }
    reference.write(staging.path())?;
    let changed = match old {
        Some(old) => Some(changes(&old, output, &recorded)?),
        None => None,
    };
    staging.publish()?;
    Ok(changed)
}

/// The comparisons of the outputs that are to be kept; the others are taken out.
fn comparisons(
    outputs: &mut Outputs,
    strings: &[String],
    options: &RecordOptions,
) -> Result<BTreeMap<String, Kind>> {
    let all: Vec<String> = outputs.keys().cloned().collect();
    if let Some(name) = options.outputs.iter().find(|name| !outputs.contains_key(*name)) {
        return Err(Error::Usage(format!("the model has no output {name}, only {}", all.join(", "))));
    }
    if !options.outputs.is_empty() {
        outputs.retain(|name, _| options.outputs.contains(name));
    }
    let mut comparisons = kinds(outputs, strings, options.tolerance.unwrap_or(CLOSE));
    for name in all {
        if !outputs.contains_key(&name) {
            comparisons.insert(name, Kind::None { why: "not recorded".into() });
        }
    }
    // An output that is not compared takes no room.
    outputs.retain(|name, _| !matches!(comparisons.get(name), Some(Kind::None { .. })));
    Ok(comparisons)
}

/// What a new recording differs in from the old one, on the pictures of both.
fn changes(old: &Reference, folder: &Path, recorded: &[(String, Outputs)]) -> Result<Outcome> {
    let mut judge = Judge::new(old.compare.clone(), None);
    let mut cases = 0;
    for (name, outputs) in recorded.iter().filter(|(name, _)| old.cases.contains(name)) {
        judge.case(name, &old.case(folder, name)?.outputs, outputs);
        cases += 1;
    }
    Ok(Outcome::new(cases, None, Vec::new(), judge.verdicts()))
}

/// Runs a model on a reference's pictures and compares. With `grown` it may have more classes than then.
pub fn check(
    model: &Path,
    folder: &Path,
    grown: bool,
    options: &RunOptions,
    progress: &mut dyn FnMut(),
) -> Result<Outcome> {
    let reference = Reference::read(folder)?;
    let opened = Opened::load(model, options)?;
    let growth = if grown { Some(growth(reference.classes, opened.classes()?)?) } else { None };
    let mut notes = Vec::new();
    if Fingerprint::of(opened.model.source.path())?.sha256 != reference.model.sha256 {
        notes.push("the model's files are others than those that were recorded".to_owned());
    }
    let here = Recorder::here(&library::load(None)?.version, options.threads);
    let then = &reference.recorded_with;
    if (&here.tensorflow, &here.machine) != (&then.tensorflow, &then.machine) {
        notes.push(format!(
            "recorded with TensorFlow {} on {}, this is {} on {}: rounding may differ",
            then.tensorflow, then.machine, here.tensorflow, here.machine
        ));
    }
    let mut judge = Judge::new(reference.compare.clone(), growth);
    for name in &reference.cases {
        let case = reference.case(folder, name)?;
        let (got, _) = capture(&opened.serving, &case.picture)?;
        judge.case(name, &case.outputs, &got);
        progress();
    }
    Ok(Outcome::new(reference.cases.len(), growth, notes, judge.verdicts()))
}

/// Runs two models on pictures and compares. Where the new one has more classes, only the old ones are compared.
pub fn compare(
    old: &Path,
    new: &Path,
    images: &[(String, PathBuf)],
    tolerance: Option<Tolerance>,
    options: &RunOptions,
    progress: &mut dyn FnMut(),
) -> Result<Outcome> {
    let (before, after) = (Opened::load(old, options)?, Opened::load(new, options)?);
    let growth = match (before.classes()?, after.classes()?) {
        (Some(old), Some(new)) if new > old => Some(Growth { classes: old, added: new - old }),
        _ => None,
    };
    let mut judge = None;
    for (name, file) in images {
        let picture = Picture::open(file)?;
        let (expected, strings) = capture(&before.serving, &picture)?;
        let (got, _) = capture(&after.serving, &picture)?;
        let close = tolerance.unwrap_or(CLOSE);
        judge
            .get_or_insert_with(|| Judge::new(kinds(&expected, &strings, close), growth))
            .case(name, &expected, &got);
        progress();
    }
    let verdicts = judge.map(Judge::verdicts).unwrap_or_default();
    Ok(Outcome::new(images.len(), growth, Vec::new(), verdicts))
}

fn growth(then: Option<usize>, now: Option<usize>) -> Result<Growth> {
    match (then, now) {
        (Some(then), Some(now)) if now >= then => Ok(Growth { classes: then, added: now - then }),
        (Some(then), Some(now)) => {
            Err(Error::CheckFailed(format!("the model has {now} classes, the reference {then}")))
        }
        _ => Err(Error::Usage(
            "the number of classes could not be told from the model, or not when the reference was recorded; check \
             without --grown"
                .into(),
        )),
    }
}
