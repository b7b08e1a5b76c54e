//! Pascal VOC XML, one file per picture, as LabelImg and CVAT write it.
//!
//! Corners are divided by the declared size as they stand, without taking 1 off for VOC's counting from 1: so does the
//! OD API's `create_pascal_tf_record.py`. `<folder>` and `<path>` are not followed.

use std::path::{Path, PathBuf};

use quick_xml::Reader;
use quick_xml::events::Event;

use super::assemble::{RawObject, labelled, picture_path};
use super::dataset::{Dataset, ImageSource};
use super::problems::{ProblemKind, Problems};
use super::text;
use crate::error::{Error, Result};
use crate::input;

const ENDINGS: [&str; 10] = ["jpg", "jpeg", "png", "bmp", "webp", "JPG", "JPEG", "PNG", "BMP", "WEBP"];

/// What one file says.
#[derive(Debug, Default)]
struct Annotation {
    filename: String,
    width: Option<f64>,
    height: Option<f64>,
    objects: Vec<Labelled>,
}

#[derive(Debug, Default)]
struct Labelled {
    line: usize,
    name: String,
    difficult: bool,
    corners: [Option<f64>; 4],
}

/// Reads a folder of XML files, or VOC's own layout with `Annotations` and `JPEGImages` below it. The pictures are in
/// `images_dir`, else in `JPEGImages`, else beside the XML files.
pub fn read_dir(dir: &Path, images_dir: Option<&Path>) -> Result<Dataset> {
    let nested = dir.join("Annotations");
    let folder = if nested.is_dir() { nested.as_path() } else { dir };
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .map_err(|e| Error::io(folder, e))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("xml")) && path.is_file())
        .collect();
    files.sort();
    let pictures = match images_dir {
        Some(dir) => dir.to_owned(),
        None if folder != dir && dir.join("JPEGImages").is_dir() => dir.join("JPEGImages"),
        None => folder.to_owned(),
    };
    read_files(&files, &pictures)
}

/// Reads XML files whose pictures are in one folder.
pub fn read_files(files: &[PathBuf], pictures: &Path) -> Result<Dataset> {
    let mut out = Dataset::default();
    for path in files {
        let bytes = input::read(path, input::TEXT)?;
        let name = path.display().to_string();
        let annotation = parse(&text::decode(&bytes, &name, &mut out.problems), &name)?;
        let declared = annotation.width.zip(annotation.height).map(|(w, h)| (w as u32, h as u32));
        let raw = objects(annotation.objects, &name, &mut out.problems)?;
        out.categories.extend(raw.iter().map(|object| object.class.clone()));
        let picture = picture(pictures, &annotation.filename, path, &name)?;
        let image = labelled(ImageSource::File(picture), declared, raw, &mut out);
        out.images.extend(image);
    }
    out.categories.sort();
    out.categories.dedup();
    Ok(out)
}

fn objects(list: Vec<Labelled>, name: &str, problems: &mut Problems) -> Result<Vec<RawObject>> {
    let mut out = Vec::with_capacity(list.len());
    for object in list {
        let place = format!("{name}:{}", object.line);
        if object.name.is_empty() {
            return Err(Error::Data(format!("{place}: this object has no name")));
        }
        match object.corners {
            [Some(xmin), Some(ymin), Some(xmax), Some(ymax)] => out.push(RawObject {
                class: object.name,
                corners: [xmin, ymin, xmax, ymax],
                crowd: false,
                difficult: object.difficult,
                area: None,
                mask: None,
                place,
            }),
            _ => problems.add(ProblemKind::NoBox, || format!("{place} {}", object.name)),
        }
    }
    Ok(out)
}

/// The picture that `<filename>` names; where there is none, the one called like the XML file.
fn picture(dir: &Path, filename: &str, xml: &Path, name: &str) -> Result<PathBuf> {
    let named = if filename.is_empty() { None } else { Some(picture_path(dir, filename, name)?) };
    if let Some(path) = &named
        && path.is_file()
    {
        return Ok(path.clone());
    }
    let stem = xml.file_stem().unwrap_or_default();
    let called = |ending: &str| {
        let mut file = stem.to_owned();
        file.push(".");
        file.push(ending);
        dir.join(file)
    };
    let found = ENDINGS.iter().map(|ending| called(ending)).find(|path| path.is_file());
    Ok(found.or(named).unwrap_or_else(|| called("jpg")))
}

