//! `tfgraft publish` on committed models, and refusals of unsafe ones, seen from outside.

use crate::common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use prost::Message;
use serde_json::Value;
use tempfile::{TempDir, tempdir};
use tfgraft::pb;

fn publish(source: &Path, base: &Path, more: &[&str]) -> assert_cmd::Command {
    let mut command = common::tfgraft();
    command.args(["publish", "--json", "--quiet"]).arg(source).arg(base).args(more);
    command
}

fn start(source: &Path, base: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_tfgraft"))
        .args(["publish", "--json", "--quiet", "--no-warmup"])
        .args([source, base])
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// A folder as `retrain` makes it.
fn source() -> TempDir {
    let folder = common::fixture("tf1_frozen/base");
    fs::remove_file(folder.path().join("frozen_inference_graph.pb")).unwrap();
    let items = (1..=5).map(|id| format!("item {{\n  id: {id}\n  name: 'class_{id}'\n}}\n"));
    fs::write(folder.path().join("label_map.pbtxt"), items.collect::<String>()).unwrap();
    fs::write(folder.path().join("report.json"), "{}").unwrap();
    folder
}

/// Panics unless a version holds every file of its list, with its size.
fn assert_complete(version: &Path) {
    let list = fs::read_to_string(version.join("assets.extra/publish.json"))
        .unwrap_or_else(|e| panic!("{}: {e}", version.display()));
    let list: Value = serde_json::from_str(&list).unwrap();
    let files = list["files"].as_object().unwrap();
    assert!(files.contains_key("saved_model.pb"), "{}", version.display());
    for (name, entry) in files {
        let size = fs::metadata(version.join(name)).unwrap_or_else(|e| panic!("{name}: {e}")).len();
        assert_eq!(size, entry["size"], "{name}");
    }
}

#[test]
fn versions_count_up_and_hold_everything() {
    if !common::has_tensorflow() {
        return;
    }
    let source = source();
    let before = common::contents(source.path());
    let parent = tempdir().unwrap();
    let base = parent.path().join("detector");
    let probe = common::probe();
    let told = common::json(&mut publish(source.path(), &base, &["--warmup", probe.to_str().unwrap()]));
    assert_eq!((&told["version"], &told["verified"]["requests"]), (&1.into(), &1.into()), "{told}");
    assert_eq!(told["fingerprint"], false);
    let version = base.join("1");
    assert_complete(&version);
    let extra = common::entries(&version.join("assets.extra"));
    assert_eq!(extra, ["label_map.pbtxt", "publish.json", "report.json", "tf_serving_warmup_requests"]);
    let model = fs::read(version.join("saved_model.pb")).unwrap();
    assert!(model == before[Path::new("saved_model/saved_model.pb")]);
    let warm_up = |version: &str| {
        let file = base.join(version).join("assets.extra/tf_serving_warmup_requests");
        String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned()
    };
    assert!(warm_up("1").contains("detector"), "the name that a server gives it");
    let first = common::contents(&version);

    // A published version can be published again; its own warm-up file goes along.
    let told = common::json(&mut publish(&version, &base, &[]));
    assert_eq!((&told["version"], &told["verified"]["requests"]), (&2.into(), &1.into()), "{told}");
    publish(source.path(), &base, &["--number", "2"]).assert().code(2);
    publish(source.path(), &base, &["--number", "40", "--no-warmup"]).assert().success();
    assert!(!base.join("40/assets.extra/tf_serving_warmup_requests").exists());
    // What `retrain --model-name` wrote.
    fs::write(source.path().join("report.json"), r#"{"schema": 1, "model_name": "forklifts"}"#).unwrap();
    publish(source.path(), &base, &["--number", "41"]).assert().success();
    assert!(warm_up("41").contains("forklifts") && !warm_up("41").contains("detector"));
    fs::write(source.path().join("report.json"), "{}").unwrap();
    assert_eq!(common::entries(&base), ["1", "2", "40", "41"]);
    assert!(common::contents(&version) == first, "an old version was touched");
    assert!(common::contents(source.path()) == before, "the source was touched");
}

#[test]
fn what_a_server_could_not_load_is_not_published() {
    if !common::has_tensorflow() {
        return;
    }
    let parent = tempdir().unwrap();
    let base = parent.path().join("base");
    // A model that TensorFlow refuses: an operation that it does not know.
    let source = source();
    edit(source.path(), |graph| graph.node[0].op = "NoSuchOperation".into());
    publish(source.path(), &base, &[]).assert().code(1).stderr(predicates::str::contains("--trust"));
    publish(source.path(), &base, &["--trust"])
        .assert()
        .code(2)
        .stderr(predicates::str::contains("Op type not registered 'NoSuchOperation'"));
    // A warm-up file that a server would fail on makes a version that never loads.
    let source = self::source();
    let extra = source.path().join("saved_model/assets.extra");
    fs::create_dir(&extra).unwrap();
    fs::write(extra.join("tf_serving_warmup_requests"), "not a record").unwrap();
    publish(source.path(), &base, &[])
        .assert()
        .code(2)
        .stderr(predicates::str::contains("tf_serving_warmup"));
    publish(&common::fixtures().join("nothing"), &base, &[]).assert().code(2);
    assert_eq!(common::entries(&base), [""; 0]);
}

fn edit(model: &Path, change: impl FnOnce(&mut pb::GraphDef)) {
    let file = model.join("saved_model/saved_model.pb");
    let mut proto = pb::SavedModel::decode(fs::read(&file).unwrap().as_slice()).unwrap();
    change(proto.meta_graphs[0].graph_def.as_mut().unwrap());
    fs::write(&file, proto.encode_to_vec()).unwrap();
}

/// Links that would carry a file of this machine into a version, and pipes that would keep its reader waiting.
#[test]
#[cfg(unix)]
fn what_lies_elsewhere_is_not_published() {
    use std::os::unix::fs::symlink;
    let parent = tempdir().unwrap();
    let base = parent.path().join("base");
    let secret = parent.path().join("secret");
    fs::write(&secret, "of this machine").unwrap();
    let pipe = |at: &Path| assert!(Command::new("mkfifo").arg(at).status().unwrap().success());
    type Lay<'a> = Box<dyn Fn(&Path) + 'a>;
    let cases: [(&str, Lay<'_>); 5] = [
        ("out of the model's folder", Box::new(|m| symlink(&secret, m.join("saved_model/extra")).unwrap())),
        ("other than a file", Box::new(|m| symlink(".", m.join("saved_model/again")).unwrap())),
        ("label_map", Box::new(|m| symlink(&secret, m.join("label_map.pbtxt")).unwrap())),
        ("not JSON", Box::new(|m| symlink(&secret, m.join("report.json")).unwrap())),
        ("a pipe", Box::new(|m| pipe(&m.join("saved_model/variables/variables.data-00000-of-00001")))),
    ];
    for (said, lay) in cases {
        let source = source();
        for name in ["label_map.pbtxt", "report.json"] {
            fs::remove_file(source.path().join(name)).unwrap();
        }
        fs::create_dir_all(source.path().join("saved_model/variables")).unwrap();
        lay(source.path());
        publish(source.path(), &base, &["--no-warmup"])
            .timeout(Duration::from_secs(60))
            .assert()
            .code(2)
            .stderr(predicates::str::contains(said));
        assert!(!base.exists() || common::entries(&base).is_empty(), "{said}");
    }
}

#[test]
fn publishers_at_once_get_numbers_of_their_own_and_a_watcher_sees_whole_versions_only() {
    if !common::has_tensorflow() {
        return;
    }
    let source = source();
    let parent = tempdir().unwrap();
    let base = parent.path().join("base");
    fs::create_dir(&base).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let watcher = {
        let (base, stop) = (base.clone(), Arc::clone(&stop));
        thread::spawn(move || {
            let (mut looks, mut seen) = (0u64, BTreeSet::new());
            while !stop.load(Ordering::Relaxed) {
                for name in common::entries(&base) {
                    // Only the first look at a version can catch it half made.
                    if name.parse::<i64>().is_ok() && seen.insert(name.clone()) {
                        assert_complete(&base.join(name));
                    }
                }
                looks += 1;
                thread::sleep(Duration::from_millis(1));
            }
            (looks, seen)
        })
    };
    // One is killed in the middle: it leaves no version, and what it leaves goes with the next publication.
    let mut killed = start(source.path(), &base);
    while common::entries(&base).is_empty() {
        assert!(killed.try_wait().unwrap().is_none(), "it ended before it had staged anything");
        thread::sleep(Duration::from_millis(1));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    let children: Vec<Child> = (0..4).map(|_| start(source.path(), &base)).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    stop.store(true, Ordering::Relaxed);
    let (looks, seen) = watcher.join().unwrap();
    assert!(looks > 20, "{looks}");
    let wanted = ["1", "2", "3", "4"];
    assert!(seen.iter().all(|name| wanted.contains(&name.as_str())), "{seen:?}");
    assert_eq!(common::entries(&base), wanted);
    wanted.iter().for_each(|name| assert_complete(&base.join(name)));
}

#[test]
fn every_command_that_runs_a_model_refuses_an_unsafe_one() {
    let source = source();
    edit(source.path(), |graph| {
        let mut write = graph.node[0].clone();
        write = pb::NodeDef { name: "steal".into(), op: "WriteFile".into(), input: vec![], ..write };
        let name = graph.node.iter().find(|n| n.op == "Placeholder").unwrap().name.clone();
        write.attr.clear();
        write.input = vec![name.clone(), name];
        graph.node.push(write);
    });
    let model = source.path().to_str().unwrap();
    let parent = tempdir().unwrap();
    let out = parent.path().join("out");
    let out = out.to_str().unwrap();
    let probe = common::probe();
    let probe = probe.to_str().unwrap();
    let data = tempdir().unwrap();
    let labels = common::squares(data.path(), 2);
    let labels = labels.to_str().unwrap();
    let done = common::tfgraft().args(["inspect", model]).assert().success();
    assert!(
        String::from_utf8_lossy(&done.get_output().stdout).contains("unsafe             WriteFile (steal)")
    );
    for words in [
        &["grow", model, "--add", "a", "--output", out][..],
        &["retrain", model, "--data", labels, "--output", out],
        &["detect", model, probe],
        &["evaluate", model, "--data", labels],
        &["verify", "record", model, probe, "--output", out],
        &["verify", "compare", model, model, probe],
        &["publish", model, out],
    ] {
        common::tfgraft()
            .args(words)
            // It must be refused before TensorFlow is loaded.
            .env("TFGRAFT_TENSORFLOW", "/nowhere")
            .assert()
            .code(1)
            .stderr(predicates::str::contains("WriteFile (steal)"))
            .stderr(predicates::str::contains("--trust"));
        common::tfgraft()
            .args(words)
            .arg("--trust")
            .env("TFGRAFT_TENSORFLOW", "/nowhere")
            .assert()
            .code(2)
            .stderr(predicates::str::contains("library"));
    }
}
