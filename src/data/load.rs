//! Finding out what kind of data a path holds.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::checks;
use super::dataset::Dataset;
use super::{coco, csv, records, tfrecord, voc, yolo};
use crate::error::{Error, Result};

const KINDS: &str = "a COCO JSON file, a folder of Pascal VOC XML, TFRecord files of OD API examples, a CSV file \
                     filename,width,height,class,xmin,ymin,xmax,ymax, or YOLO text files with their data.yaml or \
                     classes.txt";

/// Reads one or more data sets into one. `images_dir` is where the pictures are when they are not beside the labels.
///
/// Every picture is decoded once: what cannot be is left out and counted. Errors: [`Error::Data`] where a data set has no
/// picture left, or is not what it seems to be.
pub fn load<P: AsRef<Path>>(specs: &[P], images_dir: Option<&Path>) -> Result<Dataset> {
    if let Some(dir) = images_dir
        && !dir.is_dir()
    {
        return Err(Error::Data(format!(
            "{} is not a folder; --images names the folder of the pictures",
            dir.display()
        )));
    }
    if specs.is_empty() {
        return Err(Error::Usage(format!("no data given; expected {KINDS}")));
    }
    let mut out = Dataset::default();
    for spec in specs {
        let set = load_one(spec.as_ref(), images_dir)?;
        check_usable(&spec.as_ref().display().to_string(), &set)?;
        // A set may name one picture twice: also the first is merged.
        out.merge(set);
    }
    checks::check(&mut out)?;
    let all: Vec<String> = specs.iter().map(|spec| spec.as_ref().display().to_string()).collect();
    check_usable(&all.join(", "), &out)?;
    Ok(out)
}

fn load_one(path: &Path, images_dir: Option<&Path>) -> Result<Dataset> {
    if path.is_dir() {
        return load_dir(path, images_dir);
    }
    if !path.exists() {
        return tfrecord::read_files(&shards(path)?);
    }
    let mut start = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
    file.take(4096).read_to_end(&mut start).map_err(|e| Error::io(path, e))?;
    if records::is_tfrecord(&start) {
        return tfrecord::read_files(&[path.to_owned()]);
    }
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&start).trim_ascii_start();
    match (ending.as_str(), text.first()) {
        ("record" | "tfrecord" | "tfrecords", _) => tfrecord::read_files(&[path.to_owned()]),
        ("csv", _) => csv::read(path, images_dir),
        ("yaml" | "yml", _) => yolo::read_yaml(path, images_dir),
        ("json", _) | (_, Some(b'{' | b'[')) => coco::read(path, images_dir),
        ("xml", _) | (_, Some(b'<')) => {
            let beside = path.parent().unwrap_or(Path::new("."));
            voc::read_files(&[path.to_owned()], images_dir.unwrap_or(beside))
        }
        _ if text.starts_with(b"filename,") => csv::read(path, images_dir),
        _ => {
            Err(Error::Data(format!("{}: this kind of data is not known; expected {KINDS}", path.display())))
        }
    }
}

fn load_dir(dir: &Path, images_dir: Option<&Path>) -> Result<Dataset> {
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))?;
    let mut files: Vec<PathBuf> =
        entries.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| p.is_file()).collect();
    files.sort();
    let with = |endings: &[&str]| -> Vec<PathBuf> {
        let fits = |path: &&PathBuf| {
            path.extension()
                .and_then(|e| e.to_str())
                .is_some_and(|e| endings.iter().any(|x| e.eq_ignore_ascii_case(x)))
        };
        files.iter().filter(fits).cloned().collect()
    };
    if dir.join("Annotations").is_dir() || !with(&["xml"]).is_empty() {
        return voc::read_dir(dir, images_dir);
    }
    if let [json] = &with(&["json"])[..] {
        return coco::read(json, images_dir);
    }
    let records = with(&["record", "tfrecord", "tfrecords"]);
    if !records.is_empty() {
        return tfrecord::read_files(&records);
    }
    if let Some(names) = yolo::names_file(dir) {
        return yolo::read_dir(dir, &names, images_dir);
    }
    Err(Error::Data(format!(
        "{}: the folder has no XML files, no TFRecord files, no names of YOLO classes and not exactly one JSON file; name the data file itself: {KINDS}",
        dir.display()
    )))
}

/// The files that a glob, or the OD API's `name-?????-of-00010`, stands for; of shards, all must be there.
fn shards(pattern: &Path) -> Result<Vec<PathBuf>> {
    let text = pattern.to_string_lossy();
    let missing = || Error::Data(format!("{text}: no such file or folder; expected {KINDS}"));
    if !text.contains(['*', '?', '[']) {
        return Err(missing());
    }
    let paths =
        glob::glob(&text).map_err(|e| Error::Usage(format!("{text}: not a pattern of file names: {e}")))?;
    let mut files: Vec<PathBuf> = paths.filter_map(|path| path.ok()).filter(|path| path.is_file()).collect();
    files.sort();
    if files.is_empty() {
        return Err(missing());
    }
    let total = text.rsplit_once("-of-").and_then(|(_, rest)| rest.get(..5)?.parse::<usize>().ok());
    if let Some(total) = total
        && text.contains("?????-of-")
        && total != files.len()
    {
        return Err(Error::Data(format!(
            "{text}: {} of {total} shards are there; copy the others too",
            files.len()
        )));
    }
    Ok(files)
}

fn check_usable(spec: &str, set: &Dataset) -> Result<()> {
    if !set.images.is_empty() {
        return Ok(());
    }
    let why = if set.problems.is_empty() { "it lists none".to_owned() } else { set.problems.to_string() };
    Err(Error::Data(format!(
        "{spec}: no picture can be used: {why}; if the pictures are elsewhere, name their folder with --images DIR"
    )))
}
