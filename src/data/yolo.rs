//! YOLO text files: one beside each picture, a line `class x y width height` for each object, centre and size as
//! fractions of the picture, classes counted from 0. Names stand in `classes.txt` (LabelImg), a `.names` file (Darknet) or
//! `data.yaml` (Ultralytics, Roboflow).
//!
//! Lines of polygons (`class x1 y1 x2 y2 x3 y3 …`) give the box around them; a sixth number is a confidence and not
//! read. A picture without a text file has no objects. Fractions are taken of the stored pixels: a text file does not
//! say whether its picture was shown turned.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use yaml_rust2::parser::{Event, Parser};
use yaml_rust2::{Yaml, YamlLoader};

use super::assemble::{RawObject, assemble, header, picture_path};
use super::dataset::{Dataset, ImageSource};
use super::picture::PictureInfo;
use super::problems::{ProblemKind, Problems};
use super::text;
use crate::error::{Error, Result};
use crate::input;

/// How far above the pictures the file with the names may lie: `data.yaml`, `images`, `train`.
const LEVELS: usize = 3;

/// The file with the names of the classes, in a folder or above it.
pub fn names_file(dir: &Path) -> Option<PathBuf> {
    let dir = dir.canonicalize().ok()?;
    dir.ancestors().take(LEVELS).find_map(|dir| {
        let called = |wanted: &dyn Fn(&str) -> bool| {
            let names = std::fs::read_dir(dir).ok()?.filter_map(|e| Some(e.ok()?.path()));
            names.filter(|p| p.is_file() && p.file_name().and_then(|n| n.to_str()).is_some_and(wanted)).min()
        };
        called(&|name| matches!(name, "data.yaml" | "data.yml" | "dataset.yaml"))
            .or_else(|| called(&|name| name == "classes.txt"))
            .or_else(|| called(&|name| name.ends_with(".names")))
    })
}

/// Reads a folder of pictures and text files: side by side, or in `images` and `labels`. `images_dir` is where the
/// pictures are when they are elsewhere.
pub fn read_dir(dir: &Path, names: &Path, images_dir: Option<&Path>) -> Result<Dataset> {
    let mut problems = Problems::default();
    let classes = class_names(names, &mut problems)?;
    let nested = dir.join("images");
    let folder = match images_dir {
        Some(folder) => folder,
        None if nested.is_dir() => &nested,
        None => dir,
    };
    let labels =
        images_dir.map(|_| if dir.join("labels").is_dir() { dir.join("labels") } else { dir.to_owned() });
    read(&[folder.to_owned()], labels.as_deref(), classes, problems)
}

/// Reads the training pictures that a `data.yaml` names.
pub fn read_yaml(path: &Path, images_dir: Option<&Path>) -> Result<Dataset> {
    let mut problems = Problems::default();
    let yaml = yaml(path, &mut problems)?;
    let classes = some_names(yaml_names(&yaml), path)?;
    let beside = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let base = match (images_dir, yaml["path"].as_str()) {
        (Some(dir), _) => dir.to_owned(),
        (None, Some(root)) if beside.join(root).is_dir() => beside.join(root),
        _ => beside.to_owned(),
    };
    let entries: Vec<&str> = match &yaml["train"] {
        Yaml::String(one) => vec![one],
        Yaml::Array(several) => several.iter().filter_map(Yaml::as_str).collect(),
        _ => Vec::new(),
    };
    if entries.is_empty() {
        return Err(Error::Data(format!(
            "{}: it names no training pictures (train:); name their folder itself",
            path.display()
        )));
    }
    let mut folders = Vec::new();
    for entry in entries {
        // Roboflow writes paths as seen from a folder that it does not make.
        let inside = entry.trim_start_matches("../").trim_start_matches("./");
        let folder = picture_path(&base, inside, &path.display().to_string())?;
        if !folder.is_dir() {
            return Err(Error::Data(format!(
                "{}: its folder of training pictures {} is not there",
                path.display(),
                folder.display()
            )));
        }
        folders.push(folder);
    }
    read(&folders, None, classes, problems)
}

