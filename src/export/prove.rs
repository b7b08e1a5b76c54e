//! The proof of a growth: with silent new columns the grown model gives the old model's outputs.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::data::Picture;
use crate::error::{Error, Result};
use crate::runtime::{ServingModel, runs_at_once};
use crate::side_by_side::in_order;
use crate::verify::array::{Array, Outputs, Values, capture};
use crate::verify::detections::{COUNT, Detections, Matching, Row, Rule, match_lists};
use crate::verify::numbers::{self, Tolerance};

/// Old scores move by up to 6e-7 because a wider convolution blocks its sums differently (measured); boxes of the
/// unchanged box head do not.
pub const TOLERANCE: f32 = 1e-5;

/// How far the source differs from itself, by output, when it is run in another way: no grown model can be nearer to it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Noise(BTreeMap<String, f32>);

/// More noise than this is no excuse: a proof by so coarse a measure would prove nothing.
const MOST_NOISE: f32 = 1e-3;

impl Noise {
    /// Between two runs of one model on the same pictures.
    pub fn between(one: &[Outputs], other: &[Outputs]) -> Self {
        let mut noise = BTreeMap::new();
        for (name, one, other) in one.iter().zip(other).flat_map(|(one, other)| {
            one.iter().filter_map(|(name, values)| Some((name, values.f32()?, other.get(name)?.f32()?)))
        }) {
            if one.len() == other.len() && !of_detections(name) {
                let apart = one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                let largest: &mut f32 = noise.entry(name.clone()).or_default();
                *largest = largest.max(apart.min(MOST_NOISE));
            }
        }
        Self(noise)
    }

    fn tolerance(&self, output: &str) -> f32 {
        self.0.get(output).copied().unwrap_or_default().max(TOLERANCE)
    }

    /// Detections come from all scores.
    fn of_scores(&self) -> f32 {
        let scores = self.0.keys().filter(|name| name.starts_with("raw_detection_scores"));
        scores.map(|name| self.tolerance(name)).fold(TOLERANCE, f32::max)
    }
}

/// Outputs with a row for each detection, or for all of them: ties may trade places there.
fn of_detections(output: &str) -> bool {
    output.starts_with("detection_") || matches!(output, COUNT | "mask_predictions")
}

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
    /// Masks of boxes that moved by a rounding and reach the picture's edge, and that differ.
    pub masks_at_edge: usize,
    /// Where an output differed by more than [`TOLERANCE`]: how far the source differs from itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise: Option<Noise>,
}

/// What a model computes on each picture.
pub fn outputs_on(model: &ServingModel, pictures: &[Picture]) -> Result<Vec<Outputs>> {
    let mut outputs = Vec::with_capacity(pictures.len());
    in_order(
        pictures,
        runs_at_once(),
        |picture| Ok(capture(model, picture)?.0),
        |of_one| {
            outputs.push(of_one);
            Ok(())
        },
    )?;
    Ok(outputs)
}

