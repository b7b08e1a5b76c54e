//! Every bad input ends with exit code 2, one error that says what and where, and nothing written.

use crate::common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

/// A model, four labelled pictures and a place for the output; the place must stay empty.
struct Case {
    model: TempDir,
    data: TempDir,
    parent: TempDir,
}

impl Case {
    fn new() -> Self {
        let data = tempdir().unwrap();
        common::squares(data.path(), 4);
        Self { model: common::fixture("tf2_levels/base"), data, parent: tempdir().unwrap() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.model.path().join("saved_model").join(name)
    }

    fn labels(&self) -> PathBuf {
        self.data.path().join("data.json")
    }

    /// Changes the labels in place.
    fn edit(&self, change: impl FnOnce(&mut Value)) {
        let mut labels = serde_json::from_str(&fs::read_to_string(self.labels()).unwrap()).unwrap();
        change(&mut labels);
        fs::write(self.labels(), labels.to_string()).unwrap();
    }

    fn grow(&self, more: &[&str]) -> Vec<String> {
        self.words("grow", &["--output", self.output().to_str().unwrap()], more)
    }

    fn retrain(&self, more: &[&str]) -> Vec<String> {
        let labels = self.labels();
        let start = ["--data", labels.to_str().unwrap(), "--output", self.output().to_str().unwrap()]
            .map(str::to_owned);
        self.words("retrain", &start.each_ref().map(String::as_str), more)
    }

    fn words(&self, command: &str, start: &[&str], more: &[&str]) -> Vec<String> {
        let model = self.model.path().to_str().unwrap();
        [&[command, model], start, more].concat().into_iter().map(str::to_owned).collect()
    }

    fn output(&self) -> PathBuf {
        self.parent.path().join("out")
    }

    /// Runs and expects a refusal that says all of `said`, and nothing left beside the output.
    fn refused(&self, arguments: &[String], said: &[&str]) {
        let done = common::tfgraft().args(arguments).output().unwrap();
        check_refusal(&done, &format!("{arguments:?}"), said);
        assert!(common::entries(self.parent.path()).is_empty(), "{arguments:?} left something");
    }
}

fn check_refusal(done: &Output, what: &str, said: &[&str]) {
    let text = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(2), "{what}: {text}");
    assert!(done.stdout.is_empty(), "{what}: printed results");
    assert!(!text.contains("panicked") && !text.contains("RUST_BACKTRACE"), "{what}: {text}");
    let errors: Vec<&str> = text.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{what}: {text}");
    for part in said {
        assert!(errors[0].contains(part), "{what}: {part:?} is not in {:?}", errors[0]);
    }
}

#[test]
fn what_is_no_model_is_refused() {
    let case = Case::new();
    let empty = tempdir().unwrap();
    let text = empty.path().join("notes.txt");
    for (path, said) in [
        (empty.path().to_owned(), "saved_model.pb"),
        (case.data.path().to_owned(), "saved_model.pb"),
        (empty.path().join("gone"), "no such file or folder"),
        (text.clone(), "frozen graph"),
    ] {
        if path == text {
            fs::write(&text, "a").unwrap();
        }
        let name = path.to_str().unwrap();
        case.refused(&["inspect", name].map(str::to_owned), &[name, said]);
        let out = case.output();
        let grow = ["grow", name, "--add", "a", "--output", out.to_str().unwrap()];
        case.refused(&grow.map(str::to_owned), &[name, said]);
    }
}

#[test]
fn a_truncated_graph_is_refused() {
    let case = Case::new();
    let file = case.file("saved_model.pb");
    let whole = fs::read(&file).unwrap();
    for length in [0, 1, 2, 5, 100, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
        fs::write(&file, &whole[..length]).unwrap();
        case.refused(&case.grow(&["--add", "a"]), &["saved_model.pb"]);
    }
    let frozen = common::fixture("tf1_frozen/base");
    let file = frozen.path().join("frozen_inference_graph.pb");
    let whole = fs::read(&file).unwrap();
    for length in [0, 1, whole.len() / 2, whole.len() - 1] {
        fs::write(&file, &whole[..length]).unwrap();
        case.refused(&["inspect", file.to_str().unwrap()].map(str::to_owned), &["frozen_inference_graph.pb"]);
    }
}