fn read(
    folders: &[PathBuf],
    labels: Option<&Path>,
    classes: Vec<String>,
    problems: Problems,
) -> Result<Dataset> {
    let mut out = Dataset { problems, ..Dataset::default() };
    for folder in folders {
        let mut pictures = Vec::new();
        list(folder, &mut pictures, 0)?;
        let mut read: BTreeSet<PathBuf> = BTreeSet::new();
        for picture in pictures {
            let text = text_file(&picture, labels);
            let source = ImageSource::File(picture);
            let Some(info) = header(&source, &mut out) else { continue };
            let raw =
                if text.is_file() { objects(&text, info, &classes, &mut out.problems)? } else { Vec::new() };
            read.insert(text);
            let image = assemble(source, info, None, raw, &mut out.problems);
            out.images.push(image);
        }
        lonely(labels.unwrap_or(folder), &read, &mut out.problems);
    }
    out.categories = classes;
    Ok(out)
}

/// The pictures of a folder and of those below it, by name.
fn list(folder: &Path, out: &mut Vec<PathBuf>, depth: usize) -> Result<()> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
    paths.sort();
    for path in paths {
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        if path.is_dir() && depth < LEVELS {
            list(&path, out, depth + 1)?;
        } else if path.is_file() && matches!(ending.as_str(), "jpg" | "jpeg" | "png" | "bmp" | "webp") {
            out.push(path);
        }
    }
    Ok(())
}

/// Where the labels of a picture are: in a given folder, in `labels` where its path says `images`, else beside it.
fn text_file(picture: &Path, labels: Option<&Path>) -> PathBuf {
    let beside = picture.with_extension("txt");
    if let (Some(labels), Some(name)) = (labels, beside.file_name()) {
        return labels.join(name);
    }
    let parts: Vec<_> = beside.components().collect();
    let Some(at) = parts.iter().rposition(|part| part.as_os_str() == "images") else { return beside };
    let elsewhere: PathBuf = parts[..at]
        .iter()
        .collect::<PathBuf>()
        .join("labels")
        .join(parts[at + 1..].iter().collect::<PathBuf>());
    if elsewhere.is_file() { elsewhere } else { beside }
}

/// Counts text files with labels whose picture is not there.
fn lonely(folder: &Path, read: &BTreeSet<PathBuf>, problems: &mut Problems) {
    let texts = std::fs::read_dir(folder).into_iter().flatten().filter_map(|e| e.ok().map(|e| e.path()));
    let mut texts: Vec<PathBuf> = texts.filter(|p| p.extension().is_some_and(|e| e == "txt")).collect();
    texts.sort();
    for text in texts {
        let labels = |line: &str| {
            line.split_whitespace().count() >= 5 && line.starts_with(|c: char| c.is_ascii_digit())
        };
        let is_labels = input::read_file(&text, input::TEXT)
            .is_ok_and(|t| String::from_utf8_lossy(&t).lines().any(labels));
        if is_labels && !read.contains(&text) {
            problems.add(ProblemKind::MissingPicture, || text.display().to_string());
        }
    }
}

fn objects(
    text: &Path,
    info: PictureInfo,
    classes: &[String],
    problems: &mut Problems,
) -> Result<Vec<RawObject>> {
    let bytes = input::read_file(text, input::TEXT)?;
    parse(&String::from_utf8_lossy(&bytes), &text.display().to_string(), info, classes, problems)
}

