//! The main job on the model and pictures that come with the project: new classes found, old ones as they were.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::tempdir;

const NEW: [&str; 2] = ["tractor", "guitar"];
const OLD_CLASSES: &str = "90";

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

fn model() -> PathBuf {
    testdata("default_model")
}

fn retrain(output: &Path, strategy: &str) {
    let mut command = common::tfgraft();
    command
        .args(["retrain", "--quiet", "--strategy", strategy, "--data"])
        .arg(testdata("scenes/new_train/annotations.json"));
    command.arg("--output").arg(output).arg(model()).assert().success();
}

fn evaluate(model: &Path, data: &str, more: &[&str]) -> Value {
    let mut command = common::tfgraft();
    command.args(["evaluate", "--json", "--quiet"]).arg(model).arg("--data").arg(testdata(data)).args(more);
    serde_json::from_slice(&command.assert().success().get_output().stdout).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// New classes are found on pictures that were not trained on; every old class measures the same to three digits.
fn check(grown: &Path) {
    let found = evaluate(grown, "scenes/new_test/annotations.json", &["--new", NEW[0], NEW[1]]);
    assert!(number(&found["groups"]["new"]["ap50"]) >= 0.9, "{:#}", found["groups"]);
    for name in NEW {
        assert!(found["per_class"][name]["objects"].as_u64().unwrap() > 10);
    }

    let before = evaluate(&model(), "scenes/old/annotations.json", &[]);
    let after = evaluate(grown, "scenes/old/annotations.json", &["--old-classes", OLD_CLASSES]);
    let classes = before["per_class"].as_object().unwrap();
    let mut compared = 0;
    for (name, was) in classes.iter().filter(|(_, class)| class["objects"].as_u64() > Some(0)) {
        for measure in ["ap", "ap50"] {
            let (was, is) = (number(&was[measure]), number(&after["per_class"][name][measure]));
            assert!((was - is).abs() < 5e-4, "{name}: {measure} {was} became {is}");
        }
        compared += 1;
    }
    assert!(compared > 50, "only {compared} classes were compared");
    let all = number(&before["groups"]["all"]["ap50"]);
    assert!(all >= 0.6, "the base finds its own classes: {all}");
    assert!((all - number(&after["groups"]["old"]["ap50"])).abs() < 5e-4);
}

#[test]
fn frozen_columns_find_new_classes_and_keep_old_ones_and_bytes_repeat() {
    if !common::has_tensorflow() {
        return;
    }
    let folder = tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    retrain(&first, "frozen-columns");
    check(&first);
    retrain(&second, "frozen-columns");
    let model = |of: &Path| common::contents(&of.join("saved_model"));
    assert!(model(&first) == model(&second), "two runs with one seed wrote different models");
}

#[test]
fn copy_back_finds_new_classes_and_keeps_old_ones() {
    if !common::has_tensorflow() {
        return;
    }
    let folder = tempdir().unwrap();
    let grown = folder.path().join("grown");
    retrain(&grown, "copy-back");
    check(&grown);
}
