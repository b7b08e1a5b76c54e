//! From the OD API's output tensors to detections.

use serde::Serialize;

use crate::data::BoxYxyx;
use crate::error::{Error, Result};

/// One thing found in a picture.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Detection {
    /// Id of the class in the label map, 1 or more.
    pub class_id: u32,
    /// The score, in [0, 1] for the models of the OD API.
    pub score: f32,
    /// Where, as fractions of the picture; as the model gives it, not clipped.
    pub bbox: BoxYxyx,
}

/// The values of the four outputs for one picture.
#[derive(Debug, Clone, Copy)]
pub struct Outputs<'a> {
    /// `detection_boxes` `[1, N, 4]`: ymin, xmin, ymax, xmax.
    pub boxes: &'a [f32],
    /// `detection_scores` `[1, N]`.
    pub scores: &'a [f32],
    /// `detection_classes` `[1, N]`: ids from 1, as floats.
    pub classes: &'a [f32],
    /// `num_detections` `[1]`: how many of the N are meant.
    pub count: &'a [f32],
}

/// Detections with at least `min_score`, in the model's order (best first).
///
/// Rows behind `num_detections` are padding. Rows with a class below 1 or numbers that are not finite are padding too.
pub fn decode_outputs(outputs: Outputs<'_>, min_score: f32) -> Result<Vec<Detection>> {
    Ok(decode_rows(outputs, min_score)?.into_iter().map(|(_, detection)| detection).collect())
}

/// The same with the row of each detection, where its other outputs stand.
pub(super) fn decode_rows(outputs: Outputs<'_>, min_score: f32) -> Result<Vec<(usize, Detection)>> {
    let Outputs { boxes, scores, classes, count } = outputs;
    let rows = scores.len();
    if boxes.len() != rows * 4 || classes.len() != rows {
        return Err(Error::Data(format!(
            "the model's outputs do not fit each other: got {} numbers in detection_boxes, {rows} in detection_scores and \
             {} in detection_classes, expected 4, 1 and 1 for each detection",
            boxes.len(),
            classes.len()
        )));
    }
    let &[count] = count else {
        return Err(Error::Data(format!(
            "the model's output num_detections has {} numbers, expected 1: one picture is run at a time",
            count.len()
        )));
    };
    let meant = if count.is_finite() && count > 0.0 { (count.round() as usize).min(rows) } else { 0 };
    let mut out = Vec::new();
    let rows = boxes.chunks_exact(4).zip(scores).zip(classes).take(meant);
    for (row, ((corners, &score), &class)) in rows.enumerate() {
        let &[ymin, xmin, ymax, xmax] = corners else { continue };
        let bbox = BoxYxyx::new(ymin, xmin, ymax, xmax);
        if bbox.is_finite() && score.is_finite() && score >= min_score && (0.5..1e9).contains(&class) {
            out.push((row, Detection { class_id: class.round() as u32, score, bbox }));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_is_meant() {
        let boxes = [[0.1, 0.2, 0.3, 0.4]; 5].concat();
        let scores = [0.9, f32::NAN, 0.8, 0.1, 0.7];
        let classes = [18.0, 1.0, 0.0, 3.0, 4.0];
        let outputs = Outputs { boxes: &boxes, scores: &scores, classes: &classes, count: &[4.0] };
        let found = decode_outputs(outputs, 0.05).unwrap();
        assert_eq!(found.iter().map(|d| d.class_id).collect::<Vec<_>>(), [18, 3]);
        assert_eq!(decode_outputs(outputs, 0.5).unwrap().len(), 1);
        assert_eq!(decode_outputs(Outputs { count: &[f32::NAN], ..outputs }, 0.0).unwrap(), []);
        assert_eq!(decode_outputs(Outputs { count: &[1e20], ..outputs }, 0.0).unwrap().len(), 3);
        assert!(decode_outputs(Outputs { boxes: &boxes[1..], ..outputs }, 0.0).is_err());
        assert!(decode_outputs(Outputs { count: &[], ..outputs }, 0.0).is_err());
    }
}
