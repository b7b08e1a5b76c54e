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
    let not = |reason: String| Error::NotAModel { path: file.to_owned(), reason };
    if let Some(node) = graph.node.iter().find(|n| is_of_tflite(n)) {
        return Err(not(format!(
            "its node {} ({}) is that of an export for TFLite, without the post-processing that has to grow; grow the frozen \
             graph that export_inference_graph.py makes of the same checkpoint, then convert",
            node.name, node.op
        )));
    }
    let input = INPUTS.iter().find_map(|name| find(name)).ok_or_else(|| {
        let inputs: Vec<&str> =
            graph.node.iter().filter(|n| n.op == "Placeholder").map(|n| n.name.as_str()).collect();
        not(format!("its inputs are {inputs:?}; a frozen detection graph has one of {INPUTS:?}"))
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
        return Err(not(
            "it has no node detection_boxes, which a frozen detection graph has as an output".into()
        ));
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

/// The operation that replaces post-processing on a phone, and the input that such an export has
/// (object_detection/export_tflite_ssd_graph_lib.py).
fn is_of_tflite(node: &pb::NodeDef) -> bool {
    node.op == "TFLite_Detection_PostProcess"
        || (node.op == "Placeholder" && node.name == "normalized_input_image_tensor")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::nodes::node;

    fn refusal(nodes: Vec<pb::NodeDef>) -> String {
        let graph = pb::GraphDef { node: nodes, ..Default::default() };
        wrap(Path::new("graph.pb"), graph).unwrap_err().to_string()
    }

    fn named(name: &str, op: &str) -> pb::NodeDef {
        node::<&str>(name, op, &[]).build()
    }

    #[test]
    fn graphs_for_a_phone_are_refused_with_and_without_its_operation() {
        let input = || named("normalized_input_image_tensor", "Placeholder");
        let said = refusal(vec![input()]);
        assert!(said.contains("normalized_input_image_tensor") && said.contains("TFLite"), "{said}");
        let post = named("post", "TFLite_Detection_PostProcess");
        let said = refusal(vec![post, input()]);
        assert!(said.contains("post (TFLite_Detection_PostProcess)"), "{said}");
    }

    #[test]
    fn graphs_that_are_no_detectors_are_refused_with_what_they_have() {
        let said = refusal(vec![named("input", "Placeholder"), named("probabilities", "Softmax")]);
        assert!(said.contains("[\"input\"]") && said.contains("image_tensor"), "{said}");
        let said = refusal(vec![named("image_tensor", "Placeholder")]);
        assert!(said.contains("no node detection_boxes"), "{said}");
    }
}
