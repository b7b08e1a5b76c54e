//! COCO's measures held to the numbers of pycocotools (see `scripts/eval_oracle.py`).

#![allow(clippy::unwrap_used)] // Helpers outside of test functions are part of the tests.

use std::collections::BTreeMap;

use serde::Deserialize;
use tfgraft::eval::{EvalImage, Scored, Truth, evaluate};

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
    let cases: Vec<Case> = serde_json::from_str(include_str!("../testdata/eval/cases.json")).unwrap();
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
            })
            .collect();
        let classes = case.classes.iter().map(|id| (*id, format!("class {id}"))).collect();
        let mean = serde_json::to_value(evaluate(&images, &classes).mean(|_| true)).unwrap();
        for (key, expected) in case.expected {
            let got = mean[&key].as_f64();
            match (got, expected) {
                (Some(got), Some(expected)) => {
                    worst = worst.max((got - expected).abs());
                    assert!(
                        (got - expected).abs() < 1e-6,
                        "{}: {key} {got}, pycocotools {expected}",
                        case.name
                    );
                }
                _ => assert_eq!(got, expected, "{}: {key}", case.name),
            }
        }
    }
    assert!(worst < 1e-9, "{worst:e}");
}
