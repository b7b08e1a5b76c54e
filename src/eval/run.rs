//! Measuring a detector on labelled pictures.

use std::collections::{BTreeMap, BTreeSet};

use super::coco_map::{EvalImage, EvalMasks};
use super::matching::{Scored, Truth};
use super::paste::paste;
use crate::data::{BoxYxyx, Dataset, LabelMap, LabelledImage, Rle};
use crate::detect::{BoxMask, Detection, Detector};
use crate::error::{Error, Result};
use crate::runtime::runs_at_once;
use crate::side_by_side::in_order;

/// The ids of a data set's classes, by name; a name that the label map lacks is an error that lists near misses, unless it is
/// one of `others`, which are passed over.
pub fn class_ids(
    data: &Dataset,
    labels: &LabelMap,
    labels_from: &str,
    others: &BTreeSet<String>,
) -> Result<BTreeMap<String, u32>> {
    let used: BTreeSet<&str> =
        data.images.iter().flat_map(|image| image.objects.iter().map(|o| o.class.as_str())).collect();
    let mut out = BTreeMap::new();
    for name in &data.categories {
        match labels.require(name) {
            Ok(item) => {
                out.insert(name.clone(), item.id);
            }
            // A category that is declared and never used hurts nobody.
            Err(_) if !used.contains(name.as_str()) || others.contains(name) => {}
            Err(error) => {
                return Err(Error::Data(format!(
                    "the data's class {name:?} is none of the model's: {error} (names from: {labels_from}); name the \
                     model's label map with --label-map FILE"
                )));
            }
        }
    }
    Ok(out)
}

/// The names to report classes under, each of one class.
pub fn class_names(ids: impl IntoIterator<Item = u32>, labels: &LabelMap) -> BTreeMap<u32, String> {
    let mut used = BTreeSet::new();
    let ids: BTreeSet<u32> = ids.into_iter().collect();
    ids.into_iter()
        .map(|id| {
            let label = labels.label(id);
            let name = if used.contains(&label) { format!("{label} (id {id})") } else { label };
            used.insert(name.clone());
            (id, name)
        })
        .collect()
}

/// Why masks cannot be measured, where they cannot: the model gives none, or not every object has one.
pub fn masks_missing(detector: &Detector, data: &Dataset, ids: &BTreeMap<String, u32>) -> Option<String> {
    if !detector.has_masks() {
        return Some("the model gives no masks".to_owned());
    }
    let objects = || data.images.iter().flat_map(|i| &i.objects).filter(|o| ids.contains_key(&o.class));
    match (objects().count(), objects().filter(|o| o.mask.is_none()).count()) {
        (_, 0) => None,
        (all, without) => Some(format!("{without} of {all} objects have no mask in the data")),
    }
}

/// Runs a detector on every picture; `tick` hears of each that is done. Masks are kept where `masks` asks for them.
pub fn run_images(
    detector: &Detector,
    data: &Dataset,
    ids: &BTreeMap<String, u32>,
    masks: bool,
    mut tick: impl FnMut(),
) -> Result<Vec<EvalImage>> {
    let one = |image: &LabelledImage| -> Result<EvalImage> {
        let picture = image.picture()?;
        let failed = |error| match error {
            Error::TensorFlow(why) => Error::TensorFlow(format!("{}: {why}", image.name())),
            other => other,
        };
        let measured = if masks {
            let found = detector.detect_with_masks(&picture, 0.0).map_err(failed)?;
            let detections: Vec<Detection> = found.iter().map(|(detection, _)| *detection).collect();
            EvalImage { masks: eval_masks(image, ids, &found), ..eval_image(image, ids, &detections) }
        } else {
            eval_image(image, ids, &detector.detect(&picture, 0.0).map_err(failed)?)
        };
        Ok(measured)
    };
    let mut measured = Vec::with_capacity(data.images.len());
    in_order(&data.images, runs_at_once(), one, |of_one| {
        measured.push(of_one);
        tick();
        Ok(())
    })?;
    Ok(measured)
}

/// One picture's objects and detections in pixels, as COCO's measures take them.
pub fn eval_image(image: &LabelledImage, ids: &BTreeMap<String, u32>, detections: &[Detection]) -> EvalImage {
    let pixels = |b: BoxYxyx| {
        let (w, h) = (f64::from(image.width), f64::from(image.height));
        let (x, y) = (f64::from(b.xmin) * w, f64::from(b.ymin) * h);
        [x, y, f64::from(b.xmax) * w - x, f64::from(b.ymax) * h - y]
    };
    let truths = image
        .objects
        .iter()
        .filter_map(|object| {
            Some(Truth {
                class: *ids.get(&object.class)?,
                bbox: pixels(object.bbox),
                area: f64::from(object.area),
                crowd: object.crowd,
                ignore: object.difficult,
            })
        })
        .collect();
    let detections = detections
        .iter()
        .map(|d| Scored { class: d.class_id, bbox: pixels(d.bbox), score: f64::from(d.score) })
        .collect();
    EvalImage { truths, detections, masks: None }
}

/// The masks of one picture, in the order of [`eval_image`]; `None` where an object has none.
fn eval_masks(
    image: &LabelledImage,
    ids: &BTreeMap<String, u32>,
    found: &[(Detection, BoxMask)],
) -> Option<EvalMasks> {
    let (height, width) = (image.height, image.width);
    let objects = image.objects.iter().filter(|object| ids.contains_key(&object.class));
    let truths: Option<Vec<Rle>> =
        objects.map(|object| object.mask.as_ref()?.rasterise(height, width)).collect();
    let paste = |(d, mask): &(Detection, BoxMask)| paste(&mask.values, mask.size, d.bbox, height, width);
    Some(EvalMasks { truths: truths?, detections: found.iter().map(paste).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_classes_are_an_error_when_used() {
        let mut data = Dataset { categories: vec!["dog".into(), "dgo".into()], ..Dataset::default() };
        assert_eq!(
            class_ids(&data, &LabelMap::coco(), "COCO", &BTreeSet::new()).unwrap(),
            BTreeMap::from([("dog".into(), 18)])
        );
        data.images.push(LabelledImage {
            source: crate::data::ImageSource::File("a".into()),
            width: 10,
            height: 10,
            objects: vec![crate::data::Object {
                class: "dgo".into(),
                bbox: BoxYxyx::new(0.0, 0.0, 1.0, 1.0),
                crowd: false,
                difficult: false,
                area: 100.0,
                mask: None,
            }],
            incomplete: Default::default(),
        });
        let error = class_ids(&data, &LabelMap::coco(), "COCO", &BTreeSet::new()).unwrap_err().to_string();
        assert!(error.contains("\"dgo\""), "{error}");
        let others = BTreeSet::from(["dgo".to_owned()]);
        assert_eq!(class_ids(&data, &LabelMap::coco(), "COCO", &others).unwrap().len(), 1);
    }
}
