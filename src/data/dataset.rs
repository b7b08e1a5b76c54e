//! Labelled pictures, whatever format they came in.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;

use super::boxes::BoxYxyx;
use super::label_map::LabelMap;
use super::picture::Picture;
use super::problems::{ProblemKind, Problems};
use super::segmentation::Segmentation;
use super::tfrecord;
use crate::error::{Error, Result};
use crate::input;

/// Labelled pictures with the names of their classes.
#[derive(Debug, Clone, Default)]
pub struct Dataset {
    /// The pictures, in the order of the data.
    pub images: Vec<LabelledImage>,
    /// Names of the classes that the data declares or uses: in order of id where there are ids, else alphabetically.
    pub categories: Vec<String>,
    /// What was wrong with the data.
    pub problems: Problems,
    /// Pictures that are not there or cannot be decoded, and are not among the others.
    pub left_out: Vec<ImageSource>,
}

/// Where a picture's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ImageSource {
    /// A picture file.
    File(PathBuf),
    /// The `image/encoded` of an example in a TFRecord file.
    Record {
        /// The TFRecord file.
        path: PathBuf,
        /// Where the record's frame starts, bytes from the start of the file.
        offset: u64,
        /// The example's `image/filename`, or its number in the file.
        name: String,
    },
}

/// One picture and its objects.
#[derive(Debug, Clone)]
pub struct LabelledImage {
    /// Where the picture's bytes are.
    pub source: ImageSource,
    /// Width of the stored picture, pixels.
    pub width: u32,
    /// Height of the stored picture, pixels.
    pub height: u32,
    /// The objects, boxes inside the picture and with area.
    pub objects: Vec<Object>,
    /// Of which classes there may be more objects in it than are labelled.
    pub incomplete: Incomplete,
}

/// Classes of which a picture may show objects that nobody labelled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Incomplete {
    /// None: everything is labelled.
    #[default]
    Nothing,
    /// Those named.
    Classes(Vec<String>),
    /// Any class.
    Everything,
}

impl Incomplete {
    /// Whether all objects of all classes are labelled.
    pub fn is_complete(&self) -> bool {
        *self == Self::Nothing
    }

    /// What is lacking by either.
    fn merge(&mut self, other: Self) {
        *self = match (std::mem::take(self), other) {
            (Self::Nothing, one) | (one, Self::Nothing) => one,
            (Self::Classes(mut all), Self::Classes(more)) => {
                all.extend(more);
                Self::Classes(all)
            }
            _ => Self::Everything,
        };
    }

    /// Whether objects of a class may be unlabelled.
    pub fn lacks(&self, class: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Classes(names) => names.iter().any(|name| name == class),
            Self::Everything => true,
        }
    }
}

/// One labelled object.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// The class's name as the data gives it.
    pub class: String,
    /// The box, fractions of the picture, clipped to it.
    pub bbox: BoxYxyx,
    /// A region of many objects (`iscrowd`, `group_of`): neither a positive nor a negative.
    pub crowd: bool,
    /// Marked as hard to see (Pascal VOC): ignored in evaluation.
    pub difficult: bool,
    /// Area in pixels: COCO's `area` (of the mask where there is one), else the box's.
    pub area: f32,
    /// Its mask, in pixels of the stored picture, where the data has one.
    pub mask: Option<Segmentation>,
}

impl ImageSource {
    /// The name for people: a path, or a record's file and name.
    pub fn display(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Record { path, name, .. } => format!("{}:{name}", path.display()),
        }
    }

    /// Reads the encoded picture.
    pub fn read(&self) -> Result<Vec<u8>> {
        match self {
            Self::File(path) => input::read_file(path, input::PICTURE),
            Self::Record { path, offset, .. } => tfrecord::read_encoded(path, *offset),
        }
    }
}

impl LabelledImage {
    /// Reads and decodes the picture.
    pub fn picture(&self) -> Result<Picture> {
        Picture::decode(&self.source.read()?, &self.source.display())
    }

    /// The name for people.
    pub fn name(&self) -> String {
        self.source.display()
    }
}

impl Dataset {
    /// Adds another set: categories are united, and a picture that both have gets the objects of both.
    pub fn merge(&mut self, other: Self) {
        self.problems.merge(other.problems);
        self.left_out.extend(other.left_out);
        self.categories.extend(other.categories);
        keep_first(&mut self.categories);
        let mut places: HashMap<ImageSource, usize> =
            self.images.iter().enumerate().map(|(at, image)| (image.source.clone(), at)).collect();
        for image in other.images {
            let Some(&at) = places.get(&image.source) else {
                places.insert(image.source.clone(), self.images.len());
                self.images.push(image);
                continue;
            };
            self.problems.add(ProblemKind::SamePicture, || image.name());
            let mine = &mut self.images[at];
            mine.incomplete.merge(image.incomplete);
            for object in image.objects {
                if mine.objects.iter().any(|o| o.class == object.class && o.bbox.iou(&object.bbox) > 0.95) {
                    self.problems.add(ProblemKind::DuplicateObject, || {
                        format!("{} in {}", object.class, mine.source.display())
                    });
                } else {
                    mine.objects.push(object);
                }
            }
        }
    }

