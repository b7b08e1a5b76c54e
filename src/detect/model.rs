//! Where in a MODEL path the files are, as far as running it needs to know.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// What a MODEL path holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelFiles {
    /// A folder with `saved_model.pb`.
    SavedModel(PathBuf),
    /// A frozen graph.
    Frozen(PathBuf),
}

impl ModelFiles {
    /// Finds the model in a SavedModel folder, a zoo folder (with `saved_model/` or `frozen_inference_graph.pb`), or a
    /// frozen graph itself.
    pub fn find(model: &Path) -> Result<Self> {
        let refuse = |reason: &str| Error::NotAModel { path: model.to_owned(), reason: reason.to_owned() };
        if model.is_file() {
            return match model.file_name().and_then(|name| name.to_str()) {
                Some("saved_model.pb") => {
                    Ok(Self::SavedModel(model.parent().unwrap_or(Path::new(".")).to_owned()))
                }
                Some(name) if name.ends_with(".pb") => Ok(Self::Frozen(model.to_owned())),
                _ => Err(refuse("expected a folder with saved_model.pb, or a frozen_inference_graph.pb")),
            };
        }
        if !model.exists() {
            return Err(refuse("there is nothing at this path"));
        }
        for folder in [model.to_owned(), model.join("saved_model")] {
            if folder.join("saved_model.pb").is_file() {
                return Ok(Self::SavedModel(folder));
            }
        }
        let frozen = model.join("frozen_inference_graph.pb");
        if frozen.is_file() {
            return Ok(Self::Frozen(frozen));
        }
        Err(refuse("it has no saved_model.pb, no saved_model/ with one, and no frozen_inference_graph.pb"))
    }
}

/// `num_classes` of the `pipeline.config` in a MODEL folder or the folder above it; `None` when there is none.
pub fn declared_classes(model: &Path) -> Option<u32> {
    [Some(model), model.parent()].into_iter().flatten().find_map(|dir| {
        let text = std::fs::read_to_string(dir.join("pipeline.config")).ok()?;
        text.lines().find_map(|line| line.trim().strip_prefix("num_classes:")?.trim().parse().ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let zoo = dir.path().join("zoo");
        std::fs::create_dir_all(zoo.join("saved_model")).unwrap();
        assert!(ModelFiles::find(&zoo).unwrap_err().to_string().contains("no saved_model.pb"));
        assert!(ModelFiles::find(&dir.path().join("none")).is_err());
        std::fs::write(zoo.join("frozen_inference_graph.pb"), "").unwrap();
        assert_eq!(
            ModelFiles::find(&zoo).unwrap(),
            ModelFiles::Frozen(zoo.join("frozen_inference_graph.pb"))
        );
        std::fs::write(zoo.join("saved_model/saved_model.pb"), "").unwrap();
        let found = ModelFiles::SavedModel(zoo.join("saved_model"));
        assert_eq!(ModelFiles::find(&zoo).unwrap(), found);
        assert_eq!(ModelFiles::find(&zoo.join("saved_model")).unwrap(), found);
        assert_eq!(ModelFiles::find(&zoo.join("saved_model/saved_model.pb")).unwrap(), found);
        std::fs::write(zoo.join("pipeline.config"), "model {\n  ssd {\n    num_classes: 90\n").unwrap();
        assert_eq!(declared_classes(&zoo.join("saved_model")), Some(90));
    }
}
