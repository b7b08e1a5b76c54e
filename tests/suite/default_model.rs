//! The main job on the model and pictures that come with the project: new classes found, old ones as they were.

use crate::common;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::tempdir;

/// Average precision at .5 that new classes must reach on pictures that were not trained on.
const NEW_AP50: f64 = 0.9;
/// The same of old classes before anything is grown.
const OLD_AP50: f64 = 0.6;
/// False detections of a new class a picture from score 0.5 on, where fits that did not see a picture put one half.
const FALSE_PER_PICTURE: f64 = 0.15;
/// "Equal to three digits".
const SAME: f64 = 5e-4;
/// A single class of few objects may move by what the last places of the list of 100 are worth: a detection of a new class
/// takes the place of the least certain old one.
const ONE_CLASS: f64 = 0.02;

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

fn retrain(output: &Path, more: &[&str]) -> Value {
    let mut command = common::tfgraft();
    command.args(["retrain", "--quiet", "--data"]).arg(testdata("scenes/new_train/annotations.json"));
    command.args(more).arg("--output").arg(output).arg(testdata("default_model")).assert().success();
    serde_json::from_slice(&std::fs::read(output.join("report.json")).unwrap()).unwrap()
}

fn evaluate(model: &Path, data: &str, more: &[&str]) -> Value {
    let mut command = common::tfgraft();
    command.args(["evaluate", "--json", "--quiet"]).arg(model).arg("--data").arg(testdata(data)).args(more);
    common::json(&mut command)
}

/// What the base makes of scenes with old classes only, measured once for all tests.
fn before() -> &'static Value {
    static FOUND: OnceLock<Value> = OnceLock::new();
    FOUND.get_or_init(|| evaluate(&testdata("default_model"), "scenes/old/annotations.json", &[]))
}

/// New classes are found on pictures that were not trained on; old classes measure the same to three digits. What was measured on
/// pictures of new classes, and on those of old ones alone.
fn check(grown: &Path, report: &Value) -> [Value; 2] {
    let new: Vec<&str> =
        report["new"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(new.len(), 2);
    let found = evaluate(grown, "scenes/new_test/annotations.json", &["--new", new[0], new[1]]);
    let ap50 = found["groups"]["new"]["ap50"].as_f64().unwrap();
    assert!(ap50 >= NEW_AP50, "{ap50}: {:#}", found["per_class"]);
    for name in new {
        assert!(found["per_class"][name]["objects"].as_u64().unwrap() > 10);
    }

    let after = evaluate(grown, "scenes/old/annotations.json", &["--old-classes", "90"]);
    let (all, old) = (&before()["groups"]["all"], &after["groups"]["old"]);
    for measure in ["ap", "ap50"] {
        let (was, is) = (all[measure].as_f64().unwrap(), old[measure].as_f64().unwrap());
        assert!((was - is).abs() < SAME, "old classes: {measure} {was} became {is}");
    }
    let mut compared = 0;
    for (name, was) in before()["per_class"].as_object().unwrap() {
        if was["objects"].as_u64() == Some(0) {
            continue;
        }
        for measure in ["ap", "ap50"] {
            let of = |class: &Value| class[measure].as_f64().unwrap();
            let (was, is) = (of(was), of(&after["per_class"][name]));
            assert!((was - is).abs() < ONE_CLASS, "{name}: {measure} {was} became {is}");
        }
        compared += 1;
    }
    assert!(compared > 50, "only {compared} classes were compared");
    let base = all["ap50"].as_f64().unwrap();
    assert!(base >= OLD_AP50, "the base finds its own classes: {base}");
    [found, after]
}

#[test]
fn frozen_columns_find_new_classes_and_keep_old_ones() {
    if !common::has_tensorflow() {
        return;
    }
    let folder = tempdir().unwrap();
    let grown = folder.path().join("grown");
    let report = retrain(&grown, &[]);
    let measured = check(&grown, &report);
    let new: Vec<&str> =
        report["new"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    for (name, division) in new.iter().zip(report["training"]["fits"][0]["divisions"].as_array().unwrap()) {
        assert_eq!(division["pictures"].as_u64(), Some(15), "{name}: each picture is held out once");
        assert!(division["found"].as_u64() > division["wrong"].as_u64(), "{name}: {division}");
    }
    for found in measured {
        for name in &new {
            let rate = found["false_positives"]["per_class"][name]["per_image"].as_f64().unwrap_or(0.0);
            assert!(rate <= FALSE_PER_PICTURE, "{name}: {rate}");
        }
    }
}

// On small models `cli_retrain` tests the same each time.
#[test]
#[ignore = "a minute: run with scripts/test --long"]
fn bytes_repeat() {
    if !common::has_tensorflow() {
        return;
    }
    let folder = tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| {
        let grown = folder.path().join(name);
        retrain(&grown, &[]);
        common::contents(&grown.join("saved_model"))
    });
    assert!(first == second, "two runs with one seed wrote different models");
}

#[test]
#[ignore = "a minute: run with scripts/test --long"]
fn copy_back_finds_new_classes_and_keeps_old_ones() {
    if !common::has_tensorflow() {
        return;
    }
    let folder = tempdir().unwrap();
    let grown = folder.path().join("grown");
    let report = retrain(&grown, &["--strategy", "copy-back"]);
    check(&grown, &report);
}
