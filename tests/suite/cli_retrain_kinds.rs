//! `tfgraft retrain` on committed models of two stages, seen from outside.

use crate::common;

use std::path::Path;

use crate::common::outlines::{outlined, triangle};
use serde_json::Value;
use tempfile::tempdir;
use tfgraft::export::{VariableValues, layer_values};
use tfgraft::head::columns::{new_columns, old_columns};
use tfgraft::head::{LayerValues, understand};
use tfgraft::saved_model::SavedModel;

fn command(model: &Path, data: &Path, output: &Path) -> assert_cmd::Command {
    let mut command = common::tfgraft();
    command.args(["retrain", "--json", "--quiet", "--views", "3"]).arg(model).arg("--data").arg(data);
    command.arg("--output").arg(output);
    command
}

/// Values of each class layer, its groups (bins of position-sensitive layers) and the numbers of a class in each.
fn layers(model: &Path) -> Vec<(LayerValues, usize, usize)> {
    let model = SavedModel::read(model).unwrap();
    let understood = understand(model.meta()).unwrap();
    let variables = VariableValues::read(&model, &understood).unwrap();
    let values = layer_values(&model, &variables, &understood.layers).unwrap();
    let axes = understood.layers.iter().map(|layer| layer.axis);
    values.into_iter().zip(axes).map(|(values, axis)| (values, axis.outer.unwrap(), axis.inner)).collect()
}

/// Panics unless both models have so many class layers, of which the new one's are wider and hold the old ones' columns.
fn assert_only_new_columns_differ(model: &Path, grown: &Path, count: usize, name: &str) {
    let (old, new) = (layers(model), layers(grown));
    assert_eq!((old.len(), new.len()), (count, count), "{name}");
    for ((old, groups, inner), (new, ..)) in old.iter().zip(&new) {
        let width = old.biases.len() / groups;
        assert_eq!(new.biases.len(), (width + inner) * groups, "{name}");
        assert_eq!(old_columns(&new.kernel, width, *inner), old.kernel, "{name}");
        assert_eq!(old_columns(&new.biases, width, *inner), old.biases, "{name}");
        assert!(new_columns(&new.kernel, width, *inner).iter().any(|w| *w != 0.0), "{name}");
    }
}

#[test]
fn two_stages_learn_scores_and_boxes_beside_old_columns() {
    if !common::has_tensorflow() {
        return;
    }
    let data = tempdir().unwrap();
    let labels = common::squares(data.path(), 4);
    let masked: &[&str] = &["scores", "boxes", "masks"];
    for (name, classes, expected) in [
        ("tf1_masks", 7, masked),
        ("tf2_masks", 4, masked),
        ("tf1_position_sensitive", 3, &["scores", "boxes"]),
    ] {
        let model = common::fixture(&format!("{name}/base"));
        let before = common::contents(model.path());
        let parent = tempdir().unwrap();
        let made = |output: &str| -> Value {
            let output = parent.path().join(output);
            common::json(command(model.path(), &labels, &output).args(["--seed", "3"]))
        };
        let (report, again) = (made("first"), made("again"));
        assert!(before == common::contents(model.path()), "{name}: the source was changed");
        let bytes = |output: &str| common::contents(&parent.path().join(output).join("saved_model"));
        assert!(bytes("first") == bytes("again"), "{name}: the same seed gave other bytes");
        assert_eq!(report["training"], again["training"], "{name}");

        assert_eq!(report["classes_before"], classes);
        let training = &report["training"];
        let fits = training["fits"].as_array().unwrap();
        let columns: Vec<&str> = fits.iter().map(|fit| fit["columns"].as_str().unwrap()).collect();
        assert_eq!(columns, expected, "{name}");
        // Pictures are held out for scores alone.
        let held_out = |fit: &Value| fit["divisions"][0]["pictures"].as_u64();
        assert_eq!(fits.iter().map(held_out).collect::<Vec<_>>()[..2], [Some(4), Some(0)], "{name}");
        for fit in &fits[..2] {
            let loss = |when: &str| fit[when].as_f64().unwrap();
            assert!(loss("loss_after") < loss("loss_before"), "{name}: {fit}");
            let layer = fit["layers"][0].as_u64().unwrap() as usize;
            assert!(training["matched_anchors"][layer][0][0].as_u64().unwrap() > 0, "{name}: {training}");
        }
        for change in report["weights"]["changed"].as_array().unwrap() {
            assert_eq!(change["old_columns_bit_equal"], true, "{name}: {change}");
        }
        assert_only_new_columns_differ(model.path(), &parent.path().join("first"), expected.len(), name);
    }
}