    /// Marks pictures as incompletely labelled. Each line of `list` is a file name, a path that ends a picture's, or a
    /// pattern such as `*.jpg`; empty lines and lines that start with `#` say nothing.
    ///
    /// Errors: [`Error::Data`] for a line that fits no picture.
    pub fn mark_incomplete(&mut self, list: &str, from: &str) -> Result<()> {
        for (number, line) in list.lines().enumerate() {
            let line = line.trim().trim_start_matches('\u{feff}');
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let place = || format!("{from}:{}", number + 1);
            let pattern = glob::Pattern::new(line).map_err(|e| {
                Error::Data(format!("{}: {line:?} is no pattern of file names: {e}", place()))
            })?;
            let named = |source: &ImageSource| match source {
                ImageSource::File(path) => {
                    path.ends_with(line)
                        || path.file_name().is_some_and(|name| pattern.matches(&name.to_string_lossy()))
                }
                ImageSource::Record { name, .. } => name == line || pattern.matches(name),
            };
            let mut fits = self.left_out.iter().any(named);
            for image in self.images.iter_mut().filter(|image| named(&image.source)) {
                image.incomplete = Incomplete::Everything;
                fits = true;
            }
            if !fits {
                return Err(Error::Data(format!("{}: no picture of the data is named {line:?}", place())));
            }
        }
        Ok(())
    }

    /// Objects per class, crowds and difficult ones included; every category is there.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts: BTreeMap<String, usize> =
            self.categories.iter().map(|name| (name.clone(), 0)).collect();
        for object in self.images.iter().flat_map(|image| &image.objects) {
            *counts.entry(object.class.clone()).or_default() += 1;
        }
        counts
    }

    /// Names the classes that the data knows by number only (`class_N`, TFRecords without `class/text`).
    pub fn name_classes(&mut self, map: &LabelMap) {
        let named = |name: &mut String| {
            if map.by_name(name).is_none()
                && let Some(item) = name.strip_prefix("class_").and_then(|id| map.by_id(id.parse().ok()?))
            {
                *name = item.label().to_owned();
            }
        };
        self.categories.iter_mut().for_each(named);
        for image in &mut self.images {
            if let Incomplete::Classes(names) = &mut image.incomplete {
                names.iter_mut().for_each(named);
            }
        }
        self.images
            .iter_mut()
            .flat_map(|image| &mut image.objects)
            .for_each(|object| named(&mut object.class));
        keep_first(&mut self.categories);
    }
}

/// Leaves each name where it stands first.
fn keep_first(names: &mut Vec<String>) {
    let mut seen = HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_pictures_by_name_and_pattern() {
        let image = |path: &str| LabelledImage {
            source: ImageSource::File(path.into()),
            width: 1,
            height: 1,
            objects: Vec::new(),
            incomplete: Incomplete::Nothing,
        };
        let images = ["/d/a.jpg", "/d/sub/b.jpg", "/d/c.png"].map(image).to_vec();
        let data = Dataset { images, ..Dataset::default() };
        let marked = |list: &str| {
            let mut data = data.clone();
            data.mark_incomplete(list, "list.txt")?;
            Ok::<_, Error>(data.images.iter().map(|i| i.incomplete.lacks("x")).collect::<Vec<bool>>())
        };
        assert_eq!(marked("# none\n\n").unwrap(), [false; 3]);
        assert_eq!(marked("b.jpg\r\n").unwrap(), [false, true, false]);
        assert_eq!(marked("sub/b.jpg\nc.png").unwrap(), [false, true, true]);
        assert_eq!(marked("*.jpg").unwrap(), [true, true, false]);
        assert_eq!(marked("*").unwrap(), [true; 3]);
        let error = marked("a.jpg\nd.jpg").unwrap_err().to_string();
        assert!(error.contains("list.txt:2") && error.contains("\"d.jpg\""), "{error}");
        assert!(marked("[").is_err());
    }

    #[test]
    fn what_either_source_lacks_is_lacking() {
        let classes = |names: &[&str]| Incomplete::Classes(names.iter().map(|n| (*n).to_owned()).collect());
        let merged = |mut a: Incomplete, b| {
            a.merge(b);
            a
        };
        assert_eq!(merged(Incomplete::Nothing, classes(&["a"])), classes(&["a"]));
        assert_eq!(merged(classes(&["a"]), classes(&["b"])), classes(&["a", "b"]));
        assert_eq!(merged(classes(&["a"]), Incomplete::Everything), Incomplete::Everything);
        assert!(classes(&["a"]).lacks("a") && !classes(&["a"]).lacks("b"));
    }
}
