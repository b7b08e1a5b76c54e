//! COCO JSON: `images`, `annotations` with `bbox` `[x, y, width, height]` in pixels, `categories`.
//!
//! Read as `pycocotools` reads it; clipping as against dropping of boxes that reach out differs from the OD API's
//! `create_coco_tf_record.py`, which skips them.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::assemble::{RawObject, labelled, picture_path};
use super::dataset::{Dataset, ImageSource, Incomplete};
use super::problems::ProblemKind;
use super::segmentation;
use super::text;
use crate::error::{Error, Result};
use crate::input;

#[derive(Deserialize)]
struct File {
    images: Vec<Image>,
    #[serde(default)]
    annotations: Option<Vec<Annotation>>,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct Image {
    #[serde(deserialize_with = "id")]
    id: String,
    file_name: String,
    #[serde(default)]
    width: Option<f64>,
    #[serde(default)]
    height: Option<f64>,
    /// LVIS: categories of which the image may show more objects than are labelled.
    #[serde(default)]
    not_exhaustive_category_ids: Option<Vec<Id>>,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Id(#[serde(deserialize_with = "id")] String);

#[derive(Deserialize)]
struct Annotation {
    #[serde(default, deserialize_with = "optional_id")]
    id: Option<String>,
    #[serde(deserialize_with = "id")]
    image_id: String,
    #[serde(deserialize_with = "id")]
    category_id: String,
    #[serde(default)]
    bbox: Option<Vec<f64>>,
    #[serde(default)]
    area: Option<f64>,
    #[serde(default)]
    iscrowd: Value,
    #[serde(default)]
    segmentation: Option<segmentation::Read>,
}

#[derive(Deserialize)]
struct Category {
    #[serde(deserialize_with = "id")]
    id: String,
    name: String,
}

/// Reads a COCO JSON file; the pictures are in `images_dir`, else in the file's folder.
pub fn read(path: &Path, images_dir: Option<&Path>) -> Result<Dataset> {
    let text = input::read(path, input::TEXT)?;
    let beside = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    parse(&text, &path.display().to_string(), images_dir.unwrap_or(beside))
}

fn parse(text: &[u8], name: &str, dir: &Path) -> Result<Dataset> {
    let mut out = Dataset::default();
    let text = text::decode(text, name, &mut out.problems);
    let file: File = serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(|e| {
        Error::Data(format!(
            "{name}: not COCO JSON ({e}); expected an object with images, annotations and categories"
        ))
    })?;
    let categories = categories(&file.categories, name)?;
    let mut sorted: Vec<&Category> = file.categories.iter().collect();
    sorted.sort_by_key(|category| (category.id.parse::<i64>().unwrap_or(i64::MAX), category.id.clone()));
    let mut named = HashSet::new();
    for category in sorted {
        if named.insert(&category.name) {
            out.categories.push(category.name.clone());
        }
    }

    let mut at: HashMap<&str, usize> = HashMap::new();
    for (index, image) in file.images.iter().enumerate() {
        if let Some(first) = at.insert(&image.id, index)
            && file.images[first].file_name != image.file_name
        {
            return Err(Error::Data(format!(
                "{name}: image id {} is used by {:?} and by {:?}; each image needs its own",
                image.id, file.images[first].file_name, image.file_name
            )));
        }
    }
    let mut objects: Vec<Vec<RawObject>> = file.images.iter().map(|_| Vec::new()).collect();
    let mut ids = HashSet::new();
    for (index, annotation) in file.annotations.unwrap_or_default().into_iter().enumerate() {
        let place = match &annotation.id {
            Some(id) => format!("annotation {id}"),
            None => format!("annotation number {}", index + 1),
        };
        let told = |what: String| move || format!("{name}: {place} {what}");
        if let Some(id) = &annotation.id
            && !ids.insert(id.clone())
        {
            out.problems.add(ProblemKind::DuplicateId, || format!("{name}: annotation {id}"));
        }
        let Some(&image) = at.get(annotation.image_id.as_str()) else {
            out.problems.add(ProblemKind::UnknownPicture, told(format!("of image {}", annotation.image_id)));
            continue;
        };
        let Some(class) = categories.get(annotation.category_id.as_str()) else {
            out.problems
                .add(ProblemKind::UnknownCategory, told(format!("of category {}", annotation.category_id)));
            continue;
        };
        let Some(bbox) = annotation.bbox.filter(|bbox| !bbox.is_empty()) else {
            out.problems.add(ProblemKind::NoBox, told("has no bbox".to_owned()));
            continue;
        };
        let place = match &annotation.id {
            Some(id) => format!("annotation {id}"),
            None => format!("annotation number {}", index + 1),
        };
        let [x, y, w, h] = bbox[..] else {
            return Err(Error::Data(format!(
                "{name}: {place}: bbox has {} numbers, expected 4: [x, y, width, height] in pixels",
                bbox.len()
            )));
        };
        let mask = match annotation.segmentation.map_or(Ok(None), segmentation::Read::understand) {
            Ok(mask) => mask,
            Err(why) => {
                out.problems.add(ProblemKind::UnusableMask, || format!("{name}: {place}: {why}"));
                None
            }
        };
        objects[image].push(RawObject {
            class: (*class).to_owned(),
            corners: [x, y, x + w, y + h],
            crowd: truthy(&annotation.iscrowd),
            difficult: false,
            area: annotation.area,
            mask,
            place,
        });
    }

    for (image, raw) in file.images.iter().zip(objects) {
        let path = picture_path(dir, &image.file_name, &format!("{name}: image {}", image.id))?;
        let declared = image.width.zip(image.height).map(|(w, h)| (w as u32, h as u32));
        let mut read = labelled(ImageSource::File(path), declared, raw, &mut out);
        let open = image.not_exhaustive_category_ids.iter().flatten();
        let open: Vec<String> =
            open.filter_map(|id| categories.get(id.0.as_str())).map(|name| (*name).to_owned()).collect();
        if let Some(read) = read.as_mut().filter(|_| !open.is_empty()) {
            read.incomplete = Incomplete::Classes(open);
        }
        out.images.extend(read);
    }
    Ok(out)
}

fn categories<'a>(list: &'a [Category], name: &str) -> Result<HashMap<&'a str, &'a str>> {
    let mut out: HashMap<&str, &str> = HashMap::new();
    for category in list {
        if category.name.trim().is_empty() {
            return Err(Error::Data(format!("{name}: category {} has an empty name", category.id)));
        }
        if let Some(first) = out.insert(&category.id, &category.name)
            && first != category.name
        {
            return Err(Error::Data(format!(
                "{name}: category id {} is both {first:?} and {:?}; give each its own",
                category.id, category.name
            )));
        }
    }
    Ok(out)
}

/// `1`, `1.0`, `"1"` and `"abc"` as one kind of id.
fn id<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<String, D::Error> {
    optional_id(deserializer)?
        .ok_or_else(|| serde::de::Error::custom("an id is null, expected a number or a string"))
}

fn optional_id<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<String>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        Value::Number(number) => Ok(Some(match number.as_f64() {
            Some(value) if value.fract() == 0.0 && value.abs() < 9e15 && !number.is_i64() => {
                (value as i64).to_string()
            }
            _ => number.to_string(),
        })),
        other => Err(serde::de::Error::custom(format!("an id is {other}, expected a number or a string"))),
    }
}

