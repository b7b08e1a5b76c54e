//! Holds views, targets and fit to numbers of an independent implementation in NumPy (scripts/train_oracle.py), and targets of
//! regions and heatmaps to numbers of the Object Detection API (scripts/api_oracle.py).

use crate::common;

use serde_json::Value;
use tfgraft::data::BoxYxyx;
use tfgraft::head::columns::LayerValues;
use tfgraft::train::cache::{CacheOptions, FeatureCache};
use tfgraft::train::frozen_columns::{FitOptions, fit};
use tfgraft::train::gaussian::{radius, splat};
use tfgraft::train::kept::{KeptRows, OpenRows};
use tfgraft::train::lbfgs::Limits;
use tfgraft::train::rois::{Shows, assign, encode};
use tfgraft::train::shape::{Geometry, LayerSize};
use tfgraft::train::targets::{Truth, soft};
use tfgraft::train::views::object_view;

fn cases(kind: &str) -> Value {
    let all: Value = serde_json::from_str(include_str!("../../testdata/train/cases.json")).unwrap();
    all[kind].clone()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    list(value).iter().map(|v| v.as_f64().unwrap()).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    numbers(value).iter().map(|v| *v as f32).collect()
}

fn bbox(value: &Value) -> BoxYxyx {
    let b = floats(value);
    BoxYxyx::new(b[0], b[1], b[2], b[3])
}

fn boxes(value: &Value) -> Vec<BoxYxyx> {
    list(value).iter().map(bbox).collect()
}

