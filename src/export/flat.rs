//! Serving without a SavedModel on disk: the signature's outputs flattened into one graph whose weights are fed.
//!
//! Loading a TF2 export costs seconds, most of them for functions that serving never calls. A proof of the graph needs
//! only what the signature computes; what is written to disk in the end is loaded and run as a SavedModel.

use std::collections::{BTreeMap, HashMap};

use prost::Message;

use super::values::VariableValues;
use super::weights::Weights;
use super::write::placed;
use crate::error::{Error, Result};
use crate::graph::check::{main_tensor, tensor_name};
use crate::graph::flatten::Flattener;
use crate::graph::tensor::float_tensor;
use crate::graph::{GraphView, MAIN, Source};
use crate::head::{Grown, LayerValues, NewColumns, Understood};
use crate::pb;
use crate::runtime::{ServingModel, SessionConfig, TensorInfoLite};
use crate::saved_model::SavedModel;

/// The source model, ready to run.
pub fn serve_source(
    model: &SavedModel,
    values: &VariableValues,
    weights: &mut Weights,
    config: &SessionConfig,
) -> Result<ServingModel> {
    serve(model.meta(), &values.protos, weights, config)
}

/// The grown model with these new columns, ready to run.
pub fn serve_grown(
    understood: &Understood,
    grown: &Grown,
    values: &VariableValues,
    weights: &mut Weights,
    old: &[LayerValues],
    new: &[NewColumns],
    config: &SessionConfig,
) -> Result<ServingModel> {
    let (meta, replaced) = placed(understood, grown, old, new)?;
    let mut constants = values.protos.clone();
    for (key, tensor) in &replaced {
        if let Some(variable) = understood.variables.all.iter().find(|v| v.key == *key) {
            constants.insert(variable.handle, float_tensor(&tensor.shape(), tensor.f32()?));
        }
    }
    serve(&meta, &constants, weights, config)
}

fn serve(
    meta: &pb::MetaGraphDef,
    constants: &HashMap<usize, pb::TensorProto>,
    weights: &mut Weights,
    config: &SessionConfig,
) -> Result<ServingModel> {
    let empty = pb::GraphDef::default();
    let view = GraphView::new(meta.graph_def.as_ref().unwrap_or(&empty))?;
    let missing = |what: &str| Error::NotUnderstood {
        tensor: "serving_default".into(),
        reason: format!("it has no {what}"),
    };
    let signature =
        meta.signature_def.get("serving_default").ok_or_else(|| missing("signature of this name"))?;
    let input = signature.inputs.values().next().ok_or_else(|| missing("input"))?;
    let mut aliases = Vec::new();
    let mut sources: Vec<Source> = Vec::new();
    for (alias, info) in &signature.outputs {
        aliases.push((alias.clone(), info.dtype()));
        sources.push(
            tensor_name(info).and_then(|n| main_tensor(&view, n)).ok_or_else(|| missing("such output"))?,
        );
    }
    let targets: Vec<(usize, Source)> = sources.iter().map(|&s| (MAIN, s)).collect();
    let mut flat = Flattener::new(&view, constants).flatten(&sources, &targets)?;
    flat.graph.versions = meta.graph_def.as_ref().and_then(|g| g.versions.clone());
    let input = TensorInfoLite {
        name: tensor_name(input).unwrap_or_default().to_owned(),
        dtype: input.dtype(),
        shape: None,
    };
    let outputs: BTreeMap<String, TensorInfoLite> = aliases
        .into_iter()
        .zip(flat.targets)
        .map(|((alias, dtype), name)| (alias, TensorInfoLite { name, dtype, shape: None }))
        .collect();
    let fed = weights.lift(&mut flat.graph)?;
    let graph = flat.graph.encode_to_vec();
    // Its bytes are all that TensorFlow takes.
    drop(flat.graph);
    Ok(ServingModel::from_graph(&graph, input, outputs, config)?.with_weights(fed))
}
