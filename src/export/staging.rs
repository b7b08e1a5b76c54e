//! An output folder that appears whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tempfile::TempDir;

use crate::error::{Error, Result};

/// Folders in the making, for the handler of Ctrl-C.
static OPEN: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A hidden folder beside the output, renamed to it at the end and removed if that never comes.
#[derive(Debug)]
pub struct Staging {
    folder: TempDir,
    target: PathBuf,
    overwrite: bool,
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
        let parent = parent(target);
        fs::create_dir_all(&parent).map_err(|e| Error::io(&parent, e))?;
        let folder = tempfile::Builder::new()
            .prefix(".tfgraft-")
            .tempdir_in(&parent)
            .map_err(|e| Error::io(&parent, e))?;
        if let Ok(mut open) = OPEN.lock() {
            open.push(folder.path().to_owned());
        }
        Ok(Self { folder, target: target.to_owned(), overwrite })
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Makes the folder appear under its name; nothing of an older one is left.
    pub fn publish(self) -> Result<PathBuf> {
        sync(self.folder.path())?;
        let aside = parent(&self.target).join(format!(
            ".tfgraft-old-{}",
            self.folder.path().file_name().unwrap_or_default().to_string_lossy().trim_start_matches('.')
        ));
        let replaced = self.overwrite && self.target.exists();
        if replaced {
            fs::rename(&self.target, &aside).map_err(|e| Error::io(&self.target, e))?;
        } else if self.target.exists() {
            return Err(Error::Usage(format!(
                "{} appeared meanwhile; nothing was written",
                self.target.display()
            )));
        }
        // tempfile makes folders that only their owner may enter; what a server must read is like other folders.
        open_to_readers(self.folder.path());
        if let Err(error) = fs::rename(self.folder.path(), &self.target) {
            if replaced {
                // Best effort: the older folder is still whole under the other name.
                let _ = fs::rename(&aside, &self.target);
            }
            return Err(Error::io(&self.target, error));
        }
        if replaced {
            fs::remove_dir_all(&aside).map_err(|e| Error::io(&aside, e))?;
        }
        Ok(self.target.clone())
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

/// Files reach the disk before the name does.
fn sync(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        if path.is_dir() {
            sync(&path)?;
        } else {
            fs::File::open(&path).and_then(|f| f.sync_all()).map_err(|e| Error::io(&path, e))?;
        }
    }
    Ok(())
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
}
