//! Reading files that somebody else may have made: never more than such a file can have, never what is no file.
//!
//! A sparse file of a terabyte costs nothing to make and everything to read; opening a pipe that nobody writes to never ends.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};

/// Most bytes of a picture's file: what [`crate::data::Picture`] takes at most is 300 MB before compression.
pub const PICTURE: u64 = 1 << 30;

/// Most bytes of labels or of a document: LVIS's, the largest in use, have 1.2 GB.
pub const TEXT: u64 = 4 << 30;

/// Most bytes of a protobuf file, by protobuf's own rules.
pub const PROTO: u64 = i32::MAX as u64;

/// Reads a whole file, or what a pipe that the user names holds.
///
/// Errors: [`Error::Io`]; [`Error::Damaged`] beyond `most` bytes.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let io = |e| Error::io(path, e);
    let file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    let mut bytes = Vec::new();
    if size <= most {
        bytes
            .try_reserve_exact(size as usize)
            .map_err(|_| Error::io(path, std::io::ErrorKind::OutOfMemory.into()))?;
        file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
    }
    if size > most || bytes.len() as u64 > most {
        let what = path.display().to_string();
        return Err(Error::Damaged {
            what,
            reason: format!("it has more than {most} bytes, the most that are read"),
        });
    }
    Ok(bytes)
}

/// Reads a whole file of a name that was found, not given: a pipe or a device is refused.
///
/// Errors: those of [`read`]; [`Error::Damaged`] for what is no file.
pub fn read_file(path: &Path, most: u64) -> Result<Vec<u8>> {
    regular(path)?;
    read(path, most)
}

/// Reads text in UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read(path, TEXT)?).map_err(|e| {
        Error::Data(format!("{}: not UTF-8 at byte {}", path.display(), e.utf8_error().valid_up_to()))
    })
}

/// Refuses what is neither a file nor a link to one. Errors: [`Error::Io`], [`Error::Damaged`].
pub fn regular(path: &Path) -> Result<()> {
    if fs::metadata(path).map_err(|e| Error::io(path, e))?.is_file() {
        return Ok(());
    }
    let what = path.display().to_string();
    Err(Error::Damaged { what, reason: "it is no file, but a folder, a pipe or a device".into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_most_and_no_further() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "hello").unwrap();
        assert_eq!(read_file(&path, 5).unwrap(), b"hello");
        assert!(read_file(&path, 4).unwrap_err().to_string().contains("more than 4 bytes"));
        // A terabyte that takes no room on the disk.
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(read_file(&path, PICTURE).is_err());
        assert!(read_file(dir.path(), 5).unwrap_err().to_string().contains("no file"));
        assert!(read_file(&dir.path().join("none"), 5).is_err());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_never_ends_is_not_begun() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [pipe.as_path(), Path::new("/dev/zero")] {
            assert!(read_file(path, 5).unwrap_err().to_string().contains("no file"), "{}", path.display());
        }
        // A device that the user names is read, up to its most.
        assert!(read(Path::new("/dev/zero"), 1000).unwrap_err().to_string().contains("more than"));
    }
}
