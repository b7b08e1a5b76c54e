//! The proof of a growth: with silent new columns the grown model gives the old model's outputs.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::data::Picture;
use crate::error::{Error, Result};
use crate::runtime::{AnyTensor, ServingModel};

/// Old scores move by up to 6e-7 because a wider convolution blocks its sums differently (measured); boxes of the
/// unchanged box head do not.
pub const TOLERANCE: f32 = 1e-5;

/// What a proof compared.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Proof {
    /// Pictures that both models were run on.
    pub pictures: usize,
    /// Largest difference by output.
    pub largest_difference: BTreeMap<String, f32>,
    /// Detections that were matched.
    pub detections: usize,
    /// Old detections that gave their places at the end of a full list to better new ones.
    pub displaced: usize,
}

/// Runs both models on the pictures and compares every output. `classes` is the old count without background.
///
/// Errors: [`Error::CheckFailed`] with the output and the picture.
pub fn prove(old: &ServingModel, new: &ServingModel, pictures: &[Picture], added: usize) -> Result<Proof> {
    let mut proof = Proof::default();
    for (number, picture) in pictures.iter().enumerate() {
        let run = |model: &ServingModel| {
            model.run_image(&picture.rgb, picture.height as usize, picture.width as usize)
        };
        let (before, after) = (run(old)?, run(new)?);
        let failed = |output: &str, reason: String| {
            Error::CheckFailed(format!(
                "output {output} of the grown model on probe picture {number}: {reason}"
            ))
        };
        if !before.keys().eq(after.keys()) {
            return Err(failed("names", "they differ from the source's".into()));
        }
        for (name, before) in &before {
            // Per-detection outputs are compared below, detection by detection: ties may trade places.
            if name.starts_with("detection_") || matches!(&**name, "num_detections" | "mask_predictions") {
                continue;
            }
            let (Some(after), Ok(values)) = (after.get(name), before.f32()) else { continue };
            let difference =
                compare(before, values, after, added, TOLERANCE).map_err(|reason| failed(name, reason))?;
            let largest = proof.largest_difference.entry(name.clone()).or_default();
            *largest = largest.max(difference);
        }
        let (detections, difference) =
            match_detections(&before, &after).map_err(|reason| failed("detection_*", reason))?;
        proof.detections += detections;
        let largest = proof.largest_difference.entry("detections".into()).or_default();
        *largest = largest.max(difference);
    }
    proof.pictures = pictures.len();
    if proof.pictures == 0 {
        return Err(Error::CheckFailed("no picture was compared".into()));
    }
    Ok(proof)
}

/// What must be kept by a trained model.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    /// New classes.
    pub added: usize,
    /// Old classes, without background.
    pub classes: usize,
    /// Old detections from this score on must be found again.
    pub least_score: f32,
    /// Whether the scores of a row share a sum of one (softmax): new classes then take their part of it, old scores keep
    /// the proportions among themselves, and which boxes suppress which may change with them.
    pub shared: bool,
}

/// Old detections keep their scores within this: the promise to users. Measured differences are below 1e-6 for real
/// models; the source runs flattened here and the result as a SavedModel, whose kernels may add in another order.
pub const SCORE_TOLERANCE: f32 = 1e-4;

