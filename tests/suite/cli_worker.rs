//! A model runs in a process of its own: what ends that process costs nothing else.
#![cfg(target_os = "linux")]

use crate::common;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::tempdir;

fn wait_for<T>(mut ready: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(60) {
        if let Some(found) = ready() {
            return Some(found);
        }
        sleep(Duration::from_millis(5));
    }
    None
}

/// A retraining that takes long, with its worker's process number once there is something to lose.
fn long_run(model: &Path, labels: &Path, out: &Path) -> (Child, i32) {
    let child = Command::new(env!("CARGO_BIN_EXE_tfgraft"))
        .arg("retrain")
        .arg(model)
        .args([Path::new("--data"), labels, Path::new("--output"), out])
        .args(["--views", "3000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let parent = out.parent().unwrap();
    wait_for(|| (!common::entries(parent).is_empty()).then_some(())).expect("no staging folder appeared");
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let worker = fs::read_to_string(children).unwrap().trim().parse().unwrap();
    (child, worker)
}

fn signal(process: i32, name: &str) {
    let done = Command::new("kill").args([name, &process.to_string()]).status().unwrap();
    assert!(done.success());
}

#[test]
fn a_worker_that_crashes_is_told_and_leaves_nothing() {
    if !common::has_tensorflow() {
        return;
    }
    let (model, data, parent) = (common::fixture("tf1_frozen/base"), tempdir().unwrap(), tempdir().unwrap());
    let labels = common::squares(data.path(), 4);
    // Rust's own handler lets a SIGSEGV pass that somebody else sent; one that comes from an access ends the process.
    for (name, said) in [("-ILL", "SIGILL"), ("-ABRT", "SIGABRT"), ("-KILL", "SIGKILL")] {
        let (child, worker) = long_run(model.path(), &labels, &parent.path().join("out"));
        sleep(Duration::from_millis(300));
        signal(worker, name);
        let done = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{text}");
        let errors: Vec<&str> = text.lines().filter(|l| l.starts_with("error: ")).collect();
        assert!(errors.len() == 1 && errors[0].contains(said), "{text}");
        assert!(done.stdout.is_empty());
        assert_eq!(common::entries(parent.path()), [""; 0], "{name}");
    }
}

#[test]
fn a_worker_ends_with_its_parent() {
    if !common::has_tensorflow() {
        return;
    }
    let (model, data, parent) = (common::fixture("tf1_frozen/base"), tempdir().unwrap(), tempdir().unwrap());
    let labels = common::squares(data.path(), 4);
    let (mut child, worker) = long_run(model.path(), &labels, &parent.path().join("out"));
    child.kill().unwrap();
    child.wait().unwrap();
    let gone = || !Path::new(&format!("/proc/{worker}/fd")).read_dir().is_ok_and(|d| d.count() > 0);
    assert!(wait_for(|| gone().then_some(())).is_some(), "the worker goes on without its parent");
    // What it had staged goes with the next run.
    let left = common::entries(parent.path());
    assert!(left.len() == 1 && left[0].starts_with('.'), "{left:?}");
    common::tfgraft()
        .arg("grow")
        .arg(model.path())
        .args(["--add", "a", "--output"])
        .arg(parent.path().join("out"))
        .assert()
        .success();
    assert_eq!(common::entries(parent.path()), ["out"]);
}

#[test]
fn memory_is_limited_where_that_is_asked_for() {
    if !common::has_tensorflow() {
        return;
    }
    let model = common::fixture("tf1_frozen/base");
    let detect = |limit: &[&str]| {
        let mut command = common::tfgraft();
        command.arg("detect").arg(model.path()).arg(common::probe()).args(limit);
        command.timeout(Duration::from_secs(60));
        command.output().unwrap()
    };
    let free = detect(&[]);
    let enough = detect(&["--memory-limit", "8GiB"]);
    assert!(free.status.success() && enough.status.success(), "{}", String::from_utf8_lossy(&enough.stderr));
    assert_eq!(free.stdout, enough.stdout);
    // Memory ends at another place with each of them; around 100 MiB inside of TensorFlow, where it once hung.
    for mib in (16..=64).step_by(16).chain((80..=104).step_by(4)) {
        let limit = format!("{mib}MiB");
        let done = detect(&["--memory-limit", &limit]);
        let text = String::from_utf8_lossy(&done.stderr);
        // What is enough depends on TensorFlow: then the answer is whole.
        if mib > 64 && done.status.success() {
            assert_eq!(done.stdout, free.stdout, "{limit}");
            continue;
        }
        assert_eq!(done.status.code(), Some(2), "{limit}: {text}");
        assert!(done.stdout.is_empty(), "{limit}");
        assert!(text.lines().any(|l| l.starts_with("error: ")), "{limit}: {text}");
        assert!(!text.contains("panicked"), "{limit}: {text}");
    }
    let bad = detect(&["--memory-limit", "2GB"]);
    assert_eq!(bad.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("GiB"));

    let base = tempdir().unwrap();
    let done = common::tfgraft()
        .arg("publish")
        .arg(model.path())
        .arg(base.path())
        .args(["--memory-limit", "64MiB"])
        .output()
        .unwrap();
    assert!(!done.status.success());
    assert_eq!(common::entries(base.path()), [""; 0]);
}
