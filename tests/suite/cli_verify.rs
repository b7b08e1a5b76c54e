//! `tfgraft verify` on the committed models, seen from outside.

use crate::common;

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use prost::Message;
use serde_json::Value;
use tempfile::tempdir;
use tfgraft::pb;
use tfgraft::runtime::bundle;
use tfgraft::saved_model::SavedModel;

fn verify(words: &[&str]) -> Command {
    let mut command = common::tfgraft();
    command.arg("verify").args(words).env_remove("CI");
    command
}

fn record(model: &Path, reference: &Path) {
    let (model, reference, probe) = (text(model), text(reference), common::probe());
    verify(&["record", model, text(&probe), "--output", reference, "--quiet"]).assert().success();
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs `verify check --json`: the exit code and the document.
fn check(model: &Path, reference: &Path, more: &[&str]) -> (i32, Value) {
    let done = verify(&[&["check", text(model), text(reference), "--json"], more].concat()).output().unwrap();
    let said = serde_json::from_slice(&done.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&done.stderr)));
    (done.status.code().unwrap(), said)
}

fn output<'a>(outcome: &'a Value, name: &str) -> &'a Value {
    outcome["outputs"].as_array().unwrap().iter().find(|o| o["output"] == name).unwrap()
}

/// Adds 1e-3 to one weight of a class layer: a constant or a variable.
fn move_one_weight(folder: &Path) -> String {
    let home = folder.join("saved_model");
    let model = SavedModel::read(&home).unwrap();
    if let Some(prefix) = model.variables_prefix() {
        let understood = tfgraft::head::understand(model.meta()).unwrap();
        let all: Vec<_> = understood.variables.all.iter().map(|v| (v.key.clone(), v.dtype)).collect();
        let all: Vec<_> = all.into_iter().chain(understood.variables.others.iter().cloned()).collect();
        let key = understood.layers[0].biases.name().to_owned();
        let wanted = [(key.clone(), pb::DataType::DtFloat)];
        let tensor = bundle::read(&prefix, &wanted).unwrap().remove(0);
        let mut values = tensor.f32().unwrap().to_vec();
        *values.last_mut().unwrap() += 1e-3;
        let moved = tfgraft::runtime::AnyTensor::new(&tensor.shape(), &values).unwrap();
        let fresh = tempdir().unwrap();
        bundle::rewrite(&prefix, &fresh.path().join("variables"), &all, &[(key.clone(), moved)]).unwrap();
        for name in common::entries(fresh.path()) {
            fs::copy(fresh.path().join(&name), home.join("variables").join(&name)).unwrap();
        }
        return key;
    }
    let mut proto = model.proto.clone();
    let graph = proto.meta_graphs[0].graph_def.as_mut().unwrap();
    let understood = tfgraft::head::understand(model.meta()).unwrap();
    let name = understood.layers[0].kernel.name().to_owned();
    let node = graph.node.iter_mut().find(|n| n.name == name).unwrap();
    let Some(pb::attr_value::Value::Tensor(tensor)) = &mut node.attr.get_mut("value").unwrap().value else {
        panic!("{name} is no constant")
    };
    let mut bytes = tensor.tensor_content.to_vec();
    let last = bytes.len() - 4;
    let value = f32::from_le_bytes(bytes[last..].try_into().unwrap()) + 1e-3;
    bytes[last..].copy_from_slice(&value.to_le_bytes());
    tensor.tensor_content = bytes.into();
    fs::write(home.join("saved_model.pb"), proto.encode_to_vec()).unwrap();
    name
}

#[test]
fn a_rerun_passes_on_other_thread_counts_and_one_moved_weight_does_not() {
    if !common::has_tensorflow() {
        return;
    }
    // Constants and variables; heads of several levels.
    for name in ["tf1_frozen", "tf2_levels"] {
        let base = common::fixture(&format!("{name}/base"));
        let parent = tempdir().unwrap();
        let reference = parent.path().join("ref");
        record(base.path(), &reference);
        assert_eq!(common::entries(parent.path()), ["ref"], "{name}");
        for threads in ["1", "3"] {
            let (code, outcome) = check(base.path(), &reference, &["--threads", threads]);
            assert_eq!((code, &outcome["passed"]), (0, &Value::Bool(true)), "{name}: {outcome:#}");
            assert!(outcome["compared"].as_u64().unwrap() > 1000, "{name}: {outcome:#}");
            assert_eq!(outcome["notes"], serde_json::json!([]), "{name}");
        }
        let moved = move_one_weight(base.path());
        let (code, outcome) = check(base.path(), &reference, &[]);
        assert_eq!((code, &outcome["passed"]), (1, &Value::Bool(false)), "{name}, {moved}: {outcome:#}");
        let scores = output(&outcome, "raw_detection_scores");
        assert_eq!(scores["passed"], false, "{name}: {outcome:#}");
        assert!(scores["differing"].as_u64().unwrap() > 0, "{name}");
        assert!(scores["worst"]["index"].as_array().unwrap().len() == 3, "{name}: {scores}");
        // Boxes do not hang on the class layers.
        assert_eq!(output(&outcome, "raw_detection_boxes")["passed"], true, "{name}: {outcome:#}");
        assert!(outcome["notes"][0].as_str().unwrap().contains("files are others"), "{name}");
        let done = verify(&["check", text(base.path()), text(&reference)]).output().unwrap();
        let told = String::from_utf8(done.stdout).unwrap();
        let line = told.lines().find(|l| l.contains("raw_detection_scores")).unwrap();
        for said in ["FAIL", "numbers differ", "at most by", "probe [0, ", "got ", "would pass"] {
            assert!(line.contains(said), "{name}: {line} lacks {said}");
        }

        // The tolerance it names does pass.
        let file = reference.join("reference.json");
        let mut json: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        for verdict in outcome["outputs"].as_array().unwrap().iter().filter(|o| o["passed"] == false) {
            if verdict["kind"] == "close" {
                json["compare"][verdict["output"].as_str().unwrap()] = verdict["would_pass"].clone();
            }
        }
        fs::write(&file, json.to_string()).unwrap();
        let (_, outcome) = check(base.path(), &reference, &[]);
        let close = outcome["outputs"].as_array().unwrap().iter().filter(|o| o["kind"] == "close");
        assert!(
            close.clone().count() > 1 && close.clone().all(|o| o["passed"] == true),
            "{name}: {outcome:#}"
        );
    }
}