/// Runs the source and the trained model on the pictures: raw scores of old classes are the same, and old
/// detections from a score on are found again. New detections may only take places at the end of the list. Scores that
/// share a sum with the new classes' are the old ones times what those leave; detections are not compared then.
///
/// Errors: [`Error::CheckFailed`] with the output and the picture.
pub fn prove_old_scores(
    old: &ServingModel,
    new: &ServingModel,
    pictures: &[Picture],
    kept: &Kept,
) -> Result<Proof> {
    let mut proof = Proof { pictures: pictures.len(), ..Proof::default() };
    for (number, picture) in pictures.iter().enumerate() {
        let run = |model: &ServingModel| {
            model.run_image(&picture.rgb, picture.height as usize, picture.width as usize)
        };
        let (before, after) = (run(old)?, run(new)?);
        let failed = |output: &str, reason: String| {
            Error::CheckFailed(format!("output {output} of the result on probe picture {number}: {reason}"))
        };
        for (name, values) in before.iter().filter(|(name, _)| name.starts_with("raw_detection_scores")) {
            let (Some(grown), Ok(floats)) = (after.get(name), values.f32()) else { continue };
            let left = if kept.shared { left_by(grown, values, kept.added) } else { floats.to_vec() };
            let difference = compare(values, &left, grown, kept.added, SCORE_TOLERANCE)
                .map_err(|reason| failed(name, reason))?;
            let largest = proof.largest_difference.entry(name.clone()).or_default();
            *largest = largest.max(difference);
        }
        let (Some(old), Some(new)) = (detections(&before), detections(&after)) else {
            return Err(failed("detection_*", "boxes, scores, classes or their number are missing".into()));
        };
        if kept.shared {
            continue;
        }
        let full = new.len() >= old.len();
        let last = new.iter().map(|d| d.score).fold(f32::INFINITY, f32::min);
        let new: Vec<Detection> = new.into_iter().filter(|d| d.class <= kept.classes as f32).collect();
        for d in old.iter().filter(|d| d.score >= kept.least_score) {
            let same = |other: &&Detection| {
                other.class == d.class
                    && other
                        .bounds
                        .iter()
                        .zip(&d.bounds)
                        .all(|(a, b)| a == b || (a - b).abs() <= 10.0 * SCORE_TOLERANCE)
            };
            let difference =
                new.iter().filter(same).map(|o| (o.score - d.score).abs()).fold(f32::INFINITY, f32::min);
            // The list holds so many detections and no more; better new ones take the places of the last.
            if difference > SCORE_TOLERANCE && full && d.score <= last + SCORE_TOLERANCE {
                proof.displaced += 1;
                continue;
            }
            if difference > SCORE_TOLERANCE {
                return Err(failed(
                    "detection_scores",
                    format!("the detection of class {} with score {} is gone or moved", d.class, d.score),
                ));
            }
            proof.detections += 1;
            let largest = proof.largest_difference.entry("detection_scores".into()).or_default();
            *largest = largest.max(difference);
        }
    }
    Ok(proof)
}

/// The largest difference over old columns; one axis may have `added` more in the new tensor.
fn compare(
    before: &AnyTensor,
    values: &[f32],
    after: &AnyTensor,
    added: usize,
    tolerance: f32,
) -> std::result::Result<f32, String> {
    let grown = after.f32().map_err(|e| e.to_string())?;
    let (old_shape, new_shape) = (before.shape(), after.shape());
    let differ: Vec<usize> = (0..old_shape.len()).filter(|&i| old_shape.get(i) != new_shape.get(i)).collect();
    let axis = match differ[..] {
        _ if old_shape.len() != new_shape.len() => None,
        [] => Some(0),
        [axis] => (new_shape[axis] == old_shape[axis] + added).then_some(axis),
        _ => None,
    };
    let Some(axis) = axis else {
        return Err(format!("shape {new_shape:?}, expected {old_shape:?} with {added} more classes"));
    };
    let row = |shape: &[usize]| shape.get(axis..).unwrap_or_default().iter().product::<usize>().max(1);
    let rows = values.chunks_exact(row(&old_shape)).zip(grown.chunks_exact(row(&new_shape)));
    let mut largest = 0f32;
    for (a, b) in rows.flat_map(|(old, new)| old.iter().zip(new)) {
        largest = largest.max(difference(*a, *b, tolerance)?);
    }
    Ok(largest)
}

/// Old scores times what the last `added` columns of the new ones leave of a sum of one.
fn left_by(grown: &AnyTensor, old: &AnyTensor, added: usize) -> Vec<f32> {
    let (Ok(new), Ok(values)) = (grown.f32(), old.f32()) else { return Vec::new() };
    let columns = old.shape().last().copied().unwrap_or(1).max(1);
    let rows = values.chunks_exact(columns).zip(new.chunks_exact(columns + added));
    rows.flat_map(|(old, new)| {
        let taken: f32 = new[columns..].iter().sum();
        old.iter().map(move |score| score * (1.0 - taken))
    })
    .collect()
}

/// How far two numbers are apart, if not too far: `tolerance` for numbers up to one, relative beyond.
fn difference(a: f32, b: f32, tolerance: f32) -> std::result::Result<f32, String> {
    // Infinite boxes of a wild model are the same infinity, and no number is no number.
    let difference = if a.to_bits() == b.to_bits() { 0.0 } else { (a - b).abs() };
    if difference.is_nan() || difference > tolerance * a.abs().max(1.0) {
        return Err(format!("{b} where the source gives {a}"));
    }
    Ok(difference)
}

