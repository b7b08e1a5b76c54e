//! `tfgraft inspect` and `tfgraft grow` on the committed models, seen from outside.

use crate::common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use prost::Message;
use serde_json::Value;
use tempfile::tempdir;
use tfgraft::data::LabelMap;
use tfgraft::pb;
use tfgraft::runtime::{AnyTensor, ServingModel, SessionConfig};

const TOLERANCE: f32 = 1e-5;
const PAIRS: [&str; 9] = [
    "tf1_frozen",
    "tf2_levels",
    "tf2_shared",
    "tf2_efficientdet",
    "tf1_masks",
    "tf2_masks",
    "tf1_position_sensitive",
    "tf1_position_sensitive_fixed",
    "tf2_free",
];

type Outputs = BTreeMap<String, AnyTensor>;

fn run(folder: &Path) -> Outputs {
    let config = SessionConfig { threads: Some(2), optimize: false };
    let model = ServingModel::load(&folder.join("saved_model"), &config).unwrap();
    let picture = image::open(common::probe()).unwrap().to_rgb8();
    model.run_image(&picture, picture.height() as usize, picture.width() as usize).unwrap()
}

fn near(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= TOLERANCE)
}

/// Rows of an output, one per detection.
fn rows(outputs: &Outputs, name: &str, count: usize) -> Vec<Vec<f32>> {
    let values = outputs[name].f32().unwrap();
    values.chunks(values.len() / count).map(<[f32]>::to_vec).collect()
}

/// Every output within the tolerance; detections may trade places where they tie, each used once.
fn assert_same(a: &Outputs, b: &Outputs, what: &str) {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "{what}");
    let count = a["detection_scores"].shape()[1];
    let mut compared = 0;
    for (name, tensor) in a {
        assert_eq!(tensor.shape(), b[name].shape(), "{what}: {name}");
        if !name.starts_with("detection_") {
            assert!(near(tensor.f32().unwrap(), b[name].f32().unwrap()), "{what}: {name} differs");
            compared += 1;
        }
    }
    assert!(compared >= 3, "{what}: only {compared} outputs were compared");
    let names: Vec<&String> = a.keys().filter(|n| n.starts_with("detection_")).collect();
    assert!(names.len() >= 4, "{what}: {names:?}");
    let of = |outputs: &Outputs| -> Vec<Vec<Vec<f32>>> {
        names.iter().map(|name| rows(outputs, name, count)).collect()
    };
    let (mine, theirs) = (of(a), of(b));
    let mut free: Vec<usize> = (0..count).collect();
    (0..count).for_each(|i| {
        let like = free.iter().position(|&j| (0..names.len()).all(|n| near(&mine[n][i], &theirs[n][j])));
        let Some(at) = like else { panic!("{what}: detection {i} has no like") };
        free.remove(at);
    });
}

