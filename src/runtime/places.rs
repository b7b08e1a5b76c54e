//! Where TensorFlow's C library may lie, in the order in which it is looked for.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The variable that names the folder, or the library itself, like the option `--tensorflow`.
pub const VARIABLE: &str = "TFGRAFT_TENSORFLOW";

/// The one name that the crate `tensorflow` opens.
#[cfg(not(target_os = "macos"))]
pub(super) const CRATE_NAME: &str = "libtensorflow.so";
/// The one name that the crate `tensorflow` opens.
#[cfg(target_os = "macos")]
pub(super) const CRATE_NAME: &str = "libtensorflow.dylib";

/// Names of the library: the C archive's, then those inside a wheel.
#[cfg(not(target_os = "macos"))]
const NAMES: [&str; 3] = [CRATE_NAME, "libtensorflow.so.2", "libtensorflow_cc.so.2"];
/// Names of the library: the C archive's, then those inside a wheel.
#[cfg(target_os = "macos")]
const NAMES: [&str; 3] = [CRATE_NAME, "libtensorflow.2.dylib", "libtensorflow_cc.2.dylib"];

/// Folders of the system, besides those of the loader's own variable.
const SYSTEM: [&str; 7] = [
    "/usr/local/lib",
    "/usr/local/lib/libtensorflow",
    "/usr/lib",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/opt/homebrew/lib",
];

/// A group of folders that belong together.
pub(super) struct Place {
    origin: String,
    folders: Vec<PathBuf>,
}

impl Place {
    fn new(origin: impl Into<String>, folders: Vec<PathBuf>) -> Self {
        Self { origin: origin.into(), folders }
    }

    /// The library in one of the folders and where it comes from; else one line in `tried`.
    pub(super) fn find(self, tried: &mut Vec<String>) -> Option<(PathBuf, String)> {
        if let Some(path) = self.folders.iter().find_map(|folder| library_at(folder)) {
            return Some((path, self.origin));
        }
        let folders: Vec<_> = self.folders.iter().map(|folder| folder.display().to_string()).collect();
        let where_ = if folders.is_empty() { "none there".to_owned() } else { folders.join(", ") };
        tried.push(format!("  {}: {where_}", self.origin));
        None
    }
}

/// The library that a path means: itself, or one of the known names in it (or in its `lib`, as in the archive).
fn library_at(path: &Path) -> Option<PathBuf> {
    if path.is_file() {
        return Some(path.to_owned());
    }
    [path.to_owned(), path.join("lib")]
        .iter()
        .flat_map(|folder| NAMES.iter().map(|name| folder.join(name)))
        .find(|file| file.is_file())
}

/// The place that the option or the variable names.
pub(super) fn named(explicit: Option<&Path>) -> Option<Place> {
    if let Some(path) = explicit {
        return Some(Place::new("option --tensorflow", vec![path.to_owned()]));
    }
    let path = env::var_os(VARIABLE).filter(|value| !value.is_empty())?;
    Some(Place::new(format!("variable {VARIABLE}"), vec![path.into()]))
}

/// The places to look in when none was named; each is computed only when those before had nothing.
pub(super) fn usual() -> impl Iterator<Item = Place> {
    let places: [fn() -> Place; 5] = [project, user, virtual_env, python, system];
    places.into_iter().map(|place| place())
}

/// `.tensorflow/`, which `scripts/fetch-tensorflow` fills: beside the program or in one of the few folders above it
/// that are the project's when it runs from `target/release`, or in the sources it was built from. Not further up:
/// a folder such as `/tmp` is anybody's.
fn project() -> Place {
    let program = env::current_exe().and_then(|path| path.canonicalize()).unwrap_or_default();
    let mut folders: Vec<_> =
        program.ancestors().skip(1).take(4).map(|folder| folder.join(".tensorflow")).collect();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tensorflow");
    if !folders.contains(&sources) {
        folders.push(sources);
    }
    Place::new("the project's .tensorflow", folders)
}

fn user() -> Place {
    let data = env::var_os("XDG_DATA_HOME")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".local/share")));
    Place::new("the user's data", data.into_iter().map(|data| data.join("tfgraft/tensorflow")).collect())
}

/// The package of an activated virtual environment, found by its usual path: asking its Python would do too, but a
/// `python3` earlier on the path may be another one.
fn virtual_env() -> Place {
    let mut folders = Vec::new();
    if let Some(environment) = env::var_os("VIRTUAL_ENV").filter(|value| !value.is_empty()) {
        let lib = Path::new(&environment).join("lib");
        let versions = std::fs::read_dir(lib).into_iter().flatten().flatten();
        folders.extend(versions.map(|version| version.path().join("site-packages/tensorflow")));
        folders.sort();
    }
    Place::new("variable VIRTUAL_ENV", folders)
}

/// The package of the `python3` on the path, located without importing it: importing takes seconds. The first entry
/// of the search path of `python3 -c` is the current folder, where a folder named tensorflow would pass for it.
fn python() -> Place {
    const LOCATE: &str = "import sys; sys.path = [p for p in sys.path if p]\n\
        import importlib.util as u; s = u.find_spec('tensorflow')\n\
        print('\\n'.join(s.submodule_search_locations or []) if s else '')";
    let answer =
        Command::new("python3").args(["-c", LOCATE]).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let text = answer.map(|answer| String::from_utf8_lossy(&answer.stdout).into_owned()).unwrap_or_default();
    let folders = text.lines().filter(|line| !line.is_empty()).map(PathBuf::from).collect();
    Place::new("the package tensorflow of python3", folders)
}

fn system() -> Place {
    let variable = if cfg!(target_os = "macos") { "DYLD_LIBRARY_PATH" } else { "LD_LIBRARY_PATH" };
    let value = env::var_os(variable).unwrap_or_default();
    let mut folders: Vec<_> = env::split_paths(&value).filter(|path| !path.as_os_str().is_empty()).collect();
    folders.extend(SYSTEM.iter().map(PathBuf::from));
    Place::new(format!("{variable} and the system"), folders)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_any_known_name_and_lists_what_it_tried() {
        let folder = tempfile::tempdir().unwrap();
        let mut tried = Vec::new();
        let place = |path: &Path| Place::new("test", vec![path.to_owned()]);
        assert!(place(folder.path()).find(&mut tried).is_none());
        assert_eq!(tried, [format!("  test: {}", folder.path().display())]);
        let file = folder.path().join(NAMES[2]);
        std::fs::write(&file, b"").unwrap();
        assert_eq!(place(folder.path()).find(&mut tried).unwrap().0, file);
        assert_eq!(place(&file).find(&mut tried).unwrap().0, file);
    }

    #[test]
    fn the_option_comes_before_everything() {
        let place = named(Some(Path::new("/nowhere"))).unwrap();
        let mut tried = Vec::new();
        assert!(place.find(&mut tried).is_none());
        assert_eq!(tried, ["  option --tensorflow: /nowhere"]);
    }
}
