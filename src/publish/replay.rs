//! What the fresh process does with a staged version: it looks at it the way a server will.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::copy::{FileEntry, MANIFEST, Manifest};
use super::warmup;
use crate::detect::{Opened, RunOptions};
use crate::error::{Error, Result};
use crate::runtime::{library, serving};
use crate::saved_model::tree::files;

/// What it found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// TensorFlow's version.
    pub tensorflow: String,
    /// Requests replayed.
    pub requests: usize,
    /// Outputs of each.
    pub outputs: usize,
}

/// Compares every file with the list, loads the model and replays the warm-up requests.
///
/// Errors: [`Error::CheckFailed`] for files or requests that are not what they should be; those of [`Opened::load`].
pub fn replay(version: &Path, options: &RunOptions) -> Result<Replayed> {
    let list = version.join(MANIFEST);
    let text = fs::read_to_string(&list).map_err(|e| Error::io(&list, e))?;
    let manifest: Manifest = serde_json::from_str(&text)
        .map_err(|e| Error::Damaged { what: list.display().to_string(), reason: e.to_string() })?;
    let mut found = files(version, version)?;
    found.remove(MANIFEST);
    if !found.keys().eq(manifest.files.keys()) {
        return Err(Error::CheckFailed(format!(
            "{} files, the list has {}: {:?}",
            found.len(),
            manifest.files.len(),
            found.keys().filter(|name| !manifest.files.contains_key(*name)).collect::<Vec<_>>()
        )));
    }
    for (name, entry) in &manifest.files {
        if found.get(name).map(|file| FileEntry::of(file)).transpose()?.as_ref() != Some(entry) {
            return Err(Error::CheckFailed(format!("{name} has other bytes than its source")));
        }
    }
    let opened = Opened::load(version, options)?;
    let mut replayed = Replayed {
        tensorflow: library::load(None)?.version.clone(),
        requests: 0,
        outputs: opened.serving.outputs().len(),
    };
    let file = version.join(warmup::FILE);
    if file.is_file() {
        let (alias, _) = warmup::input(version, opened.model.meta())?;
        for tensor in warmup::read(&file, alias)? {
            let outputs = opened.serving.run(&serving::tensor(&tensor)?)?;
            let scores = outputs.get("detection_scores").and_then(|t| t.f32().ok()).unwrap_or_default();
            if scores.iter().any(|s| s.is_nan()) {
                return Err(Error::CheckFailed(format!(
                    "a score of warm-up request {} is no number",
                    replayed.requests + 1
                )));
            }
            replayed.requests += 1;
        }
    }
    if replayed.requests != manifest.warmup_requests {
        return Err(Error::CheckFailed(format!(
            "{} warm-up requests, expected {}",
            replayed.requests, manifest.warmup_requests
        )));
    }
    Ok(replayed)
}
