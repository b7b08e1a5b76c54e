//! Pictures of shapes with their outlines.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use tfgraft::data::Rle;

/// Width and height of the pictures.
pub const SIZE: (u32, u32) = (160, 120);

/// The corners of a triangle that fills a box, in pixels: `[x, y, …]`.
pub fn triangle([left, top, width, height]: [f64; 4]) -> Vec<f64> {
    vec![left + width / 2.0, top, left + width, top + height, left, top + height]
}

/// An ellipse that fills a box.
pub fn ellipse([left, top, width, height]: [f64; 4]) -> Vec<f64> {
    let corner = |at: usize| {
        let (sin, cos) = (at as f64 * std::f64::consts::TAU / 24.0).sin_cos();
        [left + width * (0.5 + cos / 2.0), top + height * (0.5 + sin / 2.0)]
    };
    (0..24).flat_map(corner).collect()
}

/// Writes pictures, numbered from `first` on, of one shape of class `shape` each, on a gradient, and COCO labels with their
/// outlines: `data.json`.
pub fn outlined(folder: &Path, count: u32, first: u32, shape: impl Fn([f64; 4]) -> Vec<f64>) -> PathBuf {
    let (mut images, mut annotations) = (Vec::new(), Vec::new());
    let (width, height) = SIZE;
    for i in first..first + count {
        let bounds = [5 + 29 * i % 70, 4 + 13 * i % 40, 50 + 7 * (i % 5), 44 + 11 * (i % 3)];
        let corners = shape(bounds.map(f64::from));
        let covered = Rle::from_polygon(height, width, &corners).expect("a polygon");
        let mut inside = Vec::new();
        for (number, run) in covered.counts().iter().enumerate() {
            inside.extend(std::iter::repeat_n(number % 2 == 1, *run as usize));
        }
        let picture = image::RgbImage::from_fn(width, height, |x, y| {
            if inside[(x * height + y) as usize] {
                image::Rgb([225, (40 + 10 * (i % 4)) as u8, 30])
            } else {
                image::Rgb([(x / 2) as u8, (y + 60) as u8, (90 + 9 * (i % 7)) as u8])
            }
        });
        let name = format!("shape{i}.png");
        picture.save(folder.join(&name)).expect("a picture");
        images.push(json!({"id": i, "file_name": name, "width": width, "height": height}));
        annotations
            .push(json!({"id": i + 1, "image_id": i, "category_id": 1, "iscrowd": 0, "area": covered.area(),
            "bbox": bounds, "segmentation": [corners]}));
    }
    let file = folder.join("data.json");
    let labels =
        json!({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "shape"}]});
    fs::write(&file, labels.to_string()).expect("labels");
    file
}
