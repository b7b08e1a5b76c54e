//! The steps of a publication: stage, list, sync, verify in a fresh process, appear.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::{Deserialize, Serialize};

use super::copy::{FileEntry, MANIFEST, Manifest, copy};
use super::replay::Replayed;
use super::warmup;
use crate::data::{LabelMap, Picture};
use crate::detect::RunOptions;
use crate::error::{Error, Result};
use crate::export::Staging;
use crate::input;
use crate::policy;
use crate::runtime::pictures::Form;
use crate::saved_model::SavedModel;
use crate::worker;

/// What to publish, and how.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How to run the model.
    pub run: RunOptions,
    /// The version's number; the next one without.
    pub version: Option<u64>,
    /// Pictures to warm up with; without any, the model's own warm-up file, if it has one.
    pub warmup: Vec<Picture>,
}

/// What was published.
#[derive(Debug, Clone, Serialize)]
pub struct Published {
    /// The version's folder.
    pub path: PathBuf,
    /// Its number.
    pub version: u64,
    /// Files in it, with the list of them.
    pub files: usize,
    /// Whether the source had a fingerprint.pb, which was copied.
    pub fingerprint: bool,
    /// What the fresh process found.
    pub verified: Replayed,
}

/// Puts the model that `source` names into `base/N+1`: complete and verified, or not at all.
///
/// Errors: [`Error::CheckFailed`] where the fresh process said no; [`Error::Usage`] where the number asked for is taken.
pub fn publish(source: &Path, base: &Path, options: &Options) -> Result<Published> {
    let model = SavedModel::read(source)?;
    let Some(folder) = model.dir() else {
        return Err(Error::NotAModel {
            path: source.to_owned(),
            reason: "a server loads SavedModel folders, this is a frozen graph; name the folder with saved_model/ that \
                     was exported with it"
                .into(),
        });
    };
    policy::admit(&model, options.run.trust)?;
    if let Some(version) = options.version.filter(|v| base.join(v.to_string()).exists()) {
        return Err(Error::Usage(format!(
            "{} exists: a version is never replaced",
            base.join(version.to_string()).display()
        )));
    }
    let staging = Staging::inside(base)?;
    let staged = staging.path();
    let mut manifest = Manifest {
        schema: 1,
        tfgraft: env!("CARGO_PKG_VERSION").to_owned(),
        warmup_requests: 0,
        files: copy(folder, staged)?,
    };
    let extra = staged.join("assets.extra");
    fs::create_dir_all(&extra).map_err(|e| Error::io(&extra, e))?;
    // Left from an earlier publication, if the source is a published version itself.
    manifest.files.remove(MANIFEST);
    let report = folder.parent().map(|above| above.join("report.json")).filter(|f| f.is_file());
    let companions = [("label_map.pbtxt", model.source.label_map.clone()), ("report.json", report)];
    let mut serves_as = None;
    for (name, file) in companions {
        let Some(file) = file else { continue };
        serves_as = readable(name, &file)?.or(serves_as);
        let target = extra.join(name);
        fs::copy(&file, &target).map_err(|e| Error::io(&target, e))?;
        manifest.files.insert(format!("assets.extra/{name}"), FileEntry::of(&file)?);
    }
    let name = serves_as.unwrap_or_else(|| name_of(base));
    manifest.warmup_requests = warm_up(&model, &name, staged, &mut manifest, &options.warmup)?;
    let text = serde_json::to_string_pretty(&manifest).map_err(|e| Error::Data(e.to_string()))?;
    let list = staged.join(MANIFEST);
    fs::write(&list, text + "\n").map_err(|e| Error::io(&list, e))?;
    staging.settle()?;
    let verified = verify(staged, &options.run)?;
    let version = appear(&staging, base, options.version)?;
    Ok(Published {
        path: base.join(version.to_string()),
        version,
        files: manifest.files.len() + 1,
        fingerprint: manifest.files.contains_key("fingerprint.pb"),
        verified,
    })
}

/// What is read of a report.
#[derive(Deserialize)]
struct Named {
    model_name: Option<String>,
}

/// Lets only what it should be into a version: in a folder from elsewhere it may be a link to any file of this machine. The
/// name that a report gives the model.
fn readable(name: &str, file: &Path) -> Result<Option<String>> {
    if name.ends_with(".pbtxt") {
        return LabelMap::read(file).map(|_| None);
    }
    serde_json::from_str::<Named>(&input::read_text(file)?)
        .map(|report| report.model_name)
        .map_err(|e| Error::Damaged { what: file.display().to_string(), reason: format!("not JSON: {e}") })
}

