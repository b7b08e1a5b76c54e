//! Growth as a pure rewrite, on a detector of a dozen operations built here: no TensorFlow, no files.

use crate::common;

use crate::common::graphs::{node, value, vector, with};
use tfgraft::Error;
use tfgraft::graph::tensor::{attr, constant, float_tensor, int_scalar, ints, shape_proto};
use tfgraft::head::{Weights, grow, understand};
use tfgraft::pb::{self, attr_value::Value};
use tfgraft::saved_model::SavedModel;

const ANCHORS: usize = 2;
const DEPTH: usize = 3;

/// One level, `classes` classes, with or without background, per-class suppression and a sort as the OD API makes them.
fn detector(classes: usize, background: bool) -> pb::MetaGraphDef {
    let columns = classes + usize::from(background);
    let channels = ANCHORS * columns;
    let floats = |shape: &[usize]| float_tensor(shape, &vec![0.5; shape.iter().product()]);
    let mut nodes = vec![
        node("image", "Placeholder", &[]),
        value("kernel", floats(&[1, 1, DEPTH, channels])),
        value("biases", floats(&[channels])),
        node("conv", "Conv2D", &["image", "kernel"]),
        node("logits", "BiasAdd", &["conv", "biases"]),
        vector("columns", &[-1, columns as i32]),
        node("flat", "Reshape", &["logits", "columns"]),
        node("scores", "Sigmoid", &["flat"]),
        vector("begin", &[0, i32::from(background)]),
        vector("size", &[-1, -1]),
        node("foreground", "Slice", &["scores", "begin", "size"]),
        node("boxes", "Placeholder", &[]),
        value("count", int_scalar(7)),
        value("one", int_scalar(1)),
        with(node("column", "Pack", &["count", "one"]), "N", Value::I(2)),
        vector("all", &[-1]),
        value("limit", int_scalar(10)),
        value("axis", int_scalar(0)),
    ];
    for class in 0..classes {
        let name = |part: &str| format!("{part}_{class}");
        let (start, slice, scores, nms, kept, label, labels) = (
            name("start"),
            name("slice"),
            name("mine"),
            name("nms"),
            name("kept"),
            name("label"),
            name("labels"),
        );
        nodes.extend([
            vector(&start, &[0, class as i32]),
            node(&slice, "Slice", &["foreground", &start, "column"]),
            node(&scores, "Reshape", &[&slice, "all"]),
            node(&nms, "NonMaxSuppressionV3", &["boxes", &scores, "limit"]),
            node(&kept, "GatherV2", &[&scores, &nms, "axis"]),
            node(&name("zeros"), "ZerosLike", &[&kept]),
            value(&label, float_tensor(&[], &[class as f32])),
            node(&labels, "AddV2", &[&name("zeros"), &label]),
        ]);
    }
    for (join, part) in [("joined_scores", "kept"), ("joined_labels", "labels")] {
        let parts: Vec<String> = (0..classes).map(|c| format!("{part}_{c}")).collect();
        let mut inputs: Vec<&str> = parts.iter().map(String::as_str).collect();
        if classes == 1 {
            // tf.concat of one tensor is an identity.
            nodes.push(node(join, "Identity", &inputs));
            continue;
        }
        inputs.push("axis");
        nodes.push(with(node(join, "ConcatV2", &inputs), "N", Value::I(classes as i64)));
    }
    nodes.extend([
        node("sorted", "TopKV2", &["joined_scores", "limit"]),
        node("out_scores", "GatherV2", &["joined_scores", "sorted:1", "axis"]),
        node("out_labels", "GatherV2", &["joined_labels", "sorted:1", "axis"]),
    ]);
    let info = |name: &str, shape: Option<&[usize]>| pb::TensorInfo {
        dtype: pb::DataType::DtFloat as i32,
        tensor_shape: shape.map(shape_proto),
        encoding: Some(pb::tensor_info::Encoding::Name(format!("{name}:0"))),
    };
    let outputs = [
        ("detection_scores".to_owned(), info("out_scores", None)),
        ("detection_classes".to_owned(), info("out_labels", None)),
        ("raw_detection_scores".to_owned(), info("scores", Some(&[7, columns]))),
    ];
    let signature = pb::SignatureDef { outputs: outputs.into(), ..Default::default() };
    pb::MetaGraphDef {
        graph_def: Some(pb::GraphDef { node: nodes, ..Default::default() }),
        signature_def: [("serving_default".to_owned(), signature)].into(),
        ..Default::default()
    }
}

fn find<'a>(meta: &'a pb::MetaGraphDef, name: &str) -> &'a pb::NodeDef {
    meta.graph_def
        .as_ref()
        .unwrap()
        .node
        .iter()
        .find(|n| n.name == name)
        .unwrap_or_else(|| panic!("no node {name}"))
}