#[test]
fn an_unknown_field_is_refused_by_number() {
    let case = Case::new();
    let file = case.file("saved_model.pb");
    let mut bytes = fs::read(&file).unwrap();
    // Field 999, a number: 1.
    bytes.extend([0xb8, 0x3e, 0x01]);
    fs::write(&file, bytes).unwrap();
    case.refused(&case.grow(&["--add", "a"]), &["saved_model.pb", "999", "SavedModel"]);
}

#[test]
fn damaged_variables_are_refused() {
    if !common::has_tensorflow() {
        return;
    }
    for (name, parts) in [("variables.index", 3), ("variables.data-00000-of-00001", 4)] {
        for part in 0..parts {
            let case = Case::new();
            let file = case.file("variables").join(name);
            let whole = fs::read(&file).unwrap();
            fs::write(&file, &whole[..whole.len() * part / parts]).unwrap();
            case.refused(&case.grow(&["--add", "a"]), &["variables"]);
        }
        let case = Case::new();
        fs::remove_file(case.file("variables").join(name)).unwrap();
        case.refused(&case.grow(&["--add", "a"]), &["variables"]);
    }
    let case = Case::new();
    fs::remove_dir_all(case.file("variables")).unwrap();
    case.refused(&case.grow(&["--add", "a"]), &["variables/variables.index"]);
}

#[test]
fn a_classifier_is_refused_and_says_why() {
    let mut case = Case::new();
    case.model = common::fixture("classifier");
    case.refused(&case.grow(&["--add", "a"]), &["cannot grow this model"]);
    case.refused(&case.retrain(&[]), &["cannot grow this model"]);
    let model = case.model.path().to_str().unwrap();
    let told = common::json(common::tfgraft().args(["inspect", model, "--json"]));
    assert_eq!(told["can_grow"], false);
    assert!(told["reason"].as_str().unwrap().contains("cannot grow this model"));
}

#[test]
fn an_existing_output_is_kept() {
    let case = Case::new();
    fs::create_dir(case.output()).unwrap();
    fs::write(case.output().join("mine"), "x").unwrap();
    for arguments in [case.grow(&["--add", "a"]), case.retrain(&[])] {
        let done = common::tfgraft().args(&arguments).output().unwrap();
        check_refusal(&done, "output", &[case.output().to_str().unwrap(), "--overwrite"]);
        assert_eq!(common::entries(case.parent.path()), ["out"]);
        assert_eq!(common::entries(&case.output()), ["mine"]);
    }
}

#[test]
fn bad_classes_are_refused() {
    let case = Case::new();
    case.refused(&case.grow(&["--add", "a=like:999"]), &["999"]);
    case.refused(&case.grow(&["--add", "a=like:0"]), &["0"]);
    case.refused(&case.grow(&["--add", "a", "--add", "a"]), &["\"a\""]);
    case.refused(&case.retrain(&["--add", "class_1"]), &["class_1", "already"]);
    case.refused(&case.retrain(&["--add", "zebra"]), &["zebra", "cannot be learned"]);
    let bad = common::tfgraft().args(case.grow(&["--add", "a=loud"])).output().unwrap();
    assert_eq!(bad.status.code(), Some(2));
    let text = String::from_utf8_lossy(&bad.stderr).into_owned();
    assert!(text.contains("loud") && text.contains("silent, random or like:ID"), "{text}");
    assert!(common::entries(case.parent.path()).is_empty());
}

