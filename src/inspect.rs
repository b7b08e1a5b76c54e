//! What a model is, told from its bytes.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::graph::check::tensor_name;
use crate::head::{Growth, Role, Weights, grow, understand};
use crate::pb;
use crate::policy;
use crate::saved_model::{SavedModel, SourceKind};

/// A model's description.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// The folder or file.
    pub path: String,
    /// Which exporter made it.
    pub exporter: &'static str,
    /// TensorFlow's version as the export says it.
    pub tensorflow: String,
    /// Inputs of serving_default.
    pub inputs: BTreeMap<String, Tensor>,
    /// Outputs of serving_default.
    pub outputs: BTreeMap<String, Tensor>,
    /// The class head, where it was understood.
    pub head: Option<Head>,
    /// What speaks against running it: operations that touch files, processes or the network, outside of saving and
    /// restoring; endless calls; absurd sizes; assets elsewhere.
    pub unsafe_operations: Vec<String>,
    /// Operations that run when it is loaded, before any request.
    pub runs_at_load: Vec<String>,
    /// Whether classes can be added.
    pub can_grow: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// An input or output.
#[derive(Debug, Clone, Serialize)]
pub struct Tensor {
    /// `node:index`.
    pub tensor: String,
    /// Element type.
    pub dtype: String,
    /// Shape; -1 is free; none where even the rank is.
    pub shape: Option<Vec<i64>>,
}

/// The class head.
#[derive(Debug, Clone, Serialize)]
pub struct Head {
    /// The kind of detector.
    pub meta_architecture: &'static str,
    /// Classes without background.
    pub classes: usize,
    /// Whether column 0 is the background.
    pub background: bool,
    /// `sigmoid` or `softmax`.
    pub activation: &'static str,
    /// Whether each class has boxes of its own.
    pub boxes_per_class: bool,
    /// Copies of the model's body in the file.
    pub bodies: usize,
    /// The class layers.
    pub layers: Vec<Layer>,
}

/// A class layer.
#[derive(Debug, Clone, Serialize)]
pub struct Layer {
    /// Kernel: checkpoint key or node.
    pub kernel: String,
    /// Biases.
    pub biases: String,
    /// Kernel shape [height, width, depth, channels], or [depth, channels].
    pub shape: Vec<usize>,
    /// What its columns are: `scores`, `boxes` of four channels a class, or `masks`.
    pub role: &'static str,
    /// Groups of columns (anchors, or bins of position-sensitive layers).
    pub anchors: usize,
    /// Columns of a group, background included. Channel = anchor · columns + column.
    pub columns: usize,
    /// How often the layer is applied in one body.
    pub applications: usize,
}

/// Describes a model. Never loads TensorFlow.
pub fn inspect(model: &SavedModel) -> Result<Inspection> {
    let meta = model.meta();
    let signature = meta.signature_def.get("serving_default");
    let tensors = |infos: Option<&BTreeMap<String, pb::TensorInfo>>| {
        infos.into_iter().flatten().map(|(alias, info)| (alias.clone(), tensor(info))).collect()
    };
    let info = meta.meta_info_def.as_ref();
    let has_variables = model.variables_prefix().is_some();
    let mut inspection = Inspection {
        path: model.source.path().display().to_string(),
        exporter: match (&model.source.kind, has_variables) {
            (SourceKind::FrozenGraph(_), _) => "TF1 frozen graph",
            (_, true) => "TF2 (functions and variables)",
            (_, false) => "TF1 (frozen constants)",
        },
        tensorflow: info.map(|i| i.tensorflow_version.clone()).unwrap_or_default(),
        inputs: tensors(signature.map(|s| &s.inputs)),
        outputs: tensors(signature.map(|s| &s.outputs)),
        head: None,
        unsafe_operations: policy::findings(meta)?,
        runs_at_load: policy::runs_at_load(meta),
        can_grow: false,
        reason: None,
    };
    let grown = understand(meta).and_then(|understood| {
        inspection.head = Some(head(&understood));
        grow(meta, &understood, 1).map(drop)
    });
    match grown {
        Ok(()) => inspection.can_grow = true,
        Err(error @ (Error::NotUnderstood { .. } | Error::BadGraph { .. })) => {
            inspection.reason = Some(error.to_string())
        }
        Err(error) => return Err(error),
    }
    Ok(inspection)
}

fn head(understood: &crate::head::Understood) -> Head {
    let located = &understood.located;
    let growth = Growth { classes: located.classes, added: 0 };
    let name = |w: &Weights| w.name().to_owned();
    let layers = understood
        .layers
        .iter()
        .zip(&located.layers)
        .map(|(layer, at)| Layer {
            kernel: name(&layer.kernel),
            biases: name(&layer.biases),
            shape: layer.kernel_shape.clone(),
            role: match layer.role {
                Role::Scores => "scores",
                Role::Boxes => "boxes",
                Role::Masks => "masks",
            },
            anchors: layer.axis.outer.unwrap_or(0),
            columns: layer.axis.columns(growth),
            applications: located.bodies.first().map_or(0, |body| {
                let heads = body.heads.iter().chain(&body.class_boxes).chain(&body.masks);
                heads.filter(|h| (h.kernel, h.biases) == (at.kernel, at.biases)).count()
            }),
        })
        .collect();
    Head {
        meta_architecture: located.name(),
        classes: located.classes,
        background: located.background,
        activation: located.activation.name(),
        boxes_per_class: located.layers.iter().any(|l| l.role == Role::Boxes),
        bodies: located.bodies.len(),
        layers,
    }
}

fn tensor(info: &pb::TensorInfo) -> Tensor {
    let shape = info.tensor_shape.as_ref().filter(|s| !s.unknown_rank);
    Tensor {
        tensor: tensor_name(info).unwrap_or_default().to_owned(),
        dtype: info.dtype().as_str_name().trim_start_matches("DT_").to_lowercase(),
        shape: shape.map(|s| s.dim.iter().map(|d| d.size).collect()),
    }
}
