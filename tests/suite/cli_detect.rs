//! `tfgraft detect` on the committed models, seen from outside: the same from every file that holds a model.

use crate::common;

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::tempdir;
use tfgraft::detect::{Detector, DetectorOptions};

fn detections(model: &Path) -> Value {
    let mut command = common::tfgraft();
    command.args(["detect", "--json", "--quiet", "--min-score", "0"]).arg(model).arg(common::probe());
    let told = common::json(&mut command);
    let found = told["images"][0]["detections"].clone();
    assert!(found.as_array().unwrap().len() > 3, "{told}");
    found
}

#[test]
fn a_frozen_graph_detects_and_grows_like_its_saved_model() {
    if !common::has_tensorflow() {
        return;
    }
    let base = common::fixture("tf1_frozen/base");
    let alone = tempdir().unwrap();
    let frozen = alone.path().join("frozen_inference_graph.pb");
    fs::copy(base.path().join("frozen_inference_graph.pb"), &frozen).unwrap();
    assert_eq!(detections(&frozen), detections(&base.path().join("saved_model")));

    let grown = |model: &Path, name: &str| {
        let output = alone.path().join(name);
        let mut command = common::tfgraft();
        command.args(["grow", "--quiet", "--add", "extra=like:1", "--output"]).arg(&output).arg(model);
        command.assert().success();
        detections(&output)
    };
    assert_eq!(grown(&frozen, "from_file"), grown(&base.path().join("saved_model"), "from_folder"));
}

#[test]
fn classes_without_a_label_map_are_counted_without_the_background() {
    if !common::has_tensorflow() {
        return;
    }
    for name in ["tf1_frozen", "tf2_levels", "tf2_efficientdet"] {
        let base = common::fixture(&format!("{name}/base"));
        let text = fs::read_to_string(common::fixtures().join(name).join("pair.json")).unwrap();
        let pair: Value = serde_json::from_str(&text).unwrap();
        // No config, no label map: only the graph can tell.
        let alone = tempdir().unwrap();
        let from = base.path().join("saved_model");
        let model = alone.path().join("saved_model");
        for (path, bytes) in common::contents(&from) {
            let path = model.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let detector = Detector::load(&model, &DetectorOptions::default()).unwrap();
        assert_eq!(u64::from(detector.labels.max_id()), pair["classes"].as_u64().unwrap(), "{name}");
    }
}

#[test]
fn many_pictures_are_told_in_their_order_whatever_the_threads() {
    if !common::has_tensorflow() {
        return;
    }
    let model = common::fixture("tf1_frozen/base");
    let pictures = tempdir().unwrap();
    common::squares(pictures.path(), 18);
    let drawn = tempdir().unwrap();
    let run = |threads: &str| {
        let mut command = common::tfgraft();
        command.args(["detect", "--json", "--min-score", "0.01", "--threads", threads]).arg(model.path());
        common::json(command.arg(pictures.path()).arg("--output").arg(drawn.path()))
    };
    let (one, three) = (run("1"), run("3"));
    assert_eq!(one, three);
    let names: Vec<&str> =
        one["images"].as_array().unwrap().iter().map(|i| i["image"].as_str().unwrap()).collect();
    assert_eq!((names.len(), names.is_sorted()), (18, true));
    for image in one["images"].as_array().unwrap() {
        assert!(Path::new(image["drawn"].as_str().unwrap()).is_file(), "{image}");
    }
}

#[test]
fn a_picture_that_is_cut_off_does_not_keep_others_from_being_looked_at() {
    if !common::has_tensorflow() {
        return;
    }
    let base = common::fixture("tf1_frozen/base");
    let pictures = tempdir().unwrap();
    let whole = fs::read(common::probe()).unwrap();
    fs::write(pictures.path().join("a.png"), &whole[..whole.len() / 2]).unwrap();
    fs::write(pictures.path().join("b.png"), &whole).unwrap();
    let mut command = common::tfgraft();
    let done = command.args(["detect", "--json"]).arg(base.path()).arg(pictures.path()).assert().code(2);
    let told: Value = serde_json::from_slice(&done.get_output().stdout).unwrap();
    assert_eq!(told["images"].as_array().unwrap().len(), 1, "{told}");
    assert!(told["images"][0]["image"].as_str().unwrap().ends_with("b.png"), "{told}");
    assert!(told["unreadable"][0]["image"].as_str().unwrap().ends_with("a.png"), "{told}");
    let said = String::from_utf8_lossy(&done.get_output().stderr).into_owned();
    assert!(said.contains("1 of 2 pictures could not be read"), "{said}");
}
