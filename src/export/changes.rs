//! Compares two models' weights tensor by tensor, bit by bit, without TensorFlow.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::graph::tensor::{constant, floats, shape};
use crate::head::columns::old_columns;
use crate::head::{ClassLayer, Growth};
use crate::pb;
use crate::saved_model::SavedModel;
use crate::saved_model::checkpoint_index::read_index;

/// A weight that differs between source and result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorChange {
    /// The checkpoint key, or the constant's node.
    pub tensor: String,
    /// Shape in the source.
    pub before: Vec<usize>,
    /// Shape in the result.
    pub after: Vec<usize>,
    /// Whether every old column has the same bits.
    pub old_columns_bit_equal: bool,
    /// How many values are new.
    pub new_values: usize,
}

/// The comparison of all weights.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WeightChanges {
    /// Weights that are the same, bit for bit.
    pub unchanged: usize,
    /// Weights that differ.
    pub changed: Vec<TensorChange>,
}

impl WeightChanges {
    /// Errors where anything but new columns changed.
    pub fn check(&self) -> Result<()> {
        match self.changed.iter().find(|c| !c.old_columns_bit_equal) {
            Some(change) => Err(Error::CheckFailed(format!(
                "{}: its old columns are not the source's, bit for bit",
                change.tensor
            ))),
            None => Ok(()),
        }
    }
}

/// Compares every variable and every float constant of `source` with `result`, read back from disk.
///
/// Errors: [`Error::CheckFailed`] where a weight is missing or changed that no class layer owns.
pub fn list_changes(
    source: &SavedModel,
    result: &SavedModel,
    layers: &[ClassLayer],
    growth: Growth,
) -> Result<WeightChanges> {
    let class_layers: BTreeMap<&str, &ClassLayer> =
        layers.iter().flat_map(|l| [(l.kernel.name(), l), (l.biases.name(), l)]).collect();
    let mut found = WeightChanges { unchanged: 0, changed: Vec::new() };
    // One weight at a time: all of both models at once would be twice the memory that the models take.
    for ((name, before), (other, after)) in both(source, result)? {
        if name != other {
            return Err(Error::CheckFailed(format!("weight {name} of the source is {other} in the result")));
        }
        let (old, wide) = (before.bytes()?, after.bytes()?);
        if before.shape == after.shape && old == wide {
            found.unchanged += 1;
            continue;
        }
        let Some(layer) = class_layers.get(name.as_str()) else {
            return Err(Error::CheckFailed(format!("weight {name} changed, and it is no class layer")));
        };
        let columns = layer.axis.group(growth);
        let (old, wide) = (as_floats(&old), as_floats(&wide));
        let kept = old_columns(&wide, columns, layer.axis.added(growth));
        let same = kept.len() == old.len() && kept.iter().zip(&old).all(|(a, b)| a.to_bits() == b.to_bits());
        found.changed.push(TensorChange {
            tensor: name,
            before: before.shape,
            after: after.shape,
            old_columns_bit_equal: same,
            new_values: wide.len().saturating_sub(old.len()),
        });
    }
    Ok(found)
}

/// A weight and where its bytes are.
struct Weight<'m> {
    shape: Vec<usize>,
    place: Place<'m>,
}

enum Place<'m> {
    /// A float constant.
    Constant(&'m pb::TensorProto),
    /// So many bytes of a file from an offset on.
    File(PathBuf, i64, i64),
}

impl Weight<'_> {
    /// The values, little-endian.
    fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        match &self.place {
            Place::File(file, offset, size) => slice(file, *offset, *size).map(Cow::Owned),
            Place::Constant(tensor) if !tensor.tensor_content.is_empty() => {
                Ok(Cow::Borrowed(&tensor.tensor_content))
            }
            Place::Constant(tensor) => {
                let values = floats(tensor).unwrap_or_default();
                Ok(Cow::Owned(values.iter().flat_map(|v| v.to_le_bytes()).collect()))
            }
        }
    }
}

type Named<'m> = (String, Weight<'m>);

fn both<'m>(source: &'m SavedModel, result: &'m SavedModel) -> Result<Vec<(Named<'m>, Named<'m>)>> {
    let (before, after) = (weights(source)?, weights(result)?);
    if before.len() != after.len() {
        return Err(Error::CheckFailed(format!(
            "the source has {} weights, the result {}",
            before.len(),
            after.len()
        )));
    }
    Ok(before.into_iter().zip(after).collect())
}

/// Variables by key, float constants by function and node; only what the source could have as weights: floats of one
/// axis or more that are not part of a per-class copy.
fn weights(model: &SavedModel) -> Result<BTreeMap<String, Weight<'_>>> {
    let mut found = BTreeMap::new();
    if let Some(prefix) = model.variables_prefix() {
        let entries = read_index(&prefix.with_extension("index"))?;
        let shards = entries.iter().map(|(_, e)| e.shard_id).max().unwrap_or(0) + 1;
        for (key, entry) in entries {
            // The checkpoint's own object graph is a string whose bytes are kept as they are.
            let shard = prefix.with_file_name(format!("variables.data-{:05}-of-{shards:05}", entry.shard_id));
            let shape = entry
                .shape
                .iter()
                .flat_map(|s| &s.dim)
                .map(|d| usize::try_from(d.size).unwrap_or(0))
                .collect();
            found.insert(key, Weight { shape, place: Place::File(shard, entry.offset, entry.size) });
        }
        return Ok(found);
    }
    for node in model.meta().graph_def.iter().flat_map(|g| &g.node) {
        if let Some((name, weight)) = constant_weight(node) {
            found.insert(name, weight);
        }
    }
    Ok(found)
}

fn constant_weight(node: &pb::NodeDef) -> Option<(String, Weight<'_>)> {
    let tensor = constant(node)?;
    let shape = shape(tensor).filter(|s| !s.is_empty())?;
    // What cannot be read as floats is no weight.
    floats(tensor)?;
    let place = Place::Constant(tensor);
    (!node.name.contains("_tfgraft_")).then(|| (node.name.clone(), Weight { shape, place }))
}

fn slice(file: &Path, offset: i64, size: i64) -> Result<Vec<u8>> {
    let damaged = || Error::Damaged {
        what: file.display().to_string(),
        reason: format!("it does not hold {size} bytes at {offset}, which its index promises"),
    };
    let (offset, size) =
        (u64::try_from(offset).map_err(|_| damaged())?, usize::try_from(size).map_err(|_| damaged())?);
    let mut open = File::open(file).map_err(|e| Error::io(file, e))?;
    let length = open.metadata().map_err(|e| Error::io(file, e))?.len();
    if offset.checked_add(size as u64).is_none_or(|end| end > length) {
        return Err(damaged());
    }
    let mut bytes = vec![0; size];
    open.seek(SeekFrom::Start(offset))
        .and_then(|_| open.read_exact(&mut bytes))
        .map_err(|e| Error::io(file, e))?;
    Ok(bytes)
}

fn as_floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}
