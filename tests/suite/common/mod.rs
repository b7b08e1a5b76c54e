//! What several tests need: models small enough to be committed, and real ones where they are at hand.
#![allow(dead_code, missing_docs, clippy::expect_used, clippy::panic, clippy::print_stdout)]

pub mod graphs;
pub mod mutate;
pub mod network;
pub mod outlines;
#[cfg(unix)]
pub mod work;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use flate2::read::GzDecoder;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The folder of committed fixtures.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/fixtures")
}

/// A copy of `testdata/fixtures/NAME`, unpacked, that lives as long as the value: `fixture("tf2_levels/base")`.
pub fn fixture(name: &str) -> TempDir {
    let source = fixtures().join(name);
    let target = TempDir::with_prefix("tfgraft-fixture-").expect("a temporary folder");
    unpack(&source, target.path()).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
    target
}

/// A picture of which the fixtures detect something, 160 by 120.
pub fn probe() -> PathBuf {
    fixtures().join("probe.png")
}

/// Real models and pictures: `$TFGRAFT_SHARED`, or `../shared` beside the checkout. `None`, after a line that says
/// so, where they are not.
pub fn shared() -> Option<PathBuf> {
    let folder = env::var_os("TFGRAFT_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: ../shared is not there");
    None
}

/// Whether TensorFlow can be loaded; says so where not. Tests that need it return early, so that the rest of the
/// suite runs on a machine without it; `TFGRAFT_REQUIRE_TENSORFLOW` makes it a failure, as in CI.
pub fn has_tensorflow() -> bool {
    match tfgraft::runtime::library::load(None) {
        Ok(_) => true,
        Err(error) if env::var_os("TFGRAFT_REQUIRE_TENSORFLOW").is_some() => panic!("{error}"),
        Err(error) => {
            println!("skipped: {error}");
            false
        }
    }
}

/// The program, to be run against the committed fixtures.
pub fn tfgraft() -> assert_cmd::Command {
    assert_cmd::Command::new(env!("CARGO_BIN_EXE_tfgraft"))
}

/// What a command that must succeed prints as JSON.
pub fn json(command: &mut assert_cmd::Command) -> Value {
    serde_json::from_slice(&command.assert().success().get_output().stdout).expect("JSON")
}

/// Every file below a folder with its bytes, by path relative to it.
pub fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else {
                let bytes = fs::read(&path).expect("a file");
                found.insert(path.strip_prefix(folder).expect("below").to_owned(), bytes);
            }
        }
    }
    found
}

/// Names of what lies directly in a folder, hidden ones included.
pub fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Writes `count` pictures of a coloured square on a gradient, 160 by 120, and COCO labels for them: `data.json`.
/// Squares are of class `square`; every picture also has a box of an old class, `class_1`.
pub fn squares(folder: &Path, count: u32) -> PathBuf {
    let (mut images, mut annotations) = (Vec::new(), Vec::new());
    for i in 0..count {
        let (left, top, side) = (10 + 23 * i % 80, 8 + 17 * i % 50, 36 + 5 * (i % 4));
        let picture = image::RgbImage::from_fn(160, 120, |x, y| {
            if (left..left + side).contains(&x) && (top..top + side).contains(&y) {
                image::Rgb([230, 30, 40])
            } else {
                image::Rgb([(x / 2) as u8, (y + 40) as u8, (90 + 10 * i) as u8])
            }
        });
        let name = format!("square{i}.png");
        picture.save(folder.join(&name)).expect("a picture");
        images.push(json!({"id": i, "file_name": name, "width": 160, "height": 120}));
        annotations.push(json!({"id": 2 * i + 1, "image_id": i, "category_id": 7, "iscrowd": 0,
            "area": side * side, "bbox": [left, top, side, side]}));
        annotations.push(json!({"id": 2 * i + 2, "image_id": i, "category_id": 1, "iscrowd": 0,
            "area": 400, "bbox": [0, 100, 20, 20]}));
    }
    let file = folder.join("data.json");
    let categories = json!([{"id": 1, "name": "class_1"}, {"id": 7, "name": "square"}]);
    let text = json!({"images": images, "annotations": annotations, "categories": categories});
    fs::write(&file, text.to_string()).expect("labels");
    file
}

fn unpack(source: &Path, target: &Path) -> io::Result<()> {
    fs::create_dir_all(target)?;
    for entry in fs::read_dir(source)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() {
            unpack(&path, &target.join(name))?;
        } else if path.extension().is_some_and(|extension| extension == "gz") {
            let mut plain = fs::File::create(target.join(name).with_extension(""))?;
            io::copy(&mut GzDecoder::new(fs::File::open(&path)?), &mut plain)?;
        } else {
            fs::copy(&path, target.join(name))?;
        }
    }
    Ok(())
}
