//! Help for unit tests: TensorFlow and real models where they are at hand. `tests/common` is the same for the others.

use std::path::{Path, PathBuf};

use super::library::{self, Library};

/// The library, or `None` after a line that says the test was skipped; that is a failure where CI asks for it.
pub(crate) fn library() -> Option<&'static Library> {
    match library::load(None) {
        Ok(library) => Some(library),
        Err(error) if std::env::var_os("TFGRAFT_REQUIRE_TENSORFLOW").is_some() => panic!("{error}"),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// The folder of real models and pictures beside the checkout, or `None` after a line that says so.
pub(crate) fn shared() -> Option<PathBuf> {
    let folder = std::env::var_os("TFGRAFT_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: ../shared is not there");
    None
}
