//! Holds targets and fit to numbers of an independent implementation in NumPy.
//!
//! The numbers are too large for the repository. Where `TFGRAFT_TRAIN_DUMP` names a folder with them the tests run,
//! elsewhere they say that they were skipped. Files: `anchors.npy`; `*_view*.npz` (one view's boxes and targets);
//! `old.npz` (old layers W [depth, anchors, columns], b); `rows_*.npz` (kept rows X, Y, V of each level, the objective
//! and the columns W, b that came out).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::collections::HashMap;
use std::path::PathBuf;

use tfgraft::data::BoxYxyx;
use tfgraft::head::columns::LayerValues;
use tfgraft::train::cache::{CacheOptions, FeatureCache};
use tfgraft::train::frozen_columns::{FitOptions, fit};
use tfgraft::train::shape::{Geometry, LayerSize};
use tfgraft::train::targets::{Truth, soft};
use tfgraft::train::views::object_view;

/// A NumPy array as f64, with its shape.
struct Array {
    shape: Vec<usize>,
    values: Vec<f64>,
}

impl Array {
    fn f32(&self) -> Vec<f32> {
        self.values.iter().map(|v| *v as f32).collect()
    }

    fn boxes(&self) -> Vec<BoxYxyx> {
        self.f32().chunks_exact(4).map(|b| BoxYxyx::new(b[0], b[1], b[2], b[3])).collect()
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + N].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn npy(bytes: &[u8]) -> Array {
    let start = 10 + number::<2>(bytes, 8) as usize;
    let header = std::str::from_utf8(&bytes[10..start]).unwrap();
    assert!(header.contains("'fortran_order': False"), "{header}");
    let within = |open: &str, close: char| {
        let from = header.find(open).unwrap() + open.len();
        header[from..].split(close).next().unwrap()
    };
    let shape: Vec<usize> =
        within("'shape': (", ')').split(',').filter_map(|side| side.trim().parse().ok()).collect();
    let data = &bytes[start..];
    let values = match within("'descr': '", '\'') {
        "<f4" => data.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect(),
        "<f8" => data.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
        "<i8" => data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
        "|b1" => data.iter().map(|b| f64::from(*b)).collect(),
        other => panic!("arrays of {other} are not read here"),
    };
    Array { shape, values }
}

/// The arrays of an uncompressed archive, found by their local headers.
fn npz(bytes: &[u8]) -> HashMap<String, Array> {
    let mut arrays = HashMap::new();
    let mut at = 0;
    while bytes[at..].starts_with(b"PK\x03\x04") {
        assert_eq!(number::<2>(bytes, at + 8), 0, "compressed");
        let mut size = number::<4>(bytes, at + 18);
        let (name, extra) = (number::<2>(bytes, at + 26) as usize, number::<2>(bytes, at + 28) as usize);
        let data = at + 30 + name + extra;
        if size == 0xffff_ffff {
            size = number::<8>(bytes, at + 30 + name + 12);
        }
        let name = std::str::from_utf8(&bytes[at + 30..at + 30 + name]).unwrap().trim_end_matches(".npy");
        at = data + size as usize;
        arrays.insert(name.to_owned(), npy(&bytes[data..at]));
    }
    arrays
}

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("TFGRAFT_TRAIN_DUMP").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: TFGRAFT_TRAIN_DUMP names no folder with reference numbers");
    }
    folder
}

#[test]
fn targets_are_those_of_the_reference() {
    let Some(folder) = folder() else { return };
    let anchors = npy(&std::fs::read(folder.join("anchors.npy")).unwrap()).boxes();
    for name in ["ducky0_view0.npz", "ducky0_view5.npz"] {
        let view = npz(&std::fs::read(folder.join(name)).unwrap());
        let truths: Vec<Truth> = view["gt"]
            .boxes()
            .into_iter()
            .zip(&view["vis"].values)
            .map(|(bbox, visible)| Truth { class: 0, bbox, visible: *visible as f32, crowd: false })
            .collect();
        let got = soft(&anchors, &view["decoded"].boxes(), &truths, 1);
        let furthest = |a: &[f32], b: &Array| {
            assert_eq!(a.len(), b.values.len());
            a.iter().zip(&b.values).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max)
        };
        let positives: f32 = got.target.iter().sum();
        assert!(positives > 1.0, "{name}: {positives}");
        assert!(furthest(&got.target, &view["target"]) < 1e-5, "{name}");
        assert_eq!(furthest(&got.weight, &view["weight"]), 0.0, "{name}");
        let overlaps = view["iou_anchor"].values.iter().zip(&view["iou_decoded"].values);
        assert_eq!(truths.len(), 1, "the next line takes one object");
        for (overlap, (a, d)) in got.overlap.iter().zip(overlaps) {
            assert!((f64::from(*overlap) - a.max(*d)).abs() < 1e-5, "{name}");
        }
    }
}

