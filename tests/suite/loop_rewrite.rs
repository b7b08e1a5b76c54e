//! Growth where the suppression lies in a loop over the pictures of a batch: lists of tensors, and the body a function of its
//! own, as TensorFlow 2's exporter leaves them where the batch is free. No TensorFlow, no files.

use crate::common::graphs::{integers, node, number, value, vector, weights, with};
use tfgraft::Error;
use tfgraft::graph::tensor::{attr, float_tensor, shape_proto};
use tfgraft::head::{grow, understand};
use tfgraft::pb::{self, attr_value::Value};

/// Four, as the classes of one of the cases: sizes alone would mislead.
const BOX: i32 = 4;
const ANCHORS: usize = 7;
const DEPTH: usize = 3;
/// The variables of the loop, in its order.
const VARIABLES: [&str; 7] = ["i", "kept", "labels", "multi", "boxes", "scores", "all"];

fn named(function: &str) -> Value {
    Value::Func(Box::new(pb::NameAttrList { name: function.into(), ..Default::default() }))
}

/// A function of the loop's variables; results are written like inputs of its nodes.
fn function(name: &str, nodes: Vec<pb::NodeDef>, results: &[&str]) -> pb::FunctionDef {
    let argument = |name: &str| pb::op_def::ArgDef { name: name.into(), ..Default::default() };
    let named = |i: usize| format!("result{i}");
    let signature = pb::OpDef {
        name: name.into(),
        input_arg: VARIABLES.map(argument).into(),
        output_arg: (0..results.len()).map(|i| argument(&named(i))).collect(),
        ..Default::default()
    };
    pb::FunctionDef {
        signature: Some(signature),
        node_def: nodes,
        ret: results.iter().enumerate().map(|(i, r)| (named(i), (*r).to_owned())).collect(),
        ..Default::default()
    }
}