#[test]
fn options_that_ask_for_nothing_are_refused() {
    let case = Case::new();
    case.refused(&case.retrain(&["--view-seconds", "0"]), &["--view-seconds", "above 0"]);
    case.refused(&case.retrain(&["--view-seconds", "5", "--views", "2"]), &["--view-seconds", "--views"]);
    case.refused(&case.retrain(&["--pseudo-labels"]), &["--pseudo-labels", "--incomplete"]);
    let copy_back = ["--pseudo-labels", "--strategy", "copy-back"];
    case.refused(&case.retrain(&copy_back), &["--pseudo-labels", "frozen-columns"]);
}

#[test]
fn the_label_map_of_another_model_is_refused() {
    let case = Case::new();
    let map = case.data.path().join("other.pbtxt");
    let items: Vec<String> = (1..=20).map(|i| format!("item {{\n  id: {i}\n  name: 'n{i}'\n}}\n")).collect();
    fs::write(&map, items.concat()).unwrap();
    let map = map.to_str().unwrap();
    case.refused(&case.retrain(&["--label-map", map]), &["other.pbtxt", "20", "1 to 3"]);
    case.refused(&case.grow(&["--add", "a", "--label-map", map]), &["label map", "20"]);
}

#[test]
fn unusable_data_is_refused() {
    let case = Case::new();
    case.edit(|d| d["categories"][1]["name"] = json!("class_2"));
    case.refused(&case.retrain(&[]), &["no new class", "class_1, class_2"]);

    let case = Case::new();
    case.edit(|d| d["annotations"].as_array_mut().unwrap().retain(|a| a["category_id"] != 7));
    case.refused(&case.retrain(&[]), &["no box of the new class", "square"]);

    let case = Case::new();
    fs::write(case.labels(), "{\"images\": [],\n\"annotations\": [],\n\"categories\": [}\n").unwrap();
    case.refused(&case.retrain(&[]), &["data.json", "line 3"]);

    let case = Case::new();
    fs::remove_file(case.labels()).unwrap();
    case.refused(&case.retrain(&[]), &["data.json", "no such file"]);

    let case = Case::new();
    for i in 0..4 {
        fs::write(case.data.path().join(format!("square{i}.png")), "no picture").unwrap();
    }
    case.refused(&case.retrain(&[]), &["data.json", "square0.png"]);
}

/// The plan of a dry run, for data with faults that are counted, not fatal.
fn planned(case: &Case) -> String {
    let done = common::tfgraft().args(case.retrain(&["--dry-run"])).assert().success();
    String::from_utf8(done.get_output().stdout.clone()).unwrap()
}

