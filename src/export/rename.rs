//! Renames that are one step for everybody who looks.

use std::fs::{self, File};
use std::path::Path;

use crate::error::{Error, Result};

/// Renames a folder; `false` where the new name is taken.
pub fn without_replacing(from: &Path, to: &Path) -> Result<bool> {
    match no_replace(from, to) {
        Ok(()) => Ok(true),
        Err(e) if taken(&e) => Ok(false),
        Err(e) => Err(Error::io(to, e)),
    }
}

/// Lets two folders trade names.
pub fn exchange(new: &Path, old: &Path) -> Result<()> {
    match swap(new, old) {
        Err(e) if unsupported(&e) => two_steps(new, old),
        result => result.map_err(|e| Error::io(old, e)),
    }
}

/// Brings a folder's list of names to the disk.
pub fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(folder).and_then(|f| f.sync_all()).map_err(|e| Error::io(folder, e))?;
    }
    Ok(())
}

fn taken(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{AlreadyExists, DirectoryNotEmpty, NotADirectory};
    matches!(error.kind(), AlreadyExists | DirectoryNotEmpty | NotADirectory)
}

fn unsupported(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{InvalidInput, Unsupported};
    matches!(error.kind(), InvalidInput | Unsupported)
}

/// For file systems that cannot swap names: for a moment neither is there.
fn two_steps(new: &Path, old: &Path) -> Result<()> {
    // Not a name that is swept: for a moment it is all there is.
    let name = new.file_name().unwrap_or_default().to_string_lossy();
    let aside = new.with_file_name(format!(".tfgraft-old-{}", name.trim_start_matches('.')));
    fs::rename(old, &aside).map_err(|e| Error::io(old, e))?;
    if let Err(error) = fs::rename(new, old) {
        // Best effort: the older folder is still whole under the other name.
        let _ = fs::rename(&aside, old);
        return Err(Error::io(old, error));
    }
    fs::rename(&aside, new).map_err(|e| Error::io(&aside, e))
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn no_replace(from: &Path, to: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).map_err(std::io::Error::from) {
        // A plain rename of a folder fails where the target is a folder with something in it, as every output is.
        Err(e) if unsupported(&e) => fs::rename(from, to),
        result => result,
    }
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn swap(new: &Path, old: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE).map_err(std::io::Error::from)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn no_replace(from: &Path, to: &Path) -> std::io::Result<()> {
    if to.exists() {
        return Err(std::io::ErrorKind::AlreadyExists.into());
    }
    fs::rename(from, to)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn swap(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_trade_names_in_either_way() {
        for trade in [exchange, two_steps] {
            let home = tempfile::tempdir().unwrap();
            let [a, b] = ["a", "b"].map(|n| home.path().join(n));
            fs::create_dir(&a).unwrap();
            fs::create_dir(&b).unwrap();
            fs::write(a.join("new"), "").unwrap();
            trade(&a, &b).unwrap();
            assert!(b.join("new").exists() && a.is_dir() && !a.join("new").exists());
            assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2);
        }
    }
}
