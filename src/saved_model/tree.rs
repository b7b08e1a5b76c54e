//! The files of a model's folder, and nothing from elsewhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Files below a folder by path relative to it, with `/` between names.
///
/// What is copied from a model ends up where others read it: a link must not fetch a file of this machine, and links in a
/// circle must not be followed for ever. Errors: [`Error::Io`]; [`Error::NotAModel`] for a link to a folder, a link that leads
/// out of `root`, or what is neither file nor folder.
pub fn files(root: &Path, folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let home = fs::canonicalize(root).map_err(|e| Error::io(root, e))?;
    let mut found = BTreeMap::new();
    let mut open = vec![(String::new(), folder.to_owned())];
    while let Some((prefix, at)) = open.pop() {
        for entry in fs::read_dir(&at).map_err(|e| Error::io(&at, e))? {
            let entry = entry.map_err(|e| Error::io(&at, e))?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let path = entry.path();
            let io = |e| Error::io(&path, e);
            let (itself, kind) = (fs::symlink_metadata(&path).map_err(io)?, fs::metadata(&path).map_err(io)?);
            let refused = |reason: &str| Err(Error::NotAModel { path: path.clone(), reason: reason.into() });
            if itself.is_symlink() {
                if !kind.is_file() {
                    return refused(
                        "it is a link to something other than a file; copy the model with cp -rL",
                    );
                }
                if !fs::canonicalize(&path).map_err(io)?.starts_with(&home) {
                    return refused(
                        "it is a link out of the model's folder; copy the model with cp -rL if that is meant",
                    );
                }
            }
            if kind.is_dir() {
                open.push((format!("{name}/"), path));
            } else if kind.is_file() {
                found.insert(name, path);
            } else {
                return refused("it is neither file nor folder; a model has nothing else");
            }
        }
    }
    Ok(found)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_that_stay_are_followed_and_others_refused() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model");
        fs::create_dir_all(model.join("assets")).unwrap();
        fs::write(dir.path().join("secret"), "").unwrap();
        fs::write(model.join("a"), "").unwrap();
        symlink("../a", model.join("assets/b")).unwrap();
        let names = |root: &Path| files(root, root).map(|f| f.into_keys().collect::<Vec<_>>());
        assert_eq!(names(&model).unwrap(), ["a", "assets/b"]);
        // Another way to the same folder is none out of it.
        symlink(&model, dir.path().join("alias")).unwrap();
        assert_eq!(names(&dir.path().join("alias")).unwrap(), ["a", "assets/b"]);
        for (target, said) in [
            ("../secret", "out of the model's folder"),
            (".", "other than a file"),
            ("/dev/null", "other than a file"),
        ] {
            symlink(target, model.join("link")).unwrap();
            let error = names(&model).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("cp -rL"), "{target}: {error}");
            fs::remove_file(model.join("link")).unwrap();
        }
    }
}
