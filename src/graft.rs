//! The steps that `grow` and `retrain` share: grow the graph, prove it, place columns, write, compare.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::data::{LabelMap, Picture};
use crate::error::{Error, Result};
use crate::export::changes::{WeightChanges, list_changes};
use crate::export::prove::{Kept, Noise, outputs_on, prove_old_scores};
use crate::export::{Proof, Staging, VariableValues, Weights, flat, prove, write_model};
use crate::head::columns::initial;
use crate::head::{Activation, Grown, Growth, Init, LayerValues, NewColumns, Understood, grow};
use crate::pipeline_config;
use crate::runtime::{ServingModel, SessionConfig};
use crate::saved_model::SavedModel;
use crate::verify::array::Outputs;

/// A class to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewClass {
    /// Its name in the label map.
    pub name: String,
    /// What its columns start as.
    pub init: Init,
}

impl FromStr for NewClass {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, init) = text.split_once('=').unwrap_or((text, "silent"));
        if name.trim().is_empty() {
            return Err(Error::Usage(format!("{text:?} names no class; expected NAME or NAME=INIT")));
        }
        Ok(Self { name: name.to_owned(), init: init.parse()? })
    }
}

/// A model with room for new classes, in memory.
#[derive(Debug)]
pub struct Graft {
    /// The source.
    pub model: SavedModel,
    /// Its head and variables.
    pub understood: Understood,
    /// Its grown graph.
    pub grown: Grown,
    /// What each new class's columns start as.
    inits: Vec<Init>,
}

impl Graft {
    /// Grows the graph of an understood model; nothing is run or written yet.
    pub fn new(model: SavedModel, understood: Understood, add: &[NewClass]) -> Result<Self> {
        let grown = grow(model.meta(), &understood, add.len())?;
        Ok(Self { model, understood, grown, inits: add.iter().map(|c| c.init).collect() })
    }

    /// Classes of the source, without background.
    pub fn classes_before(&self) -> usize {
        self.grown.growth.classes
    }

    /// Columns by each class's `INIT`; `old` are the values of the class layers, here and below.
    pub fn initial_columns(&self, old: &[LayerValues], seed: u64) -> Result<Vec<NewColumns>> {
        self.start_columns(old, &self.inits, seed)
    }

    fn start_columns(&self, old: &[LayerValues], inits: &[Init], seed: u64) -> Result<Vec<NewColumns>> {
        let layers = self.understood.layers.iter().zip(old).enumerate();
        layers
            .map(|(i, (layer, values))| {
                initial(
                    values,
                    &layer.axis,
                    layer.role,
                    self.grown.growth,
                    inits,
                    seed.wrapping_add(i as u64),
                )
            })
            .collect()
    }

    /// Shows that the grown graph is the old one where the new classes are silent, on these pictures; `before` is what the
    /// source computes there.
    pub fn prove_silent(
        &self,
        before: &[Outputs],
        variables: &VariableValues,
        weights: &mut Weights,
        old: &[LayerValues],
        session: &SessionConfig,
        pictures: &[Picture],
    ) -> Result<Proof> {
        let silent = vec![Init::Silent; self.grown.growth.added];
        let columns = self.start_columns(old, &silent, 0)?;
        let new =
            flat::serve_grown(&self.understood, &self.grown, variables, weights, old, &columns, session)?;
        let added = self.grown.growth.added;
        match prove(before, &new, pictures, added, &Noise::default()) {
            // A network of wild weights blows its rounding up, the source's as well: it is run in another way, as a server runs
            // it, and how far that moves it is what nobody can undercut.
            Err(Error::CheckFailed(reason)) => {
                let other = SessionConfig { optimize: !session.optimize, ..*session };
                let again = flat::serve_source(&self.model, variables, weights, &other)?;
                let noise = Noise::between(before, &outputs_on(&again, pictures)?);
                let proof = prove(before, &new, pictures, added, &noise);
                proof.map(|proof| Proof { noise: Some(noise), ..proof }).map_err(|error| match error {
                    Error::CheckFailed(_) => Error::CheckFailed(reason),
                    other => other,
                })
            }
            result => result,
        }
    }

    /// Writes the model with its columns to the staging folder, reads it back and compares every weight.
    pub fn write(
        &self,
        staging: &Staging,
        old: &[LayerValues],
        columns: &[NewColumns],
    ) -> Result<WeightChanges> {
        let folder = staging.path().join("saved_model");
        write_model(&folder, &self.model, &self.understood, &self.grown, old, columns)?;
        let written = SavedModel::read(&folder)?;
        let changes = list_changes(&self.model, &written, &self.understood.layers, self.grown.growth)?;
        changes.check()?;
        Ok(changes)
    }

    /// Writes what an OD API user finds beside a model: label map and pipeline.config.
    pub fn write_companions(&self, staging: &Staging, labels: &LabelMap) -> Result<()> {
        labels.write(&staging.path().join("label_map.pbtxt"))?;
        if let Some(config) = &self.model.source.pipeline_config {
            let text = fs::read_to_string(config).map_err(|e| Error::io(config, e))?;
            let target = staging.path().join("pipeline.config");
            let classes = self.grown.growth.classes + self.grown.growth.added;
            fs::write(&target, pipeline_config::with_classes(&text, classes))
                .map_err(|e| Error::io(&target, e))?;
        }
        Ok(())
    }

    /// Lets go of both graphs, whose room TensorFlow needs to load the result, and keeps what is needed to check that.
    pub fn into_reload(self) -> Reload {
        let graph = self.model.meta().graph_def.as_ref();
        let library = graph.and_then(|graph| graph.library.as_ref());
        Reload {
            functions: library.is_some_and(|library| !library.function.is_empty()),
            shared: self.understood.located.activation == Activation::Softmax,
            growth: self.grown.growth,
            source: self.model.dir().map(Path::to_owned),
        }
    }
}

/// What is known of a graft when its result is loaded.
#[derive(Debug)]
pub struct Reload {
    /// Whether its graph has functions.
    functions: bool,
    /// Whether old and new classes share one whole.
    shared: bool,
    growth: Growth,
    /// The folder of the source, where it is a SavedModel.
    source: Option<PathBuf>,
}

impl Reload {
    /// Loads what [`Graft::write`] wrote, as a server would, and holds its old scores against the source's, `before`.
    pub fn verify(
        &self,
        staging: &Staging,
        before: &[Outputs],
        session: &SessionConfig,
        pictures: &[Picture],
    ) -> Result<(Proof, ServingModel)> {
        // A function that the session leaves alone is optimised under its own configuration, which takes longer.
        let session = SessionConfig { optimize: session.optimize || self.functions, ..*session };
        let written = ServingModel::load(&staging.path().join("saved_model"), &session)?;
        let Growth { added, classes } = self.growth;
        let kept = Kept { added, classes, least_score: 0.3, shared: self.shared };
        let proof = match (prove_old_scores(before, &written, pictures, &kept), &self.source) {
            // Flat and loaded graphs run other kernels; a network of wild weights can blow their rounding up. Like is
            // then compared with like, which costs another load.
            (Err(Error::CheckFailed(_)), Some(source)) => {
                let source = ServingModel::load(source, &session)?;
                prove_old_scores(&outputs_on(&source, pictures)?, &written, pictures, &kept)?
            }
            (result, _) => result?,
        };
        Ok((proof, written))
    }
}
