//! Puts together one picture from what a reader found of it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::boxes::BoxYxyx;
use super::dataset::{Dataset, ImageSource, Incomplete, LabelledImage, Object};
use super::picture::{self, PictureInfo};
use super::problems::{ProblemKind, Problems};
use super::segmentation::Segmentation;
use crate::error::{Error, Result};

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
    out: &mut Dataset,
) -> Option<LabelledImage> {
    let info = header(&source, out)?;
    Some(assemble(source, info, declared, raw, &mut out.problems))
}

/// What a picture's header says; `None` (and a counted problem, and its name kept) when it cannot be read.
pub(super) fn header(source: &ImageSource, out: &mut Dataset) -> Option<PictureInfo> {
    let name = source.display();
    let missing = matches!(source, ImageSource::File(path) if !path.is_file());
    if missing {
        out.problems.add(ProblemKind::MissingPicture, || name);
    } else {
        match source.read().and_then(|bytes| picture::probe(&bytes, &name)) {
            Ok(info) => return Some(info),
            Err(error) => out.problems.add(ProblemKind::UnreadablePicture, || error.to_string()),
        }
    }
    out.left_out.push(source.clone());
    None
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
    let mut objects: Vec<Object> = Vec::with_capacity(raw.len());
    // Where objects of a class and box are.
    let mut seen: HashMap<_, Vec<usize>> = HashMap::new();
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
        // Two things may have one box, but not one outline too.
        let alike = seen
            .entry((object.class.clone(), inside.to_array().map(f32::to_bits), object.crowd))
            .or_default();
        if alike.iter().any(|&at| objects[at].mask == mask) {
            problems.add(ProblemKind::DuplicateObject, told);
            continue;
        }
        alike.push(objects.len());
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
            [0.0, 0.0, 200.0, 100.0],
        ];
        let raw = boxes.into_iter().map(raw).collect();
        let image = assemble(ImageSource::File("x".into()), info, Some((200, 100)), raw, &mut problems);
        assert_eq!(image.objects.len(), 2);
        assert_eq!(image.objects[0].bbox, BoxYxyx::new(0.0, 0.0, 0.5, 0.1));
        assert_eq!(image.objects[1].area, 20_000.0);
        assert_eq!(problems.count(ProblemKind::EmptyBox), 3);
        assert_eq!(problems.count(ProblemKind::BoxOutside), 1);
        assert_eq!(problems.count(ProblemKind::DuplicateObject), 1);
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
