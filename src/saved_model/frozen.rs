//! Wraps a `frozen_inference_graph.pb` of the TF1 exporter in a SavedModel message.

use std::path::Path;

use crate::error::{Error, Result};
use crate::pb;

/// Inputs that the OD API's exporter.py makes, in the order in which they are looked for.
const INPUTS: [&str; 3] = ["image_tensor", "encoded_image_string_tensor", "tf_example"];

/// Outputs that the OD API's exporter.py names.
const OUTPUTS: [&str; 9] = [
    "detection_boxes",
    "detection_scores",
    "detection_classes",
    "num_detections",
    "detection_multiclass_scores",
    "detection_masks",
    "detection_keypoints",
    "raw_detection_boxes",
    "raw_detection_scores",
];

/// Gives the graph the signature that exporter.py would have written. Errors: [`Error::NotAModel`] where the graph has
/// no input or no boxes by the exporter's names.
pub fn wrap(file: &Path, graph: pb::GraphDef) -> Result<pb::SavedModel> {
    let find = |name: &str| graph.node.iter().find(|n| n.name == name);
    let not = |reason: &str| Error::NotAModel { path: file.to_owned(), reason: reason.to_owned() };
    let input = INPUTS.iter().find_map(|name| find(name)).ok_or_else(|| {
        not("a frozen detection graph has an input image_tensor, encoded_image_string_tensor or tf_example")
    })?;
    let input_info = pb::TensorInfo {
        dtype: dtype_attr(input, "dtype").unwrap_or(pb::DataType::DtUint8 as i32),
        tensor_shape: shape_attr(input),
        encoding: Some(pb::tensor_info::Encoding::Name(format!("{}:0", input.name))),
    };
    let outputs: std::collections::BTreeMap<_, _> = OUTPUTS
        .iter()
        .filter(|name| find(name).is_some())
        .map(|name| {
            let info = pb::TensorInfo {
                dtype: pb::DataType::DtFloat as i32,
                tensor_shape: Some(pb::TensorShapeProto { unknown_rank: true, dim: vec![] }),
                encoding: Some(pb::tensor_info::Encoding::Name(format!("{name}:0"))),
            };
            ((*name).to_owned(), info)
        })
        .collect();
    if !outputs.contains_key("detection_boxes") {
        return Err(not("a frozen detection graph has an output detection_boxes"));
    }
    let signature = pb::SignatureDef {
        inputs: [("inputs".to_owned(), input_info)].into(),
        outputs,
        method_name: "tensorflow/serving/predict".into(),
        ..Default::default()
    };
    let meta = pb::MetaGraphDef {
        meta_info_def: Some(pb::meta_graph_def::MetaInfoDef {
            tags: vec!["serve".into()],
            ..Default::default()
        }),
        signature_def: [("serving_default".to_owned(), signature)].into(),
        graph_def: Some(graph),
        ..Default::default()
    };
    Ok(pb::SavedModel { saved_model_schema_version: 1, meta_graphs: vec![meta] })
}

fn dtype_attr(node: &pb::NodeDef, key: &str) -> Option<i32> {
    match node.attr.get(key)?.value.as_ref()? {
        pb::attr_value::Value::Type(t) => Some(*t),
        _ => None,
    }
}

fn shape_attr(node: &pb::NodeDef) -> Option<pb::TensorShapeProto> {
    match node.attr.get("shape")?.value.as_ref()? {
        pb::attr_value::Value::Shape(shape) => Some(shape.clone()),
        _ => None,
    }
}