/// One picture: a suppression for each class, everything joined and sorted.
fn body(classes: usize, columns: usize) -> pb::FunctionDef {
    let out = |node: &str| format!("{node}:out:0");
    let at = |name: &str, op: &str, inputs: &[&str]| {
        let inputs: Vec<String> =
            inputs.iter().map(|i| if VARIABLES.contains(i) { (*i).into() } else { out(i) }).collect();
        node(name, op, &inputs.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let mut nodes = vec![
        vector("boxes_shape", &[ANCHORS as i32, BOX]),
        vector("scores_shape", &[-1, classes as i32]),
        vector("all_shape", &[-1, columns as i32]),
        at("own_boxes", "TensorListGetItem", &["boxes", "i", "boxes_shape"]),
        at("own_scores", "TensorListGetItem", &["scores", "i", "scores_shape"]),
        at("own_all", "TensorListGetItem", &["all", "i", "all_shape"]),
        number("count", ANCHORS as i32),
        number("one", 1),
        with(at("column", "Pack", &["count", "one"]), "N", Value::I(2)),
        vector("flat", &[-1]),
        number("limit", 10),
        number("axis", 0),
    ];
    for class in 0..classes {
        let [start, slice, mine, nms, kept, label, labels, multi] =
            ["start", "slice", "mine", "nms", "kept", "label", "labels", "multi"]
                .map(|part| format!("{part}_{class}"));
        let zeros = format!("zeros_{class}");
        nodes.extend([
            vector(&start, &[0, class as i32]),
            at(&slice, "Slice", &["own_scores", &start, "column"]),
            at(&mine, "Reshape", &[&slice, "flat"]),
            at(&nms, "NonMaxSuppressionV3", &["own_boxes", &mine, "limit"]),
            at(&kept, "GatherV2", &[&mine, &nms, "axis"]),
            at(&multi, "GatherV2", &["own_all", &nms, "axis"]),
            at(&zeros, "ZerosLike", &[&kept]),
            value(&label, float_tensor(&[], &[class as f32])),
            at(&labels, "AddV2", &[&zeros, &label]),
        ]);
    }
    for part in ["kept", "labels", "multi"] {
        let parts: Vec<String> = (0..classes).map(|c| format!("{part}_{c}")).collect();
        let mut inputs: Vec<&str> = parts.iter().map(String::as_str).collect();
        let joined = format!("joined_{part}");
        if classes == 1 {
            nodes.push(at(&joined, "Identity", &inputs));
        } else {
            inputs.push("axis");
            nodes.push(with(at(&joined, "ConcatV2", &inputs), "N", Value::I(classes as i64)));
        }
    }
    nodes.push(at("sorted", "TopKV2", &["joined_kept", "limit"]));
    for part in ["kept", "labels", "multi"] {
        let (best, joined) = (format!("best_{part}"), format!("joined_{part}"));
        nodes.push(node(&best, "GatherV2", &[&out(&joined), "sorted:indices:0", "axis:out:0"]));
        nodes.push(at(&format!("set_{part}"), "TensorListSetItem", &[part, "i", &best]));
    }
    nodes.push(at("next", "AddV2", &["i", "one"]));
    // Some variables are handed on by an Identity, as autograph does it, some as they are.
    nodes.push(at("same_scores", "Identity", &["scores"]));
    let results = ["next", "set_kept", "set_labels", "set_multi", "boxes", "same_scores", "all"];
    let results = results.map(|r| if VARIABLES.contains(&r) { r.to_owned() } else { out(r) });
    function("body", nodes, &results.each_ref().map(String::as_str))
}

fn detector(classes: usize, background: bool) -> pb::MetaGraphDef {
    let columns = classes + usize::from(background);
    let condition = vec![number("most", 2), node("more", "Less", &["i", "most:out:0"])];
    let list = |name: &str, op: &str, inputs: &[&str]| node(&format!("list_{name}"), op, inputs);
    let nodes = vec![
        node("image", "Placeholder", &[]),
        weights("kernel", &[1, 1, DEPTH, columns]),
        weights("biases", &[columns]),
        node("conv", "Conv2D", &["image", "kernel"]),
        node("logits", "BiasAdd", &["conv", "biases"]),
        vector("anchors", &[-1, ANCHORS as i32, columns as i32]),
        node("flat", "Reshape", &["logits", "anchors"]),
        node("all", "Sigmoid", &["flat"]),
        vector("begin", &[0, 0, i32::from(background)]),
        vector("size", &[-1, -1, -1]),
        node("scores", "Slice", &["all", "begin", "size"]),
        node("boxes", "Placeholder", &[]),
        number("zero", 0),
        number("two", 2),
        number("unknown", -1),
        vector("boxes_shape", &[ANCHORS as i32, BOX]),
        vector("scores_shape", &[ANCHORS as i32, classes as i32]),
        vector("all_shape", &[-1, columns as i32]),
        vector("multi_shape", &[10, columns as i32]),
        list("boxes", "TensorListFromTensor", &["boxes", "boxes_shape"]),
        list("scores", "TensorListFromTensor", &["scores", "scores_shape"]),
        list("all", "TensorListFromTensor", &["all", "all_shape"]),
        list("kept", "TensorListReserve", &["unknown", "two"]),
        list("labels", "TensorListReserve", &["unknown", "two"]),
        list("multi", "TensorListReserve", &["multi_shape", "two"]),
        with(
            with(
                node(
                    "loop",
                    "While",
                    &[
                        "zero",
                        "list_kept",
                        "list_labels",
                        "list_multi",
                        "list_boxes",
                        "list_scores",
                        "list_all",
                    ],
                ),
                "body",
                named("body"),
            ),
            "cond",
            named("condition"),
        ),
        vector("stack_shape", &[10, columns as i32]),
        node("out_scores", "TensorListStack", &["loop:1", "unknown"]),
        node("out_labels", "TensorListStack", &["loop:2", "unknown"]),
        node("out_multi", "TensorListStack", &["loop:3", "stack_shape"]),
    ];
    let mut meta = crate::common::graphs::served(
        nodes,
        &[
            ("detection_scores", "out_scores", &[2, 10]),
            ("detection_classes", "out_labels", &[2, 10]),
            ("detection_multiclass_scores", "out_multi", &[2, 10, columns]),
            ("raw_detection_scores", "all", &[2, ANCHORS, columns]),
        ],
    );
    let functions = vec![body(classes, columns), function("condition", condition, &["more:out:0"])];
    let library = pb::FunctionDefLibrary { function: functions, ..Default::default() };
    meta.graph_def.as_mut().unwrap().library = Some(library);
    meta
}

/// The nodes of the main graph, or of the loop's body.
fn nodes(meta: &mut pb::MetaGraphDef, in_body: bool) -> &mut Vec<pb::NodeDef> {
    let graph = meta.graph_def.as_mut().unwrap();
    if in_body { &mut graph.library.as_mut().unwrap().function[0].node_def } else { &mut graph.node }
}

fn find<'a>(meta: &'a mut pb::MetaGraphDef, in_body: bool, name: &str) -> &'a mut pb::NodeDef {
    let mut found = nodes(meta, in_body).iter_mut().filter(|n| n.name == name);
    found.next().unwrap_or_else(|| panic!("no node {name}"))
}

