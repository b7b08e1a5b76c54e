//! `tfgraft retrain` on committed models and a few drawn pictures, seen from outside.

use crate::common;

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::tempdir;

fn retrain(model: &Path, data: &Path, output: &Path, more: &[&str]) -> Value {
    let mut command = common::tfgraft();
    command.args(["retrain", "--json", "--quiet", "--views", "2"]).arg(model).arg("--data").arg(data);
    common::json(command.arg("--output").arg(output).args(more))
}

fn product(shape: &Value) -> u64 {
    shape.as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).product()
}

fn check_report(report: &Value, output: &Path, strategy: &str, classes: u64) {
    let text = fs::read_to_string(output.join("report.json")).unwrap();
    assert_eq!(&serde_json::from_str::<Value>(&text).unwrap(), report, "printed and written reports");
    assert_eq!(report["schema"], 1);
    assert_eq!(report["classes_before"], classes);
    assert_eq!(report["new"][0]["name"], "square");
    assert_eq!(report["new"][0]["id"], classes + 1);
    assert_eq!(report["new"][0]["objects"], 4);
    assert_eq!(report["new"][0]["pictures"], 4);
    assert_eq!(report["old_in_data"]["class_1"], 4);
    assert_eq!(report["training"]["strategy"], strategy);
    assert_eq!(report["training"]["images"], 4);
    let matched = report["training"]["matched_anchors"].to_string();
    assert!(matched.contains(|c: char| ('1'..='9').contains(&c)), "no anchor was matched: {matched}");
    let losses: Vec<f64> =
        report["training"]["losses"].as_array().unwrap().iter().map(|l| l.as_f64().unwrap()).collect();
    assert!(losses.len() >= 2 && losses.last() < losses.first(), "{losses:?}");
    let digest = |side: &str| report[side]["sha256"]["saved_model.pb"].as_str().unwrap().to_owned();
    assert_eq!(digest("result").len(), 64);
    assert_ne!(digest("source"), digest("result"));
    assert!(report["seconds"]["total"].as_f64().unwrap() > 0.0);

    let changed = report["weights"]["changed"].as_array().unwrap();
    assert!(!changed.is_empty() && changed.len().is_multiple_of(2), "a kernel and biases for each layer");
    for change in changed {
        assert_eq!(change["old_columns_bit_equal"], true, "{change}");
        let wider = product(&change["after"]) - product(&change["before"]);
        assert_eq!(change["new_values"], wider, "{change}");
        // One class more: each anchor's group of columns is one longer, for each row of the kernel.
        let last = |side: &str| change[side].as_array().unwrap().last().unwrap().as_u64().unwrap();
        let rows = product(&change["before"]) / last("before");
        assert_eq!(wider, rows * (last("after") - last("before")), "{change}");
    }
    assert!(report["weights"]["unchanged"].as_u64().unwrap() > 10);
    assert_eq!(
        common::entries(output),
        ["label_map.pbtxt", "pipeline.config", "report.html", "report.json", "saved_model"]
    );
}

#[test]
fn both_strategies_keep_old_columns_and_report() {
    if !common::has_tensorflow() {
        return;
    }
    let data = tempdir().unwrap();
    let labels = common::squares(data.path(), 4);
    for (name, classes) in [("tf2_levels", 3), ("tf1_frozen", 5)] {
        let model = common::fixture(&format!("{name}/base"));
        let before = common::contents(model.path());
        let parent = tempdir().unwrap();
        for strategy in ["frozen-columns", "copy-back"] {
            let output = parent.path().join(strategy);
            let report = retrain(model.path(), &labels, &output, &["--strategy", strategy]);
            check_report(&report, &output, strategy, classes);
        }
        assert_eq!(common::entries(parent.path()), ["copy-back", "frozen-columns"], "{name}");
        assert!(before == common::contents(model.path()), "{name}: the source was changed");
    }
}

