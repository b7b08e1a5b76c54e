//! A model's files in their new place, and the list of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::saved_model::fingerprint::hash;
use crate::saved_model::source::SAVED_MODEL_PB;
use crate::saved_model::tree::files;

/// Where the list lies in a version.
pub const MANIFEST: &str = "assets.extra/publish.json";

/// Every file of a version but the list itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Layout of this file.
    pub schema: u32,
    /// The program's version.
    pub tfgraft: String,
    /// Requests in the warm-up file.
    pub warmup_requests: usize,
    /// Size and SHA-256 by path.
    pub files: BTreeMap<String, FileEntry>,
}

/// A file of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Bytes.
    pub size: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

impl FileEntry {
    /// Describes a file.
    pub fn of(file: &Path) -> Result<Self> {
        let size = fs::metadata(file).map_err(|e| Error::io(file, e))?.len();
        Ok(Self { size, sha256: hash(file)? })
    }
}

/// Copies a model's files, saved_model.pb last, as TensorFlow's own exporter does. What is listed are the hashes of the
/// source's files, so that a copy that went wrong is found out.
pub fn copy(source: &Path, target: &Path) -> Result<BTreeMap<String, FileEntry>> {
    let mut entries = BTreeMap::new();
    let mut order: Vec<(String, PathBuf)> = files(source, source)?.into_iter().collect();
    order.sort_by_key(|(name, _)| name == SAVED_MODEL_PB);
    for (name, from) in order {
        let to = target.join(&name);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
        }
        entries.insert(name, FileEntry::of(&from)?);
        fs::copy(&from, &to).map_err(|e| Error::io(&to, e))?;
    }
    Ok(entries)
}