#[test]
fn a_grown_model_is_held_to_its_source() {
    if !common::has_tensorflow() {
        return;
    }
    for name in ["tf1_frozen", "tf2_levels"] {
        let base = common::fixture(&format!("{name}/base"));
        let parent = tempdir().unwrap();
        let [reference, grown] = ["ref", "grown"].map(|n| parent.path().join(n));
        record(base.path(), &reference);
        let mut grow = common::tfgraft();
        grow.args(["grow", "--quiet", "--add", "a=like:1", "--add", "b", "--output"])
            .arg(&grown)
            .arg(base.path());
        grow.assert().success();
        let (code, outcome) = check(&grown, &reference, &["--grown"]);
        assert_eq!(code, 0, "{name}: {outcome:#}");
        assert_eq!(outcome["growth"]["added"], 2, "{name}");
        // Without leave to grow it is another model.
        let (code, outcome) = check(&grown, &reference, &[]);
        assert_eq!(code, 1, "{name}");
        let problem = output(&outcome, "raw_detection_scores")["problems"][0].as_str().unwrap();
        assert!(problem.contains("shape"), "{name}: {problem}");

        let probe = common::probe();
        let words = ["compare", text(base.path()), text(&grown), text(&probe)];
        let done = verify(&words).assert().success();
        let told = String::from_utf8_lossy(&done.get_output().stdout).into_owned();
        assert!(told.starts_with(&format!("{} old classes", outcome_classes(&reference))), "{name}: {told}");
        raise_threshold(&grown);
        verify(&words).assert().code(1);
        // The other way round the classes are gone.
        verify(&["compare", text(&grown), text(base.path()), text(&probe)]).assert().code(1);
    }
}

fn outcome_classes(reference: &Path) -> u64 {
    let json: Value =
        serde_json::from_str(&fs::read_to_string(reference.join("reference.json")).unwrap()).unwrap();
    json["classes"].as_u64().unwrap()
}

/// Raises the least score of the per-class suppression, so that detections vanish: a constant of the graph or a function.
fn raise_threshold(grown: &Path) {
    let home = grown.join("saved_model");
    let model = SavedModel::read(&home).unwrap();
    let mut proto = model.proto.clone();
    let graph = proto.meta_graphs[0].graph_def.as_mut().unwrap();
    let functions = graph.library.iter_mut().flat_map(|l| &mut l.function).flat_map(|f| &mut f.node_def);
    let mut changed = 0;
    for node in graph.node.iter_mut().chain(functions) {
        let wanted = node.name.to_lowercase().contains("score_threshold") && node.op == "Const";
        let Some(pb::attr_value::Value::Tensor(tensor)) =
            node.attr.get_mut("value").and_then(|v| v.value.as_mut()).filter(|_| wanted)
        else {
            continue;
        };
        tensor.tensor_content = Default::default();
        tensor.float_val = vec![0.9999];
        changed += 1;
    }
    assert!(changed > 0, "no threshold of suppression found");
    fs::write(home.join("saved_model.pb"), proto.encode_to_vec()).unwrap();
}