fn parse(
    text: &str,
    name: &str,
    info: PictureInfo,
    classes: &[String],
    problems: &mut Problems,
) -> Result<Vec<RawObject>> {
    let (width, height) = (f64::from(info.width), f64::from(info.height));
    let mut out = Vec::new();
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let place = format!("{name}:{}", number + 1);
        let mut fields = line.split_whitespace();
        let Some(class) = fields.next() else { continue };
        let bad =
            |what: &str| Error::Data(format!("{place}: {what}: {line:?}; expected class x y width height"));
        let class: usize = class.parse().map_err(|_| bad("the class is no number"))?;
        let numbers: Vec<f64> =
            fields.map(str::parse).collect::<std::result::Result<_, _>>().map_err(|_| bad("not a number"))?;
        let corners = match numbers[..] {
            [x, y, w, h] | [x, y, w, h, _] => [x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0],
            _ if numbers.len() >= 6 && numbers.len().is_multiple_of(2) => around(&numbers),
            _ => return Err(bad("a line of so many numbers is not known")),
        };
        let Some(class) = classes.get(class) else {
            problems
                .add(ProblemKind::UnknownCategory, || format!("{place}: class {class} of {}", classes.len()));
            continue;
        };
        let [xmin, ymin, xmax, ymax] = corners;
        out.push(RawObject {
            class: class.clone(),
            corners: [xmin * width, ymin * height, xmax * width, ymax * height],
            crowd: false,
            difficult: false,
            area: None,
            mask: None,
            place,
        });
    }
    Ok(out)
}

/// The box around a polygon `x1 y1 x2 y2 …`.
fn around(points: &[f64]) -> [f64; 4] {
    points
        .chunks_exact(2)
        .fold([f64::INFINITY, f64::INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY], |b, p| {
            [b[0].min(p[0]), b[1].min(p[1]), b[2].max(p[0]), b[3].max(p[1])]
        })
}

fn class_names(path: &Path, problems: &mut Problems) -> Result<Vec<String>> {
    let is_yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
    let names =
        if is_yaml { yaml_names(&yaml(path, problems)?) } else { Some(listed_names(path, problems)?) };
    some_names(names, path)
}

fn some_names(names: Option<Vec<String>>, path: &Path) -> Result<Vec<String>> {
    match names {
        Some(names) if !names.is_empty() => Ok(names),
        _ => Err(Error::Data(format!("{}: it names no classes (names:)", path.display()))),
    }
}

fn listed_names(path: &Path, problems: &mut Problems) -> Result<Vec<String>> {
    let bytes = input::read_file(path, input::TEXT)?;
    let text = text::decode(&bytes, &path.display().to_string(), problems);
    let text = text.trim_start_matches('\u{feff}').trim_end();
    Ok(text.lines().map(|line| line.trim().to_owned()).collect())
}

fn yaml(path: &Path, problems: &mut Problems) -> Result<Yaml> {
    let bytes = input::read(path, input::TEXT)?;
    let text = text::decode(&bytes, &path.display().to_string(), problems);
    plain(&text).map_err(|what| Error::Data(format!("{}: {what}", path.display())))?;
    let documents = YamlLoader::load_from_str(&text)
        .map_err(|e| Error::Data(format!("{}: not YAML: {e}", path.display())))?;
    Ok(documents.into_iter().next().unwrap_or(Yaml::BadValue))
}

/// Refuses what no data.yaml has and what a few kilobytes could fill the stack or the memory with: the loader follows nested
/// lists by calling itself, and copies what an alias stands for.
fn plain(text: &str) -> std::result::Result<(), String> {
    let mut parser = Parser::new_from_str(text);
    let mut depth = 0usize;
    loop {
        let (event, at) = parser.next_token().map_err(|e| format!("not YAML: {e}"))?;
        match event {
            Event::Alias(_) => return Err(format!("line {}: aliases (*name) are not read", at.line())),
            Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
            Event::SequenceEnd | Event::MappingEnd => depth = depth.saturating_sub(1),
            Event::StreamEnd => return Ok(()),
            _ => {}
        }
        if depth > 32 {
            return Err(format!("line {}: lists are nested too deeply", at.line()));
        }
    }
}

