//! The one door through which a model comes to be run: read, looked at, then loaded.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::head::{Kind, understand};
use crate::pipeline_config;
use crate::policy;
use crate::runtime::{self, ServingModel, SessionConfig, Sharing};
use crate::saved_model::{SavedModel, SourceKind};

/// How to run a model.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Threads of TensorFlow; all cores by default.
    pub threads: Option<usize>,
    /// The folder of TensorFlow's library.
    pub tensorflow: Option<PathBuf>,
    /// Run what the policy refuses.
    pub trust: bool,
    /// Pictures that it will be shown. With many of them each thread runs one of its own.
    pub pictures: usize,
    /// Most bytes for a process that is started to run the model.
    pub memory_limit: Option<u64>,
}

/// From so many pictures on, all threads have one of their own most of the time.
const MANY: usize = 16;

/// Two-stage models are left out: their runs hold up to gigabytes.
fn sharing(model: &SavedModel, pictures: usize) -> Sharing {
    let small = || understand(model.meta()).is_ok_and(|understood| understood.located.kind != Kind::TwoStage);
    if pictures >= MANY && small() { Sharing::Runs } else { Sharing::Operations }
}

/// A model, loaded as a server would.
#[derive(Debug)]
pub struct Opened {
    /// Its bytes as messages.
    pub model: SavedModel,
    /// Ready for pictures.
    pub serving: ServingModel,
}

impl Opened {
    /// Reads, checks and loads the model that `path` names.
    ///
    /// Errors: those of [`SavedModel::read`]; [`Error::Unsafe`]; [`Error::TensorFlow`].
    pub fn load(path: &Path, options: &RunOptions) -> Result<Self> {
        let model = SavedModel::read(path)?;
        policy::admit(&model, options.trust)?;
        runtime::start(options.tensorflow.as_deref(), options.threads, sharing(&model, options.pictures))?;
        let config = SessionConfig { threads: options.threads, optimize: true };
        let serving = match &model.source.kind {
            SourceKind::SavedModel(folder) => ServingModel::load(folder, &config)?,
            SourceKind::FrozenGraph(file) => ServingModel::from_meta(file, model.meta(), &config)?,
        };
        Ok(Self { model, serving })
    }

    /// How many classes the model has: from its graph, or where its kind of head is not known, from its
    /// pipeline.config. The width of `raw_detection_scores` would not do, it may hold the background.
    pub fn classes(&self) -> Result<Option<usize>> {
        match (understand(self.model.meta()), &self.model.source.pipeline_config) {
            (Ok(understood), _) => Ok(Some(understood.located.classes)),
            (Err(_), Some(config)) => {
                let text = std::fs::read_to_string(config).map_err(|e| Error::io(config, e))?;
                Ok(pipeline_config::classes(&text).map(|n| n as usize))
            }
            (Err(_), None) => Ok(None),
        }
    }
}
