//! Resolves MODEL of the command line to files.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The file of a SavedModel that holds everything but the variables' values.
pub const SAVED_MODEL_PB: &str = "saved_model.pb";

/// The files of a detection model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSource {
    /// Where the graph is.
    pub kind: SourceKind,
    /// The zoo's pipeline.config, where the model has one.
    pub pipeline_config: Option<PathBuf>,
    /// A label_map.pbtxt beside the model.
    pub label_map: Option<PathBuf>,
}

/// A SavedModel directory or one frozen graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceKind {
    /// A directory with `saved_model.pb` and perhaps `variables/`.
    SavedModel(PathBuf),
    /// A `frozen_inference_graph.pb` of the TF1 exporter.
    FrozenGraph(PathBuf),
}

impl ModelSource {
    /// Finds the model that `path` names: a SavedModel directory, a zoo directory with `saved_model/` inside, or a
    /// frozen graph. Errors: [`Error::NotAModel`] with what was looked for.
    pub fn resolve(path: &Path) -> Result<Self> {
        let not = |reason: String| Error::NotAModel { path: path.to_owned(), reason };
        let kind = if path.is_file() {
            if path.file_name().is_some_and(|name| name == SAVED_MODEL_PB) {
                SourceKind::SavedModel(path.parent().unwrap_or(Path::new(".")).to_owned())
            } else if path.extension().is_some_and(|e| e == "pb") {
                SourceKind::FrozenGraph(path.to_owned())
            } else {
                return Err(not("expected a folder, or a frozen graph ending in .pb".into()));
            }
        } else if path.is_dir() {
            if path.join(SAVED_MODEL_PB).is_file() {
                SourceKind::SavedModel(path.to_owned())
            } else if path.join("saved_model").join(SAVED_MODEL_PB).is_file() {
                SourceKind::SavedModel(path.join("saved_model"))
            } else if path.join("frozen_inference_graph.pb").is_file() {
                SourceKind::FrozenGraph(path.join("frozen_inference_graph.pb"))
            } else {
                return Err(not(
                    "it has no saved_model.pb, no saved_model/ with one, and no frozen_inference_graph.pb"
                        .into(),
                ));
            }
        } else {
            return Err(not("no such file or folder".into()));
        };
        // Zoo archives keep pipeline.config and the label map one level above saved_model/.
        let home = match &kind {
            SourceKind::SavedModel(dir) => dir.as_path(),
            SourceKind::FrozenGraph(file) => file.parent().unwrap_or(Path::new(".")),
        };
        let beside = |name: &str| {
            let above = home.canonicalize().ok().and_then(|home| home.parent().map(Path::to_owned));
            [Some(home.to_owned()), above].into_iter().flatten().map(|d| d.join(name)).find(|f| f.is_file())
        };
        Ok(Self { pipeline_config: beside("pipeline.config"), label_map: beside("label_map.pbtxt"), kind })
    }

    /// The folder or file that holds the graph.
    pub fn path(&self) -> &Path {
        match &self.kind {
            SourceKind::SavedModel(path) | SourceKind::FrozenGraph(path) => path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zoo_directory_is_found_with_its_config() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("saved_model")).unwrap();
        std::fs::write(dir.path().join("saved_model/saved_model.pb"), b"").unwrap();
        std::fs::write(dir.path().join("pipeline.config"), b"").unwrap();
        let source = ModelSource::resolve(dir.path()).unwrap();
        assert_eq!(source.kind, SourceKind::SavedModel(dir.path().join("saved_model")));
        assert!(source.pipeline_config.is_some());
        assert!(source.label_map.is_none());
    }

    #[test]
    fn what_is_missing_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let message = ModelSource::resolve(dir.path()).unwrap_err().to_string();
        assert!(message.contains("saved_model.pb"), "{message}");
    }

    #[test]
    fn the_same_files_are_found_from_every_path_that_names_them() {
        let dir = tempfile::tempdir().unwrap();
        let zoo = dir.path().join("zoo");
        std::fs::create_dir_all(zoo.join("saved_model")).unwrap();
        let kind = |path: &Path| ModelSource::resolve(path).unwrap().kind;
        assert!(ModelSource::resolve(&zoo).unwrap_err().to_string().contains("no saved_model.pb"));
        assert!(ModelSource::resolve(&dir.path().join("none")).is_err());
        std::fs::write(zoo.join("frozen_inference_graph.pb"), "").unwrap();
        assert_eq!(kind(&zoo), SourceKind::FrozenGraph(zoo.join("frozen_inference_graph.pb")));
        std::fs::write(zoo.join("saved_model/saved_model.pb"), "").unwrap();
        let found = SourceKind::SavedModel(zoo.join("saved_model"));
        assert_eq!(kind(&zoo), found);
        assert_eq!(kind(&zoo.join("saved_model")), found);
        assert_eq!(kind(&zoo.join("saved_model/saved_model.pb")), found);
    }
}
