//! COCO's measures and masks held to the numbers of pycocotools and TensorFlow (see `scripts/eval_oracle.py`).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use tfgraft::data::{BoxYxyx, Rle, Segmentation, coco};
use tfgraft::eval::{EvalImage, EvalMasks, Metrics, Scored, Truth, evaluate, evaluate_masks, paste};

#[derive(Deserialize)]
struct Case {
    name: String,
    classes: Vec<u32>,
    images: Vec<Image>,
    expected: BTreeMap<String, Option<f64>>,
}

#[derive(Deserialize)]
struct Image {
    truths: Vec<(u32, f64, f64, f64, f64, f64, u8)>,
    detections: Vec<(u32, f64, f64, f64, f64, f64)>,
}

#[test]
fn numbers_of_pycocotools() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("../../testdata/eval/cases.json")).unwrap();
    assert!(cases.len() > 50);
    let mut worst = 0.0f64;
    for case in cases {
        let images: Vec<EvalImage> = case
            .images
            .iter()
            .map(|image| EvalImage {
                truths: image
                    .truths
                    .iter()
                    .map(|&(class, x, y, w, h, area, crowd)| Truth {
                        class,
                        bbox: [x, y, w, h],
                        area,
                        crowd: crowd == 1,
                        ignore: false,
                    })
                    .collect(),
                detections: image
                    .detections
                    .iter()
                    .map(|&(class, x, y, w, h, score)| Scored { class, bbox: [x, y, w, h], score })
                    .collect(),
                masks: None,
            })
            .collect();
        let classes = case.classes.iter().map(|id| (*id, format!("class {id}"))).collect();
        worst = worst.max(check(&case.name, &evaluate(&images, &classes), &case.expected));
    }
    assert!(worst < 1e-9, "{worst:e}");
}

/// Holds the mean over all classes to pycocotools' numbers and returns the largest difference.
fn check(name: &str, metrics: &Metrics, expected: &BTreeMap<String, Option<f64>>) -> f64 {
    let mean = serde_json::to_value(metrics.mean(|_| true)).unwrap();
    let mut worst = 0.0f64;
    for (key, expected) in expected {
        let got = mean[key].as_f64();
        match (got, expected) {
            (Some(got), Some(expected)) => {
                worst = worst.max((got - expected).abs());
                assert!((got - expected).abs() < 1e-6, "{name}: {key} {got}, pycocotools {expected}");
            }
            _ => assert_eq!(got, *expected, "{name}: {key}"),
        }
    }
    worst
}

fn cases(text: &str, least: usize) -> Vec<Value> {
    let cases: Vec<Value> = serde_json::from_str(text).unwrap();
    assert!(cases.len() >= least);
    cases
}

fn get<T: serde::de::DeserializeOwned>(case: &Value, key: &str) -> T {
    serde_json::from_value(case[key].clone()).unwrap()
}

fn mask(size: (u32, u32), text: &str) -> Rle {
    Rle::from_string(size.0, size.1, text).unwrap()
}

#[test]
fn polygons_cover_the_pixels_of_pycocotools() {
    for case in cases(include_str!("../../testdata/eval/rasters.json"), 100) {
        let (height, width): (u32, u32) = get(&case, "size");
        let made = Segmentation::Polygons(get(&case, "polygons")).rasterise(height, width).unwrap();
        let counts: Vec<u32> = get(&case, "counts");
        assert_eq!(made, mask((height, width), case["text"].as_str().unwrap()), "{case}");
        assert_eq!(made, Rle::from_counts(height, width, counts.iter().copied()).unwrap());
        assert_eq!(made.counts(), counts);
        assert_eq!(made.area(), case["area"].as_u64().unwrap());
    }
}