/// Classes that the oracle copied, and those of the base.
fn pair(name: &str) -> (Vec<u64>, usize, bool) {
    let text = fs::read_to_string(common::fixtures().join(name).join("pair.json")).unwrap();
    let pair: Value = serde_json::from_str(&text).unwrap();
    let like = pair["like"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    (like, pair["classes"].as_u64().unwrap() as usize, pair["background"].as_bool().unwrap())
}

/// The folder with the oracle of a fixture, which may be that of another export of the same weights.
fn oracle_of(name: &str) -> String {
    let text = fs::read_to_string(common::fixtures().join(name).join("pair.json")).unwrap();
    let pair: Value = serde_json::from_str(&text).unwrap();
    format!("{}/oracle", pair["oracle"].as_str().unwrap_or(name))
}

fn grow(model: &Path, adds: &[String], output: &Path) -> Value {
    let mut command = common::tfgraft();
    command.args(["grow", "--json", "--quiet"]).arg(model);
    for add in adds {
        command.arg("--add").arg(add);
    }
    common::json(command.arg("--output").arg(output))
}

fn adds(like: &[u64]) -> Vec<String> {
    like.iter().enumerate().map(|(i, id)| format!("new_{}=like:{id}", i + 1)).collect()
}

#[test]
fn inspect_tells_what_a_model_is() {
    for name in PAIRS {
        let (_, classes, background) = pair(name);
        let base = common::fixture(&format!("{name}/base"));
        let mut command = common::tfgraft();
        command
            .args(["inspect", "--json"])
            .arg(base.path())
            // It must not load TensorFlow.
            .env("TFGRAFT_TENSORFLOW", "/nowhere");
        let told = common::json(&mut command);
        assert_eq!(told["can_grow"], true, "{name}: {told}");
        assert!(told.get("reason").is_none(), "{name}");
        assert_eq!(told["unsafe_operations"], serde_json::json!([]), "{name}");
        let head = &told["head"];
        assert_eq!(head["classes"], classes, "{name}");
        assert_eq!(head["background"], background, "{name}");
        let two_stages = name.contains("mask") || name.contains("position");
        assert_eq!(head["activation"], if two_stages { "softmax" } else { "sigmoid" }, "{name}");
        let named = head["meta_architecture"].as_str().unwrap();
        let expected = if name.contains("mask") {
            "Mask R-CNN"
        } else if name.contains("position") {
            "R-FCN"
        } else {
            "SSD"
        };
        assert!(named.starts_with(expected), "{name}: {named}");
        assert!(told["exporter"].as_str().unwrap().starts_with(&name[..3].to_uppercase()), "{name}: {told}");
        assert_eq!(told["inputs"].as_object().unwrap().len(), 1, "{name}");
        assert!(told["outputs"]["detection_boxes"]["shape"].is_array(), "{name}");
        for layer in head["layers"].as_array().unwrap() {
            let channels = layer["shape"].as_array().unwrap().last().unwrap().as_u64().unwrap();
            let (width, knows_background) = match layer["role"].as_str().unwrap() {
                "scores" => (1, background),
                "boxes" => (4, false),
                "masks" => (1, false),
                role => panic!("{name}: {role}"),
            };
            let product = layer["anchors"].as_u64().unwrap() * layer["columns"].as_u64().unwrap() * width;
            assert_eq!(channels, product, "{name}: {layer}");
            assert_eq!(layer["columns"], classes + usize::from(knows_background), "{name}");
        }
        let roles: Vec<&str> =
            head["layers"].as_array().unwrap().iter().map(|l| l["role"].as_str().unwrap()).collect();
        assert_eq!(roles.contains(&"masks"), name.contains("mask"), "{name}: {roles:?}");
        assert_eq!(roles.contains(&"boxes"), two_stages, "{name}: {roles:?}");
    }
}

#[test]
fn a_frozen_graph_file_is_inspected_like_its_saved_model() {
    let base = common::fixture("tf1_frozen/base");
    let told =
        |path: &Path| -> Value { common::json(common::tfgraft().args(["inspect", "--json"]).arg(path)) };
    let file = told(&base.path().join("frozen_inference_graph.pb"));
    let folder = told(&base.path().join("saved_model"));
    assert_eq!(file["exporter"], "TF1 frozen graph");
    assert_eq!(file["head"], folder["head"]);
}

/// Of each way to export and each kind of head one.
const TYPICAL: [&str; 4] = ["tf1_frozen", "tf1_masks", "tf2_shared", "tf2_free"];

#[test]
fn grown_by_copies_a_model_computes_what_its_oracle_does() {
    grown_by_copies(&TYPICAL);
}

#[test]
#[ignore = "minutes: run with scripts/test --long"]
fn grown_by_copies_every_fixture_computes_what_its_oracle_does() {
    grown_by_copies(&PAIRS.into_iter().filter(|name| !TYPICAL.contains(name)).collect::<Vec<_>>());
}

fn grown_by_copies(names: &[&str]) {
    if !common::has_tensorflow() {
        return;
    }
    for &name in names {
        let (like, classes, _) = pair(name);
        let base = common::fixture(&format!("{name}/base"));
        let oracle = common::fixture(&oracle_of(name));
        let before = common::contents(base.path());
        let parent = tempdir().unwrap();
        let output = parent.path().join("grown");
        let told = grow(base.path(), &adds(&like), &output);

        assert_same(&run(&output), &run(oracle.path()), name);
        assert_eq!(told["classes_before"], classes, "{name}");
        assert_eq!(told["classes_after"], classes + like.len(), "{name}");
        let changed = told["weights"]["changed"].as_array().unwrap();
        assert!(!changed.is_empty() && changed.iter().all(|c| c["old_columns_bit_equal"] == true), "{name}");
        assert_eq!(common::contents(base.path()), before, "{name}: the source was changed");
        assert_eq!(common::entries(parent.path()), ["grown"], "{name}");
        assert_eq!(common::entries(&output), ["label_map.pbtxt", "pipeline.config", "saved_model"], "{name}");
        let labels = LabelMap::read(&output.join("label_map.pbtxt")).unwrap();
        for i in 1..=like.len() {
            assert_eq!(labels.by_name(&format!("new_{i}")).unwrap().id as usize, classes + i, "{name}");
        }
        assert_eq!(labels.max_id() as usize, classes + like.len(), "{name}");
        let config = fs::read_to_string(output.join("pipeline.config")).unwrap();
        assert!(config.contains(&format!("num_classes: {}", classes + like.len())), "{name}");
        assert!(!config.contains(&format!("num_classes: {classes}\n")), "{name}");
    }
}

#[test]
fn growing_twice_is_growing_once() {
    grow_twice(&["tf1_frozen"]);
}

#[test]
#[ignore = "minutes: run with scripts/test --long"]
fn growing_twice_is_growing_once_for_other_exports() {
    grow_twice(&["tf1_position_sensitive", "tf2_levels", "tf2_efficientdet", "tf2_masks"]);
}

fn grow_twice(names: &[&str]) {
    if !common::has_tensorflow() {
        return;
    }
    for name in names {
        let base = common::fixture(&format!("{name}/base"));
        let parent = tempdir().unwrap();
        let [first, twice, once] = ["first", "twice", "once"].map(|n| parent.path().join(n));
        // As from 90 to 92 and then to 95.
        let all = ["a=like:2", "b=like:1", "c=like:3", "d=like:1", "e=like:2"].map(str::to_owned);
        grow(base.path(), &all[..2], &first);
        grow(&first, &all[2..], &twice);
        grow(base.path(), &all, &once);
        assert_same(&run(&twice), &run(&once), name);
        let labels = ["twice", "once"]
            .map(|n| fs::read_to_string(parent.path().join(n).join("label_map.pbtxt")).unwrap());
        assert_eq!(labels[0], labels[1], "{name}");
    }
}

#[test]
fn a_hundred_classes_are_added_at_once() {
    if !common::has_tensorflow() {
        return;
    }
    let base = common::fixture("tf1_frozen/base");
    let parent = tempdir().unwrap();
    let output = parent.path().join("grown");
    let all: Vec<String> = (0..100).map(|i| format!("new_{i}=like:{}", 1 + i % 5)).collect();
    let told = grow(base.path(), &all, &output);
    assert_eq!((&told["classes_before"], &told["classes_after"]), (&5.into(), &105.into()));
    let outputs = run(&output);
    let scores = &outputs["raw_detection_scores"];
    // Background, five old classes, and each new one like the old one that it copies.
    assert_eq!(scores.shape()[2], 106);
    for row in scores.f32().unwrap().chunks(106) {
        assert!((0..100).all(|i| (row[6 + i] - row[1 + i % 5]).abs() <= TOLERANCE), "{row:?}");
    }
}

#[test]
fn a_frozen_graph_file_grows_with_operations_of_its_time() {
    if !common::has_tensorflow() {
        return;
    }
    let (like, ..) = pair("tf1_frozen");
    let base = common::fixture("tf1_frozen/base");
    let file = base.path().join("frozen_inference_graph.pb");
    let mut graph = pb::GraphDef::decode(&*fs::read(&file).unwrap()).unwrap();
    let mut old = 0;
    for node in graph.node.iter_mut().filter(|node| node.op == "FusedBatchNormV3") {
        // Exports of 2017 and 2018 have the first version: one type, no reserved output.
        node.op = "FusedBatchNorm".into();
        node.attr.remove("U");
        old += 1;
    }
    assert!(old > 20, "{old}");
    let parent = tempdir().unwrap();
    let (older, output) = (parent.path().join("older.pb"), parent.path().join("grown"));
    fs::write(&older, graph.encode_to_vec()).unwrap();
    grow(&older, &adds(&like), &output);
    let (mut mine, mut theirs) = (run(&output), run(common::fixture("tf1_frozen/oracle").path()));
    // Such a file has no signature: the one made for it names outputs that the exporter's names lead to.
    assert!(mine.len() >= 4, "{:?}", mine.keys());
    theirs.retain(|name, _| mine.contains_key(name));
    mine.retain(|name, _| theirs.contains_key(name));
    assert_same(&mine, &theirs, "older.pb");
}

#[test]
fn growing_is_the_same_every_time_and_overwrites_when_told() {
    if !common::has_tensorflow() {
        return;
    }
    let base = common::fixture("tf2_levels/base");
    let parent = tempdir().unwrap();
    let output = parent.path().join("grown");
    let adds = ["a=random".to_owned(), "b".to_owned()];
    grow(base.path(), &adds, &output);
    let first = common::contents(&output);
    fs::write(output.join("left over"), "x").unwrap();
    let mut command = common::tfgraft();
    command.args(["grow", "--overwrite", "--add", "a=random", "--add", "b"]).arg(base.path());
    command.arg("--output").arg(&output).assert().success();
    assert!(first == common::contents(&output), "other bytes, or an old file is left");
    assert_eq!(common::entries(parent.path()), ["grown"]);
}