#[test]
fn a_reference_can_be_read_and_carried_away() {
    if !common::has_tensorflow() {
        return;
    }
    let base = common::fixture("tf2_levels/base");
    let parent = tempdir().unwrap();
    let pictures = parent.path().join("pictures");
    fs::create_dir(&pictures).unwrap();
    common::squares(&pictures, 2);
    let reference = parent.path().join("ref");
    let probe = common::probe();
    verify(&["record", text(base.path()), text(&pictures), text(&probe), "--output", text(&reference)])
        .assert()
        .success();
    assert_eq!(common::entries(&reference), ["probe", "reference.json", "square0", "square1"]);
    let case: Value =
        serde_json::from_str(&fs::read_to_string(reference.join("probe/case.json")).unwrap()).unwrap();
    assert_eq!(case["image"]["width"], 160);
    assert_eq!(case["outputs"]["detection_boxes"]["shape"][2], 4);
    let json = fs::read_to_string(reference.join("reference.json")).unwrap();
    assert!(!json.contains(text(base.path())), "a path of this machine: {json}");
    for name in case["outputs"].as_object().unwrap().keys() {
        assert!(reference.join(format!("probe/{name}.npy")).is_file(), "{name}");
    }
    // Neither the pictures nor the place are needed any more.
    let elsewhere = parent.path().join("elsewhere");
    fs::rename(&reference, &elsewhere).unwrap();
    fs::remove_dir_all(&pictures).unwrap();
    let (code, outcome) = check(base.path(), &elsewhere, &[]);
    assert_eq!((code, &outcome["cases"]), (0, &Value::from(3)));
    // Only some outputs, to an exact tolerance.
    let small = parent.path().join("small");
    verify(&[
        "record",
        text(base.path()),
        text(&probe),
        "--output",
        text(&small),
        "--rtol",
        "0",
        "--atol",
        "0",
    ])
    .args(["--outputs", "raw_detection_scores"])
    .assert()
    .success();
    assert_eq!(common::entries(&small.join("probe")), ["case.json", "image.png", "raw_detection_scores.npy"]);
    assert_eq!(check(base.path(), &small, &[]).0, 0);
}

#[test]
fn an_existing_reference_is_replaced_only_when_asked_and_never_silently_by_a_build_server() {
    if !common::has_tensorflow() {
        return;
    }
    let base = common::fixture("tf1_frozen/base");
    let parent = tempdir().unwrap();
    let reference = parent.path().join("ref");
    record(base.path(), &reference);
    let before = common::contents(&reference);
    let probe = common::probe();
    let words = ["record", text(base.path()), text(&probe), "--output", text(&reference)];
    verify(&words).assert().code(2).stderr(predicates::str::contains("--update"));
    let update = [&words[..], &["--update"]].concat();
    verify(&update).env("CI", "true").assert().code(2).stderr(predicates::str::contains("CI"));
    assert!(common::contents(&reference) == before);
    move_one_weight(base.path());
    verify(&[&update[..], &["--update-in-ci"]].concat())
        .env("CI", "true")
        .assert()
        .success()
        .stdout(predicates::str::contains("FAIL  raw_detection_scores"));
    assert!(common::contents(&reference) != before);
    assert_eq!(check(base.path(), &reference, &[]).0, 0);
    assert_eq!(common::entries(parent.path()), ["ref"]);
}

#[test]
fn nothing_compared_is_a_failure_and_a_broken_reference_cannot_run() {
    if !common::has_tensorflow() {
        return;
    }
    let base = common::fixture("tf1_frozen/base");
    let parent = tempdir().unwrap();
    let reference = parent.path().join("ref");
    record(base.path(), &reference);
    let file = reference.join("reference.json");
    let whole = fs::read_to_string(&file).unwrap();
    let edited = |change: &dyn Fn(&mut Value)| {
        let mut json: Value = serde_json::from_str(&whole).unwrap();
        change(&mut json);
        fs::write(&file, json.to_string()).unwrap();
        let done = verify(&["check", text(base.path()), text(&reference)]).output().unwrap();
        (done.status.code().unwrap(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let none: &[&dyn Fn(&mut Value)] = &[&|j| j["cases"] = serde_json::json!([]), &|j| {
        for kind in j["compare"].as_object_mut().unwrap().values_mut() {
            *kind = serde_json::json!({"kind": "none", "why": "test"});
        }
    }];
    for change in none {
        let (code, said) = edited(change);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("nothing was compared"), "{said}");
    }
    let (code, said) = edited(&|j| j["cases"] = serde_json::json!(["../ref/probe"]));
    assert_eq!(code, 2, "{said}");
    let (code, said) = edited(&|j| j["compare"]["detections"]["kind"] = "fuzzy".into());
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("reference.json"), "{said}");
    fs::write(&file, &whole).unwrap();
    let npy = reference.join("probe/raw_detection_scores.npy");
    let image = reference.join("probe/image.png");
    let broken: [(&PathBuf, Vec<u8>); 2] =
        [(&npy, fs::read(&npy).unwrap()[..200].to_vec()), (&image, other_picture())];
    for (path, bytes) in broken {
        let good = fs::read(path).unwrap();
        fs::write(path, bytes).unwrap();
        let done = verify(&["check", text(base.path()), text(&reference)]).assert().code(2);
        let said = String::from_utf8_lossy(&done.get_output().stderr).into_owned();
        assert!(said.contains(text(path)), "{said}");
        fs::write(path, good).unwrap();
    }
    assert_eq!(check(base.path(), &reference, &[]).0, 0);
}

fn other_picture() -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(160, 120).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}
