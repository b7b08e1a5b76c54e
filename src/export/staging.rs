//! An output folder that appears whole or not at all.
//!
//! What is written lies in a hidden folder beside the target until it is whole, on disk, and renamed. The folder is locked
//! for as long as its process lives: one that nobody holds is left over from a process that was killed, and the next one
//! that writes to the same place removes it.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tempfile::TempDir;

use super::rename;
use crate::error::{Error, Result};

/// How folders in the making are named. No server takes such a name for a version.
const PREFIX: &str = ".tfgraft-staging-";

/// Folders in the making, for the handler of Ctrl-C.
static OPEN: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A hidden folder beside the output, renamed to it at the end and removed if that never comes.
#[derive(Debug)]
pub struct Staging {
    folder: TempDir,
    target: PathBuf,
    overwrite: bool,
    _lock: Option<File>,
}

impl Staging {
    /// Prepares the output folder `target`. Errors: [`Error::Usage`] where it exists and may not be replaced,
    /// [`Error::Io`] where its parent cannot be written.
    pub fn new(target: &Path, overwrite: bool) -> Result<Self> {
        if target.exists() && !overwrite {
            return Err(Error::Usage(format!(
                "{} exists; name another folder, or give --overwrite to replace it",
                target.display()
            )));
        }
        Self::make(&parent(target), target, overwrite)
    }

    /// Prepares a folder in `parent` that gets its name at the end, by [`Staging::appear_as`].
    pub fn inside(parent: &Path) -> Result<Self> {
        Self::make(parent, parent, false)
    }

    fn make(parent: &Path, target: &Path, overwrite: bool) -> Result<Self> {
        fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
        sweep(parent);
        loop {
            let folder = tempfile::Builder::new()
                .prefix(PREFIX)
                .tempdir_in(parent)
                .map_err(|e| Error::io(parent, e))?;
            let lock = match lock(folder.path()) {
                Ok(lock) if folder.path().is_dir() => Some(lock),
                // Another process is sweeping it away, or has, before it was locked.
                Ok(_) => continue,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotFound) => continue,
                // A file system without locks: nothing is swept there either.
                Err(_) => None,
            };
            if let Ok(mut open) = OPEN.lock() {
                open.push(folder.path().to_owned());
            }
            return Ok(Self { folder, target: target.to_owned(), overwrite, _lock: lock });
        }
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Makes the folder appear under its name; nothing of an older one is left.
    pub fn publish(self) -> Result<PathBuf> {
        self.settle()?;
        if !self.appear_as(&self.target)? {
            if !self.overwrite {
                return Err(Error::Usage(format!(
                    "{} appeared meanwhile; nothing was written",
                    self.target.display()
                )));
            }
            // What was there before is now where this folder was, and goes when this value does.
            rename::exchange(self.folder.path(), &self.target)?;
            rename::sync_folder(&parent(&self.target))?;
        }
        Ok(self.target.clone())
    }

    /// Brings all files and folders to the disk and lets others read them.
    pub fn settle(&self) -> Result<()> {
        // tempfile makes folders that only their owner may enter; what a server must read is like other folders.
        open_to_readers(self.folder.path());
        sync(self.folder.path())
    }

    /// Makes the settled folder appear under a name; `false` where there is something of that name already.
    pub fn appear_as(&self, target: &Path) -> Result<bool> {
        let appeared = rename::without_replacing(self.folder.path(), target)?;
        if appeared {
            rename::sync_folder(&parent(target))?;
        }
        Ok(appeared)
    }

    /// Removes what a process that is gone had in the making for `target`.
    pub fn sweep_for(target: &Path) {
        sweep(&parent(target));
    }

    /// Removes every folder in the making: for the handler of Ctrl-C, before the process ends.
    pub fn remove_all() {
        if let Ok(open) = OPEN.lock() {
            for folder in open.iter() {
                let _ = fs::remove_dir_all(folder);
            }
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Ok(mut open) = OPEN.lock() {
            open.retain(|folder| folder != self.folder.path());
        }
    }
}

/// Removes what killed processes have left.
fn sweep(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries.filter(|e| e.file_name().to_string_lossy().starts_with(PREFIX)) {
        // Held until the folder is gone, so that nobody starts to write there.
        let Ok(_lock) = lock(&entry.path()) else { continue };
        tracing::debug!("removing {}, left by a process that was killed", entry.path().display());
        let _ = fs::remove_dir_all(entry.path());
    }
}

/// A lock that ends with the process, however it ends. Errors: `WouldBlock` where another process has it.
#[cfg(unix)]
pub(crate) fn lock(folder: &Path) -> io::Result<File> {
    let file = File::open(folder)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

#[cfg(not(unix))]
pub(crate) fn lock(_: &Path) -> io::Result<File> {
    Err(ErrorKind::Unsupported.into())
}

fn parent(target: &Path) -> PathBuf {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(unix)]
fn open_to_readers(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o755));
}

#[cfg(not(unix))]
fn open_to_readers(_: &Path) {}

/// Files reach the disk before the folders that name them.
fn sync(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        if path.is_dir() {
            sync(&path)?;
        } else {
            File::open(&path).and_then(|f| f.sync_all()).map_err(|e| Error::io(&path, e))?;
        }
    }
    rename::sync_folder(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_stays_of_what_is_not_published() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("out");
        let staging = Staging::new(&target, false).unwrap();
        fs::write(staging.path().join("file"), "half").unwrap();
        drop(staging);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_existing_folder_is_kept_or_replaced_whole() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("out");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("old"), "").unwrap();
        assert!(Staging::new(&target, false).is_err());
        let staging = Staging::new(&target, true).unwrap();
        fs::write(staging.path().join("new"), "").unwrap();
        staging.publish().unwrap();
        assert!(target.join("new").exists() && !target.join("old").exists());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_process_left_is_swept_and_what_is_in_the_making_is_not() {
        let home = tempfile::tempdir().unwrap();
        let stray = home.path().join(format!("{PREFIX}dead"));
        fs::create_dir(&stray).unwrap();
        fs::write(stray.join("half"), "").unwrap();
        let first = Staging::new(&home.path().join("a"), false).unwrap();
        assert!(!stray.exists());
        let second = Staging::new(&home.path().join("b"), false).unwrap();
        assert!(first.path().is_dir() && second.path().is_dir());
        first.publish().unwrap();
        second.publish().unwrap();
        let mut names: Vec<_> = fs::read_dir(home.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn a_name_that_is_taken_is_not_replaced() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("1");
        fs::create_dir(&target).unwrap();
        let staging = Staging::inside(home.path()).unwrap();
        fs::write(staging.path().join("new"), "").unwrap();
        staging.settle().unwrap();
        assert!(!staging.appear_as(&target).unwrap());
        assert!(staging.appear_as(&home.path().join("2")).unwrap());
        drop(staging);
        assert!(!target.join("new").exists() && home.path().join("2/new").exists());
    }
}