fn find_mut<'a>(meta: &'a mut pb::MetaGraphDef, name: &str) -> &'a mut pb::NodeDef {
    let nodes = &mut meta.graph_def.as_mut().unwrap().node;
    nodes.iter_mut().find(|n| n.name == name).unwrap_or_else(|| panic!("no node {name}"))
}

fn numbers(meta: &pb::MetaGraphDef, name: &str) -> Vec<i64> {
    ints(constant(find(meta, name)).unwrap()).unwrap()
}

#[test]
fn every_class_count_grows() {
    for (classes, background, added) in [
        (3, true, 2),
        (4, false, 1),
        (2, true, 100),
        (1, true, 2),
        (1, false, 100),
        (90, true, 2),
        (601, true, 1),
    ] {
        let meta = detector(classes, background);
        let understood = understand(&meta).unwrap();
        assert_eq!((understood.located.classes, understood.located.background), (classes, background));
        assert!(matches!(&understood.layers[0].kernel, Weights::Constant { name, .. } if name == "kernel"));
        assert_eq!(understood.layers[0].axis.outer, Some(ANCHORS));

        let grown = grow(&meta, &understood, added).unwrap().meta;
        let columns = (classes + added + usize::from(background)) as i64;
        assert_eq!(numbers(&grown, "columns"), [-1, columns]);
        let info = &grown.signature_def["serving_default"].outputs["raw_detection_scores"];
        assert_eq!(info.tensor_shape.as_ref().unwrap().dim[1].size, columns);
        for join in ["joined_scores", "joined_labels"] {
            let join = find(&grown, join);
            assert_eq!((&*join.op, join.input.len()), ("ConcatV2", classes + added + 1), "{classes}+{added}");
        }
        for class in classes..classes + added {
            assert_eq!(numbers(&grown, &format!("start_{}_tfgraft_{class}", classes - 1)), [0, class as i64]);
            let label = find(&grown, &format!("label_{}_tfgraft_{class}", classes - 1));
            let label = tfgraft::graph::tensor::floats(constant(label).unwrap()).unwrap();
            assert_eq!(label, [class as f32]);
        }
        // The first classes' copies are untouched.
        assert_eq!(find(&grown, "nms_0"), find(&meta, "nms_0"));
    }
}