fn furthest(a: impl IntoIterator<Item = f64>, b: &[f64]) -> f64 {
    let a: Vec<f64> = a.into_iter().collect();
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn views_are_those_of_the_reference() {
    for case in list(&cases("views")) {
        let number = |key: &str| case[key].as_u64().unwrap();
        let objects = boxes(&case["objects"]);
        let view =
            object_view(number("picture"), &objects, number("number"), Geometry::Squash, number("seed"));
        assert!(furthest(view.window, &numbers(&case["window"])) < 1e-6, "{view:?} and {case}");
        assert_eq!(Some(view.flip), case["flip"].as_bool());
        let object = &objects[number("number") as usize % objects.len()];
        let (placed, visible) = view.place(object, (1.0, 1.0));
        assert!(furthest(placed.to_array().map(f64::from), &numbers(&case["placed"])) < 1e-5, "{case}");
        assert!((f64::from(visible) - case["visible"].as_f64().unwrap()).abs() < 1e-5, "{case}");
    }
}

#[test]
fn targets_are_those_of_the_reference() {
    let (mut positives, mut unknown) = (0.0, 0);
    for case in list(&cases("targets")) {
        let truths: Vec<Truth> = list(&case["truths"])
            .iter()
            .map(|t| Truth {
                class: t["class"].as_u64().unwrap() as usize,
                bbox: bbox(&t["bbox"]),
                visible: t["visible"].as_f64().unwrap() as f32,
                crowd: t["crowd"].as_bool().unwrap(),
            })
            .collect();
        let got = soft(&boxes(&case["anchors"]), &boxes(&case["decoded"]), &truths, 2);
        let flat = |key: &str| -> Vec<f64> { list(&case[key]).iter().flat_map(numbers).collect() };
        let wide = |values: &[f32]| values.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
        assert!(furthest(wide(&got.target), &flat("target")) < 1e-4);
        assert_eq!(furthest(wide(&got.weight), &flat("weight")), 0.0);
        assert!(furthest(wide(&got.overlap), &numbers(&case["overlap"])) < 1e-5);
        positives += got.target.iter().sum::<f32>();
        unknown += got.weight.iter().filter(|w| **w == 0.0).count();
    }
    assert!(
        positives > 20.0 && unknown > 20,
        "{positives} positives, {unknown} unknown: too few to show anything"
    );
}

#[test]
fn the_fit_is_that_of_the_reference() {
    if !common::has_tensorflow() {
        return;
    }
    let case = cases("fit");
    let classes = case["classes"].as_u64().unwrap() as usize;
    let layers = list(&case["layers"]);
    let size = |layer: &Value| LayerSize {
        depth: layer["depth"].as_u64().unwrap() as usize,
        anchors: layer["anchors"].as_u64().unwrap() as usize,
    };
    let sizes: Vec<LayerSize> = layers.iter().map(size).collect();
    let old: Vec<LayerValues> = layers
        .iter()
        .map(|l| LayerValues { kernel: floats(&l["kernel"]), biases: floats(&l["biases"]) })
        .collect();
    let widths = sizes.iter().map(|s| vec![s.depth, s.anchors * classes, s.anchors * classes]).collect();
    let mut cache = FeatureCache::new(widths, CacheOptions::default());
    for (number, (layer, size)) in layers.iter().zip(&sizes).enumerate() {
        let wide = size.anchors * classes;
        let [x, y, v] = ["x", "y", "v"].map(|part| floats(&layer[part]));
        for ((x, y), v) in x.chunks_exact(size.depth).zip(y.chunks_exact(wide)).zip(v.chunks_exact(wide)) {
            cache.push(number, &[x, y, v]).unwrap();
        }
    }
    cache.finish().unwrap();

    let limits = Limits { iterations: 3000, tolerance: 1e-12 };
    let options = FitOptions { limits, calibration: 1.0, ..FitOptions::default() };
    let open = OpenRows::new(sizes.len());
    let kept = KeptRows::new(&cache, &open, 0..sizes.len()).unwrap();
    let result = fit(kept, &sizes, &old, true, classes, &options, |_, _| {}).unwrap();
    let objective = case["objective"].as_f64().unwrap();
    let last = *result.losses.last().unwrap();
    assert!((last - objective).abs() < 1e-5 * objective, "{last} and {objective}");
    for (columns, layer) in result.columns.iter().zip(layers) {
        let wide = |values: &[f32]| values.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
        // Sums are float32; near the bottom they cannot tell where it is any closer.
        assert!(furthest(wide(&columns.kernel), &numbers(&layer["new_kernel"])) < 2e-3);
        assert!(furthest(wide(&columns.biases), &numbers(&layer["new_biases"])) < 5e-3);
    }
    // What users get stops earlier and is scaled; it must be on the way there.
    let usual = fit(kept, &sizes, &old, true, classes, &FitOptions::default(), |_, _| {}).unwrap();
    let reached = *usual.losses.last().unwrap();
    assert!(reached < objective * 1.01, "{reached} and {objective}");
}

fn api_cases(kind: &str) -> Value {
    let all: Value = serde_json::from_str(include_str!("../../testdata/train/api.json")).unwrap();
    all[kind].clone()
}

fn example(class: usize, bbox: BoxYxyx) -> Truth {
    Truth { class, bbox, visible: 1.0, crowd: false }
}

#[test]
fn gaussians_are_those_of_the_api() {
    let radii = api_cases("radii");
    let found: Vec<f64> =
        list(&radii["sides"]).iter().map(floats).map(|s| f64::from(radius(s[0], s[1]))).collect();
    assert!(furthest(found, &numbers(&radii["radius"])) < 1e-3);
    let mut peaks = 0;
    for case in list(&api_cases("heatmaps")) {
        let side = case["side"].as_u64().unwrap() as usize;
        let classes = numbers(&case["classes"]);
        let truths: Vec<Truth> =
            boxes(&case["objects"]).into_iter().zip(classes).map(|(b, c)| example(c as usize, b)).collect();
        let mut expected = vec![0.0; side * side * 2];
        for entry in list(&case["target"]) {
            let [cell, class, value] = numbers(entry)[..] else { panic!("{entry}") };
            expected[cell as usize * 2 + class as usize] = value;
            peaks += usize::from(value == 1.0);
        }
        let got = splat(side, side, &truths, 2);
        // The file leaves out what is below a thousandth.
        let off = furthest(got.target.iter().map(|v| f64::from(*v)), &expected);
        assert!(off < 1.1e-3, "{off}");
        for (got, expected) in got.target.iter().zip(&expected) {
            assert_eq!(*got == 1.0, *expected == 1.0);
        }
    }
    assert!(peaks > 5, "{peaks} centres show nothing");
}

#[test]
fn regions_are_matched_and_encoded_as_the_api_does() {
    let case = api_cases("encodings");
    let codes =
        boxes(&case["objects"]).into_iter().zip(boxes(&case["regions"])).flat_map(|(o, r)| encode(&o, &r));
    let expected: Vec<f64> = list(&case["codes"]).iter().flat_map(numbers).collect();
    assert!(furthest(codes.map(f64::from), &expected) < 1e-3);
    let case = api_cases("assignments");
    let truths: Vec<Truth> = boxes(&case["objects"]).into_iter().map(|b| example(0, b)).collect();
    let matched = assign(&boxes(&case["regions"]), &truths).into_iter().map(|shows| match shows {
        Shows::Object(t) => t as f64,
        Shows::Nothing | Shows::Unknown => -1.0,
    });
    let expected = numbers(&case["match"]);
    assert_eq!(furthest(matched, &expected), 0.0);
    assert!(expected.iter().filter(|m| **m >= 0.0).count() > 10);
}
