//! Labelled pictures, whatever format they came in.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::boxes::BoxYxyx;
use super::label_map::LabelMap;
use super::picture::{self, Picture, PictureInfo};
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
        for name in other.categories {
            if !self.categories.contains(&name) {
                self.categories.push(name);
            }
        }
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
            let mut fits = false;
            for image in &mut self.images {
                let mine = match &image.source {
                    ImageSource::File(path) => {
                        path.ends_with(line)
                            || path.file_name().is_some_and(|name| pattern.matches(&name.to_string_lossy()))
                    }
                    ImageSource::Record { name, .. } => name == line || pattern.matches(name),
                };
                if mine {
                    image.incomplete = Incomplete::Everything;
                    fits = true;
                }
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
        let mut seen = std::collections::HashSet::new();
        self.categories.retain(|name| seen.insert(name.clone()));
    }
}

/// An object as a reader found it: corners in pixels of the declared size.
#[derive(Debug, Clone)]
pub(super) struct RawObject {
    pub class: String,
    /// `xmin, ymin, xmax, ymax` in pixels of the declared size.
    pub corners: [f64; 4],
    pub crowd: bool,
    pub difficult: bool,
    /// COCO's `area` in pixels of the declared size.
    pub area: Option<f64>,
    /// Its mask in pixels of the declared size.
    pub mask: Option<Segmentation>,
    /// Where it stands, for messages.
    pub place: String,
}

/// Puts together one picture from what a reader found; `None` (and a counted problem) when it cannot be used.
pub(super) fn labelled(
    source: ImageSource,
    declared: Option<(u32, u32)>,
    raw: Vec<RawObject>,
    problems: &mut Problems,
) -> Option<LabelledImage> {
    let info = header(&source, problems)?;
    Some(assemble(source, info, declared, raw, problems))
}

/// What a picture's header says; `None` (and a counted problem) when it cannot be read.
pub(super) fn header(source: &ImageSource, problems: &mut Problems) -> Option<PictureInfo> {
    let name = source.display();
    if let ImageSource::File(path) = source
        && !path.is_file()
    {
        problems.add(ProblemKind::MissingPicture, || name);
        return None;
    }
    match source.read().and_then(|bytes| picture::probe(&bytes, &name)) {
        Ok(info) => Some(info),
        Err(error) => {
            problems.add(ProblemKind::UnreadablePicture, || error.to_string());
            None
        }
    }
}

/// As [`labelled`], for a picture whose header is known.
pub(super) fn assemble(
    source: ImageSource,
    info: PictureInfo,
    declared: Option<(u32, u32)>,
    raw: Vec<RawObject>,
    problems: &mut Problems,
) -> LabelledImage {
    let name = source.display();
    let stored = (info.width, info.height);
    let size = declared.filter(|(w, h)| *w > 0 && *h > 0).unwrap_or(stored);
    let turned = size != stored
        && size == (stored.1, stored.0)
        && turn(info, BoxYxyx::new(0.0, 0.0, 1.0, 1.0)).is_some();
    if size != stored {
        let kind = if turned { ProblemKind::TurnedPicture } else { ProblemKind::WrongSize };
        problems.add(kind, || {
            format!("{name}: declared {} x {}, is {} x {}", size.0, size.1, stored.0, stored.1)
        });
    }
    let scale = f64::from(stored.0) * f64::from(stored.1) / (f64::from(size.0) * f64::from(size.1));
    let mut objects = Vec::with_capacity(raw.len());
    for object in raw {
        let [xmin, ymin, xmax, ymax] = object.corners;
        let bbox = BoxYxyx::from_pixels(xmin, ymin, xmax, ymax, size.0, size.1);
        let inside = bbox.clip();
        let told =
            || format!("{} [{xmin}, {ymin}, {xmax}, {ymax}] of {} ({})", object.class, name, object.place);
        if !bbox.is_finite() || inside.width() <= 0.0 || inside.height() <= 0.0 {
            problems.add(ProblemKind::EmptyBox, told);
            continue;
        }
        // A box that ends at the last pixel may be above 1 by a rounding error.
        if bbox.to_array().iter().any(|v| *v < -1e-5 || *v > 1.0 + 1e-5) {
            problems.add(ProblemKind::BoxOutside, told);
        }
        let inside = if turned { turn(info, inside).unwrap_or(inside) } else { inside };
        let own = f64::from(inside.area()) * f64::from(stored.0) * f64::from(stored.1);
        let mask = object.mask.filter(|mask| {
            let fits = size == stored && mask.fits(stored.1, stored.0);
            if !fits {
                problems.add(ProblemKind::UnusableMask, told);
            }
            fits
        });
        let area = object.area.filter(|a| a.is_finite() && *a > 0.0).map_or(own, |a| a * scale);
        objects.push(Object {
            class: object.class,
            bbox: inside,
            crowd: object.crowd,
            difficult: object.difficult,
            area: area as f32,
            mask,
        });
    }
    if objects.is_empty() {
        problems.add(ProblemKind::NoObjects, || name);
    }
    LabelledImage { source, width: stored.0, height: stored.1, objects, incomplete: Incomplete::Nothing }
}