#[test]
fn an_operation_without_a_rule_is_refused_by_name() {
    let mut meta = detector(3, true);
    let nodes = &mut meta.graph_def.as_mut().unwrap().node;
    nodes.push(node("odd", "Cumsum", &["scores", "axis"]));
    let understood = understand(&meta).unwrap();
    match grow(&meta, &understood, 1) {
        Err(Error::NotUnderstood { tensor, reason }) => {
            assert!(tensor.contains("odd") && reason.contains("Cumsum"), "{tensor}: {reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_shared_constant_is_split() {
    let mut meta = detector(3, false);
    let nodes = &mut meta.graph_def.as_mut().unwrap().node;
    // The same constant shapes boxes, whose 3 is no class count.
    nodes.push(node("other", "Reshape", &["boxes", "columns"]));
    let understood = understand(&meta).unwrap();
    let grown = grow(&meta, &understood, 2).unwrap().meta;
    assert_eq!(numbers(&grown, "columns"), [-1, 3]);
    assert_eq!(find(&grown, "flat").input[1], "columns_tfgraft");
    assert_eq!(numbers(&grown, "columns_tfgraft"), [-1, 5]);
    assert_eq!(find(&grown, "other").input[1], "columns");
}

#[test]
fn classes_that_differ_are_refused() {
    let mut meta = detector(3, true);
    *find_mut(&mut meta, "label_1") = value("label_1", float_tensor(&[], &[5.0]));
    let understood = understand(&meta).unwrap();
    let error = grow(&meta, &understood, 1).unwrap_err().to_string();
    assert!(error.contains("label_1"), "{error}");
}

#[test]
fn nothing_to_suppress_is_no_detector() {
    let mut meta = detector(2, true);
    meta.graph_def.as_mut().unwrap().node.retain(|n| n.name == "image");
    meta.signature_def.clear();
    assert!(understand(&meta).unwrap_err().to_string().contains("not a detection model"));
}

/// What a refusal says: the tensor and the reason.
fn refusal(meta: &pb::MetaGraphDef) -> (String, String) {
    match understand(meta) {
        Err(Error::NotUnderstood { tensor, reason }) => (tensor, reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn post_processing_of_other_makers_is_refused_by_name() {
    for (op, says) in [
        ("TFLite_Detection_PostProcess", "grow the SavedModel"),
        ("CombinedNonMaxSuppression", "CombinedNonMaxSuppression"),
    ] {
        let mut meta = detector(2, true);
        let nodes = &mut meta.graph_def.as_mut().unwrap().node;
        let end = nodes.iter().position(|n| n.name == "foreground").unwrap();
        nodes.truncate(end);
        nodes.push(node("boxes", "Placeholder", &[]));
        nodes.push(node("post", op, &["boxes", "scores"]));
        meta.signature_def.clear();
        let (tensor, reason) = refusal(&meta);
        assert!(tensor.contains("post") && reason.contains(says), "{op}: {tensor}: {reason}");
    }
}

fn named(function: &str) -> Value {
    Value::Func(Box::new(pb::NameAttrList { name: function.into(), ..Default::default() }))
}

/// A function of boxes and scores that says what it stands for, and the call of it.
fn stand_in(implements: Value) -> (pb::FunctionDef, pb::NodeDef) {
    let argument = |name: &str| pb::op_def::ArgDef { name: name.into(), ..Default::default() };
    let signature = pb::OpDef {
        name: "stand_in".into(),
        input_arg: vec![argument("boxes"), argument("scores")],
        output_arg: vec![argument("chosen")],
        ..Default::default()
    };
    let function = pb::FunctionDef {
        signature: Some(signature),
        node_def: vec![value("none", int_scalar(0))],
        ret: [("chosen".to_owned(), "none:output:0".to_owned())].into(),
        attr: [("_implements".to_owned(), attr(implements))].into(),
        ..Default::default()
    };
    (function, with(node("call", "PartitionedCall", &["boxes", "scores"]), "f", named("stand_in")))
}

fn add_function(meta: &mut pb::MetaGraphDef, function: pb::FunctionDef) {
    let library = pb::FunctionDefLibrary { function: vec![function], ..Default::default() };
    meta.graph_def.as_mut().unwrap().library = Some(library);
}

#[test]
fn an_export_for_tflite_is_refused_at_the_function_that_its_converter_replaces() {
    let mut meta = detector(2, true);
    let nodes = &mut meta.graph_def.as_mut().unwrap().node;
    let end = nodes.iter().position(|n| n.name == "foreground").unwrap();
    nodes.truncate(end);
    nodes.push(node("boxes", "Placeholder", &[]));
    let (function, call) = stand_in(named("TFLite_Detection_PostProcess"));
    nodes.push(call);
    add_function(&mut meta, function);
    meta.signature_def.clear();
    let (tensor, reason) = refusal(&meta);
    assert!(tensor.contains("call:0") && reason.contains("TFLite"), "{tensor}: {reason}");
}

#[test]
fn what_gives_no_detections_is_refused_with_what_it_gives() {
    let mut meta = detector(2, true);
    meta.graph_def.as_mut().unwrap().node.retain(|n| !n.op.starts_with("NonMaxSuppression"));
    for node in &mut meta.graph_def.as_mut().unwrap().node {
        node.input.retain(|input| !input.starts_with("nms_"));
    }
    let (tensor, reason) = refusal(&meta);
    assert!(tensor.contains("out_labels"), "{tensor}");
    assert!(reason.contains("raw_detection_scores is made by Sigmoid"), "{reason}");
}

#[test]
fn every_version_of_suppression_grows_and_so_does_its_function_of_loops() {
    for op in [
        "NonMaxSuppression",
        "NonMaxSuppressionV2",
        "NonMaxSuppressionV4",
        "NonMaxSuppressionV5",
        "PartitionedCall",
    ] {
        let mut meta = detector(3, true);
        for class in 0..3 {
            let node = find_mut(&mut meta, &format!("nms_{class}"));
            node.op = op.into();
            if op == "PartitionedCall" {
                node.input.truncate(2);
                node.attr.insert("f".into(), attr(named("stand_in")));
            }
        }
        if op == "PartitionedCall" {
            add_function(&mut meta, stand_in(Value::S("non_max_suppression_padded_v2".into())).0);
        }
        let understood = understand(&meta).unwrap();
        assert_eq!((understood.located.classes, understood.located.background), (3, true), "{op}");
        let grown = grow(&meta, &understood, 2).unwrap().meta;
        assert_eq!(find(&grown, "nms_2_tfgraft_4").op, op);
        assert_eq!(find(&grown, "nms_2_tfgraft_4").attr, find(&meta, "nms_2").attr);
        assert_eq!(find(&grown, "joined_scores").input.len(), 6);
    }
}

#[test]
fn quantised_models_grow_through_their_fake_rounding() {
    let mut meta = detector(3, true);
    for (reader, input, quantised) in [("conv", 1, "kernel"), ("flat", 0, "logits")] {
        let fake = format!("{quantised}_fake");
        find_mut(&mut meta, reader).input[input] = fake.clone();
        let nodes = &mut meta.graph_def.as_mut().unwrap().node;
        nodes.push(node(&fake, "FakeQuantWithMinMaxVars", &[quantised, "least", "most"]));
    }
    let nodes = &mut meta.graph_def.as_mut().unwrap().node;
    nodes.extend([value("least", float_tensor(&[], &[-6.0])), value("most", float_tensor(&[], &[6.0]))]);
    let understood = understand(&meta).unwrap();
    assert!(matches!(&understood.layers[0].kernel, Weights::Constant { name, .. } if name == "kernel"));
    let grown = grow(&meta, &understood, 2).unwrap().meta;
    assert_eq!(numbers(&grown, "columns"), [-1, 6]);
    assert_eq!(find(&grown, "kernel_fake"), find(&meta, "kernel_fake"));

    // With a range for each channel, the ranges would have to grow too.
    let mut meta = meta;
    for fake in ["kernel_fake", "logits_fake"] {
        find_mut(&mut meta, fake).op = "FakeQuantWithMinMaxVarsPerChannel".into();
    }
    let (tensor, reason) = refusal(&meta);
    assert!(tensor.contains("logits_fake") && reason.contains("unknown operation"), "{tensor}: {reason}");
}

#[test]
fn functions_are_understood_whatever_they_are_called() {
    let base = common::fixture("tf2_shared/base");
    let file = base.path().join("saved_model/saved_model.pb");
    let grown = || {
        let model = SavedModel::read(base.path()).unwrap();
        let understood = understand(model.meta()).unwrap();
        let grown = grow(model.meta(), &understood, 2).unwrap();
        (understood.located.classes, understood.located.bodies.len(), grown.changes)
    };
    // Exports of TensorFlow 2.2 to 2.15 differ in these names; two of the same length, since messages hold lengths.
    let (now, then) = ("__inference_", "__forward_x_");
    let before = grown();
    let bytes = std::fs::read(&file).unwrap();
    let mut renamed = bytes.clone();
    let places: Vec<usize> =
        (0..bytes.len() - now.len()).filter(|&i| bytes[i..].starts_with(now.as_bytes())).collect();
    assert!(places.len() > 10);
    for place in places {
        renamed[place..place + then.len()].copy_from_slice(then.as_bytes());
    }
    std::fs::write(&file, renamed).unwrap();
    let after = grown();
    let named =
        |names: &[String]| -> Vec<String> { names.iter().map(|name| name.replace(now, then)).collect() };
    assert_eq!((before.0, before.1), (after.0, after.1));
    assert_eq!(named(&before.2.changed), after.2.changed);
    assert_eq!(named(&before.2.added), after.2.added);
}

#[test]
fn a_head_of_unknown_operations_is_refused_at_the_tensor() {
    let mut meta = detector(2, true);
    find_mut(&mut meta, "logits").op = "Einsum".into();
    let (tensor, reason) = refusal(&meta);
    assert!(tensor.contains("logits"), "{tensor}: {reason}");
    assert!(reason.contains("unknown operation"), "{reason}");
}

#[test]
fn suppression_of_all_classes_at_once_is_refused_at_the_suppression() {
    let mut meta = detector(2, true);
    // The best class of each anchor, then one suppression, as class-agnostic exports do it.
    for name in ["mine_0", "mine_1"] {
        *find_mut(&mut meta, name) = node(name, "Max", &["foreground", "axis"]);
    }
    let (tensor, reason) = refusal(&meta);
    assert!(tensor.contains("nms_0"), "{tensor}: {reason}");
    assert!(reason.contains("one non-max suppression per class"), "{reason}");
}

#[test]
fn scores_of_boxes_that_are_not_there_are_seen_through() {
    let mut meta = detector(2, true);
    for slice in ["slice_0", "slice_1"] {
        find_mut(&mut meta, slice).input[0] = "there".into();
    }
    // use_static_shapes: rows from the number of valid boxes on hold the least float.
    meta.graph_def.as_mut().unwrap().node.extend([
        node("valid", "Placeholder", &[]),
        node("shape", "Shape", &["foreground"]),
        value("least", float_tensor(&[], &[f32::MIN])),
        node("nothing", "Fill", &["shape", "least"]),
        node("there", "Select", &["valid", "foreground", "nothing"]),
    ]);
    let understood = understand(&meta).unwrap();
    assert_eq!(understood.located.classes, 2);
    let grown = grow(&meta, &understood, 1).unwrap().meta;
    assert_eq!(numbers(&grown, "columns"), [-1, 4]);
    assert_eq!(numbers(&grown, "start_1_tfgraft_2"), [0, 2]);
}