fn parse(text: &str, name: &str) -> Result<Annotation> {
    let bytes = text.as_bytes();
    let mut reader = Reader::from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
    let mut out = Annotation::default();
    let mut path: Vec<String> = Vec::new();
    let mut value = String::new();
    let mut rooted = false;
    let (mut lines, mut counted) = (1, 0);
    loop {
        let before = reader.buffer_position() as usize;
        let bad = |at: usize, what: &str| Error::Data(format!("{name}:{}: {what}", line(bytes, at)));
        let event = reader
            .read_event()
            .map_err(|e| bad(reader.error_position() as usize, &format!("not XML: {e}")))?;
        match event {
            Event::Empty(tag) if path.is_empty() && tag.name().as_ref() == "annotation" => rooted = true,
            Event::Start(tag) => {
                rooted = true;
                path.push(tag.name().as_ref().to_owned());
                if path.len() == 1 && path[0] != "annotation" {
                    let what = format!("the root is <{}>, expected <annotation> of Pascal VOC", path[0]);
                    return Err(bad(before, &what));
                }
                if path.len() > 32 {
                    return Err(bad(before, "tags are nested too deeply"));
                }
                if path.len() == 2 && path[1] == "object" {
                    // Counted on from the last object: a long file must not be counted from its start for each.
                    lines += line(bytes.get(counted..).unwrap_or_default(), before - counted) - 1;
                    counted = before;
                    out.objects.push(Labelled { line: lines, ..Labelled::default() });
                }
                value.clear();
            }
            Event::Text(text) => value.push_str(&text.xml10_content()),
            Event::CData(text) => value.push_str(&text.xml10_content()),
            Event::GeneralRef(entity) => {
                let known = match entity.resolve_char_ref() {
                    Ok(Some(c)) => Some(c),
                    _ => match entity.xml10_content().as_ref() {
                        "amp" => Some('&'),
                        "lt" => Some('<'),
                        "gt" => Some('>'),
                        "quot" => Some('"'),
                        "apos" => Some('\''),
                        _ => None,
                    },
                };
                value.push(known.ok_or_else(|| bad(before, "an unknown entity"))?);
            }
            Event::End(_) => {
                let tags: Vec<&str> = path.iter().map(String::as_str).collect();
                out.set(&tags, value.trim()).map_err(|what| bad(before, &what))?;
                path.pop();
                value.clear();
            }
            Event::Eof if path.is_empty() && rooted => break,
            Event::Eof => return Err(bad(bytes.len(), "the file ends inside an annotation")),
            _ => {}
        }
    }
    Ok(out)
}

impl Annotation {
    /// Takes the text of the element at a path of tags. The paths are exact: the parts of VOC's people have names and
    /// boxes of their own deeper down.
    fn set(&mut self, path: &[&str], value: &str) -> std::result::Result<(), String> {
        let number = |tag: &str| -> std::result::Result<Option<f64>, String> {
            match value.parse::<f64>() {
                Ok(v) if v.is_finite() => Ok(Some(v)),
                _ => Err(format!("<{tag}> is {value:?}, expected a number of pixels")),
            }
        };
        match path {
            ["annotation", "filename"] => self.filename = value.to_owned(),
            ["annotation", "size", tag @ "width"] => self.width = number(tag)?,
            ["annotation", "size", tag @ "height"] => self.height = number(tag)?,
            ["annotation", "object", tag @ ("name" | "difficult")] => {
                if let Some(object) = self.objects.last_mut() {
                    match *tag {
                        "name" => object.name = value.to_owned(),
                        _ => object.difficult = matches!(value, "1" | "true" | "True"),
                    }
                }
            }
            ["annotation", "object", "bndbox", tag] => {
                let index = ["xmin", "ymin", "xmax", "ymax"].iter().position(|known| known == tag);
                if let (Some(index), Some(object)) = (index, self.objects.last_mut()) {
                    object.corners[index] = number(tag)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// The line of a byte, counted from 1.
fn line(bytes: &[u8], at: usize) -> usize {
    1 + bytes.iter().take(at).filter(|b| **b == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "<annotation>\n<filename>other.jpg</filename><size><width>40</width><height>20</height></size>\n\
        <object>\n<name>a &amp; b</name><difficult>1</difficult><bndbox><xmin>4</xmin><ymin>2</ymin><xmax>8.0</xmax>\
        <ymax>4</ymax></bndbox><part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>\n\
        <object><name>c</name></object></annotation>\n";

    #[test]
    fn reads_what_labelimg_writes() {
        let dir = tempfile::tempdir().unwrap();
        image::RgbImage::new(40, 20).save(dir.path().join("x.1.png")).unwrap();
        std::fs::write(dir.path().join("x.1.xml"), XML).unwrap();
        let set = read_dir(dir.path(), None).unwrap();
        assert_eq!(set.categories, ["a & b"]);
        let [object] = &set.images[0].objects[..] else { panic!("one object") };
        assert!(object.difficult);
        assert_eq!(object.bbox.to_array(), [0.1, 0.1, 0.2, 0.2]);
        assert_eq!(set.problems.count(ProblemKind::NoBox), 1);
        assert!(set.images[0].name().ends_with("x.1.png"));
    }

    #[test]
    fn says_the_line() {
        for (text, part) in [
            ("<a/>", "ends inside"),
            ("<annotations></annotations>", ":1: the root is <annotations>"),
            ("<annotation>\n<size>\n</annotation>", ":3: not XML"),
            ("<annotation>\n<size><width>x</width></size></annotation>", ":2: <width> is \"x\""),
            ("<annotation>\n", "ends inside"),
            ("", "ends inside"),
            ("<annotation><filename>&boom;</filename></annotation>", "unknown entity"),
        ] {
            let err = parse(text, "f.xml").unwrap_err().to_string();
            assert!(err.starts_with("f.xml") && err.contains(part), "{text}: {err}");
        }
        for cut in 0..XML.len() {
            let _ = parse(&XML[..cut], "f.xml");
        }
    }
}