#[test]
fn masks_are_learned_from_outlines_alone() {
    if !common::has_tensorflow() {
        return;
    }
    let (data, plain, parent) = (tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap());
    let model = common::fixture("tf2_masks/base");
    let made = |labels: &Path, output: &str| -> Value {
        let report = common::json(&mut command(model.path(), labels, &parent.path().join(output)));
        report["training"].clone()
    };
    let training = made(&outlined(data.path(), 3, 0, triangle), "outlines");
    assert_eq!(training["masks"], serde_json::json!({"objects": [3]}));
    let fit = &training["fits"][2];
    assert!(fit["loss_after"].as_f64().unwrap() < fit["loss_before"].as_f64().unwrap(), "{fit}");
    let training = made(&common::squares(plain.path(), 3), "boxes");
    assert_eq!(training["masks"], serde_json::json!({"objects": [0]}));
    assert!(training["fits"][2]["loss_before"].is_null(), "{training}");
}

#[test]
fn incomplete_labels_are_weighed_under_a_softmax_too() {
    if !common::has_tensorflow() {
        return;
    }
    let data = tempdir().unwrap();
    let labels = common::squares(data.path(), 4);
    let list = data.path().join("open.txt");
    std::fs::write(&list, "square1.png\nsquare2.png\n").unwrap();
    let model = common::fixture("tf1_masks/base");
    let parent = tempdir().unwrap();
    let run = |output: &str, more: &[&str]| -> Value {
        common::json(command(model.path(), &labels, &parent.path().join(output)).args(more))
    };
    let (plain, open) =
        (run("plain", &[]), run("open", &["--incomplete", list.to_str().unwrap(), "--seed", "0"]));
    assert_eq!(plain["training"]["incomplete_pictures"], 0);
    assert_eq!(open["training"]["incomplete_pictures"], 2);
    let loss = |report: &Value| report["training"]["fits"][0]["loss_after"].as_f64().unwrap();
    assert!(loss(&plain) != loss(&open), "the list changed nothing");
    let boxes = |report: &Value| report["training"]["fits"][1].clone();
    assert_eq!(boxes(&plain), boxes(&open), "boxes of labelled objects are as certain as before");
}

#[test]
fn copy_back_under_a_softmax_puts_old_columns_back_and_tells_what_that_did() {
    if !common::has_tensorflow() {
        return;
    }
    let data = tempdir().unwrap();
    let labels = common::squares(data.path(), 4);
    for (name, expected) in
        [("tf2_masks", &["scores", "boxes", "masks"][..]), ("tf1_position_sensitive", &["scores", "boxes"])]
    {
        let model = common::fixture(&format!("{name}/base"));
        let parent = tempdir().unwrap();
        let made = |output: &str| -> Value {
            let output = parent.path().join(output);
            common::json(command(model.path(), &labels, &output).args([
                "--seed",
                "3",
                "--strategy",
                "copy-back",
            ]))
        };
        let (report, again) = (made("first"), made("again"));
        assert_eq!(report["training"], again["training"], "{name}");
        let training = &report["training"];
        assert_eq!(training["strategy"], "copy-back");
        let fits = training["fits"].as_array().unwrap();
        assert_eq!(
            fits.iter().map(|fit| fit["columns"].as_str().unwrap()).collect::<Vec<_>>(),
            expected,
            "{name}"
        );
        let losses = training["losses"].as_array().unwrap();
        assert_eq!(losses.len(), 300, "{name}");
        assert!(losses[299].as_f64() < losses[0].as_f64(), "{name}: {} and {}", losses[0], losses[299]);

        let told = &training["copy_back"];
        let loss = |key: &str| told[key].as_f64().unwrap();
        assert!(loss("with_offsets") <= loss("put_back"), "{name}: {told}");
        assert!(loss("frozen_columns") > 0.0 && loss("as_trained") > 0.0, "{name}: {told}");
        assert_eq!(told["offsets"].as_array().unwrap().len(), 1, "{name}: {told}");
        let page = std::fs::read_to_string(parent.path().join("first/report.html")).unwrap();
        assert!(page.contains("Copy-back: mean loss of a training region"), "{name}");

        assert_only_new_columns_differ(model.path(), &parent.path().join("first"), expected.len(), name);
    }
}

#[test]
fn copy_back_of_incomplete_labels_is_refused_before_work() {
    let data = tempdir().unwrap();
    let labels = common::squares(data.path(), 2);
    let list = data.path().join("open.txt");
    std::fs::write(&list, "square1.png\n").unwrap();
    let parent = tempdir().unwrap();
    for model in ["tf1_masks/base", "tf1_frozen/base"] {
        let model = common::fixture(model);
        let mut command = command(model.path(), &labels, &parent.path().join("out"));
        command.args(["--strategy", "copy-back", "--incomplete", list.to_str().unwrap()]);
        // Nothing is loaded before the refusal.
        let done = command.env("TFGRAFT_TENSORFLOW", "/nowhere").assert().code(2);
        let told = String::from_utf8_lossy(&done.get_output().stderr).into_owned();
        assert!(told.contains("copy-back") && told.contains("frozen-columns"), "{told}");
        assert!(common::entries(parent.path()).is_empty());
    }
}