#[test]
fn new_values_are_rows_times_anchors_and_biases() {
    if !common::has_tensorflow() {
        return;
    }
    let data = tempdir().unwrap();
    let labels = common::squares(data.path(), 4);
    let model = common::fixture("tf2_shared/base");
    let parent = tempdir().unwrap();
    let report =
        retrain(model.path(), &labels, &parent.path().join("out"), &["--strategy", "frozen-columns"]);
    check_report(&report, &parent.path().join("out"), "frozen-columns", 4);
    let told = common::json(common::tfgraft().args(["inspect", "--json"]).arg(model.path()));
    let mut expected = 0;
    for layer in told["head"]["layers"].as_array().unwrap() {
        let anchors = layer["anchors"].as_u64().unwrap();
        let shape = layer["shape"].as_array().unwrap();
        let rows: u64 = shape[..shape.len() - 1].iter().map(|d| d.as_u64().unwrap()).product();
        expected += rows * anchors + anchors;
    }
    let changed = report["weights"]["changed"].as_array().unwrap();
    let new: u64 = changed.iter().map(|c| c["new_values"].as_u64().unwrap()).sum();
    assert_eq!(new, expected);
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    if !common::has_tensorflow() {
        return;
    }
    let data = tempdir().unwrap();
    let labels = common::squares(data.path(), 4);
    let model = common::fixture("tf2_levels/base");
    let parent = tempdir().unwrap();
    for strategy in ["frozen-columns", "copy-back"] {
        let made = |name: &str, seed: &str, threads: &str| {
            let output = parent.path().join(format!("{strategy}-{name}"));
            let options = ["--strategy", strategy, "--seed", seed, "--threads", threads];
            retrain(model.path(), &labels, &output, &options);
            common::contents(&output.join("saved_model"))
        };
        // However many views are shown at once.
        let others = if strategy == "copy-back" { "1" } else { "3" };
        let (first, again, other) =
            (made("first", "5", "1"), made("again", "5", others), made("other", "6", "1"));
        assert!(first.len() >= 3, "{:?}", first.keys());
        assert!(first == again, "{strategy}: the same seed gave other bytes");
        assert!(first != other, "{strategy}: the seed has no effect");
    }
}

#[test]
fn a_cap_on_false_positives_raises_what_one_half_stands_for() {
    let data = tempdir().unwrap();
    let labels = common::squares(data.path(), 6);
    let parent = tempdir().unwrap();
    let cap = |model: &str, rate: &str, more: &[&str]| {
        let mut command = common::tfgraft();
        command.args(["retrain", "--dry-run", "--cap-false-positives", rate]).args(more);
        let model = common::fixture(model);
        command.arg(model.path()).arg("--data").arg(&labels);
        command.arg("--output").arg(parent.path().join("out"));
        command.assert().code(2).get_output().stderr.clone()
    };
    for (model, rate, more, why) in [
        ("tf1_frozen/base", "0.01", &["--strategy", "copy-back"][..], "frozen-columns"),
        ("tf1_frozen/base", "NaN", &[], "such as 0.01"),
    ] {
        let said = String::from_utf8(cap(model, rate, more)).unwrap();
        assert!(said.contains("--cap-false-positives") && said.contains(why), "{said}");
    }
    if !common::has_tensorflow() {
        return;
    }
    let model = common::fixture("tf1_masks/base");
    let division = |name: &str, more: &[&str]| {
        let report = retrain(model.path(), &labels, &parent.path().join(name), more);
        report["training"]["fits"][0]["divisions"][0].clone()
    };
    let (free, capped) = (division("free", &[]), division("capped", &["--cap-false-positives", "0"]));
    assert!(capped["logit"].as_f64() > free["logit"].as_f64(), "{free} {capped}");
    assert!(capped["wrong"].as_u64() < free["wrong"].as_u64(), "{free} {capped}");
}

