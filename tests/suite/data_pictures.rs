//! Pictures of every form people have give the pixels that TensorFlow decodes from them, or are refused as it refuses them
//! (scripts/picture_oracle.py).

use std::collections::BTreeMap;
use std::path::Path;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde::Deserialize;
use tfgraft::data::Picture;

#[derive(Deserialize)]
struct Expected {
    width: u32,
    height: u32,
    rgb: String,
}

/// Grey levels by which two decoders of one JPEG may differ: inverse cosine transforms round, and a CMYK picture is multiplied
/// out after that.
fn tolerance(name: &str) -> (u8, f64) {
    if name.ends_with(".jpg") { (6, 1.5) } else { (0, 0.0) }
}

#[test]
fn pixels_are_those_that_tensorflow_decodes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/data/pictures");
    let text = std::fs::read(folder.join("pixels.json")).unwrap();
    let all: BTreeMap<String, Option<Expected>> = serde_json::from_slice(&text).unwrap();
    assert!(all.len() >= 18);
    assert!(all.values().filter(|expected| expected.is_none()).count() >= 6);
    for (name, expected) in all {
        let picture = Picture::open(&folder.join(&name));
        let Some(expected) = expected else {
            let error = picture.unwrap_err().to_string();
            assert!(error.contains(&name), "{error}");
            continue;
        };
        let picture = picture.unwrap();
        assert_eq!((picture.width, picture.height), (expected.width, expected.height), "{name}");
        let rgb = BASE64_STANDARD.decode(expected.rgb).unwrap();
        let differences: Vec<u8> = picture.rgb.iter().zip(&rgb).map(|(a, b)| a.abs_diff(*b)).collect();
        let mean = differences.iter().map(|d| f64::from(*d)).sum::<f64>() / differences.len() as f64;
        let (most, most_mean) = tolerance(&name);
        let largest = differences.iter().copied().max().unwrap();
        assert!(largest <= most && mean <= most_mean, "{name}: {largest}, in the mean {mean}");
    }
}
