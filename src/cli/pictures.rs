//! Pictures given on the command line, and names for what is made of them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Files as they are; of folders, the pictures in them by name.
pub fn expand(given: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for path in given {
        if !path.is_dir() {
            if !path.exists() {
                return Err(Error::Data(format!("{}: no such picture", path.display())));
            }
            out.push(path.clone());
            continue;
        }
        let is_picture = |p: &PathBuf| {
            let ending = p.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
            matches!(ending.as_str(), "jpg" | "jpeg" | "png" | "bmp" | "webp")
        };
        let entries = std::fs::read_dir(path).map_err(|e| Error::io(path, e))?;
        let mut inside: Vec<PathBuf> =
            entries.filter_map(|e| e.ok().map(|e| e.path())).filter(is_picture).collect();
        if inside.is_empty() {
            return Err(Error::Data(format!(
                "{}: no .jpg, .png, .bmp or .webp in this folder",
                path.display()
            )));
        }
        inside.sort();
        out.append(&mut inside);
    }
    Ok(out)
}

/// Names that were given away already.
#[derive(Debug, Default)]
pub struct Names(HashSet<String>);

impl Names {
    /// What `name` makes of the picture's name without its ending, numbered where two pictures have one name.
    pub fn free(&mut self, picture: &Path, name: impl Fn(&str) -> String) -> String {
        let stem = picture.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut free = name(&stem);
        let mut number = 2;
        while !self.0.insert(free.clone()) {
            free = name(&format!("{stem}-{number}"));
            number += 1;
        }
        free
    }

    /// The pictures, each with a name of its own.
    pub fn of(pictures: Vec<PathBuf>) -> Vec<(String, PathBuf)> {
        let mut names = Self::default();
        pictures.into_iter().map(|p| (names.free(&p, str::to_owned), p)).collect()
    }
}
