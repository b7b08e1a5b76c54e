//! Writes a grown model as a SavedModel folder: variables first, saved_model.pb last.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use prost::Message;

use super::values::widened;
use crate::error::{Error, Result};
use crate::graph::tensor::{attr, float_tensor};
use crate::graph::view::nodes_of_mut;
use crate::head::{ClassLayer, Grown, LayerValues, NewColumns, Understood, Weights};
use crate::pb;
use crate::pb::attr_value::Value;
use crate::runtime::{AnyTensor, bundle};
use crate::saved_model::SavedModel;
use crate::saved_model::source::SAVED_MODEL_PB;
use crate::saved_model::tree::files;

/// protobuf cannot hold more; a frozen graph near it would not load anywhere.
const MAX_PROTO: usize = i32::MAX as usize;

/// Writes `folder` (created; must not exist) with the grown graph and the old columns plus `new` ones.
///
/// fingerprint.pb is left out: it would describe the source. Errors: [`Error::Io`], [`Error::TensorFlow`].
pub fn write_model(
    folder: &Path,
    source: &SavedModel,
    understood: &Understood,
    grown: &Grown,
    old: &[LayerValues],
    new: &[NewColumns],
) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let (meta, replaced) = placed(understood, grown, old, new)?;
    let variables = folder.join("variables");
    fs::create_dir(&variables).map_err(|e| Error::io(&variables, e))?;
    if let Some(prefix) = source.variables_prefix() {
        let entries = understood.variables.entries();
        bundle::rewrite(&prefix, &variables.join("variables"), &entries, &replaced)?;
    }
    if let Some(dir) = source.dir() {
        for extra in ["assets", "assets.extra"] {
            copy_tree(dir, &dir.join(extra), &folder.join(extra))?;
        }
    }
    let proto = pb::SavedModel {
        saved_model_schema_version: source.proto.saved_model_schema_version,
        meta_graphs: vec![meta.into_owned()],
    };
    if proto.encoded_len() > MAX_PROTO {
        return Err(Error::Usage(format!(
            "the grown graph would have {} bytes, more than the 2 GiB that a protobuf file can hold",
            proto.encoded_len()
        )));
    }
    let file = folder.join(SAVED_MODEL_PB);
    fs::write(&file, proto.encode_to_vec()).map_err(|e| Error::io(&file, e))
}

/// Widened variables by their keys.
type Widened = Vec<(String, AnyTensor)>;

/// The grown graph with widened constants in it, and the widened variables.
pub(super) fn placed<'a>(
    understood: &Understood,
    grown: &'a Grown,
    old: &[LayerValues],
    new: &[NewColumns],
) -> Result<(Cow<'a, pb::MetaGraphDef>, Widened)> {
    let mut meta = Cow::Borrowed(&grown.meta);
    let mut replaced = Vec::new();
    for (layer, (old, new)) in understood.layers.iter().zip(old.iter().zip(new)) {
        let wide = widened(layer, old, new, grown.growth)?;
        place(&mut meta, &mut replaced, layer, &layer.kernel, &wide.kernel, wide.biases.len(), true)?;
        place(&mut meta, &mut replaced, layer, &layer.biases, &wide.biases, wide.biases.len(), false)?;
    }
    Ok((meta, replaced))
}

fn place(
    meta: &mut Cow<'_, pb::MetaGraphDef>,
    replaced: &mut Widened,
    layer: &ClassLayer,
    weights: &Weights,
    values: &[f32],
    channels: usize,
    kernel: bool,
) -> Result<()> {
    let mut shape = if kernel { layer.kernel_shape.clone() } else { vec![channels] };
    if let Some(last) = shape.last_mut() {
        *last = channels;
    }
    match weights {
        Weights::Variable(variable) => replaced.push((variable.key.clone(), AnyTensor::new(&shape, values)?)),
        Weights::Constant { scope, node, name } => {
            let nodes = meta.to_mut().graph_def.as_mut().and_then(|g| nodes_of_mut(g, *scope));
            let node = nodes.and_then(|n| n.get_mut(*node)).filter(|n| n.name == *name).ok_or_else(|| {
                Error::NotUnderstood {
                    tensor: name.clone(),
                    reason: "this constant is gone from the grown graph".into(),
                }
            })?;
            node.attr.insert("value".into(), attr(Value::Tensor(Box::new(float_tensor(&shape, values)))));
        }
    }
    Ok(())
}

fn copy_tree(root: &Path, from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(to).map_err(|e| Error::io(to, e))?;
    for (name, source) in files(root, from)? {
        let target = to.join(name);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
        }
        fs::copy(&source, &target).map_err(|e| Error::io(&source, e))?;
    }
    Ok(())
}
