//! Weights of the class layers: out of constants or the checkpoint, and widened.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::graph::tensor::{constant, float_tensor, floats};
use crate::graph::view::nodes_of;
use crate::head::columns::widen;
use crate::head::{ClassLayer, Growth, LayerValues, NewColumns, Understood, Weights};
use crate::pb;
use crate::runtime::{AnyTensor, bundle};
use crate::saved_model::SavedModel;

/// The values of a model's float variables by the number of their handle, which growing does not change.
///
/// They are in memory once: the protos' contents are the bytes of the tensors that TensorFlow read.
#[derive(Debug, Default)]
pub struct VariableValues {
    pub(crate) protos: HashMap<usize, pb::TensorProto>,
    /// Each content beside the tensor that it is of.
    pub(super) tensors: Vec<(Bytes, Arc<AnyTensor>)>,
}

/// A tensor of floats as bytes.
struct Floats(Arc<AnyTensor>);

impl AsRef<[u8]> for Floats {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(self.0.f32().unwrap_or_default())
    }
}

impl VariableValues {
    /// Reads them from the model's checkpoint; empty for a model of constants.
    pub fn read(model: &SavedModel, understood: &Understood) -> Result<Self> {
        let Some(prefix) = model.variables_prefix() else { return Ok(Self::default()) };
        let floats: Vec<_> =
            understood.variables.all.iter().filter(|v| v.dtype == pb::DataType::DtFloat).collect();
        let wanted: Vec<_> = floats.iter().map(|v| (v.key.clone(), v.dtype)).collect();
        let mut values = Self::default();
        for (variable, tensor) in floats.iter().zip(bundle::read(&prefix, &wanted)?) {
            // A file may hold another type than its graph declares.
            tensor.f32()?;
            let shape = tensor.shape();
            let tensor = Arc::new(tensor);
            let content = Bytes::from_owner(Floats(tensor.clone()));
            let proto = pb::TensorProto { tensor_content: content.clone(), ..float_tensor(&shape, &[]) };
            values.protos.insert(variable.handle, proto);
            values.tensors.push((content, tensor));
        }
        Ok(values)
    }
}

/// The class layers' values, in the order of `layers`.
///
/// Errors: [`Error::NotUnderstood`] where weights are not float32 or not of the declared size.
pub fn layer_values(
    model: &SavedModel,
    variables: &VariableValues,
    layers: &[ClassLayer],
) -> Result<Vec<LayerValues>> {
    let mut values = Vec::new();
    for weight in layers.iter().flat_map(|l| [&l.kernel, &l.biases]) {
        let tensor = match weight {
            Weights::Variable(v) => variables.protos.get(&v.handle),
            Weights::Constant { scope, node, .. } => {
                let nodes = model.meta().graph_def.as_ref().and_then(|g| nodes_of(g, *scope));
                nodes.and_then(|n| n.get(*node)).and_then(constant)
            }
        };
        values.push(tensor.and_then(floats).ok_or_else(|| Error::NotUnderstood {
            tensor: weight.name().to_owned(),
            reason: "expected float32 weights".into(),
        })?);
    }
    let mut values = values.into_iter();
    let mut all = Vec::new();
    for layer in layers {
        let (Some(kernel), Some(biases)) = (values.next(), values.next()) else { break };
        let (expected, channels) =
            (layer.kernel_shape.iter().product::<usize>(), layer.kernel_shape.last().copied().unwrap_or(0));
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

/// Old values with new columns put behind each group.
pub fn widened(
    layer: &ClassLayer,
    old: &LayerValues,
    new: &NewColumns,
    growth: Growth,
) -> Result<LayerValues> {
    let (outer, columns) = (layer.axis.outer.unwrap_or(1), layer.axis.group(growth));
    let added = layer.axis.added(growth);
    Ok(LayerValues {
        kernel: widen(&old.kernel, &new.kernel, outer, columns, added)?,
        biases: widen(&old.biases, &new.biases, outer, columns, added)?,
    })
}
