//! Finding TensorFlow's C library and loading it once.
//!
//! The crate `tensorflow` opens only a file named exactly `libtensorflow.so` in `$TENSORFLOW_DIR`. What people have
//! is a Python wheel, whose library is named `libtensorflow_cc.so.2`. So this module opens the real file itself,
//! which resolves its neighbours beside it, and then shows the crate a private link to the same file: the dynamic
//! loader recognises a file that is open already, whatever its name.

use std::ffi::{CStr, c_char};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use super::failed;
use super::places;
use crate::error::{Error, Result};

/// The oldest TensorFlow whose C interface is the one this crate was generated from.
const OLDEST: (u32, u32) = (2, 13);

/// oneDNN's kernels stay as TensorFlow ships them (on, for x86). Turning them off would make the numbers of
/// different machines agree more often, at two to three times the time per image; and TF Serving, where the models
/// go, runs with them on. Whoever wants them off sets this variable.
pub const ONEDNN_VARIABLE: &str = "TF_ENABLE_ONEDNN_OPTS";

static LOADED: OnceLock<Library> = OnceLock::new();
static LOADING: Mutex<()> = Mutex::new(());

/// The loaded library.
#[derive(Debug, Clone)]
pub struct Library {
    /// The file that was loaded.
    pub path: PathBuf,
    /// What it calls itself, for example `2.18.1`.
    pub version: String,
    /// Why this one: the option, the project's folder, Python's package, the system.
    pub origin: String,
}

/// Finds and loads TensorFlow; later calls return what the first one loaded, whatever they ask for.
///
/// `explicit` is a folder, or the library itself. Without it the variable `TFGRAFT_TENSORFLOW` counts, then the
/// project's own folder, Python's package, the system.
pub fn load(explicit: Option<&Path>) -> Result<&'static Library> {
    if let Some(library) = LOADED.get() {
        return Ok(library);
    }
    let guard = LOADING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if LOADED.get().is_none() {
        let library = find_and_open(explicit)?;
        tracing::debug!(path = %library.path.display(), version = %library.version, "loaded TensorFlow");
        // Only the holder of the lock sets it.
        let _ = LOADED.set(library);
    }
    drop(guard);
    LOADED.get().ok_or_else(|| failed("loading the library", "it vanished"))
}

fn find_and_open(explicit: Option<&Path>) -> Result<Library> {
    let mut tried = Vec::new();
    let found = match places::named(explicit) {
        // A folder that was named must be the one: falling back to another would hide the mistake.
        Some(place) => place.find(&mut tried),
        None => places::usual().find_map(|place| place.find(&mut tried)),
    };
    let Some((path, origin)) = found else {
        return Err(Error::NoLibrary { tried: tried.join("\n") });
    };
    quiet_log();
    let version = open(&path)?;
    if !new_enough(&version) {
        let (major, minor) = OLDEST;
        tried.push(format!("  {}: version {version}, {major}.{minor} or newer is needed", path.display()));
        return Err(Error::NoLibrary { tried: tried.join("\n") });
    }
    show_to_crate(&path)?;
    Ok(Library { path, version, origin })
}

/// TensorFlow writes its own lines to standard error; warnings and less are noise beside a progress bar. A few files
/// of TensorFlow 2.16 and newer log through a copy of Abseil that obeys no variable: a line about MLIR comes through.
fn quiet_log() {
    const VARIABLE: &str = "TF_CPP_MIN_LOG_LEVEL";
    if std::env::var_os(VARIABLE).is_none() {
        // SAFETY: see `show_to_crate`.
        unsafe { std::env::set_var(VARIABLE, "2") };
    }
}

/// Opens the real file for the life of the process and asks for its version.
fn open(path: &Path) -> Result<String> {
    // SAFETY: running a library's initialisers is what loading means; this one was chosen by the user or found in
    // a place that only the user or the system can write.
    let library = unsafe { libloading::Library::new(path) }.map_err(|error| failed(path.display(), error))?;
    let version = {
        // SAFETY: `TF_Version` has had this type since the first release of the C interface.
        let version = unsafe { library.get::<unsafe extern "C" fn() -> *const c_char>(b"TF_Version\0") }
            .map_err(|error| failed(path.display(), error))?;
        // SAFETY: it returns a static string that ends in a zero byte.
        unsafe { CStr::from_ptr(version()) }.to_string_lossy().into_owned()
    };
    end_without_memory(&library);
    // TensorFlow cannot be unloaded: it leaves threads and registries behind.
    std::mem::forget(library);
    Ok(version)
}

/// Ends the process where C++ is refused memory, instead of `std::bad_alloc`.
///
/// The exception would leave through TensorFlow's C interface, which holds no place to catch it: locks stay locked on its
/// way (a graph's, for which its own deletion then waits for ever), and Rust is not made to be unwound by it.
/// Where the library has C++ linked into it there is nothing to set, and the exception stays.
fn end_without_memory(library: &libloading::Library) {
    type Handler = extern "C" fn();
    extern "C" fn end() {
        std::process::abort()
    }
    // SAFETY: this is how `std::set_new_handler(void (*)())` is called in the Itanium C++ ABI, of libstdc++ and libc++ alike;
    // the handler that was there before, which it returns, is not wanted.
    unsafe {
        if let Ok(set) =
            library.get::<unsafe extern "C" fn(Handler) -> Option<Handler>>(b"_ZSt15set_new_handlerPFvvE\0")
        {
            set(end);
        }
    }
}

fn new_enough(version: &str) -> bool {
    let mut parts = version.split('.').map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= OLDEST,
        _ => false,
    }
}

/// Makes the crate's own finder, which knows one name and one variable, find the file that is open already.
fn show_to_crate(path: &Path) -> Result<()> {
    let folder = tempfile::Builder::new()
        .prefix("tfgraft-library-")
        .tempdir()
        .map_err(|error| Error::io(std::env::temp_dir(), error))?;
    let real = path.canonicalize().map_err(|error| Error::io(path, error))?;
    let link = folder.path().join(places::CRATE_NAME);
    link_file(&real, &link).map_err(|error| Error::io(&link, error))?;
    // SAFETY: changing the environment is unsound while C code reads it in another thread. Rust's own readers and
    // writers share a lock. C code that reads it here would be TensorFlow's: it runs no session yet, because every
    // entry point of this crate goes through `load`, which is inside its lock and has not returned.
    unsafe { std::env::set_var("TENSORFLOW_DIR", folder.path()) };
    tensorflow::library::load().map_err(|error| failed(path.display(), error))
}

#[cfg(unix)]
fn link_file(real: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(real, link)
}

#[cfg(not(unix))]
fn link_file(real: &Path, link: &Path) -> std::io::Result<()> {
    std::fs::hard_link(real, link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(new_enough("2.13.0") && new_enough("2.18.1") && new_enough("3.0.0-rc1"));
        assert!(!new_enough("2.9.3") && !new_enough("1.15.5") && !new_enough("") && !new_enough("2.x"));
    }

    #[test]
    fn loads_once_and_says_what() {
        let Some(library) = super::super::testing::library() else { return };
        assert!(library.path.is_file());
        assert_eq!(tensorflow::version().unwrap(), library.version);
        assert!(std::ptr::eq(library, load(Some(Path::new("/nowhere"))).unwrap()));
    }
}
