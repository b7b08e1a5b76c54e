//! Growth of a heatmap detector as a pure rewrite: what grows must be what the same builder makes with more classes.

use crate::common::graphs::{integers, node, nodes, number, served, value, vector, weights, with};
use tfgraft::Error;
use tfgraft::graph::tensor::float_tensor;
use tfgraft::head::{Kind, grow, understand};
use tfgraft::pb::{self, attr_value::Value};

const HEIGHT: i32 = 32;
const WIDTH: i32 = 32;
const DEPTH: usize = 3;
const BEST: i32 = 100;

/// Peak finding, ranking and the scores of all classes at the chosen places, as the OD API's CenterNet makes them; and
/// keypoints, ranked channel by channel, whose numbers are no classes.
fn detector(classes: i32, by_remainder: bool) -> pb::MetaGraphDef {
    let sizes = |name: &str, values: &[i64]| {
        let list = pb::attr_value::ListValue { i: values.to_vec(), ..Default::default() };
        (name.to_owned(), Value::List(Box::new(list)))
    };
    let pooled = |name: &str, input: &str| {
        [sizes("ksize", &[1, 3, 3, 1]), sizes("strides", &[1, 1, 1, 1])]
            .into_iter()
            .fold(node(name, "MaxPool", &[input]), |pool, (key, value)| with(pool, &key, value))
    };
    let mut all = vec![
        node("image", "Placeholder", &[]),
        weights("kernel", &[1, 1, DEPTH, classes as usize]),
        weights("biases", &[classes as usize]),
        node("conv", "Conv2D", &["image", "kernel"]),
        node("logits", "BiasAdd", &["conv", "biases"]),
        node("heat", "Sigmoid", &["logits"]),
        // Padding of the picture shows nothing.
        node("mask", "Placeholder", &[]),
        number("last", 3),
        node("masks", "ExpandDims", &["mask", "last"]),
        node("shown", "Mul", &["heat", "masks"]),
        pooled("around", "shown"),
        node("below", "Sub", &["shown", "around"]),
        node("distance", "Abs", &["below"]),
        value("near", float_tensor(&[], &[1e-6])),
        node("peak", "Less", &["distance", "near"]),
        node("peaks", "Cast", &["peak"]),
        node("heights", "Mul", &["shown", "peaks"]),
        vector("flat", &[1, -1]),
        node("ranked", "Reshape", &["heights", "flat"]),
        number("best", BEST),
        node("top", "TopKV2", &["ranked", "best"]),
        number("classes", classes),
        number("width", WIDTH),
        node("position", "FloorDiv", &["top:1", "classes"]),
        node("row", "FloorDiv", &["position", "width"]),
        node("rows_before", "Mul", &["row", "width"]),
        node("column", "Sub", &["position", "rows_before"]),
        with(node("places", "Pack", &["row", "column"]), "axis", Value::I(-1)),
        vector("pairs", &[BEST, 2]),
        node("at", "Reshape", &["places", "pairs"]),
        number("zero", 0),
    ];
    if by_remainder {
        all.push(node("class", "FloorMod", &["top:1", "classes"]));
    } else {
        all.push(node("before", "Mul", &["position", "classes"]));
        all.push(node("class", "Sub", &["top:1", "before"]));
    }
    all.extend([
        node("label", "Cast", &["class"]),
        // All classes' scores at the chosen places.
        vector("zeros", &[0; BEST as usize]),
        vector("firsts_shape", &[BEST, 1]),
        node("firsts", "Reshape", &["zeros", "firsts_shape"]),
        number("behind", -1),
        node("triples", "ConcatV2", &["firsts", "at", "behind"]),
        node("chosen", "GatherNd", &["shown", "triples"]),
        vector("chosen_shape", &[1, BEST, classes]),
        node("scores_of_all", "Reshape", &["chosen", "chosen_shape"]),
        // Seventeen keypoints.
        weights("joint_kernel", &[1, 1, DEPTH, 17]),
        weights("joint_biases", &[17]),
        node("joint_conv", "Conv2D", &["image", "joint_kernel"]),
        node("joint_logits", "BiasAdd", &["joint_conv", "joint_biases"]),
        node("joint_heat", "Sigmoid", &["joint_logits"]),
        vector("by_channel", &[1, 17, -1]),
        node("joint_flat", "Reshape", &["joint_heat", "by_channel"]),
        node("joint_top", "TopKV2", &["joint_flat", "best"]),
        node("joint_row", "FloorDiv", &["joint_top:1", "width"]),
        number("height", HEIGHT),
    ]);
    let columns = classes as usize;
    served(
        all,
        &[
            ("detection_classes", "label", &[1, BEST as usize]),
            ("detection_scores", "top", &[1, BEST as usize]),
            ("detection_multiclass_scores", "scores_of_all", &[1, BEST as usize, columns]),
        ],
    )
}

