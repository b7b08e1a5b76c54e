//! Models that take pictures in other forms than bytes of pixels: every command runs them, and retraining gives the columns
//! that the same model with pixels gets.

use crate::common;

use std::fs;
use std::path::Path;

use crate::common::graphs::{node, number, vector, with};
use prost::Message;
use serde_json::Value as Json;
use tempfile::{TempDir, tempdir};
use tfgraft::export::{VariableValues, layer_values};
use tfgraft::graph::tensor::shape_proto;
use tfgraft::head::{LayerValues, understand};
use tfgraft::pb::attr_value::{ListValue, Value};
use tfgraft::pb::{self, DataType, TensorProto};
use tfgraft::saved_model::SavedModel;

fn typed(node: pb::NodeDef, key: &str, dtype: DataType) -> pb::NodeDef {
    with(node, key, Value::Type(dtype as i32))
}

fn integers(node: pb::NodeDef) -> pb::NodeDef {
    typed(node, "dtype", DataType::DtInt32)
}

/// Nodes that make `image_tensor` of the bytes of a file, a scalar.
fn decoded(bytes: &str) -> Vec<pb::NodeDef> {
    let decode = with(node("in/decode", "DecodePng", &[bytes]), "channels", Value::I(3));
    let batch = typed(node("image_tensor", "ExpandDims", &["in/decode", "in/axis"]), "T", DataType::DtUint8);
    vec![
        typed(decode, "dtype", DataType::DtUint8),
        integers(number("in/axis", 0)),
        typed(batch, "Tdim", DataType::DtInt32),
    ]
}

/// The one string of the batch, as a scalar.
fn first() -> Vec<pb::NodeDef> {
    let scalar = typed(node("in/first", "Reshape", &["in", "in/none"]), "T", DataType::DtString);
    vec![integers(vector("in/none", &[])), typed(scalar, "Tshape", DataType::DtInt32)]
}

fn parsed() -> pb::NodeDef {
    let list = |value: ListValue| Value::List(Box::new(value));
    let keys = ListValue { s: vec!["image/encoded".as_bytes().to_vec().into()], ..Default::default() };
    let strings = ListValue { r#type: vec![DataType::DtString as i32], ..Default::default() };
    let scalars = ListValue { shape: vec![shape_proto(&[])], ..Default::default() };
    let parse = node("in/parse", "ParseSingleExample", &["in/first", "in/default"]);
    let parse = with(with(parse, "num_sparse", Value::I(0)), "sparse_keys", list(ListValue::default()));
    let parse = with(with(parse, "dense_keys", list(keys)), "sparse_types", list(ListValue::default()));
    with(with(parse, "Tdense", list(strings)), "dense_shapes", list(scalars))
}

/// The committed model with another input in front of its pixels.
fn model(form: &str) -> TempDir {
    let folder = common::fixture("tf1_frozen/base");
    fs::remove_file(folder.path().join("frozen_inference_graph.pb")).unwrap();
    let place = folder.path().join("saved_model");
    let mut model = SavedModel::read(&place).unwrap();
    let (dtype, new) = match form {
        "float" => {
            let cast = typed(node("image_tensor", "Cast", &["in"]), "SrcT", DataType::DtFloat);
            (DataType::DtFloat, vec![typed(cast, "DstT", DataType::DtUint8)])
        }
        "encoded" => (DataType::DtString, [first(), decoded("in/first")].concat()),
        "example" => {
            let nothing = TensorProto {
                dtype: DataType::DtString.into(),
                tensor_shape: Some(shape_proto(&[])),
                string_val: vec![Vec::new().into()],
                ..Default::default()
            };
            let default = common::graphs::value("in/default", nothing);
            let default = typed(default, "dtype", DataType::DtString);
            (DataType::DtString, [first(), vec![default, parsed()], decoded("in/parse")].concat())
        }
        _ => return folder,
    };
    let meta = &mut model.proto.meta_graphs[0];
    let graph = meta.graph_def.as_mut().unwrap();
    graph.node.retain(|node| node.name != "image_tensor");
    graph.node.push(typed(node("in", "Placeholder", &[]), "dtype", dtype));
    graph.node.extend(new);
    let info = pb::TensorInfo {
        dtype: dtype.into(),
        tensor_shape: Some(pb::TensorShapeProto { unknown_rank: true, dim: Vec::new() }),
        encoding: Some(pb::tensor_info::Encoding::Name("in:0".into())),
    };
    meta.signature_def.get_mut("serving_default").unwrap().inputs = [("inputs".to_owned(), info)].into();
    fs::write(place.join("saved_model.pb"), model.proto.encode_to_vec()).unwrap();
    folder
}

fn layers(model: &Path) -> Vec<LayerValues> {
    let model = SavedModel::read(model).unwrap();
    let understood = understand(model.meta()).unwrap();
    let variables = VariableValues::read(&model, &understood).unwrap();
    layer_values(&model, &variables, &understood.layers).unwrap()
}

fn told(words: &[&str]) -> Json {
    common::json(common::tfgraft().args(words).args(["--json", "--quiet"]))
}

#[test]
fn every_form_of_input_is_trained_and_run_alike() {
    if !common::has_tensorflow() {
        return;
    }
    let (data, parent) = (tempdir().unwrap(), tempdir().unwrap());
    let labels = common::squares(data.path(), 3);
    let (labels, probe) = (labels.to_str().unwrap(), common::probe());
    let probe = probe.to_str().unwrap();
    let below = |name: String| parent.path().join(name).to_str().unwrap().to_owned();
    let mut expected: Option<(Vec<LayerValues>, Json)> = None;
    for form in ["bytes", "float", "encoded", "example"] {
        let source = model(form);
        let grown = below(format!("{form}_grown"));
        let report = told(&[
            "retrain",
            source.path().to_str().unwrap(),
            "--data",
            labels,
            "--output",
            &grown,
            "--views",
            "2",
        ]);
        assert!(report["old_scores"]["detections"].as_u64().is_some(), "{form}: {report}");
        let found = told(&["detect", &grown, probe, "--min-score", "0"])["images"][0]["detections"].clone();
        assert!(found.as_array().unwrap().len() > 3, "{form}: {found}");
        let got = (layers(Path::new(&grown)), found);
        // The pixels that come out of a PNG are those that went in: nothing may differ.
        if let Some(expected) = &expected {
            assert!(got.0 == expected.0, "{form}: other columns");
            assert_eq!(got.1, expected.1, "{form}");
        } else {
            expected = Some(got);
        }
    }
    let grown = below("encoded_grown".into());
    told(&["evaluate", &grown, "--data", labels]);
    let (source, reference) = (model("encoded"), below("reference".into()));
    let source = source.path().to_str().unwrap();
    common::tfgraft().args(["verify", "record", source, probe, "--output", &reference]).assert().success();
    told(&["verify", "check", &grown, &reference, "--grown"]);
    let published = told(&["publish", &below("example_grown".into()), &below("served".into())]);
    assert_eq!(published["verified"]["requests"], 2, "{published}");
}
