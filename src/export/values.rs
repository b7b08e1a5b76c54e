//! Weights of the class layers: out of constants or the checkpoint, and widened.

use crate::error::{Error, Result};
use crate::graph::MAIN;
use crate::graph::tensor::{constant, floats};
use crate::head::columns::widen;
use crate::head::{ClassLayer, Growth, LayerValues, NewColumns, Weights};
use crate::pb;
use crate::runtime::bundle;
use crate::saved_model::SavedModel;

/// Reads the class layers' values, in the order of `layers`. Loads TensorFlow only where the model has variables.
///
/// Errors: [`Error::NotUnderstood`] where weights are not float32, [`Error::TensorFlow`] where the checkpoint lacks them.
pub fn read_values(model: &SavedModel, layers: &[ClassLayer]) -> Result<Vec<LayerValues>> {
    let weights: Vec<&Weights> = layers.iter().flat_map(|l| [&l.kernel, &l.biases]).collect();
    let wanted: Vec<(String, pb::DataType)> = weights
        .iter()
        .filter_map(|w| match w {
            Weights::Variable(v) => Some((v.key.clone(), v.dtype)),
            Weights::Constant { .. } => None,
        })
        .collect();
    let mut restored = Vec::new();
    if let (Some(prefix), false) = (model.variables_prefix(), wanted.is_empty()) {
        for tensor in bundle::read(&prefix, &wanted)? {
            restored.push(tensor.f32()?.to_vec());
        }
    }
    let mut restored = restored.into_iter();
    let mut values = Vec::new();
    for weight in weights {
        values.push(match weight {
            Weights::Variable(v) => restored.next().ok_or_else(|| Error::NotAModel {
                path: model.source.path().to_owned(),
                reason: format!("its checkpoint lacks variable {}", v.key),
            })?,
            Weights::Constant { scope, node, name } => node_at(model.meta(), *scope, *node)
                .and_then(constant)
                .and_then(floats)
                .ok_or_else(|| Error::NotUnderstood {
                    tensor: name.clone(),
                    reason: "expected a float32 constant".into(),
                })?,
        });
    }
    let mut values = values.into_iter();
    let mut all = Vec::new();
    for layer in layers {
        let (Some(kernel), Some(biases)) = (values.next(), values.next()) else { break };
        let (expected, channels) = (layer.kernel_shape.iter().product::<usize>(), layer.kernel_shape[3]);
        if kernel.len() != expected || biases.len() != channels {
            return Err(Error::NotUnderstood {
                tensor: layer.kernel.name().to_owned(),
                reason: format!(
                    "{} kernel values and {} biases, expected {expected} and {channels} as its graph declares",
                    kernel.len(),
                    biases.len()
                ),
            });
        }
        all.push(LayerValues { kernel, biases });
    }
    Ok(all)
}

/// A node by scope and number.
pub(super) fn node_at(meta: &pb::MetaGraphDef, scope: usize, node: usize) -> Option<&pb::NodeDef> {
    let graph = meta.graph_def.as_ref()?;
    if scope == MAIN {
        return graph.node.get(node);
    }
    graph.library.as_ref()?.function.get(scope - 1)?.node_def.get(node)
}

/// Old values with new columns put behind each group.
pub fn widened(
    layer: &ClassLayer,
    old: &LayerValues,
    new: &NewColumns,
    growth: Growth,
) -> Result<LayerValues> {
    let (outer, columns) = (layer.axis.outer.unwrap_or(1), layer.axis.columns(growth));
    Ok(LayerValues {
        kernel: widen(&old.kernel, &new.kernel, outer, columns, growth.added)?,
        biases: widen(&old.biases, &new.biases, outer, columns, growth.added)?,
    })
}
