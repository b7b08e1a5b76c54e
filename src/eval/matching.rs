//! Matching of detections with objects in one picture, for one class.
//!
//! After `COCOeval.computeIoU` and `COCOeval.evaluateImg` of pycocotools (cocoapi, BSD-2-Clause), in f64 as there.

use crate::data::Rle;

/// A labelled object. Boxes are `[x, y, width, height]` in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truth {
    /// Id of the class.
    pub class: u32,
    /// `[x, y, width, height]`, pixels.
    pub bbox: [f64; 4],
    /// Area in pixels, which decides between small, medium and large (of the mask, where there is one).
    pub area: f64,
    /// A region of many objects: detections inside it count neither way, however many there are.
    pub crowd: bool,
    /// A single object that counts neither way, found or not (Pascal VOC's `difficult`).
    pub ignore: bool,
}

/// A detection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Id of the class.
    pub class: u32,
    /// `[x, y, width, height]`, pixels.
    pub bbox: [f64; 4],
    /// The score.
    pub score: f64,
}

impl Scored {
    /// Intersection over union of the boxes.
    pub fn overlap(&self, truth: &Truth) -> f64 {
        overlap(self.bbox, truth.bbox, false)
    }
}

/// Least and greatest area in pixels, both inclusive.
pub(crate) type AreaRange = (f64, f64);

/// How the detections of one class in one picture fared, at each threshold of the overlap.
#[derive(Debug, Clone, Default)]
pub(crate) struct Matched {
    /// Scores, descending.
    pub scores: Vec<f64>,
    /// `[thresholds][detections]`: found an object.
    pub found: Vec<Vec<bool>>,
    /// `[thresholds][detections]`: counts neither way.
    pub ignored: Vec<Vec<bool>>,
    /// Objects that count.
    pub positives: usize,
}

/// One class in one picture: the detections sorted and cut, and their overlaps with the objects.
#[derive(Debug)]
pub(crate) struct Pairs<'a> {
    truths: Vec<&'a Truth>,
    /// Scores, descending.
    scores: Vec<f64>,
    /// Areas of the detections, pixels.
    areas: Vec<f64>,
    /// `[detections][truths]`.
    overlaps: Vec<Vec<f64>>,
}

impl<'a> Pairs<'a> {
    /// Pairs boxes. Keeps the `most` best detections; equal scores stay in their order.
    pub fn new(truths: Vec<&'a Truth>, mut detections: Vec<&Scored>, most: usize) -> Self {
        best_first(&mut detections, most, |d| *d);
        let of = |d: &&Scored| truths.iter().map(|t| overlap(d.bbox, t.bbox, t.crowd)).collect();
        Self {
            overlaps: detections.iter().map(of).collect(),
            scores: detections.iter().map(|d| d.score).collect(),
            areas: detections.iter().map(|d| d.bbox[2] * d.bbox[3]).collect(),
            truths,
        }
    }

    /// Pairs masks, likewise.
    pub fn of_masks(
        truths: Vec<(&'a Truth, &Rle)>,
        mut detections: Vec<(&Scored, &Rle)>,
        most: usize,
    ) -> Self {
        best_first(&mut detections, most, |(d, _)| *d);
        let of = |(_, mask): &(_, &Rle)| {
            truths.iter().map(|(truth, covered)| mask.overlap(covered, truth.crowd)).collect()
        };
        Self {
            overlaps: detections.iter().map(of).collect(),
            scores: detections.iter().map(|(d, _)| d.score).collect(),
            areas: detections.iter().map(|(_, mask)| mask.area() as f64).collect(),
            truths: truths.into_iter().map(|(truth, _)| truth).collect(),
        }
    }

    /// Gives each detection, the best first, the free object that it overlaps most.
    pub fn evaluate(&self, range: AreaRange, thresholds: &[f64]) -> Matched {
        let outside = |area: f64| area < range.0 || area > range.1;
        let ignored: Vec<bool> = self.truths.iter().map(|t| t.crowd || t.ignore || outside(t.area)).collect();
        // Those that count first, so that a detection takes an ignored one only when no other fits.
        let mut order: Vec<usize> = (0..self.truths.len()).collect();
        order.sort_by_key(|t| ignored[*t]);

        let mut out = Matched {
            scores: self.scores.clone(),
            positives: ignored.iter().filter(|i| !**i).count(),
            ..Matched::default()
        };
        for threshold in thresholds {
            let mut taken = vec![false; self.truths.len()];
            let mut found = Vec::with_capacity(self.scores.len());
            let mut neither = Vec::with_capacity(self.scores.len());
            for (&area, overlaps) in self.areas.iter().zip(&self.overlaps) {
                let best = self.best(overlaps, threshold.min(1.0 - 1e-10), &order, &ignored, &taken);
                if let Some(truth) = best {
                    taken[truth] = true;
                }
                found.push(best.is_some());
                neither.push(match best {
                    Some(truth) => ignored[truth],
                    None => outside(area),
                });
            }
            out.found.push(found);
            out.ignored.push(neither);
        }
        out
    }

    fn best(
        &self,
        overlaps: &[f64],
        threshold: f64,
        order: &[usize],
        ignored: &[bool],
        taken: &[bool],
    ) -> Option<usize> {
        let mut best: Option<usize> = None;
        let mut least = threshold;
        for &truth in order {
            if taken[truth] && !self.truths[truth].crowd {
                continue;
            }
            if best.is_some_and(|b| !ignored[b]) && ignored[truth] {
                break;
            }
            if overlaps[truth] >= least {
                least = overlaps[truth];
                best = Some(truth);
            }
        }
        best
    }
}

fn best_first<T>(detections: &mut Vec<T>, most: usize, scored: impl for<'b> Fn(&'b T) -> &'b Scored) {
    detections.sort_by(|a, b| scored(b).score.total_cmp(&scored(a).score));
    detections.truncate(most);
}

/// Intersection over union, or over the detection's area where the object is a crowd (`bbIou` of maskApi.c).
fn overlap(d: [f64; 4], t: [f64; 4], crowd: bool) -> f64 {
    let width = (d[0] + d[2]).min(t[0] + t[2]) - d[0].max(t[0]);
    let height = (d[1] + d[3]).min(t[1] + t[3]) - d[1].max(t[1]);
    if width <= 0.0 || height <= 0.0 {
        return 0.0;
    }
    let common = width * height;
    let (own, other) = (d[2] * d[3], t[2] * t[3]);
    let whole = if crowd { own } else { own + other - common };
    if whole > 0.0 { common / whole } else { 0.0 }
}
