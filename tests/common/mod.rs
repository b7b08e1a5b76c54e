//! What several tests need: models small enough to be committed, and real ones where they are at hand.
#![allow(dead_code, missing_docs, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use flate2::read::GzDecoder;
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
