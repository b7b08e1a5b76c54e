//! Checkpoints: reading variables and writing a copy with some of them replaced.
//!
//! Both run a small graph of TensorFlow's own restore and save operations, whose file names and keys are constants.
//! So strings stay inside TensorFlow, also the one under `_CHECKPOINTABLE_OBJECT_GRAPH`, which is no text.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::Path;

use super::{AnyTensor, GraphSession, SessionConfig, failed};
use crate::error::{Error, Result};
use crate::graph::nodes::{graph, node, strings};
use crate::pb::{DataType, NodeDef};

/// These graphs run once: optimising them is waste.
const CONFIG: SessionConfig = SessionConfig { threads: None, optimize: false };

/// Reads variables of a checkpoint, in the order wanted. `prefix` is the path without `.index`.
pub fn read(prefix: &Path, wanted: &[(String, DataType)]) -> Result<Vec<AnyTensor>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let session = GraphSession::new(&graph(restore(prefix, wanted)), &CONFIG)?;
    let fetches: Vec<String> = (0..wanted.len()).map(restored).collect();
    let fetches: Vec<&str> = fetches.iter().map(String::as_str).collect();
    session.run(&[], &fetches, &[]).map_err(|error| failed(prefix.display(), error))
}

/// Writes the checkpoint `target` with all `entries` of `source`, of which `replaced` have new values.
///
/// Kept entries go from file to file inside TensorFlow, bit for bit. Shapes of replaced ones may differ. The result is
/// `target.index` and `target.data-00000-of-00001`; the same values give the same bytes. A key under `replaced` that
/// `entries` does not list is an error.
pub fn rewrite(
    source: &Path,
    target: &Path,
    entries: &[(String, DataType)],
    replaced: &[(String, AnyTensor)],
) -> Result<()> {
    let known: BTreeSet<&str> = entries.iter().map(|(key, _)| key.as_str()).collect();
    if let Some((key, _)) = replaced.iter().find(|(key, _)| !known.contains(key.as_str())) {
        return Err(Error::Data(format!("{}: no variable {key} to replace", source.display())));
    }
    if known.len() != entries.len() {
        return Err(Error::Data(format!("{}: a variable is listed twice", source.display())));
    }
    // Replaced ones are saved from `new_I`, I being their place in `replaced`.
    let places: BTreeMap<&str, usize> =
        replaced.iter().enumerate().map(|(place, (key, _))| (key.as_str(), place)).collect();
    let kept: Vec<_> =
        entries.iter().filter(|(key, _)| !places.contains_key(key.as_str())).cloned().collect();

    let mut nodes = if kept.is_empty() { Vec::new() } else { restore(source, &kept) };
    let mut tensors = Vec::with_capacity(entries.len());
    let mut next_kept = 0;
    for (key, dtype) in entries {
        if let Some(&place) = places.get(key.as_str()) {
            let name = fed(place);
            nodes.push(node::<&str>(&name, "Placeholder", &[]).dtype("dtype", *dtype).build());
            tensors.push(name);
        } else {
            tensors.push(restored(next_kept));
            next_kept += 1;
        }
    }
    nodes.extend(save(target, entries, &tensors));

    // TensorFlow makes one missing folder itself, not two.
    if let Some(folder) = target.parent() {
        std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
    }
    let session = GraphSession::new(&graph(nodes), &CONFIG)?;
    let names: Vec<String> = (0..replaced.len()).map(fed).collect();
    let feeds: Vec<(&str, &AnyTensor)> =
        names.iter().map(String::as_str).zip(replaced.iter().map(|(_, tensor)| tensor)).collect();
    session.run(&feeds, &[], &["save"]).map_err(|error| failed(target.display(), error))?;
    Ok(())
}

fn restored(place: usize) -> String {
    format!("restore:{place}")
}

fn fed(place: usize) -> String {
    format!("new_{place}")
}

/// The nodes that read entries, as outputs of `restore`.
fn restore(prefix: &Path, entries: &[(String, DataType)]) -> Vec<NodeDef> {
    let mut nodes = names("restore", prefix, entries);
    let inputs: Vec<_> = nodes.iter().map(|node| node.name.clone()).collect();
    nodes.push(node("restore", "RestoreV2", &inputs).dtypes("dtypes", &types(entries)).build());
    nodes
}

/// The nodes that write tensors under the keys of entries.
fn save(prefix: &Path, entries: &[(String, DataType)], tensors: &[String]) -> Vec<NodeDef> {
    let mut nodes = names("save", prefix, entries);
    let inputs: Vec<_> = nodes.iter().map(|node| &node.name).chain(tensors).cloned().collect();
    nodes.push(node("save", "SaveV2", &inputs).dtypes("dtypes", &types(entries)).build());
    nodes
}