#[test]
fn overlaps_of_masks_are_those_of_pycocotools() {
    for case in cases(include_str!("../../testdata/eval/overlaps.json"), 40) {
        let texts: [String; 2] = get(&case, "texts");
        let [a, b] = texts.map(|text| mask(get(&case, "size"), &text));
        assert_eq!(a.overlap(&b, false), case["iou"].as_f64().unwrap(), "{case}");
        assert_eq!(a.overlap(&b, true), case["crowd"].as_f64().unwrap(), "{case}");
    }
}

#[test]
fn masks_of_boxes_are_pasted_like_the_api_does() {
    for case in cases(include_str!("../../testdata/eval/pastes.json"), 40) {
        let (height, width) = get(&case, "size");
        let [ymin, xmin, ymax, xmax]: [f32; 4] = get(&case, "box");
        let values: Vec<f32> = get(&case, "mask");
        let bbox = BoxYxyx::new(ymin, xmin, ymax, xmax);
        let pasted = paste(&values, get(&case, "mask_size"), bbox, height, width);
        assert_eq!(pasted, mask((height, width), case["text"].as_str().unwrap()), "{case}");
    }
}

#[test]
fn mask_numbers_of_pycocotools() {
    let mut worst = 0.0f64;
    for case in cases(include_str!("../../testdata/eval/masks.json"), 20) {
        let images: Vec<EvalImage> = case["images"].as_array().unwrap().iter().map(masked_image).collect();
        let classes: Vec<u32> = get(&case, "classes");
        let names = classes.iter().map(|id| (*id, format!("class {id}"))).collect();
        let name: String = get(&case, "name");
        worst = worst.max(check(&name, &evaluate_masks(&images, &names), &get(&case, "expected")));
    }
    assert!(worst < 1e-9, "{worst:e}");
}

/// The objects go through the reader of COCO files, so that all its forms of masks are tried.
fn masked_image(image: &Value) -> EvalImage {
    let size: (u32, u32) = get(image, "size");
    let list = |key: &str| image[key].as_array().unwrap().clone();
    let folder = tempfile::tempdir().unwrap();
    image::RgbImage::new(size.1, size.0).save(folder.path().join("a.png")).unwrap();
    let annotations: Vec<Value> = list("truths")
        .iter()
        .enumerate()
        .map(|(id, t)| {
            serde_json::json!({"id": id, "image_id": 1, "category_id": t["class"], "iscrowd": t["crowd"],
                "area": t["area"], "segmentation": t["segmentation"], "bbox": [0, 0, size.1, size.0]})
        })
        .collect();
    let categories: Vec<Value> =
        (1..=4).map(|id| serde_json::json!({"id": id, "name": id.to_string()})).collect();
    let text = serde_json::json!({"images": [{"id": 1, "file_name": "a.png", "width": size.1, "height": size.0}],
        "annotations": annotations, "categories": categories});
    let file = folder.path().join("data.json");
    std::fs::write(&file, text.to_string()).unwrap();
    let data = coco::read(&file, None).unwrap();
    let objects = &data.images[0].objects;
    assert_eq!(objects.len(), annotations.len());
    let truths = objects.iter().zip(list("truths")).map(|(object, given)| Truth {
        class: object.class.parse().unwrap(),
        bbox: [0.0; 4],
        // Not through float32, as pycocotools has it.
        area: given["area"].as_f64().unwrap(),
        crowd: object.crowd,
        ignore: false,
    });
    let detections = list("detections").into_iter().map(|d| Scored {
        class: get(&d, "class"),
        bbox: [0.0; 4],
        score: d["score"].as_f64().unwrap(),
    });
    let texts: Vec<Rle> =
        list("detections").iter().map(|d| mask(size, d["text"].as_str().unwrap())).collect();
    EvalImage {
        truths: truths.collect(),
        detections: detections.collect(),
        masks: Some(EvalMasks {
            truths: objects
                .iter()
                .map(|o| o.mask.as_ref().unwrap().rasterise(size.0, size.1).unwrap())
                .collect(),
            detections: texts,
        }),
    }
}