fn numbers(meta: &mut pb::MetaGraphDef, in_body: bool, name: &str) -> Vec<i64> {
    integers(find(meta, in_body, name)).unwrap()
}

fn grown(meta: &pb::MetaGraphDef, added: usize) -> pb::MetaGraphDef {
    grow(meta, &understand(meta).unwrap(), added).unwrap().meta
}

#[test]
fn every_class_count_grows_in_a_loop_over_pictures() {
    for (classes, background, added) in
        [(3, true, 2), (4, false, 1), (2, true, 100), (1, true, 2), (90, false, 3)]
    {
        let case = format!("{classes}+{added}, background {background}");
        let mut base = detector(classes, background);
        let understood = understand(&base).unwrap();
        let located = &understood.located;
        assert_eq!((located.classes, located.background), (classes, background), "{case}");
        let [body] = &located.bodies[..] else { panic!("{case}: {} bodies", located.bodies.len()) };
        assert_eq!((body.home, body.scope), (0, 1), "{case}");

        let mut meta = grown(&base, added);
        let new = (classes + added) as i64;
        let columns = new + i64::from(background);
        for (in_body, name, expected) in [
            (false, "anchors", vec![-1, ANCHORS as i64, columns]),
            (false, "scores_shape", vec![ANCHORS as i64, new]),
            (false, "all_shape", vec![-1, columns]),
            (false, "multi_shape", vec![10, columns]),
            (false, "stack_shape", vec![10, columns]),
            (false, "boxes_shape", vec![ANCHORS as i64, i64::from(BOX)]),
            (false, "unknown", vec![-1]),
            (true, "scores_shape", vec![-1, new]),
            (true, "all_shape", vec![-1, columns]),
            (true, "boxes_shape", vec![ANCHORS as i64, i64::from(BOX)]),
        ] {
            assert_eq!(numbers(&mut meta, in_body, name), expected, "{case}: {name}");
        }
        for join in ["joined_kept", "joined_labels", "joined_multi"] {
            let join = find(&mut meta, true, join);
            assert_eq!((&*join.op, join.input.len()), ("ConcatV2", classes + added + 1), "{case}");
        }
        for class in classes..classes + added {
            let copy = |part: &str| format!("{part}_{}_tfgraft_{class}", classes - 1);
            assert_eq!(numbers(&mut meta, true, &copy("start")), [0, class as i64], "{case}");
            let slice = find(&mut meta, true, &copy("slice")).clone();
            assert_eq!(
                slice.input[..2],
                ["own_scores:out:0", &format!("{}:out:0", copy("start"))][..],
                "{case}"
            );
        }
        assert_eq!(find(&mut meta, true, "nms_0"), find(&mut base, true, "nms_0"), "{case}");
        assert!(nodes(&mut meta, false).iter().all(|n| !n.name.contains("tfgraft")), "{case}");
        let outputs = &meta.signature_def["serving_default"].outputs;
        for output in ["detection_multiclass_scores", "raw_detection_scores"] {
            let shape = outputs[output].tensor_shape.as_ref().unwrap();
            assert_eq!(shape.dim[2].size, columns, "{case}: {output}");
        }
    }
}

#[test]
fn a_grown_loop_grows_again() {
    let mut once = grown(&detector(3, true), 5);
    let mut twice = grown(&detector(3, true), 2);
    // Columns are put into the weights when they are written.
    *find(&mut twice, false, "kernel") = weights("kernel", &[1, 1, DEPTH, 6]);
    *find(&mut twice, false, "biases") = weights("biases", &[6]);
    let mut twice = grown(&twice, 3);
    for name in ["scores_shape", "all_shape", "multi_shape", "stack_shape"] {
        assert_eq!(numbers(&mut once, false, name), numbers(&mut twice, false, name), "{name}");
    }
    assert_eq!(nodes(&mut once, true).len(), nodes(&mut twice, true).len());
}