/// Part of a vector of sizes; `end` 0 is its end.
fn part(name: &str, of: &str, begin: i32, end: i32) -> [pb::NodeDef; 4] {
    let [first, last, step] = ["first", "last", "step"].map(|bound| format!("{name}_{bound}"));
    let slice = node(name, "StridedSlice", &[of, &first, &last, &step]);
    let slice = with(slice, "begin_mask", Value::I(i64::from(begin == 0)));
    let slice = with(slice, "end_mask", Value::I(i64::from(end == 0)));
    [vector(&first, &[begin]), vector(&last, &[end]), vector(&step, &[1]), slice]
}

/// The same for any number of pictures: sizes are put together at run time (object_detection/utils/ops.py: gather_nd with
/// batch_dims, and tf.meshgrid).
fn free_batch(mut meta: pb::MetaGraphDef) -> pb::MetaGraphDef {
    let all = &mut meta.graph_def.as_mut().unwrap().node;
    let replaced = ["flat", "pairs", "zeros", "firsts_shape", "firsts", "chosen_shape"];
    all.retain(|node| !replaced.contains(&&*node.name));
    all.extend([
        node("heights_shape", "Shape", &["heights"]),
        number("rest", -1),
        number("one", 1),
        vector("alone", &[1]),
        node("flat", "Pack", &["pictures", "rest"]),
        // Row and column of each.
        node("places_shape", "Shape", &["places"]),
        node("picture", "Pack", &["pictures"]),
        node("pairs", "ConcatV2", &["picture", "place_and_pair", "zero"]),
        // The number of the picture, for each.
        node("numbers", "Range", &["zero", "pictures", "one"]),
        node("row_of_numbers", "Pack", &["numbers"]),
        vector("turned", &[1, 0]),
        node("column_of_numbers", "Transpose", &["row_of_numbers", "turned"]),
        node("column_shape", "Shape", &["column_of_numbers"]),
        node("middle", "Fill", &["alone", "one"]),
        node("firsts_shape", "ConcatV2", &["column_front", "middle", "column_back", "zero"]),
        node("lone", "Reshape", &["column_of_numbers", "firsts_shape"]),
        node("times", "ConcatV2", &["alone", "place_alone", "alone", "zero"]),
        node("firsts", "Tile", &["lone", "times"]),
        node("chosen_sizes", "Shape", &["chosen"]),
        node("chosen_shape", "ConcatV2", &["pictures_again", "chosen_back", "zero"]),
    ]);
    for (name, of, begin, end) in [
        ("pictures_again", "heights_shape", 0, 1),
        ("place_and_pair", "places_shape", 1, 0),
        ("place_alone", "places_shape", 1, 2),
        ("column_front", "column_shape", 0, 1),
        ("column_back", "column_shape", 1, 0),
        ("chosen_back", "chosen_sizes", 1, 0),
    ] {
        all.extend(part(name, of, begin, end));
    }
    let mut pictures = part("pictures", "heights_shape", 0, 1);
    pictures[3] = with(pictures[3].clone(), "shrink_axis_mask", Value::I(1));
    all.extend(pictures);
    meta
}

