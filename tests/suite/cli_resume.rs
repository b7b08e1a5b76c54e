//! A retraining that was killed goes on from the features it had, and ends with the bytes of one that was never stopped.
#![cfg(unix)]

use crate::common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::tempdir;

struct Case {
    model: tempfile::TempDir,
    data: tempfile::TempDir,
    parent: tempfile::TempDir,
    strategy: &'static str,
    views: &'static str,
}

impl Case {
    fn words(&self, output: &str, more: &[&str]) -> Vec<String> {
        let path = |p: &Path| p.to_str().unwrap().to_owned();
        let mut words = vec![
            "retrain".into(),
            path(self.model.path()),
            "--data".into(),
            path(&self.data.path().join("data.json")),
            "--output".into(),
            path(&self.parent.path().join(output)),
        ];
        let options = ["--views", self.views, "--threads", "1", "--strategy", self.strategy];
        words.extend(options.map(str::to_owned));
        words.extend(more.iter().map(|&m| m.to_owned()));
        words
    }

    fn model(&self, output: &str) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
        common::contents(&self.parent.path().join(output).join("saved_model"))
    }
}

fn shards(dir: &Path) -> Vec<PathBuf> {
    let files = common::contents(dir).into_keys();
    files.filter(|f| f.extension().is_some_and(|e| e == "shard")).collect()
}

#[test]
fn a_killed_fit_goes_on_and_ends_with_the_same_bytes() {
    goes_on("tf1_frozen/base", "frozen-columns", "60");
}

#[test]
fn a_killed_descent_goes_on_and_ends_with_the_same_bytes() {
    goes_on("tf1_frozen/base", "copy-back", "60");
}

/// Three fits, whose rows lie in one cache.
#[test]
#[ignore = "a minute: run with scripts/test --long"]
fn a_killed_fit_of_two_stages_goes_on_and_ends_with_the_same_bytes() {
    goes_on("tf1_masks/base", "frozen-columns", "12");
}

fn goes_on(model: &str, strategy: &'static str, views: &'static str) {
    if !common::has_tensorflow() {
        return;
    }
    let case = Case {
        model: common::fixture(model),
        data: tempdir().unwrap(),
        parent: tempdir().unwrap(),
        strategy,
        views,
    };
    common::squares(case.data.path(), 4);
    common::tfgraft().args(case.words("whole", &[])).assert().success();

    let features = tempdir().unwrap();
    let cached = ["--cache-dir", features.path().to_str().unwrap()];
    // A file of somebody else's must stay.
    fs::write(features.path().join("mine"), "x").unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_tfgraft"))
        .args(case.words("resumed", &cached))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while shards(features.path()).is_empty() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it had kept anything");
        assert!(start.elapsed() < Duration::from_secs(120), "nothing was kept");
        sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // The worker ends with its parent, a moment later.
    sleep(Duration::from_millis(500));
    let kept = shards(features.path());
    assert!(!kept.is_empty() && !case.parent.path().join("resumed").exists());
    // Of two shards the last is damaged: its views are computed again.
    if kept.len() > 1 {
        let last = features.path().join(kept.last().unwrap());
        let mut bytes = fs::read(&last).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs::write(&last, bytes).unwrap();
    }

    let done = common::tfgraft().args(case.words("resumed", &cached)).assert().success();
    let told = String::from_utf8_lossy(&done.get_output().stderr).into_owned();
    assert!(told.contains("were there from a run that did not end"), "{told}");
    assert!(case.model("resumed") == case.model("whole"), "{strategy}: other bytes");
    assert_eq!(common::entries(features.path()), ["mine"], "features stay behind");
    assert_eq!(common::entries(case.parent.path()), ["resumed", "whole"]);

    // Other options, other features: nothing is taken from elsewhere.
    let done = common::tfgraft()
        .args(case.words("other", &[&cached[..], &["--seed", "1"]].concat()))
        .assert()
        .success();
    assert!(!String::from_utf8_lossy(&done.get_output().stderr).contains("did not end"));
    assert!(case.model("other") != case.model("whole"));
}
