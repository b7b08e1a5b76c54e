//! Why a model without per-class suppression and without a ranked heatmap is refused: what was found instead, and where.

use super::suppression::PADDED_SUPPRESSION;
use super::walk::{Walk, not};
use crate::error::Error;
use crate::graph::check::{main_tensor, tensor_name};
use crate::graph::{MAIN, Source};
use crate::pb;

/// The operation that TFLite's converter puts behind a detector, and the function that stands for it before converting
/// (object_detection/export_tflite_graph_lib_tf2.py, `_DETECTION_POSTPROCESS_FUNC`).
const TFLITE: &str = "TFLite_Detection_PostProcess";

/// So many outputs are told; a list of all would hide the reason.
const MOST_OUTPUTS: usize = 6;

impl Walk<'_, '_> {
    /// The error for a model in which no class head was looked for, since nothing chooses among detections.
    pub(super) fn nothing_to_suppress(&self, meta: &pb::MetaGraphDef) -> Error {
        if let Some((scope, node)) = self.first(|node| node.op == "CombinedNonMaxSuppression") {
            let reason = "its detections come from CombinedNonMaxSuppression, which the zoo's exports do not use; \
                          export it again without use_combined_nms";
            return self.refuse(scope, node, reason.into());
        }
        if let Some((scope, node)) = self.first(|node| node.op == TFLITE).or_else(|| self.tflite_function()) {
            let reason = "its post-processing is TFLite's, a function without a body here; grow the SavedModel that \
                          exporter_main_v2.py (TF1: export_inference_graph.py) makes of the same checkpoint, then convert";
            return self.refuse(scope, node, reason.into());
        }
        let loops = |node: &pb::NodeDef| {
            matches!(&*node.op, "While" | "StatelessWhile") && node.name.contains(PADDED_SUPPRESSION)
        };
        if let Some((scope, node)) = self.first(loops) {
            let reason = "its suppression is a loop of small operations in the graph itself; export it again with \
                          use_static_shapes: false in its post-processing";
            return self.refuse(scope, node, reason.into());
        }
        self.no_detector(meta)
    }

    /// The error that tells what a model gives out instead of detections.
    fn no_detector(&self, meta: &pb::MetaGraphDef) -> Error {
        let signature = meta.signature_def.get("serving_default");
        let infos = signature.iter().flat_map(|signature| &signature.outputs);
        let origins = infos.filter_map(|(alias, info)| {
            let (scope, source) = self.view.origin(MAIN, main_tensor(self.view, tensor_name(info)?)?);
            Some((alias, scope, source))
        });
        let origins: Vec<_> = origins.collect();
        let mut told: Vec<String> = origins
            .iter()
            .take(MOST_OUTPUTS)
            .map(|&(alias, scope, source)| match source {
                Source::Node { node, .. } => format!("{alias} is made by {}", self.view.node(scope, node).op),
                Source::Arg(_) => format!("{alias} is an input handed on"),
            })
            .collect();
        if origins.len() > MOST_OUTPUTS {
            told.push(format!("{} more", origins.len() - MOST_OUTPUTS));
        }
        let tensor = origins.first().map(|&(_, scope, source)| self.view.describe(scope, source));
        let found =
            if told.is_empty() { "it has no signature serving_default".into() } else { told.join(", ") };
        not(
            tensor.unwrap_or_else(|| "the graph".into()),
            format!(
                "no non-max suppression for each class and no ranked heatmap of classes was found, {found}: this is not a \
                 detection model with its post-processing (a classifier, a bare network, or an export for TFLite?)"
            ),
        )
    }

    fn refuse(&self, scope: usize, node: usize, reason: String) -> Error {
        not(self.view.describe(scope, Source::Node { node, out: 0 }), reason)
    }

    fn first(&self, wanted: impl Fn(&pb::NodeDef) -> bool) -> Option<(usize, usize)> {
        let scopes = self.view.scopes.iter().enumerate();
        scopes
            .flat_map(|(s, scope)| scope.nodes.iter().enumerate().map(move |(n, node)| (s, n, node)))
            .find_map(|(s, n, node)| wanted(node).then_some((s, n)))
    }

    /// The call of the function that TFLite's converter replaces.
    fn tflite_function(&self) -> Option<(usize, usize)> {
        let mut functions = (0..self.view.scopes.len()).filter(|&s| self.implements(s, TFLITE));
        functions.find_map(|s| self.view.callers(s).first().copied())
    }
}