#[test]
fn indices_whose_width_is_not_told_are_refused() {
    for (name, unknown) in [
        ("times", node("times", "Placeholder", &[])),
        ("turned", node("turned", "Placeholder", &[])),
        // Packed along the other axis it is as wide as there are pictures.
        ("row_of_numbers", with(node("row_of_numbers", "Pack", &["numbers"]), "axis", Value::I(1))),
    ] {
        let mut meta = free_batch(detector(90, false));
        *meta.graph_def.as_mut().unwrap().node.iter_mut().find(|n| n.name == name).unwrap() = unknown;
        let error = grow(&meta, &understand(&meta).unwrap(), 1).unwrap_err().to_string();
        assert!(error.contains("chosen") && error.contains("unknown shape"), "{name}: {error}");
    }
}

#[test]
fn grows_into_what_more_classes_would_have_made() {
    let as_it_is: fn(pb::MetaGraphDef) -> pb::MetaGraphDef = |meta| meta;
    // With as many classes as columns of the map, or as keypoints, numbers alone would mislead.
    let cases = [(90, 2, false), (1, 1, false), (WIDTH, 3, false), (17, 10, true), (2, 1, true)];
    for ((classes, added, by_remainder), batch) in
        cases.into_iter().flat_map(|case| [(case, as_it_is), (case, free_batch)])
    {
        let meta = batch(detector(classes, by_remainder));
        let understood = understand(&meta).unwrap();
        assert_eq!(understood.located.kind, Kind::CenterPoints);
        assert_eq!(understood.located.classes, classes as usize);
        assert_eq!(understood.layers.len(), 1);
        let grown = grow(&meta, &understood, added as usize).unwrap().meta;
        let expected = batch(detector(classes + added, by_remainder));

        let by_name = |name: &str| nodes(&expected).iter().find(|n| n.name == name);
        let mut constants = 0;
        for found in nodes(&grown) {
            // A constant that is two things was split.
            let name = found.name.split("_tfgraft").next().unwrap();
            let wanted = by_name(name).unwrap_or_else(|| panic!("{} is new", found.name));
            if let Some(values) = integers(found) {
                let read = nodes(&grown).iter().any(|n| n.input.contains(&found.name));
                assert!(!read || integers(wanted) == Some(values), "{classes}+{added}: {}", found.name);
                constants += 1;
            } else {
                assert_eq!(found.op, wanted.op);
            }
        }
        assert!(constants > 10);
        let shape = |meta: &pb::MetaGraphDef| {
            meta.signature_def["serving_default"].outputs["detection_multiclass_scores"].tensor_shape.clone()
        };
        assert_eq!(shape(&grown), shape(&expected));
    }
}

#[test]
fn an_index_used_for_something_else_is_refused() {
    for (odd, tensor) in [
        (node("odd", "FloorDiv", &["top:1", "width"]), "odd"),
        (node("odd", "Sub", &["top:1", "width"]), "odd"),
        (node("odd", "Cumsum", &["top:1", "zero"]), "odd"),
    ] {
        let mut meta = detector(90, false);
        meta.graph_def.as_mut().unwrap().node.push(odd);
        let understood = understand(&meta).unwrap();
        match grow(&meta, &understood, 1) {
            Err(Error::NotUnderstood { tensor: named, .. }) => assert!(named.contains(tensor), "{named}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn two_ranked_heatmaps_are_refused() {
    let mut meta = detector(90, false);
    let also = &mut meta.graph_def.as_mut().unwrap().node;
    also.extend([
        node("other_heat", "Sigmoid", &["joint_logits"]),
        node("other_flat", "Reshape", &["other_heat", "flat"]),
        node("other_top", "TopKV2", &["other_flat", "best"]),
    ]);
    let error = understand(&meta).unwrap_err().to_string();
    assert!(error.contains("one ranked heatmap"), "{error}");
}
