//! Measuring a detector on labelled pictures.

use std::collections::{BTreeMap, BTreeSet};

use super::coco_map::EvalImage;
use super::matching::{Scored, Truth};
use crate::data::{BoxYxyx, Dataset, LabelMap, LabelledImage};
use crate::detect::Detection;
use crate::error::{Error, Result};

/// The ids of a data set's classes, by name; a name that the label map lacks is an error that lists near misses.
pub fn class_ids(data: &Dataset, labels: &LabelMap, labels_from: &str) -> Result<BTreeMap<String, u32>> {
    let used: BTreeSet<&str> =
        data.images.iter().flat_map(|image| image.objects.iter().map(|o| o.class.as_str())).collect();
    let mut out = BTreeMap::new();
    for name in &data.categories {
        match labels.require(name) {
            Ok(item) => {
                out.insert(name.clone(), item.id);
            }
            // A category that is declared and never used hurts nobody.
            Err(_) if !used.contains(name.as_str()) => {}
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
    EvalImage { truths, detections }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_classes_are_an_error_when_used() {
        let mut data = Dataset { categories: vec!["dog".into(), "dgo".into()], ..Dataset::default() };
        assert_eq!(
            class_ids(&data, &LabelMap::coco(), "COCO").unwrap(),
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
            }],
        });
        let error = class_ids(&data, &LabelMap::coco(), "COCO").unwrap_err().to_string();
        assert!(error.contains("\"dgo\""), "{error}");
    }
}
