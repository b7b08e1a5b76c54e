//! report.json: what went in, what came out, what changed, how long it took.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde::Serialize;

use super::page::MapEvidence;
use super::plan::{Plan, PlannedClass};
use crate::data::Problems;
use crate::error::{Error, Result};
use crate::eval::{ClassMetrics, FalsePositives, FiredOn, Verdict};
use crate::export::changes::WeightChanges;
use crate::export::prove::Proof;
use crate::pipeline_config::ClassLoss;
use crate::saved_model::Fingerprint;
use crate::train::copy_back::regions::Comparison;
use crate::train::division::Division;

/// The report of a retraining.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Layout of this file.
    pub schema: u32,
    /// The name it will serve under, where one was given; `publish` reads it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
    /// Versions that made it.
    pub versions: BTreeMap<&'static str, String>,
    /// Where the source was, and SHA-256 of its files.
    pub source: Fingerprint,
    /// SHA-256 of the result's files.
    pub result: Fingerprint,
    /// Classes before and after, new and old in the data.
    #[serde(flatten)]
    pub plan: Plan,
    /// The options given.
    pub options: serde_json::Value,
    /// What was noticed about the data, by kind.
    pub data_problems: Problems,
    /// Statistics of the training.
    pub training: Training,
    /// The proof of the graph: silent columns.
    pub proof: Proof,
    /// The check of the result, read back: old scores on the probe pictures.
    pub old_scores: Proof,
    /// Weights, tensor by tensor.
    pub weights: WeightChanges,
    /// Nodes of the graph that were altered or added.
    pub graph: GraphChanges,
    /// Measures on the validation data, where there was any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
    /// What the gate said, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<Verdict>,
    /// Seconds by phase.
    pub seconds: BTreeMap<&'static str, f64>,
    /// Most memory the process held, bytes; none where the system does not say.
    pub peak_memory_bytes: Option<u64>,
}

/// Counts of the graph edit, with names.
#[derive(Debug, Clone, Serialize)]
pub struct GraphChanges {
    /// `function/node` of altered nodes.
    pub changed: Vec<String>,
    /// `function/node` of added nodes.
    pub added: Vec<String>,
}

/// What training saw and did.
#[derive(Debug, Clone, Serialize)]
pub struct Training {
    /// `frozen-columns` or `copy-back`.
    pub strategy: &'static str,
    /// Pictures.
    pub images: usize,
    /// Views that went through the network.
    pub views: usize,
    /// Views of a picture with objects: `--views` for the same again.
    pub views_per_picture: usize,
    /// Kept rows of each class layer.
    pub rows: Vec<usize>,
    /// Anchors (regions of a two-stage model, centres of a heatmap) matched as the OD API matches them, by class layer and
    /// anchor: [layer][anchor][new class].
    pub matched_anchors: Vec<Vec<Vec<usize>>>,
    /// The same counts by feature map, with the sizes of the anchors; of single-stage models alone.
    pub maps: Vec<MapEvidence>,
    /// Pictures that may show unlabelled objects.
    pub incomplete_pictures: usize,
    /// Anchors in them that were ignored since they score like labelled objects, by class.
    pub ignored_anchors: usize,
    /// Anchors in them that were taken for objects, by class; of pseudo-labels alone.
    pub pseudo_labelled_anchors: usize,
    /// Loss of the scores by step.
    pub losses: Vec<f64>,
    /// What was fitted, one entry for layers that were fitted together.
    pub fits: Vec<Fit>,
    /// The loss that the old scores are taken to come from, which says how steep new ones are; of single-stage models alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_loss: Option<OldLoss>,
    /// What putting the old columns back did, where the scores are a softmax; of copy-back alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy_back: Option<Comparison>,
    /// How columns of masks came about, where the model has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masks: Option<MaskColumns>,
    /// Bytes of features in memory and on disk.
    pub cache_bytes: [u64; 2],
}

/// A loss of scores, and who says so.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OldLoss {
    /// The loss.
    #[serde(flatten)]
    pub loss: ClassLoss,
    /// The file; none where none says it, and the usual loss is assumed.
    pub from: Option<String>,
}

/// What the new columns of masks are.
#[derive(Debug, Clone, Serialize)]
pub struct MaskColumns {
    /// Objects of each new class whose masks the data has. The column of a class without any is the mean of the old ones.
    pub objects: Vec<usize>,
    /// Why nothing was learned from them, and all columns are the mean of the old ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_learned: Option<String>,
}

/// One fit.
#[derive(Debug, Clone, Serialize)]
pub struct Fit {
    /// `scores`, `boxes` or `masks`.
    pub columns: &'static str,
    /// The numbers of its class layers.
    pub layers: Vec<usize>,
    /// The loss before the first step; none where there was nothing to learn from, and the new columns are the mean of the
    /// old ones.
    pub loss_before: Option<f64>,
    /// The loss after the last step.
    pub loss_after: Option<f64>,
    /// How strong the prior of a column's own part was, beside the usual one; chosen by the loss of held-out pictures. None of
    /// copy-back, which has no prior.
    pub prior_strength: Option<f64>,
    /// For each new class where its score of one half was put, and what held-out pictures said there.
    pub divisions: Vec<Division>,
}

/// Measures before and after, means over groups and each class.
#[derive(Debug, Clone, Serialize)]
pub struct Validation {
    /// Pictures measured on.
    pub images: usize,
    /// Old classes, source model.
    pub old_before: ClassMetrics,
    /// Old classes, result.
    pub old_after: ClassMetrics,
    /// New classes, result.
    pub new_after: ClassMetrics,
    /// Each class, result.
    pub per_class: BTreeMap<String, ClassMetrics>,
    /// Each old class, source model.
    pub per_old_class_before: BTreeMap<String, ClassMetrics>,
    /// False detections of the result.
    pub false_positives: FalsePositives,
    /// What fires on the objects of each class, source model: what old classes make of new objects.
    pub confusion_before: BTreeMap<String, FiredOn>,
    /// The same of the result.
    pub confusion_after: BTreeMap<String, FiredOn>,
}

impl Training {
    /// Where scores of one half were put, a sentence for each of the new classes that has one.
    pub fn held_out(&self, new: &[PlannedClass]) -> Vec<String> {
        let divisions = self.fits.iter().filter(|fit| fit.columns == "scores").flat_map(|fit| &fit.divisions);
        new.iter().zip(divisions).filter_map(|(class, division)| division.sentence(&class.name)).collect()
    }
}

impl Report {
    /// Writes the report as JSON.
    pub fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::Data(format!("{}: {e}", file.display())))?;
        File::create(file).and_then(|mut f| f.write_all(text.as_bytes())).map_err(|e| Error::io(file, e))
    }
}

/// Most memory this process has held, bytes (`VmHWM` of Linux).
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}