/// Runs the grown model on the pictures and compares every output with `old`, the source's on the same pictures.
///
/// Errors: [`Error::CheckFailed`] with the output and the picture.
pub fn prove(
    old: &[Outputs],
    new: &ServingModel,
    pictures: &[Picture],
    added: usize,
    noise: &Noise,
) -> Result<Proof> {
    let mut proof = Proof::default();
    for (number, (before, after)) in old.iter().zip(outputs_on(new, pictures)?).enumerate() {
        let failed = |output: &str, reason: String| {
            Error::CheckFailed(format!(
                "output {output} of the grown model on probe picture {number}: {reason}"
            ))
        };
        if !before.keys().eq(after.keys()) {
            return Err(failed("names", "they differ from the source's".into()));
        }
        for (name, before) in before {
            // These are compared below, detection by detection.
            if of_detections(name) {
                continue;
            }
            let Some(after) = after.get(name).filter(|_| before.is_float()) else { continue };
            let difference =
                near(before, after, added, noise.tolerance(name)).map_err(|reason| failed(name, reason))?;
            proof.raise(name, difference);
        }
        let masks = before.get(MASKS).zip(after.get(MASKS));
        let (Some(before), Some(after)) = (Detections::of(before), Detections::of(&after)) else {
            return Err(failed("detection_*", MISSING.into()));
        };
        let tolerance = noise.of_scores();
        let matching = match_lists(&before, &after, same(tolerance), None);
        if let Some(d) = matching.lost.first().or(matching.extra.first()) {
            let reason = format!(
                "{} detections, the source has {}; the one of class {} with score {} at {:?} is in one only",
                after.rows.len(),
                before.rows.len(),
                d.class,
                d.score,
                d.bounds
            );
            return Err(failed("detection_*", reason));
        }
        proof.detections += matching.pairs.len();
        proof.raise("detections", matching.score_difference());
        if let Some((old, new)) = masks {
            // A mask is cut from where its box lies, which may move by ten times as much as a score.
            let (difference, at_edge) =
                near_masks(old, new, &matching, 10.0 * tolerance).map_err(|reason| failed(MASKS, reason))?;
            proof.raise(MASKS, difference);
            proof.masks_at_edge += at_edge;
        }
    }
    proof.pictures = old.len().min(pictures.len());
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

/// Runs the trained model on the pictures beside what the source computes there, `old`: raw scores of old classes are the same, and old
/// detections from a score on are found again. New detections may only take places at the end of the list. Scores that
/// share a sum with the new classes' are the old ones times what those leave; detections are not compared then.
///
/// Errors: [`Error::CheckFailed`] with the output and the picture.
pub fn prove_old_scores(
    old: &[Outputs],
    new: &ServingModel,
    pictures: &[Picture],
    kept: &Kept,
) -> Result<Proof> {
    let mut proof = Proof { pictures: pictures.len(), ..Proof::default() };
    for (number, (before, after)) in old.iter().zip(outputs_on(new, pictures)?).enumerate() {
        let failed = |output: &str, reason: String| {
            Error::CheckFailed(format!("output {output} of the result on probe picture {number}: {reason}"))
        };
        for (name, values) in before.iter().filter(|(name, _)| name.starts_with("raw_detection_scores")) {
            let Some(grown) = after.get(name).filter(|_| values.is_float()) else { continue };
            let left = kept.shared.then(|| left_by(grown, values, kept.added)).flatten();
            let difference = near(left.as_ref().unwrap_or(values), grown, kept.added, SCORE_TOLERANCE)
                .map_err(|reason| failed(name, reason))?;
            proof.raise(name, difference);
        }
        let (Some(mut before), Some(after)) = (Detections::of(before), Detections::of(&after)) else {
            return Err(failed("detection_*", MISSING.into()));
        };
        if kept.shared {
            continue;
        }
        before.rows.retain(|d| d.score >= kept.least_score);
        let matching = match_lists(&before, &after, same(SCORE_TOLERANCE), Some(kept.classes));
        if let Some(d) = matching.lost.first() {
            return Err(failed(
                "detection_scores",
                format!("the detection of class {} with score {} is gone or moved", d.class, d.score),
            ));
        }
        proof.detections += matching.pairs.len();
        // The list holds so many detections and no more; better new ones take the places of the last.
        proof.displaced += before.rows.len() - matching.pairs.len();
        proof.raise("detection_scores", matching.score_difference());
    }
    Ok(proof)
}

const MASKS: &str = "detection_masks";
const MISSING: &str = "detection boxes, scores, classes or their number are missing";

impl Proof {
    fn raise(&mut self, output: &str, difference: f32) {
        let largest = self.largest_difference.entry(output.to_owned()).or_default();
        *largest = largest.max(difference);
    }
}

/// Detections of unchanged boxes: an edge moves by little more than a score, which a sigmoid presses together.
fn same(tolerance: f32) -> Rule {
    Rule { iou: f32::INFINITY, edge: 10.0 * tolerance, score: tolerance }
}

/// The largest difference over old columns; the last axis may have `added` more in the new tensor. Numbers up to 1 are
/// held to the tolerance itself, larger ones to that share of them, or to less.
fn near(before: &Array, after: &Array, added: usize, tolerance: f32) -> std::result::Result<f32, String> {
    let half = f64::from(tolerance) / 2.0;
    let found = numbers::compare(before, after, added, Tolerance { rtol: half, atol: half })?;
    match found.worst.filter(|_| found.differing > 0) {
        Some(worst) => Err(format!(
            "{} where the source gives {} (at {:?}, and {} more)",
            worst.got,
            worst.expected,
            before.place(worst.at),
            found.differing - 1
        )),
        None => Ok(found.largest as f32),
    }
}

/// Masks of matched detections: the largest difference, and how many were not compared.
///
/// CropAndResize (tensorflow/core/kernels/image/crop_and_resize_op.cc) puts its last sample of a row at
/// x1·(W − 1) + (x2 − x1)·(W − 1). Where x2 = 1 that rounds to either side of W − 1, by the last bit of x1, and beyond it the
/// sample is 0: a box at the picture's edge that moved by one bit may get another mask, in the source as well.
fn near_masks(
    before: &Array,
    after: &Array,
    matching: &Matching,
    tolerance: f32,
) -> std::result::Result<(f32, usize), String> {
    let (mut largest, mut at_edge) = (0f32, 0);
    for (old, new) in &matching.pairs {
        let (Some(before), Some(after)) = (before.rows(&[old.row]), after.rows(&[new.row])) else {
            return Err(format!("shape {:?}, the source has {:?}", after.shape, before.shape));
        };
        match near(&before, &after, 0, tolerance) {
            Ok(difference) => largest = largest.max(difference),
            Err(_) if old.bounds != new.bounds && reaches_edge(old) => at_edge += 1,
            Err(reason) => {
                return Err(format!(
                    "{reason}; of the detection of class {} with score {} at {:?}",
                    old.class, old.score, old.bounds
                ));
            }
        }
    }
    Ok((largest, at_edge))
}

fn reaches_edge(d: &Row) -> bool {
    d.bounds.iter().any(|edge| edge.min(1.0 - edge) <= f32::EPSILON)
}

/// Old scores times what the last `added` columns of the new ones leave of a sum of one; none where shapes do not fit.
fn left_by(grown: &Array, old: &Array, added: usize) -> Option<Array> {
    let (new, values) = (grown.f32()?, old.f32()?);
    let columns = *old.shape.last()?;
    if columns == 0 || grown.shape.last() != Some(&(columns + added)) {
        return None;
    }
    let rows = values.chunks_exact(columns).zip(new.chunks_exact(columns + added));
    let left = rows.flat_map(|(old, new)| {
        let taken: f32 = new[columns..].iter().sum();
        old.iter().map(move |score| score * (1.0 - taken))
    });
    Some(Array { shape: old.shape.clone(), values: Values::F32(left.collect()) })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_masks_of_moved_boxes_at_the_edge_may_differ() {
        let row = |bounds: [f32; 4]| Row { row: 0, class: 1.0, score: 0.5, bounds };
        let masks = |value: f32| Array { shape: vec![1, 2, 2], values: Values::F32(vec![value; 4]) };
        let inside = [0.1, 0.2, 0.5, 0.6];
        let edge = [0.1, 0.2, 0.5, 1.0];
        let moved = |mut bounds: [f32; 4]| {
            bounds[0] = f32::from_bits(bounds[0].to_bits() + 1);
            bounds
        };
        for (name, old, new, value, expected) in [
            ("the same", inside, inside, 0.5, Some(0)),
            ("another mask", inside, inside, 0.51, None),
            ("moved inside", inside, moved(inside), 0.51, None),
            ("at the edge, not moved", edge, edge, 0.51, None),
            ("at the edge, moved", edge, moved(edge), 0.51, Some(1)),
            ("at the edge, moved, the same mask", edge, moved(edge), 0.5, Some(0)),
        ] {
            let matching = Matching { pairs: vec![(row(old), row(new))], ..Matching::default() };
            let got = near_masks(&masks(0.5), &masks(value), &matching, 1e-4);
            assert_eq!(got.ok().map(|(_, at_edge)| at_edge), expected, "{name}");
        }
    }

    #[test]
    fn noise_is_how_far_the_source_moves_and_never_much() {
        let outputs = |scores: f32, boxes: f32, detected: f32| -> Outputs {
            [("raw_detection_scores", scores), ("raw_detection_boxes", boxes), ("detection_scores", detected)]
                .map(|(name, value)| {
                    (name.to_owned(), Array { shape: vec![2], values: Values::F32(vec![0.5, value]) })
                })
                .into()
        };
        let one = [outputs(0.5, 0.5, 0.5), outputs(0.2, 0.5, 0.9)];
        let other = [outputs(0.5001, 0.5, 0.6), outputs(0.20003, 0.9, 0.1)];
        let noise = Noise::between(&one, &other);
        let names: Vec<&str> = noise.0.keys().map(String::as_str).collect();
        assert_eq!(names, ["raw_detection_boxes", "raw_detection_scores"]);
        assert!((noise.tolerance("raw_detection_scores") - 1e-4).abs() < 1e-6, "{noise:?}");
        assert_eq!(noise.of_scores(), noise.tolerance("raw_detection_scores"));
        assert_eq!(noise.tolerance("raw_detection_boxes"), MOST_NOISE);
        assert_eq!(Noise::between(&one, &one).tolerance("raw_detection_scores"), TOLERANCE);
        assert_eq!(Noise::default().of_scores(), TOLERANCE);
    }
}
