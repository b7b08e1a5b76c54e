//! A reference on disk: small text files that a review can read, numpy files, and the pictures themselves.
//!
//! ```text
//! REF/reference.json        what was recorded from what, and how each output is compared
//! REF/CASE/case.json        the picture, the outputs with types and shapes
//! REF/CASE/image.EXT        the picture's file, byte for byte
//! REF/CASE/OUTPUT.npy       one output
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::array::{Array, Outputs};
use super::judge::Kind;
use crate::data::Picture;
use crate::error::{Error, Result};
use crate::input;
use crate::saved_model::Fingerprint;
use crate::saved_model::fingerprint::hash_bytes;

/// The layout that is written, and the only one that is read.
const SCHEMA: u32 = 1;
/// The file of a reference.
const REFERENCE: &str = "reference.json";
/// The file of a case.
const CASE: &str = "case.json";

/// What `reference.json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// Layout of the folder.
    pub schema: u32,
    /// The model that gave the outputs.
    pub model: Fingerprint,
    /// How many classes it has, where that could be told.
    pub classes: Option<usize>,
    /// What ran it.
    pub recorded_with: Recorder,
    /// How each output is compared; edit this to change a tolerance.
    pub compare: BTreeMap<String, Kind>,
    /// Folders of the cases.
    pub cases: Vec<String>,
}

/// What ran the model when a reference was recorded. Other machines may round otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorder {
    /// This program's version.
    pub tfgraft: String,
    /// TensorFlow's version.
    pub tensorflow: String,
    /// Kind of processor.
    pub machine: String,
    /// Threads, where a number was given.
    pub threads: Option<usize>,
}

/// What `case.json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseFile {
    image: ImageFile,
    outputs: BTreeMap<String, OutputFile>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageFile {
    file: String,
    width: u32,
    height: u32,
    /// SHA-256 of the decoded pixels: another decoder must not pass for another model.
    sha256_rgb: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OutputFile {
    file: String,
    dtype: String,
    shape: Vec<usize>,
}

/// One picture with its outputs.
#[derive(Debug, Clone)]
pub struct Case {
    /// The picture as the model sees it.
    pub picture: Picture,
    /// What the model gave for it.
    pub outputs: Outputs,
}

impl Recorder {
    /// This process.
    pub fn here(tensorflow: &str, threads: Option<usize>) -> Self {
        Self {
            tfgraft: env!("CARGO_PKG_VERSION").to_owned(),
            tensorflow: tensorflow.to_owned(),
            machine: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            threads,
        }
    }
}

impl Reference {
    /// A reference of nothing yet.
    pub fn new(model: Fingerprint, classes: Option<usize>, recorded_with: Recorder) -> Self {
        Self { schema: SCHEMA, model, classes, recorded_with, compare: BTreeMap::new(), cases: Vec::new() }
    }

    /// Reads `reference.json`. Errors: [`Error::Damaged`] with the field.
    pub fn read(folder: &Path) -> Result<Self> {
        let reference: Self = read_json(&folder.join(REFERENCE))?;
        if reference.schema != SCHEMA {
            return Err(Error::Damaged {
                what: folder.join(REFERENCE).display().to_string(),
                reason: format!("schema {}, this version reads {SCHEMA}", reference.schema),
            });
        }
        Ok(reference)
    }

    /// Writes `reference.json`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_json(&folder.join(REFERENCE), self)
    }

    /// Writes a case and lists it.
    pub fn add_case(&mut self, folder: &Path, name: &str, image: &Path, case: &Case) -> Result<()> {
        let home = folder.join(name);
        fs::create_dir(&home).map_err(|e| Error::io(&home, e))?;
        let ending = image.extension().and_then(|e| e.to_str()).unwrap_or("bin").to_ascii_lowercase();
        let file = format!("image.{ending}");
        fs::copy(image, home.join(&file)).map_err(|e| Error::io(image, e))?;
        let mut outputs = BTreeMap::new();
        for (name, array) in &case.outputs {
            let safe = |c: char| if c.is_ascii_alphanumeric() || "_-".contains(c) { c } else { '_' };
            let mut file: String = name.chars().map(safe).collect();
            // Two names may become one.
            while outputs.values().any(|o: &OutputFile| o.file == format!("{file}.npy")) {
                file.push('_');
            }
            let file = format!("{file}.npy");
            array.write(&home.join(&file))?;
            let entry = OutputFile { file, dtype: array.dtype().to_owned(), shape: array.shape.clone() };
            outputs.insert(name.clone(), entry);
        }
        let Picture { width, height, rgb } = &case.picture;
        let image = ImageFile { file, width: *width, height: *height, sha256_rgb: hash_bytes(rgb) };
        write_json(&home.join(CASE), &CaseFile { image, outputs })?;
        self.cases.push(name.to_owned());
        Ok(())
    }

    /// Reads a case that is listed.
    ///
    /// Errors: [`Error::Damaged`] where files do not fit what case.json says of them, or where the picture decodes to
    /// other pixels than when it was recorded.
    pub fn case(&self, folder: &Path, name: &str) -> Result<Case> {
        let home = inside(folder, name)?;
        let described: CaseFile = read_json(&home.join(CASE))?;
        let image = inside(&home, &described.image.file)?;
        let picture = Picture::open(&image)?;
        let damaged =
            |what: &Path, reason: String| Error::Damaged { what: what.display().to_string(), reason };
        let size = (described.image.width, described.image.height);
        if (picture.width, picture.height) != size || hash_bytes(&picture.rgb) != described.image.sha256_rgb {
            return Err(damaged(
                &image,
                "it does not decode to the pixels that were recorded: the file was changed, or another version of \
                 tfgraft decodes it otherwise; record the reference again"
                    .into(),
            ));
        }
        let mut outputs = Outputs::new();
        for (name, output) in described.outputs {
            let file = inside(&home, &output.file)?;
            let array = Array::read(&file)?;
            if array.shape != output.shape || array.dtype() != output.dtype {
                return Err(damaged(
                    &file,
                    format!(
                        "it holds {} {:?}, {CASE} says {} {:?}",
                        array.dtype(),
                        array.shape,
                        output.dtype,
                        output.shape
                    ),
                ));
            }
            outputs.insert(name, array);
        }
        Ok(Case { picture, outputs })
    }
}

/// A name below a folder. Errors: [`Error::Damaged`] for one that would lead elsewhere.
fn inside(folder: &Path, name: &str) -> Result<PathBuf> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(_)), None) => Ok(folder.join(name)),
        _ => Err(Error::Damaged {
            what: folder.display().to_string(),
            reason: format!("it names {name:?}, expected a plain name in this folder"),
        }),
    }
}

fn read_json<T: DeserializeOwned>(file: &Path) -> Result<T> {
    let text = input::read_text(file)?;
    serde_json::from_str(&text)
        .map_err(|e| Error::Damaged { what: file.display().to_string(), reason: e.to_string() })
}

fn write_json(file: &Path, value: &impl Serialize) -> Result<()> {
    let text =
        serde_json::to_string_pretty(value).map_err(|e| Error::Data(format!("{}: {e}", file.display())))?;
    fs::write(file, text + "\n").map_err(|e| Error::io(file, e))
}
