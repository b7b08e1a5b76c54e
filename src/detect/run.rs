//! A model with its label map, ready for pictures: the only neighbour of the runtime in this module.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::decode::{Detection, Outputs, decode_outputs};
use crate::data::{LabelMap, Picture};
use crate::error::{Error, Result};
use crate::head::understand;
use crate::pb::DataType;
use crate::pipeline_config;
use crate::runtime::{self, AnyTensor, ServingModel, SessionConfig, TensorInfoLite};
use crate::saved_model::{ModelSource, SavedModel, SourceKind};

/// How to load a detector.
#[derive(Debug, Clone, Default)]
pub struct DetectorOptions {
    /// The label map; without one see [`LabelMap::for_model`].
    pub label_map: Option<PathBuf>,
    /// Threads of TensorFlow; all cores by default.
    pub threads: Option<usize>,
    /// The folder of TensorFlow's library.
    pub tensorflow: Option<PathBuf>,
}

/// A detector with the names of its classes.
#[derive(Debug)]
pub struct Detector {
    model: ServingModel,
    /// Names of the classes.
    pub labels: LabelMap,
    /// Where the names come from, for people.
    pub labels_from: String,
}

const BOXES: &str = "detection_boxes";
const SCORES: &str = "detection_scores";
const CLASSES: &str = "detection_classes";
const COUNT: &str = "num_detections";

impl Detector {
    /// Loads a SavedModel folder, a zoo folder or a frozen graph.
    pub fn load(path: &Path, options: &DetectorOptions) -> Result<Self> {
        let source = ModelSource::resolve(path)?;
        // Before the model: a mistake in a label map should not cost the seconds that loading takes.
        let given = options.label_map.as_deref().map(LabelMap::read).transpose()?;
        runtime::start(options.tensorflow.as_deref(), options.threads)?;
        let config = SessionConfig { threads: options.threads, optimize: true };
        let model = match &source.kind {
            SourceKind::SavedModel(folder) => ServingModel::load(folder, &config)?,
            SourceKind::FrozenGraph(file) => load_frozen(file, &config)?,
        };
        for output in [BOXES, SCORES, CLASSES, COUNT] {
            if !model.outputs().contains_key(output) {
                let names: Vec<_> = model.outputs().keys().map(String::as_str).collect();
                return Err(Error::NotAModel {
                    path: path.to_owned(),
                    reason: format!(
                        "its signature has no output {output}, only {}; expected a detector of the OD API",
                        names.join(", ")
                    ),
                });
            }
        }
        let beside = source.label_map.as_deref();
        let (labels, labels_from) = match (given, &options.label_map) {
            (Some(map), Some(path)) => (map, path.display().to_string()),
            _ => LabelMap::for_model(None, beside, || count_classes(&source))?,
        };
        Ok(Self { model, labels, labels_from })
    }

    /// Wraps a model that is loaded already.
    pub fn new(model: ServingModel, labels: LabelMap) -> Self {
        Self { model, labels, labels_from: "given".to_owned() }
    }

    /// Detections in a picture with at least `min_score`, best first.
    pub fn detect(&self, picture: &Picture, min_score: f32) -> Result<Vec<Detection>> {
        let outputs = self.model.run_image(&picture.rgb, picture.height as usize, picture.width as usize)?;
        from_tensors(&outputs, min_score)
    }

    /// The model below.
    pub fn model(&self) -> &ServingModel {
        &self.model
    }
}

/// Decodes what [`ServingModel::run_image`] gave.
pub fn from_tensors(outputs: &BTreeMap<String, AnyTensor>, min_score: f32) -> Result<Vec<Detection>> {
    let values = |name: &str| -> Result<&[f32]> {
        outputs.get(name).ok_or_else(|| Error::Data(format!("the model gave no {name}")))?.f32()
    };
    let outputs = Outputs {
        boxes: values(BOXES)?,
        scores: values(SCORES)?,
        classes: values(CLASSES)?,
        count: values(COUNT)?,
    };
    decode_outputs(outputs, min_score)
}

/// A frozen graph of the OD API, whose tensors have fixed names.
fn load_frozen(file: &Path, config: &SessionConfig) -> Result<ServingModel> {
    let bytes = std::fs::read(file).map_err(|e| Error::io(file, e))?;
    let tensor = |name: &str, dtype| TensorInfoLite { name: format!("{name}:0"), dtype, shape: None };
    let outputs = [BOXES, SCORES, CLASSES, COUNT]
        .into_iter()
        .map(|name| (name.to_owned(), tensor(name, DataType::DtFloat)))
        .collect();
    ServingModel::from_graph(&bytes, tensor("image_tensor", DataType::DtUint8), outputs, config)
}

/// How many classes a model has: from its graph, or where its kind of head is not known, from its pipeline.config. The
/// width of `raw_detection_scores` would not do, it may hold the background.
fn count_classes(source: &ModelSource) -> Result<u32> {
    let model = SavedModel::read(source.path())?;
    match (understand(model.meta()), &source.pipeline_config) {
        (Ok(understood), _) => Ok(understood.located.classes as u32),
        (Err(_), Some(config)) => {
            let text = std::fs::read_to_string(config).map_err(|e| Error::io(config, e))?;
            Ok(pipeline_config::classes(&text).unwrap_or(0))
        }
        (Err(_), None) => Ok(0),
    }
}