/// A box of the picture as EXIF shows it, as a box of the stored pixels; `None` when EXIF does not lay it on its side.
fn turn(info: PictureInfo, b: BoxYxyx) -> Option<BoxYxyx> {
    use image::metadata::Orientation;
    let (y0, x0, y1, x1) = (b.ymin, b.xmin, b.ymax, b.xmax);
    match info.orientation {
        Orientation::Rotate90 => Some(BoxYxyx::new(1.0 - x1, y0, 1.0 - x0, y1)),
        Orientation::Rotate270 => Some(BoxYxyx::new(x0, 1.0 - y1, x1, 1.0 - y0)),
        Orientation::Rotate90FlipH => Some(BoxYxyx::new(x0, y0, x1, y1)),
        Orientation::Rotate270FlipH => Some(BoxYxyx::new(1.0 - x1, 1.0 - y1, 1.0 - x0, 1.0 - y0)),
        _ => None,
    }
}

/// The file of a picture that labels name, which must lie inside `dir`.
pub(super) fn picture_path(dir: &Path, name: &str, place: &str) -> Result<PathBuf> {
    use std::path::Component;
    let name = name.replace('\\', "/");
    let given = Path::new(&name);
    let inside = if given.is_absolute() {
        given.strip_prefix(dir).ok().map(Path::to_path_buf)
    } else {
        let mut parts = PathBuf::new();
        let mut depth = 0usize;
        let mut climbs = false;
        for part in given.components() {
            match part {
                Component::Normal(part) => {
                    parts.push(part);
                    depth += 1;
                }
                Component::CurDir => {}
                Component::ParentDir if depth > 0 => {
                    parts.pop();
                    depth -= 1;
                }
                _ => climbs = true,
            }
        }
        (!climbs).then_some(parts)
    };
    let escapes = |path: &Path| path.components().any(|part| part == Component::ParentDir);
    match inside {
        Some(path) if !path.as_os_str().is_empty() && !escapes(&path) => Ok(dir.join(path)),
        _ => Err(Error::Data(format!(
            "{place}: the picture name {name:?} does not stay inside the picture folder {}; use names relative to it, or \
             name the folder with --images DIR",
            dir.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::metadata::Orientation;

    fn raw(corners: [f64; 4]) -> RawObject {
        RawObject {
            class: "a".into(),
            corners,
            crowd: false,
            difficult: false,
            area: None,
            mask: None,
            place: "object 1".into(),
        }
    }

    #[test]
    fn clips_drops_and_counts() {
        let mut problems = Problems::default();
        let info = PictureInfo { width: 200, height: 100, orientation: Orientation::NoTransforms };
        let boxes = [
            [-10.0, 0.0, 20.0, 50.0],
            [5.0, 5.0, 5.0, 9.0],
            [300.0, 0.0, 400.0, 50.0],
            [0.0, 0.0, f64::NAN, 1.0],
            [0.0, 0.0, 200.0, 100.0],
        ];
        let raw = boxes.into_iter().map(raw).collect();
        let image = assemble(ImageSource::File("x".into()), info, Some((200, 100)), raw, &mut problems);
        assert_eq!(image.objects.len(), 2);
        assert_eq!(image.objects[0].bbox, BoxYxyx::new(0.0, 0.0, 0.5, 0.1));
        assert_eq!(image.objects[1].area, 20_000.0);
        assert_eq!(problems.count(ProblemKind::EmptyBox), 3);
        assert_eq!(problems.count(ProblemKind::BoxOutside), 1);
    }

    #[test]
    fn turns_boxes_back_to_the_stored_pixels() {
        let mut problems = Problems::default();
        let info = PictureInfo { width: 200, height: 100, orientation: Orientation::Rotate90 };
        // Turned right for viewing: the stored bottom left corner is the shown top left one.
        let raw = vec![raw([0.0, 0.0, 10.0, 20.0])];
        let image = assemble(ImageSource::File("x".into()), info, Some((100, 200)), raw, &mut problems);
        let b = image.objects[0].bbox.to_pixels(200, 100);
        assert_eq!(b.map(f32::round), [0.0, 90.0, 20.0, 100.0]);
        assert_eq!(problems.count(ProblemKind::TurnedPicture), 1);
    }

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

    #[test]
    fn picture_names_stay_inside() {
        let dir = Path::new("/data/images");
        assert_eq!(picture_path(dir, "a/../b.jpg", "p").unwrap(), dir.join("b.jpg"));
        assert_eq!(picture_path(dir, "/data/images/c.jpg", "p").unwrap(), dir.join("c.jpg"));
        assert_eq!(picture_path(dir, "a\\b.jpg", "p").unwrap(), dir.join("a/b.jpg"));
        for bad in ["../x.jpg", "a/../../x.jpg", "/etc/passwd", "/data/images/../x.jpg", "", "..\\x.jpg"] {
            assert!(picture_path(dir, bad, "p").is_err(), "{bad}");
        }
    }
}