/// `names: [a, b]` or `names: {0: a, 1: b}`; gaps of the latter get `class_N`, as a model without names would.
fn yaml_names(yaml: &Yaml) -> Option<Vec<String>> {
    let text = |value: &Yaml| match value {
        Yaml::String(s) => Some(s.clone()),
        Yaml::Integer(i) => Some(i.to_string()),
        Yaml::Boolean(b) => Some(b.to_string()),
        _ => None,
    };
    match &yaml["names"] {
        Yaml::Array(list) => list.iter().map(text).collect(),
        Yaml::Hash(map) => {
            let mut names = Vec::new();
            for (key, value) in map {
                let index = usize::try_from(key.as_i64()?).ok().filter(|&index| index < 100_000)?;
                if names.len() <= index {
                    let gap = names.len();
                    names.extend((gap..=index).map(|i| format!("class_{i}")));
                }
                names[index] = text(value)?;
            }
            Some(names)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::metadata::Orientation;

    const INFO: PictureInfo = PictureInfo { width: 200, height: 100, orientation: Orientation::NoTransforms };

    fn lines(text: &str) -> Result<(Vec<RawObject>, Problems)> {
        let mut problems = Problems::default();
        let classes = ["duck".to_owned(), "pond".to_owned()];
        Ok((parse(text, "x.txt", INFO, &classes, &mut problems)?, problems))
    }

    #[test]
    fn boxes_polygons_and_confidences() {
        for (line, class, corners) in [
            ("1 0.5 0.5 1 1", "pond", [0.0, 0.0, 200.0, 100.0]),
            ("0 .25 .5 .5 .2", "duck", [0.0, 40.0, 100.0, 60.0]),
            ("0\t0.25 0.5 0.5 0.2 0.97\r", "duck", [0.0, 40.0, 100.0, 60.0]),
            ("0 0.1 0.2 0.3 0.2 0.2 0.9", "duck", [20.0, 20.0, 60.0, 90.0]),
        ] {
            let (found, problems) = lines(line).unwrap();
            assert_eq!(found[0].class, class);
            assert!(
                found[0].corners.iter().zip(corners).all(|(a, b)| (a - b).abs() < 1e-9),
                "{line}: {found:?}"
            );
            assert!(problems.is_empty());
        }
        let (found, problems) = lines("\n7 0.5 0.5 1 1\n\n0 0.5 0.5 1 1\n").unwrap();
        assert_eq!((found.len(), problems.count(ProblemKind::UnknownCategory)), (1, 1));
        assert_eq!(found[0].place, "x.txt:4");
        for bad in ["duck 0 0 1 1", "0 0 0 1", "0 0 0 1 x", "-1 0 0 1 1", "0 1 2 3 4 5 6 7"] {
            let error = lines(bad).unwrap_err().to_string();
            assert!(error.starts_with("x.txt:1:"), "{error}");
        }
    }

    #[test]
    fn bombs_are_refused() {
        plain("names: [a, [b]]\n").unwrap();
        let laughs: String = (0..40).fold("a0: &a0 [x]\n".into(), |text: String, i| {
            format!("{text}a{}: &a{} [*a{i}, *a{i}]\n", i + 1, i + 1)
        });
        assert!(plain(&laughs).unwrap_err().contains("aliases"));
        let flow = "[".repeat(100_000);
        let block = "- ".repeat(100_000);
        let keys: String = (0..3000).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
        for deep in [&flow, &block, &keys] {
            assert!(plain(deep).is_err());
        }
    }

    #[test]
    fn names_in_every_form() {
        let of = |text: &str| yaml_names(&YamlLoader::load_from_str(text).unwrap()[0]);
        let both = Some(vec!["a b".to_owned(), "no".to_owned()]);
        assert_eq!(of("names: [a b, 'no']"), both);
        assert_eq!(of("names:\n  - a b\n  - \"no\"\n"), both);
        assert_eq!(of("names:\n  1: \"no\"\n  0: a b\n"), both);
        assert_eq!(of("names:\n  1: x\n"), Some(vec!["class_0".into(), "x".into()]));
        for bad in ["nc: 3", "names: 3", "names:\n  x: y\n", "names:\n  99999999999: y\n", "names: [[a]]"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
