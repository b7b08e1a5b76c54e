//! `tfgraft evaluate` and the gate, seen from outside, on committed models and a few drawn pictures.

use crate::common;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};
use tfgraft::data::Picture;
use tfgraft::detect::{Detector, DetectorOptions};
use tfgraft::eval::paste;

/// Exit code, JSON and messages of a command.
fn run(args: &[&str], paths: &[&Path]) -> (i32, Value, String) {
    let mut command = common::tfgraft();
    command.args(&args[..1]).args(["--json", "--quiet"]).args(paths).args(&args[1..]);
    let done = command.assert();
    let output = done.get_output();
    let told = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap(), told, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A model retrained on four squares: its folder, the base, the labels, and what must live as long.
fn grown() -> (PathBuf, TempDir, PathBuf, [TempDir; 2]) {
    let (data, parent) = (tempdir().unwrap(), tempdir().unwrap());
    let labels = common::squares(data.path(), 4);
    let base = common::fixture("tf1_frozen/base");
    let output = parent.path().join("grown");
    let mut command = common::tfgraft();
    command.args(["retrain", "--quiet", "--views", "2"]).arg(base.path()).arg("--data").arg(&labels);
    command.arg("--output").arg(&output).assert().success();
    (output, base, labels, [data, parent])
}

/// The same labels without the new class.
fn only_old(labels: &Path) -> PathBuf {
    let mut data: Value = serde_json::from_str(&fs::read_to_string(labels).unwrap()).unwrap();
    data["annotations"].as_array_mut().unwrap().retain(|a| a["category_id"] == 1);
    data["categories"].as_array_mut().unwrap().retain(|c| c["id"] == 1);
    let file = labels.with_file_name("old.json");
    fs::write(&file, data.to_string()).unwrap();
    file
}

#[test]
fn the_gate_says_yes_and_no() {
    if !common::has_tensorflow() {
        return;
    }
    let (grown, base, labels, _alive) = grown();
    let (data, before) = (labels.to_str().unwrap(), base.path().to_str().unwrap());
    let evaluate = |more: &[&str]| run(&[&["evaluate", "--data", data][..], more].concat(), &[&grown]);

    let (code, told, text) = evaluate(&["--baseline", before, "--min-new-ap", "0", "--max-old-drop", "0"]);
    assert_eq!((code, &told["gate"]["passed"]), (0, &json!(true)), "{text}");
    // Without --new the baseline says which classes are new.
    assert_eq!(told["groups"]["new"]["objects"], 4);
    assert_eq!(told["groups"]["old"]["objects"], 4);
    assert_eq!(told["baseline"]["per_class"]["class_1"]["objects"], 4);
    assert_eq!(told["baseline"]["per_class"]["class_1"]["ap"], told["per_class"]["class_1"]["ap"]);
    assert_eq!(told["confusion"]["square"]["objects"], 4);
    assert!(told["false_positives"]["median_old"].is_number());

    let (code, told, text) = evaluate(&["--new", "square", "--min-new-ap", "1"]);
    let ap = told["per_class"]["square"]["ap"].as_f64().unwrap();
    assert!(ap < 1.0, "the test needs a square that is not found perfectly");
    assert_eq!((code, &told["gate"]["passed"]), (1, &json!(false)), "{text}");
    assert_eq!(told["gate"]["failures"][0]["class"], "square");
    assert!(text.contains(&format!("new class square: AP {ap:.4} is below --min-new-ap 1")), "{text}");

    // A stored evaluation of the base on the old labels of the same pictures.
    let old = only_old(&labels);
    let (code, mut stored, text) = run(&["evaluate", "--data", old.to_str().unwrap()], &[base.path()]);
    assert_eq!(code, 0, "{text}");
    let file = labels.with_file_name("stored.json");
    let with_stored = |stored: &Value| {
        fs::write(&file, stored.to_string()).unwrap();
        evaluate(&["--baseline", file.to_str().unwrap(), "--max-old-drop", "0.25"])
    };
    let (code, told, text) = with_stored(&stored);
    assert_eq!((code, &told["gate"]["passed"]), (0, &json!(true)), "{text}");
    let ap = stored["per_class"]["class_1"]["ap"].as_f64().unwrap();
    stored["per_class"]["class_1"]["ap"] = json!(ap + 0.5);
    let (code, told, text) = with_stored(&stored);
    assert_eq!((code, &told["gate"]["passed"]), (1, &json!(false)), "{text}");
    assert!(text.contains("old class class_1: AP fell by 0.5000"), "{text}");
    stored["images"] = json!(9);
    let (code, _, text) = with_stored(&stored);
    assert!(code == 2 && text.contains("9 pictures"), "{text}");
}

#[test]
fn what_cannot_be_judged_is_no_verdict() {
    let data = tempdir().unwrap();
    let labels = common::squares(data.path(), 2);
    let labels = labels.to_str().unwrap();
    let model = common::fixture("tf2_levels/base");
    let out = data.path().join("out");
    for (args, part) in [
        (vec!["evaluate", "--data", labels, "--max-old-drop", "0.1"], "--baseline"),
        (vec!["evaluate", "--data", labels, "--min-new-ap", "1.5"], "from 0 to 1"),
        (
            vec!["retrain", "--data", labels, "--min-new-ap", "0.5", "--output", out.to_str().unwrap()],
            "--validation",
        ),
    ] {
        let (code, told, text) = run(&args, &[model.path()]);
        assert!(code == 2 && told.is_null() && text.contains(part), "{args:?}: {text}");
    }
    assert!(!out.exists());
}

#[test]
fn a_failed_gate_publishes_nothing() {
    if !common::has_tensorflow() {
        return;
    }
    let data = tempdir().unwrap();
    let labels = common::squares(data.path(), 4);
    let model = common::fixture("tf1_frozen/base");
    let parent = tempdir().unwrap();
    let output = parent.path().join("out");
    let retrain = |limit: &str| {
        let args =
            ["retrain", "--views", "2", "--validation", "0.5", "--max-old-drop", "0", "--min-new-ap", limit];
        let named = ["--data", labels.to_str().unwrap(), "--output", output.to_str().unwrap()];
        run(&[&args[..], &named].concat(), &[model.path()])
    };
    let (code, told, text) = retrain("1");
    assert_eq!((code, &told["gate"]["passed"]), (1, &json!(false)), "{text}");
    assert!(text.contains("new class square"), "{text}");
    assert_eq!(common::entries(parent.path()), [""; 0], "something was left");

    let (code, told, text) = retrain("0");
    assert_eq!((code, &told["gate"]["passed"]), (0, &json!(true)), "{text}");
    let written: Value = serde_json::from_slice(&fs::read(output.join("report.json")).unwrap()).unwrap();
    assert_eq!(written["gate"], told["gate"]);
    assert_eq!(written["validation"]["images"], 2);
}

#[test]
fn masks_are_measured_where_all_objects_have_one() {
    if !common::has_tensorflow() {
        return;
    }
    for name in ["tf1_masks", "tf2_masks"] {
        let model = common::fixture(&format!("{name}/base"));
        let detector = Detector::load(model.path(), &DetectorOptions::default()).unwrap();
        let picture = Picture::open(&common::probe()).unwrap();
        // What the model finds best is the truth: then it must be found, with its very mask.
        let found = detector.detect_with_masks(&picture, 0.0).unwrap();
        let (best, mask) = found
            .iter()
            .find(|(d, mask)| {
                paste(&mask.values, mask.size, d.bbox, picture.height, picture.width).area() > 20
            })
            .unwrap_or_else(|| panic!("{name}: no detection with a mask"));
        let runs = paste(&mask.values, mask.size, best.bbox, picture.height, picture.width);
        let folder = tempdir().unwrap();
        fs::copy(common::probe(), folder.path().join("probe.png")).unwrap();
        let [x0, y0, x1, y1] = best.bbox.to_pixels(picture.width, picture.height);
        let class = detector.labels.label(best.class_id);
        let write = |segmentation: Value| {
            let annotation = json!({"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": runs.area(),
                "bbox": [x0, y0, x1 - x0, y1 - y0], "segmentation": segmentation});
            let data = json!({"images": [{"id": 1, "file_name": "probe.png"}], "annotations": [annotation],
                "categories": [{"id": 1, "name": class}]});
            let file = folder.path().join("data.json");
            fs::write(&file, data.to_string()).unwrap();
            file
        };
        let size = [picture.height, picture.width];
        let file = write(json!({"size": size, "counts": runs.counts()}));
        let (code, told, text) = run(&["evaluate", "--data", file.to_str().unwrap()], &[model.path()]);
        assert_eq!(code, 0, "{text}");
        let recall = told["masks"]["per_class"][&class]["ar100"].as_f64().unwrap();
        assert!(recall > 0.999, "{name}: {told}");

        let file = write(json!([]));
        let (code, told, _) = run(&["evaluate", "--data", file.to_str().unwrap()], &[model.path()]);
        assert_eq!((code, &told["masks"]), (0, &Value::Null));
        assert!(told["no_masks"].as_str().unwrap().contains("1 of 1 objects"), "{told}");
    }
}