/// What a server calls a model unless told otherwise.
fn name_of(base: &Path) -> String {
    let whole = base.canonicalize().ok();
    whole.and_then(|b| b.file_name().map(|n| n.to_string_lossy().into_owned())).unwrap_or_default()
}

/// Writes the warm-up file, or keeps the source's; how many requests it holds.
fn warm_up(
    model: &SavedModel,
    name: &str,
    staged: &Path,
    manifest: &mut Manifest,
    pictures: &[Picture],
) -> Result<usize> {
    let (alias, info) = warmup::input(model.source.path(), model.meta())?;
    if pictures.is_empty() {
        let file = staged.join(warmup::FILE);
        return if file.is_file() { Ok(warmup::read(&file, alias)?.len()) } else { Ok(0) };
    }
    if pictures.len() > warmup::MOST {
        return Err(Error::Usage(format!(
            "{} pictures to warm up with, a server takes at most {}",
            pictures.len(),
            warmup::MOST
        )));
    }
    let Some(form) = Form::of_input(info.dtype(), model.meta().graph_def.as_ref()) else {
        tracing::warn!("the model's input takes no pictures: it is published without warm-up requests");
        return Ok(0);
    };
    let bytes = warmup::requests(name, alias, form, pictures)?;
    warmup::write(staged, &bytes)?;
    manifest.files.insert(warmup::FILE.to_owned(), FileEntry::of(&staged.join(warmup::FILE))?);
    Ok(pictures.len())
}

/// Lets this program, started anew, look at the staged version. TensorFlow ends a process that meets certain graphs; here
/// that is a refusal, and the parent goes on.
fn verify(staged: &Path, options: &RunOptions) -> Result<Replayed> {
    let mut command = worker::command()?;
    command.arg("--quiet").arg("replay-warmup").arg(staged).stdin(Stdio::null()).stderr(Stdio::inherit());
    if let Some(threads) = options.threads {
        command.arg("--threads").arg(threads.to_string());
    }
    if let Some(tensorflow) = &options.tensorflow {
        command.arg("--tensorflow").arg(tensorflow);
    }
    if options.trust {
        command.arg("--trust");
    }
    if let Some(bytes) = options.memory_limit {
        command.arg("--memory-limit").arg(bytes.to_string());
    }
    let done = command.output().map_err(|e| Error::io("this program", e))?;
    let refused = |how: String| Error::CheckFailed(format!("a fresh process {how}; nothing was published"));
    match done.status.code() {
        Some(0) => serde_json::from_slice(&done.stdout)
            .map_err(|e| refused(format!("gave no answer when it loaded the staged model ({e})"))),
        Some(1) => Err(refused("refused the staged model, for the reason above".into())),
        Some(2) => Err(Error::TensorFlow(
            "a fresh process could not run the staged model, for the reason above; nothing was published"
                .into(),
        )),
        _ => {
            let how = worker::ended_by(done.status, options.memory_limit);
            Err(refused(format!("that ran the staged model was ended by {how}")))
        }
    }
}

/// Renames the staged folder to the number asked for, or to the one after the highest.
fn appear(staging: &Staging, base: &Path, asked: Option<u64>) -> Result<u64> {
    if let Some(version) = asked {
        let target = base.join(version.to_string());
        return match staging.appear_as(&target)? {
            true => Ok(version),
            false => Err(Error::Usage(format!(
                "{} appeared meanwhile: a version is never replaced",
                target.display()
            ))),
        };
    }
    loop {
        let version = next(base)?;
        // Another process may have taken it since.
        if staging.appear_as(&base.join(version.to_string()))? {
            return Ok(version);
        }
    }
}

/// One more than the highest name that a server would read as a number.
fn next(base: &Path) -> Result<u64> {
    let names = fs::read_dir(base).map_err(|e| Error::io(base, e))?;
    let numbers = names.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i64>().ok());
    let highest = numbers.filter(|n| *n >= 0).max().unwrap_or(0);
    match highest.checked_add(1) {
        Some(next) => Ok(next.unsigned_abs()),
        None => Err(Error::Usage(format!(
            "{} holds the highest number there is; give a free one with --number",
            base.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_number_is_one_more_than_a_server_would_find() {
        let base = tempfile::tempdir().unwrap();
        assert_eq!(next(base.path()).unwrap(), 1);
        for name in ["3", "007", "x9", ".tfgraft-staging-99", "-12"] {
            fs::create_dir(base.path().join(name)).unwrap();
        }
        assert_eq!(next(base.path()).unwrap(), 8);
        // A file of that name would be taken for a version, too.
        fs::write(base.path().join("20"), "").unwrap();
        assert_eq!(next(base.path()).unwrap(), 21);
        fs::create_dir(base.path().join(i64::MAX.to_string())).unwrap();
        assert!(next(base.path()).is_err());
    }
}
