//! Which bytes a model is made of.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// A model's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The folder or file as given.
    pub path: String,
    /// SHA-256 by file.
    pub sha256: BTreeMap<String, String>,
}

impl Fingerprint {
    /// Hashes a model's files: saved_model.pb and what is in variables/, or the frozen graph.
    pub fn of(path: &Path) -> Result<Self> {
        let mut sha256 = BTreeMap::new();
        if path.is_file() {
            sha256.insert(path.file_name().unwrap_or_default().to_string_lossy().into_owned(), hash(path)?);
        } else {
            sha256.insert("saved_model.pb".to_owned(), hash(&path.join("saved_model.pb"))?);
            let variables = path.join("variables");
            if variables.is_dir() {
                for entry in std::fs::read_dir(&variables).map_err(|e| Error::io(&variables, e))? {
                    let file = entry.map_err(|e| Error::io(&variables, e))?.path();
                    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    sha256.insert(format!("variables/{name}"), hash(&file)?);
                }
            }
        }
        Ok(Self { path: path.display().to_string(), sha256 })
    }
}

/// SHA-256 of a file, in hexadecimal.
pub fn hash(file: &Path) -> Result<String> {
    let mut open = File::open(file).map_err(|e| Error::io(file, e))?;
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        let read = open.read(&mut buffer).map_err(|e| Error::io(file, e))?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
    }
    Ok(hex(&hasher.finalize()))
}

/// SHA-256 of bytes, in hexadecimal.
pub fn hash_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