#[test]
fn faults_of_single_pictures_and_boxes_are_counted() {
    let case = Case::new();
    case.edit(|d| {
        d["annotations"][0]["bbox"] = json!([-10, -10, 60, 60]);
        d["annotations"][2]["bbox"] = json!([500, 500, 60, 60]);
    });
    let plan = planned(&case);
    assert!(plan.contains("1 boxes reaching out of the picture (clipped)"), "{plan}");
    assert!(plan.contains("1 boxes without area inside the picture (left out)"), "{plan}");
    assert!(plan.contains("square: 3 objects in 3 pictures"), "{plan}");

    let case = Case::new();
    fs::write(case.data.path().join("square1.png"), "no picture").unwrap();
    // A header that asks for 60000 x 60000 pixels must cost no memory.
    let mut png = fs::read(case.data.path().join("square2.png")).unwrap();
    png[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    fs::write(case.data.path().join("square2.png"), png).unwrap();
    fs::remove_file(case.data.path().join("square3.png")).unwrap();
    let plan = planned(&case);
    assert!(plan.contains("square: 1 objects in 1 pictures"), "{plan}");
    assert!(plan.contains("square1.png") && plan.contains("square3.png"), "{plan}");
    assert!(plan.contains("60000"), "{plan}");
}

/// Cuts a file to a part of its length.
fn cut(file: &Path, part: f64) {
    let bytes = fs::read(file).unwrap();
    fs::write(file, &bytes[..(bytes.len() as f64 * part) as usize]).unwrap();
}

#[test]
fn pictures_that_end_in_their_middle_are_left_out_and_named() {
    for ending in ["png", "jpg", "bmp", "webp"] {
        let case = Case::new();
        for i in 0..4 {
            let picture = case.data.path().join(format!("square{i}.png"));
            image::open(&picture).unwrap().into_rgb8().save(picture.with_extension(ending)).unwrap();
        }
        let text = fs::read_to_string(case.labels()).unwrap();
        fs::write(case.labels(), text.replace(".png", &format!(".{ending}"))).unwrap();
        cut(&case.data.path().join(format!("square2.{ending}")), 0.6);
        let plan = planned(&case);
        assert!(plan.contains("3 pictures\n") && plan.contains("square: 3 objects in 3 pictures"), "{plan}");
        assert!(plan.contains("1 pictures that cannot be read (left out)"), "{plan}");
        assert!(plan.contains(&format!("square2.{ending}: ")), "{plan}");
        for i in [0, 1, 3] {
            cut(&case.data.path().join(format!("square{i}.{ending}")), 0.6);
        }
        case.refused(&case.retrain(&[]), &["no picture can be used", &format!("square0.{ending}")]);
    }
}

#[test]
fn a_list_of_incomplete_pictures_may_name_those_that_are_not_there() {
    let case = Case::new();
    fs::remove_file(case.data.path().join("square2.png")).unwrap();
    let list = case.data.path().join("list.txt");
    let dry = ["--dry-run", "--incomplete", list.to_str().unwrap()];
    fs::write(&list, "square1.png\nsquare2.png\n").unwrap();
    let mut command = common::tfgraft();
    let done = command.args(case.retrain(&dry)).assert().success();
    let plan = String::from_utf8_lossy(&done.get_output().stdout).into_owned();
    assert!(plan.contains("1 pictures may show unlabelled objects"), "{plan}");
    assert!(plan.contains("1 pictures not found (left out)"), "{plan}");
    fs::write(&list, "square1.png\nsquare7.png\n").unwrap();
    case.refused(&case.retrain(&dry), &["list.txt:2", "square7.png"]);
}

#[test]
fn a_cut_off_picture_costs_a_run_nothing_else() {
    if !common::has_tensorflow() {
        return;
    }
    let case = Case::new();
    // The first pictures are those that the grown model is proved on.
    cut(&case.data.path().join("square0.png"), 0.6);
    let mut command = common::tfgraft();
    let report = common::json(command.args(case.retrain(&["--json", "--quiet", "--views", "2"])));
    assert_eq!(report["training"]["images"], 3);
    assert_eq!(report["data_problems"]["unreadable_picture"]["count"], 1);
    assert_eq!(report["new"][0]["pictures"], 3);
    let (labels, made) = (case.labels(), case.output());
    let evaluate =
        ["evaluate", made.to_str().unwrap(), "--data", labels.to_str().unwrap(), "--json", "--quiet"];
    let told = common::json(common::tfgraft().args(evaluate));
    assert_eq!(told["images"], 3);
    let problems = &told["data_problems"]["unreadable_picture"];
    assert!(problems["examples"][0].as_str().unwrap().contains("square0.png"), "{problems}");
}

#[test]
fn classes_that_are_neither_old_nor_named_are_told() {
    let case = Case::new();
    case.edit(|d| {
        d["categories"].as_array_mut().unwrap().push(json!({"id": 9, "name": "fox"}));
        let fox = json!({"id": 90, "image_id": 1, "category_id": 9, "bbox": [90, 60, 30, 30]});
        d["annotations"].as_array_mut().unwrap().push(fox);
    });
    let done = common::tfgraft().args(case.retrain(&["--dry-run", "--add", "square"])).assert().success();
    let plan = String::from_utf8(done.get_output().stdout.clone()).unwrap();
    assert!(plan.contains("neither old nor added, background here: fox 1"), "{plan}");
    assert!(!planned(&case).contains("neither"), "all are new where none is named");
    if common::has_tensorflow() {
        // Passed over in what is measured, too: on pictures trained on, and on held-back ones.
        for (more, foxes) in
            [(&["--views", "2"][..], 1), (&["--views", "2", "--validation", "0.5", "--overwrite"], 0)]
        {
            let mut command = common::tfgraft();
            command.args(case.retrain(&["--add", "square", "--json", "--quiet"])).args(more);
            let report = common::json(&mut command);
            let trained_on = report["others_in_data"]["fox"].as_u64().unwrap_or(0);
            assert_eq!((trained_on, &report["new"][1]), (foxes, &Value::Null));
        }
        fs::remove_dir_all(case.output()).unwrap();
    }
    // Roboflow declares a category for all classes together, of which nothing is.
    case.edit(|d| {
        d["annotations"].as_array_mut().unwrap().retain(|a| a["category_id"] != 9);
    });
    case.refused(&case.retrain(&[]), &["no box of the new class \"fox\"", "--add NAME"]);
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[test]
#[cfg(unix)]
fn a_parent_that_may_not_be_written_is_named() {
    use std::os::unix::fs::PermissionsExt;
    if !common::has_tensorflow() {
        return;
    }
    let case = Case::new();
    let mode = |mode| fs::set_permissions(case.parent.path(), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o500);
    if fs::write(case.parent.path().join("probe"), "").is_ok() {
        println!("skipped: this user may write anywhere");
        return;
    }
    case.refused(&case.grow(&["--add", "a"]), &[case.parent.path().to_str().unwrap()]);
    mode(0o700);
}

#[test]
#[cfg(target_os = "linux")]
fn a_file_that_cannot_be_written_whole_leaves_nothing() {
    if !common::has_tensorflow() {
        return;
    }
    // The limit stands for a full disk; ignoring the signal makes it an error of writing. 100 blocks of 1 kB: less than
    // the variables have, which are written first.
    let case = Case::new();
    let done = Command::new("bash")
        .args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_tfgraft")])
        .args(case.grow(&["--add", "a"]))
        .output()
        .unwrap();
    check_refusal(&done, "full disk", &["variables.data", "File too large"]);
    assert!(common::entries(case.parent.path()).is_empty());
}

/// Waits until `ready`, at most half a minute.
fn wait_for(mut ready: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        if ready() {
            return true;
        }
        sleep(Duration::from_millis(5));
    }
    false
}

#[test]
#[cfg(unix)]
fn an_interrupted_run_leaves_nothing() {
    if !common::has_tensorflow() {
        return;
    }
    let case = Case::new();
    // At once, while proving, and while training.
    for delay in [0, 300, 1500] {
        let mut running = Command::new(env!("CARGO_BIN_EXE_tfgraft"))
            .args(case.retrain(&["--views", "2000"]))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        assert!(wait_for(|| !common::entries(case.parent.path()).is_empty()), "no staging folder appeared");
        sleep(Duration::from_millis(delay));
        let kill = Command::new("kill").args(["-INT", &running.id().to_string()]).status().unwrap();
        assert!(kill.success());
        let mut status = None;
        let ended = wait_for(|| {
            status = running.try_wait().unwrap();
            status.is_some()
        });
        if !ended {
            running.kill().unwrap();
            running.wait().unwrap();
        }
        assert!(ended, "it went on after SIGINT");
        assert_eq!(status.unwrap().code(), Some(2), "after {delay} ms");
        assert!(left(case.parent.path()).is_empty(), "after {delay} ms: {:?}", left(case.parent.path()));
    }
}

fn left(folder: &Path) -> Vec<String> {
    common::entries(folder)
}