fn truthy(value: &Value) -> bool {
    match value {
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64().is_some_and(|v| v != 0.0),
        Value::String(text) => text == "1" || text.eq_ignore_ascii_case("true"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        image::RgbImage::new(40, 20).save(dir.path().join("a.png")).unwrap();
        image::RgbImage::new(40, 20).save(dir.path().join("b.png")).unwrap();
        dir
    }

    #[test]
    fn reads_odd_ids_and_counts_problems() {
        let dir = folder();
        let text = r#"{"images":[{"id":"7","file_name":"a.png","width":40,"height":20},{"id":8.0,"file_name":"b.png",
            "not_exhaustive_category_ids":[91.0,5]},
            {"id":9,"file_name":"none.png","width":4,"height":4}],
            "annotations":[{"id":1,"image_id":7,"category_id":"92","bbox":[10,5,20,10],"area":50,"iscrowd":0},
            {"id":1,"image_id":7.0,"category_id":91,"bbox":[30,10,20,10],"iscrowd":true},
            {"image_id":8,"category_id":5,"bbox":[0,0,1,1]},{"image_id":80,"category_id":91,"bbox":[0,0,1,1]},
            {"image_id":8,"category_id":91},{"image_id":8,"category_id":91,"bbox":[3,3,0,5]}],
            "categories":[{"id":92,"name":"k"},{"id":91,"name":"r"}]}"#;
        let set = parse(text.as_bytes(), "x.json", dir.path()).unwrap();
        assert_eq!(set.categories, ["r", "k"]);
        assert_eq!(set.images.len(), 2);
        assert!(set.images[0].incomplete.is_complete());
        assert!(set.images[1].incomplete.lacks("r") && !set.images[1].incomplete.lacks("k"));
        let [first, second] = &set.images[0].objects[..] else { panic!("two objects") };
        assert_eq!((first.class.as_str(), first.area, first.crowd), ("k", 50.0, false));
        assert_eq!(first.bbox.to_pixels(40, 20), [10.0, 5.0, 30.0, 15.0]);
        assert!(second.crowd && second.bbox.xmax == 1.0);
        for kind in [
            ProblemKind::DuplicateId,
            ProblemKind::UnknownCategory,
            ProblemKind::UnknownPicture,
            ProblemKind::NoBox,
            ProblemKind::EmptyBox,
            ProblemKind::MissingPicture,
            ProblemKind::BoxOutside,
        ] {
            assert_eq!(set.problems.count(kind), 1, "{kind:?}");
        }
    }

    #[test]
    fn refuses_what_cannot_be_meant() {
        let dir = folder();
        for (text, part) in [
            ("[1, 2", "line 1"),
            ("{\n\"images\": 3}", "line 2"),
            (r#"{"images":[],"annotations":[]}"#, "categories"),
            (
                r#"{"images":[{"id":1,"file_name":"a"},{"id":1,"file_name":"b"}],"categories":[]}"#,
                "image id 1",
            ),
            (r#"{"images":[],"categories":[{"id":1,"name":"a"},{"id":1,"name":"b"}]}"#, "category id 1"),
            (r#"{"images":[{"id":1,"file_name":"../a.png"}],"categories":[]}"#, "does not stay inside"),
            (
                r#"{"images":[{"id":1,"file_name":"a.png"}],"categories":[{"id":1,"name":"a"}],
                "annotations":[{"image_id":1,"category_id":1,"bbox":[1,2]}]}"#,
                "2 numbers",
            ),
        ] {
            let err = parse(text.as_bytes(), "x.json", dir.path()).unwrap_err().to_string();
            assert!(err.starts_with("x.json") && err.contains(part), "{err}");
        }
    }
}