#[test]
fn views_are_those_of_the_reference() {
    let Some(folder) = folder() else { return };
    let whole = npz(&std::fs::read(folder.join("ducky0_view0.npz")).unwrap());
    let seen = npz(&std::fs::read(folder.join("ducky0_view5.npz")).unwrap());
    // View 3 around the object of the picture that the reference numbers 1.
    let view = object_view(1, &whole["gt"].boxes(), 3, Geometry::Squash, 0);
    for (got, expected) in view.window.iter().zip(&seen["window"].values) {
        assert!((got - expected).abs() < 1e-5, "{:?} and {:?}", view.window, seen["window"].values);
    }
    assert_eq!(view.flip, seen["flip"].values == [1.0]);
    let (placed, visible) = view.place(&whole["gt"].boxes()[0], (1.0, 1.0));
    for (got, expected) in placed.to_array().iter().zip(&seen["gt"].values) {
        assert!((f64::from(*got) - expected).abs() < 1e-5, "{placed:?}");
    }
    assert!((f64::from(visible) - seen["vis"].values[0]).abs() < 1e-4);
}

#[test]
fn the_fit_is_that_of_the_reference() {
    let Some(folder) = folder() else { return };
    if tfgraft::runtime::library::load(None).is_err() {
        eprintln!("skipped: no TensorFlow library");
        return;
    }
    let old = npz(&std::fs::read(folder.join("old.npz")).unwrap());
    for (name, classes) in [("ducky", 1), ("rk", 2)] {
        let Ok(bytes) = std::fs::read(folder.join(format!("rows_{name}.npz"))) else {
            eprintln!("skipped: no rows_{name}.npz");
            continue;
        };
        let rows = npz(&bytes);
        let levels = old.len() / 2;
        let sizes: Vec<LayerSize> = (0..levels)
            .map(|l| &old[&format!("W{l}")].shape)
            .map(|shape| LayerSize { depth: shape[0], anchors: shape[1] })
            .collect();
        let layers: Vec<LayerValues> = (0..levels)
            .map(|l| LayerValues { kernel: old[&format!("W{l}")].f32(), biases: old[&format!("b{l}")].f32() })
            .collect();
        let widths = sizes.iter().map(|s| vec![s.depth, s.anchors * classes, s.anchors * classes]).collect();
        let mut cache = FeatureCache::new(widths, CacheOptions::default());
        for (l, size) in sizes.iter().enumerate() {
            let wide = size.anchors * classes;
            let [x, y, v] = ["X", "Y", "V"].map(|part| rows[&format!("{part}{l}")].f32());
            for ((x, y), v) in x.chunks_exact(size.depth).zip(y.chunks_exact(wide)).zip(v.chunks_exact(wide))
            {
                cache.push(l, &[x, y, v]).unwrap();
            }
        }
        cache.finish().unwrap();
        let result = fit(&cache, &sizes, &layers, true, classes, &FitOptions::default(), |_, _| {}).unwrap();
        let objective = rows["objective"].values[0];
        let last = *result.losses.last().unwrap();
        let mut furthest = 0.0f64;
        let mut largest = 0.0f64;
        for (l, columns) in result.columns.iter().enumerate() {
            let expected = rows[&format!("W{l}")].values.iter().chain(&rows[&format!("b{l}")].values);
            for (got, expected) in columns.kernel.iter().chain(&columns.biases).zip(expected) {
                furthest = furthest.max((f64::from(*got) - expected).abs());
                largest = largest.max(expected.abs());
            }
        }
        eprintln!(
            "{name}: loss {last:.4} (reference {objective:.4}), {} steps, {} evaluations (reference {}), columns differ by \
             {furthest:.2e} of {largest:.2}, {:.2} s, {} MB",
            result.iterations,
            result.evaluations,
            rows["evaluations"].values[0],
            result.seconds,
            cache.bytes().0 >> 20,
        );
        // Sixty steps are not the end of the way: rounding in float32 sends long ways to slightly different places.
        assert!((last - objective).abs() < 1e-2 * objective, "{name}: {last} and {objective}");
        assert!(furthest < 0.15 * largest, "{name}: {furthest} of {largest}");
    }
}
