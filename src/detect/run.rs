//! A model with its label map, ready for pictures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::decode::{Detection, Outputs, decode_outputs, decode_rows};
use super::open::{Opened, RunOptions};
use crate::data::{LabelMap, Picture};
use crate::error::{Error, Result};
use crate::runtime::{AnyTensor, ServingModel};

/// How to load a detector.
#[derive(Debug, Clone, Default)]
pub struct DetectorOptions {
    /// The label map; without one see [`LabelMap::for_model`].
    pub label_map: Option<PathBuf>,
    /// How to run the model.
    pub run: RunOptions,
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
const MASKS: &str = "detection_masks";

/// What a model says of the inside of a box.
#[derive(Debug, Clone, PartialEq)]
pub struct BoxMask {
    /// Rows and columns.
    pub size: (usize, usize),
    /// For each cell, row by row, how likely it belongs to the thing; in [0, 1].
    pub values: Vec<f32>,
}

impl Detector {
    /// Loads a SavedModel folder, a zoo folder or a frozen graph.
    pub fn load(path: &Path, options: &DetectorOptions) -> Result<Self> {
        // Before the model: a mistake in a label map should not cost the seconds that loading takes.
        let given = options.label_map.as_deref().map(LabelMap::read).transpose()?;
        let opened = Opened::load(path, &options.run)?;
        for output in [BOXES, SCORES, CLASSES, COUNT] {
            if !opened.serving.outputs().contains_key(output) {
                let names: Vec<_> = opened.serving.outputs().keys().map(String::as_str).collect();
                return Err(Error::NotAModel {
                    path: path.to_owned(),
                    reason: format!(
                        "its signature has no output {output}, only {}; expected a detector of the OD API",
                        names.join(", ")
                    ),
                });
            }
        }
        let beside = opened.model.source.label_map.as_deref();
        let (labels, labels_from) = match (given, &options.label_map) {
            (Some(map), Some(path)) => (map, path.display().to_string()),
            _ => LabelMap::for_model(None, beside, || Ok(opened.classes()?.unwrap_or(0) as u32))?,
        };
        Ok(Self { model: opened.serving, labels, labels_from })
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

    /// Whether the model gives masks.
    pub fn has_masks(&self) -> bool {
        self.model.outputs().contains_key(MASKS)
    }

    /// Detections with their masks, from a model that [has](Self::has_masks) them.
    ///
    /// Errors: [`Error::Data`] where the masks are not float32 `[1, N, rows, columns]`.
    pub fn detect_with_masks(&self, picture: &Picture, min_score: f32) -> Result<Vec<(Detection, BoxMask)>> {
        let outputs = self.model.run_image(&picture.rgb, picture.height as usize, picture.width as usize)?;
        let masks = output(&outputs, MASKS)?;
        let wrong = || Error::Data(format!("{MASKS} is {masks:?}, expected float32 [1, N, rows, columns]"));
        let &[1, count, height, width] = &masks.shape()[..] else { return Err(wrong()) };
        let values = masks.f32()?;
        let one = |(row, detection): (usize, Detection)| -> Result<(Detection, BoxMask)> {
            let cells = height * width;
            let values = (row < count).then(|| values.get(row * cells..(row + 1) * cells)).flatten();
            let values = values.ok_or_else(wrong)?.to_vec();
            Ok((detection, BoxMask { size: (height, width), values }))
        };
        decode_rows(meant(&outputs)?, min_score)?.into_iter().map(one).collect()
    }

    /// The model below.
    pub fn model(&self) -> &ServingModel {
        &self.model
    }
}

/// Decodes what [`ServingModel::run_image`] gave.
pub fn from_tensors(outputs: &BTreeMap<String, AnyTensor>, min_score: f32) -> Result<Vec<Detection>> {
    decode_outputs(meant(outputs)?, min_score)
}

fn output<'a>(outputs: &'a BTreeMap<String, AnyTensor>, name: &str) -> Result<&'a AnyTensor> {
    outputs.get(name).ok_or_else(|| Error::Data(format!("the model gave no {name}")))
}

fn meant(outputs: &BTreeMap<String, AnyTensor>) -> Result<Outputs<'_>> {
    Ok(Outputs {
        boxes: output(outputs, BOXES)?.f32()?,
        scores: output(outputs, SCORES)?.f32()?,
        classes: output(outputs, CLASSES)?.f32()?,
        count: output(outputs, COUNT)?.f32()?,
    })
}