/// The three first inputs that restoring and saving have in common: file, keys, slices (none: whole tensors).
fn names(operation: &str, prefix: &Path, entries: &[(String, DataType)]) -> Vec<NodeDef> {
    let name = |part: &str| format!("{operation}/{part}");
    let keys: Vec<_> = entries.iter().map(|(key, _)| key).collect();
    vec![
        strings(&name("prefix"), &[], &[file_name(prefix.as_os_str())]),
        strings(&name("keys"), &[keys.len()], &keys),
        strings(&name("slices"), &[keys.len()], &vec![""; keys.len()]),
    ]
}

fn file_name(path: &OsStr) -> &[u8] {
    path.as_encoded_bytes()
}

fn types(entries: &[(String, DataType)]) -> Vec<DataType> {
    entries.iter().map(|(_, dtype)| *dtype).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use crate::saved_model::checkpoint_index::read_index;

    const KEY: &str = "_CHECKPOINTABLE_OBJECT_GRAPH";

    fn entries(prefix: &Path) -> Vec<(String, DataType)> {
        let index = read_index(&prefix.with_extension("index")).unwrap();
        index.into_iter().map(|(key, entry)| (key, entry.dtype())).collect()
    }

    fn made(folder: &Path) -> std::path::PathBuf {
        let prefix = folder.join("a/b/variables");
        let entries = [("b/one".to_owned(), DataType::DtFloat), ("a/two".to_owned(), DataType::DtInt64)];
        let replaced = [
            (entries[0].0.clone(), AnyTensor::new(&[2, 2], &[1.0f32, -0.0, f32::MIN_POSITIVE, 4.0]).unwrap()),
            (entries[1].0.clone(), AnyTensor::scalar(7i64).unwrap()),
        ];
        rewrite(Path::new("/nowhere"), &prefix, &entries, &replaced).unwrap();
        prefix
    }

    #[test]
    fn writes_reads_and_replaces() {
        if testing::library().is_none() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let prefix = made(folder.path());
        let listed = entries(&prefix);
        assert_eq!(
            listed,
            [("a/two".to_owned(), DataType::DtInt64), ("b/one".to_owned(), DataType::DtFloat)]
        );
        let copy = folder.path().join("copy/variables");
        let wider = AnyTensor::new(&[1, 3], &[5.0f32, 6.0, 7.0]).unwrap();
        rewrite(&prefix, &copy, &listed, &[("b/one".to_owned(), wider)]).unwrap();
        let values = read(&copy, &listed).unwrap();
        assert_eq!(values[0].one::<i64>().unwrap(), 7);
        assert_eq!(values[1].shape(), [1, 3]);
        assert_eq!(values[1].f32().unwrap(), [5.0, 6.0, 7.0]);
    }

    #[test]
    fn mistakes_are_errors() {
        if testing::library().is_none() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let prefix = made(folder.path());
        let two = [("a/two".to_owned(), DataType::DtInt64)];
        let copy = folder.path().join("copy");
        let seven = || AnyTensor::scalar(7i64).unwrap();
        assert!(rewrite(&prefix, &copy, &two, &[("no/such".to_owned(), seven())]).is_err());
        assert!(rewrite(&prefix, &copy, &[two[0].clone(), two[0].clone()], &[]).is_err());
        assert!(read(&prefix, &[("a/two".to_owned(), DataType::DtFloat)]).is_err());
        assert!(read(&prefix, &[("no/such".to_owned(), DataType::DtFloat)]).is_err());
        assert!(read(&folder.path().join("nothing"), &two).is_err());
    }

    #[test]
    fn a_copy_of_a_real_checkpoint_has_its_bytes() {
        let (Some(_), Some(shared)) = (testing::library(), testing::shared()) else { return };
        let prefix = shared.join("models/ssd_mobilenet_v1_075_coco/tf2/saved_model/variables/variables");
        let listed = entries(&prefix);
        assert!(listed.contains(&(KEY.to_owned(), DataType::DtString)));
        let folder = tempfile::tempdir().unwrap();
        let copies = ["first", "second"].map(|name| folder.path().join(name).join("variables"));
        for copy in &copies {
            rewrite(&prefix, copy, &listed, &[]).unwrap();
        }
        let files = |prefix: &Path| {
            ["index", "data-00000-of-00001"].map(|kind| std::fs::read(prefix.with_extension(kind)).unwrap())
        };
        assert!(files(&copies[0]) == files(&copies[1]), "two copies differ");
        let (from, to) =
            (read_index(&prefix.with_extension("index")), read_index(&copies[0].with_extension("index")));
        for ((key, from), (_, to)) in from.unwrap().iter().zip(&to.unwrap()) {
            assert_eq!((&from.shape, from.size, from.crc32c), (&to.shape, to.size, to.crc32c), "{key}");
        }
    }
}
