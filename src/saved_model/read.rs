//! Reads a model's bytes into messages, losing nothing. TensorFlow is not involved.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;

use super::frozen;
use super::source::{ModelSource, SAVED_MODEL_PB, SourceKind};
use super::wire;
use crate::error::{Error, Result};
use crate::input;
use crate::pb;

/// The tag that TF Serving and the exporters use.
pub const SERVE: &str = "serve";

/// Number of the field of SavedModel that holds its meta graphs.
const META_GRAPHS: u64 = 2;

/// A model as messages, with where it came from.
#[derive(Debug, Clone)]
pub struct SavedModel {
    /// The whole of saved_model.pb (a frozen graph is wrapped in one).
    pub proto: pb::SavedModel,
    /// The files it was read from.
    pub source: ModelSource,
}

impl SavedModel {
    /// Reads the model that `path` names.
    ///
    /// Errors: [`Error::NotAModel`], [`Error::Damaged`], [`Error::UnknownField`], [`Error::Io`].
    pub fn read(path: &Path) -> Result<Self> {
        let source = ModelSource::resolve(path)?;
        let proto = match &source.kind {
            SourceKind::SavedModel(dir) => read_saved_model(&dir.join(SAVED_MODEL_PB))?,
            SourceKind::FrozenGraph(file) => {
                frozen::wrap(file, decode::<pb::GraphDef>(file, "GraphDef", read_file(file)?)?)?
            }
        };
        let model = Self { proto, source };
        model.check_variables()?;
        Ok(model)
    }

    /// The one meta graph.
    pub fn meta(&self) -> &pb::MetaGraphDef {
        &self.proto.meta_graphs[0]
    }

    /// The folder of a SavedModel; none for a frozen graph.
    pub fn dir(&self) -> Option<&Path> {
        match &self.source.kind {
            SourceKind::SavedModel(dir) => Some(dir),
            SourceKind::FrozenGraph(_) => None,
        }
    }

    /// The prefix of the checkpoint, where the model has variables.
    pub fn variables_prefix(&self) -> Option<PathBuf> {
        let prefix = self.dir()?.join("variables").join("variables");
        prefix.with_extension("index").is_file().then_some(prefix)
    }

    fn check_variables(&self) -> Result<()> {
        // TensorFlow would wait for ever for a pipe that nobody writes to.
        for entry in self
            .dir()
            .and_then(|dir| fs::read_dir(dir.join("variables")).ok())
            .into_iter()
            .flatten()
            .flatten()
        {
            input::regular(&entry.path())?;
        }
        let wanted = self.meta().graph_def.iter().flat_map(|g| &g.node).any(|n| n.op == "VarHandleOp");
        if wanted && self.variables_prefix().is_none() {
            return Err(Error::NotAModel {
                path: self.source.path().to_owned(),
                reason: "its graph reads variables but variables/variables.index is missing; copy the whole \
                         SavedModel folder"
                    .into(),
            });
        }
        Ok(())
    }
}

fn read_saved_model(file: &Path) -> Result<pb::SavedModel> {
    let not = |reason: String| Error::NotAModel { path: file.to_owned(), reason };
    let bytes = read_file(file)?;
    // Before any of them is decoded.
    if let many @ 2.. = wire::occurrences(&bytes, META_GRAPHS) {
        return Err(not(format!("{many} meta graphs, expected one with tag \"{SERVE}\"")));
    }
    let model: pb::SavedModel = decode(file, "SavedModel", bytes)?;
    if model.saved_model_schema_version != 1 {
        return Err(not(format!("schema version {}, expected 1", model.saved_model_schema_version)));
    }
    match &model.meta_graphs[..] {
        [meta] if meta.graph_def.is_none() => return Err(not("its meta graph has no graph".into())),
        [meta] => {
            let tags = meta.meta_info_def.as_ref().map(|i| i.tags.as_slice()).unwrap_or_default();
            if !tags.iter().any(|tag| tag == SERVE) {
                return Err(not(format!("tags {tags:?}, expected \"{SERVE}\"; is it a training export?")));
            }
        }
        _ => return Err(not(format!("no meta graph, expected one with tag \"{SERVE}\""))),
    }
    Ok(model)
}

fn decode<M: Message + Default>(file: &Path, message: &str, bytes: Bytes) -> Result<M> {
    let what = file.display().to_string();
    if bytes.is_empty() {
        return Err(Error::Damaged { what, reason: "the file is empty".into() });
    }
    wire::check(&what, message, &bytes)?;
    M::decode(bytes).map_err(|e| Error::Damaged { what, reason: e.to_string() })
}

fn read_file(file: &Path) -> Result<Bytes> {
    input::read_file(file, input::PROTO).map(Bytes::from)
}