#[test]
fn a_dry_run_needs_no_tensorflow_and_writes_nothing() {
    let data = tempdir().unwrap();
    let labels = common::squares(data.path(), 4);
    let model = common::fixture("tf2_levels/base");
    let parent = tempdir().unwrap();
    let mut command = common::tfgraft();
    command.args(["retrain", "--dry-run", "--json"]).arg(model.path()).arg("--data").arg(&labels);
    command.arg("--output").arg(parent.path().join("out")).env("TFGRAFT_TENSORFLOW", "/nowhere");
    let plan = common::json(&mut command);
    assert_eq!(plan["classes_before"], 3);
    assert_eq!(plan["new"][0]["name"], "square");
    assert!(common::entries(parent.path()).is_empty());

    // Without --dry-run the same environment fails: the check above is one.
    let mut command = common::tfgraft();
    command.args(["retrain"]).arg(model.path()).arg("--data").arg(&labels);
    command.arg("--output").arg(parent.path().join("out")).env("TFGRAFT_TENSORFLOW", "/nowhere");
    command.assert().code(2);
    assert!(common::entries(parent.path()).is_empty());
}

/// Elements that HTML never closes.
const VOID: [&str; 3] = ["meta", "br", "!doctype"];

/// Checks that every element is closed, innermost first, and returns the names of all.
fn elements(html: &str) -> Vec<String> {
    let (mut open, mut all) = (Vec::new(), Vec::new());
    for tag in html.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap_or_else(|| panic!("not closed: {tag}"));
        let name: String = tag.trim_start_matches('/').split([' ', '/']).next().unwrap().to_ascii_lowercase();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "closed in another order");
        } else if !VOID.contains(&name.as_str()) {
            open.push(name.clone());
            all.push(name);
        }
    }
    assert!(open.is_empty(), "never closed: {open:?}");
    all
}

#[test]
fn the_page_is_one_file_and_names_are_no_markup() {
    if !common::has_tensorflow() {
        return;
    }
    let data = tempdir().unwrap();
    let labels = common::squares(data.path(), 4);
    let hostile = "<script>alert(1)</script>\" onload='x' &amp;";
    let mut text: Value = serde_json::from_str(&fs::read_to_string(&labels).unwrap()).unwrap();
    text["categories"][1]["name"] = hostile.into();
    text["images"].as_array_mut().unwrap().push(serde_json::json!({"id": 99, "file_name": "<b>none.png"}));
    fs::write(&labels, text.to_string()).unwrap();
    let model = common::fixture("tf2_levels/base");
    let parent = tempdir().unwrap();
    common::tfgraft()
        .args(["retrain", "--model-name", "<b>", "--data"])
        .args([&labels, model.path()])
        .args(["--output", "never"])
        .assert()
        .code(2)
        .stderr(predicates::str::contains("--model-name"));
    for (name, more) in
        [("sample", vec![]), ("held", vec!["--validation", "0.5", "--model-name", "shop-7_squares.v2"])]
    {
        let output = parent.path().join(name);
        let report = retrain(model.path(), &labels, &output, &more);
        assert_eq!(report["new"][0]["name"], hostile);
        let served = if name == "held" { "shop-7_squares.v2".into() } else { Value::Null };
        assert_eq!(report["model_name"], served);
        let page = fs::read_to_string(output.join("report.html")).unwrap();
        let elements = elements(&page);
        let count = |wanted: &str| elements.iter().filter(|e| *e == wanted).count();
        assert_eq!((count("script"), count("b"), count("html"), count("body")), (0, 0, 1, 1));
        assert!(
            page.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot; onload='x' &amp;amp;"),
            "not shown"
        );
        // Loss, precision and recall; each picture twice, its bytes once.
        assert!(count("path") >= 2 && count("image") >= 2, "{elements:?}");
        assert_eq!(
            (count("use"), page.matches("data:image/jpeg;base64,").count()),
            (count("image"), count("image"))
        );
        for outside in ["http:", "https:", "url(", "@import", " src=", "file:"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("pictures not found"), "problems of the data");
        assert_eq!(page.contains("<h1>shop-7_squares.v2: "), name == "held");
        assert_eq!(page.contains("These pictures were trained on"), name == "sample");
        assert!(page.len() < 2_000_000, "{}", page.len());
        assert!(report["seconds"]["page"].as_f64().unwrap() > 0.0);
    }
}