#[test]
fn shapes_that_a_loop_declares_of_its_variables_grow() {
    let mut meta = detector(3, true);
    // All scores come into the loop as they are, and out of it again.
    find(&mut meta, false, "loop").input.push("all".into());
    let shapes: Vec<pb::TensorShapeProto> =
        [&[][..], &[], &[], &[], &[], &[], &[], &[2, ANCHORS, 4]].map(shape_proto).into();
    let list = Value::List(Box::new(pb::attr_value::ListValue { shape: shapes, ..Default::default() }));
    find(&mut meta, false, "loop").attr.insert("output_shapes".into(), attr(list));
    let functions = &mut meta.graph_def.as_mut().unwrap().library.as_mut().unwrap().function;
    for function in functions.iter_mut() {
        let whole = pb::op_def::ArgDef { name: "whole".into(), ..Default::default() };
        function.signature.as_mut().unwrap().input_arg.push(whole);
    }
    let out = pb::op_def::ArgDef { name: "whole_again".into(), ..Default::default() };
    functions[0].signature.as_mut().unwrap().output_arg.push(out);
    functions[0].ret.insert("whole_again".into(), "whole".into());

    let mut wider = grown(&meta, 2);
    let Some(Value::List(list)) = &find(&mut wider, false, "loop").attr["output_shapes"].value else {
        panic!("no list of shapes")
    };
    let sizes = |i: usize| list.shape[i].dim.iter().map(|d| d.size).collect::<Vec<_>>();
    assert_eq!((sizes(0), sizes(7)), (vec![], vec![2, ANCHORS as i64, 6]));

    // What a round makes of them may be anything.
    let functions = &mut meta.graph_def.as_mut().unwrap().library.as_mut().unwrap().function;
    functions[0].node_def.push(node("other", "Neg", &["whole"]));
    functions[0].ret.insert("whole_again".into(), "other:y:0".into());
    refused(&meta, "loop:7", "changes in a loop");
}

/// The model must be refused, by understanding or growing it, with the tensor and the reason.
fn refused(meta: &pb::MetaGraphDef, at: &str, says: &str) {
    match understand(meta).and_then(|understood| grow(meta, &understood, 1)) {
        Err(Error::NotUnderstood { tensor, reason }) => {
            assert!(tensor.contains(at) && reason.contains(says), "{tensor}: {reason}");
        }
        other => panic!("{at}: {other:?}"),
    }
}

#[test]
fn loops_that_are_not_understood_are_refused_at_the_tensor() {
    // A list of scores that a round may alter.
    let mut meta = detector(3, true);
    *find(&mut meta, true, "same_scores") =
        node("same_scores", "TensorListSetItem", &["scores", "i", "own_all:out:0"]);
    refused(&meta, "argument scores", "expected TensorListFromTensor");

    // A list that comes from somewhere else.
    let mut meta = detector(3, true);
    find(&mut meta, false, "list_scores").op = "TensorListConcatLists".into();
    refused(&meta, "list_scores", "expected TensorListFromTensor");

    // Elements of another size, or of another number of axes, than what they hold.
    for (shape, says) in [(vec![10, 5], "size 1 should be 4"), (vec![10, 4, 1], "2 axes")] {
        let mut meta = detector(3, true);
        *find(&mut meta, false, "multi_shape") = vector("multi_shape", &shape);
        refused(&meta, if shape.len() == 2 { "multi_shape" } else { "set_multi" }, says);
    }

    // An array of another making holds what the rounds wrote.
    let mut meta = detector(3, true);
    find(&mut meta, false, "list_multi").op = "Placeholder".into();
    refused(&meta, "set_multi", "expected TensorListReserve");

    // Lists joined, of which some elements have no classes.
    let mut meta = detector(3, true);
    nodes(&mut meta, true).push(node("odd", "TensorListPushBack", &["all", "i"]));
    refused(&meta, "odd", "no rule");

    // Two loops share a body: what one passes is not what the other does.
    let mut meta = detector(3, true);
    let other = pb::NodeDef { name: "loop_too".into(), ..find(&mut meta, false, "loop").clone() };
    nodes(&mut meta, false).push(other);
    refused(&meta, "argument scores", "expected TensorListFromTensor");
}