struct Detection {
    class: f32,
    score: f32,
    bounds: [f32; 4],
    /// Its mask, where the model gives masks.
    mask: Vec<f32>,
}

fn detections(outputs: &BTreeMap<String, AnyTensor>) -> Option<Vec<Detection>> {
    let values = |name: &str| outputs.get(name)?.f32().ok();
    let (boxes, scores, classes) =
        (values("detection_boxes")?, values("detection_scores")?, values("detection_classes")?);
    let count = values("num_detections")?.first().map_or(0, |&n| n as usize).min(scores.len());
    let masks = values("detection_masks").unwrap_or_default();
    let pixels = masks.len() / scores.len().max(1);
    let found = (0..count).filter_map(|i| {
        let bounds = boxes.get(4 * i..4 * i + 4)?.try_into().ok()?;
        let mask = masks.get(pixels * i..pixels * (i + 1))?.to_vec();
        Some(Detection { class: *classes.get(i)?, score: scores[i], bounds, mask })
    });
    // Padding has a score of zero or less.
    Some(found.filter(|d| d.score > 0.0).collect())
}

/// Matches detections one to one by class, score and box. Those at the very end of the list may differ: equal scores
/// compete for the last places.
fn match_detections(
    before: &BTreeMap<String, AnyTensor>,
    after: &BTreeMap<String, AnyTensor>,
) -> std::result::Result<(usize, f32), String> {
    let (Some(old), Some(new)) = (detections(before), detections(after)) else {
        return Err("detection boxes, scores, classes or their number are missing".into());
    };
    let last = old.last().map_or(0.0, |d| d.score);
    let mut taken = vec![false; new.len()];
    let (mut matched, mut largest) = (0, 0f32);
    for d in &old {
        let found = new.iter().enumerate().find(|(i, other)| {
            !taken[*i]
                && other.class == d.class
                && (other.score - d.score).abs() <= TOLERANCE
                && other
                    .bounds
                    .iter()
                    .zip(&d.bounds)
                    .all(|(a, b)| a == b || (a - b).abs() <= 10.0 * TOLERANCE)
        });
        match found {
            Some((i, other)) => {
                taken[i] = true;
                matched += 1;
                largest = largest.max((other.score - d.score).abs());
                if other.mask.len() != d.mask.len() {
                    return Err(format!(
                        "masks of {} pixels, the source has {}",
                        other.mask.len(),
                        d.mask.len()
                    ));
                }
                for (a, b) in d.mask.iter().zip(&other.mask) {
                    // A mask is cut from where its box lies, which may move by ten times as much.
                    let apart = difference(*a, *b, 10.0 * TOLERANCE);
                    let mask = |reason| format!("the mask of the detection of class {}: {reason}", d.class);
                    largest = largest.max(apart.map_err(mask)?);
                }
            }
            None if d.score <= last + TOLERANCE => {}
            None => {
                return Err(format!(
                    "no detection of class {} with score {} at {:?}",
                    d.class, d.score, d.bounds
                ));
            }
        }
    }
    if new.len() != old.len() {
        return Err(format!("{} detections, the source has {}", new.len(), old.len()));
    }
    Ok((matched, largest))
}

/// Pictures to probe with when the user has given none: coloured shapes on gradients, the same every time.
pub fn probe_pictures() -> Vec<Picture> {
    [(320u32, 240u32), (240, 360)]
        .into_iter()
        .enumerate()
        .map(|(seed, (width, height))| {
            let mut rgb = Vec::with_capacity((width * height * 3) as usize);
            for y in 0..height {
                for x in 0..width {
                    let tile = (x / 40 + y / 30 * 5 + seed as u32 * 7).wrapping_mul(2_654_435_761);
                    let disc = (x % 80).abs_diff(40).pow(2) + (y % 60).abs_diff(30).pow(2) < 500;
                    for channel in 0..3 {
                        let base = (x * 160 / width + y * 60 / height) as u8;
                        let shade = (tile >> (8 * channel + 3)) as u8;
                        rgb.push(if disc { shade } else { base.wrapping_add(20 * channel as u8) });
                    }
                }
            }
            Picture { width, height, rgb }
        })
        .collect()
}
