//! Comparing lists of detections: matched one to one, since equal scores may trade places.

use serde::{Deserialize, Serialize};

use super::array::Outputs;
use crate::data::BoxYxyx;

/// The outputs that a list is made of.
pub const BOXES: &str = "detection_boxes";
/// Scores, best first.
pub const SCORES: &str = "detection_scores";
/// Label ids as floats.
pub const CLASSES: &str = "detection_classes";
/// How many rows are meant.
pub const COUNT: &str = "num_detections";

/// When two detections of one class are the same one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// Least intersection over union of their boxes.
    pub iou: f32,
    /// Or, since slivers have none to speak of: most that any edge may move, in fractions of the picture.
    pub edge: f32,
    /// Most that the scores may differ.
    pub score: f32,
}

/// A row of the list.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// Its place in the outputs.
    pub row: usize,
    /// The label id.
    pub class: f32,
    /// The score, above 0.
    pub score: f32,
    /// ymin, xmin, ymax, xmax.
    pub bounds: [f32; 4],
}

/// The rows that are meant, and how many the list could hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Detections {
    /// Rows below `num_detections` with a score above 0; the rest is padding.
    pub rows: Vec<Row>,
    /// The list's length.
    pub capacity: usize,
}

impl Detections {
    /// The detections among a model's outputs; `None` where one of the four is missing or does not fit the others.
    pub fn of(outputs: &Outputs) -> Option<Self> {
        let values = |name: &str| outputs.get(name)?.f32();
        let (boxes, scores, classes) = (values(BOXES)?, values(SCORES)?, values(CLASSES)?);
        if boxes.len() != 4 * scores.len() || classes.len() != scores.len() {
            return None;
        }
        let counted = values(COUNT)?.first().map_or(0, |&n| n as usize).min(scores.len());
        let rows = boxes.chunks_exact(4).zip(scores).zip(classes).take(counted).enumerate();
        let rows = rows.filter_map(|(row, ((bounds, &score), &class))| {
            Some(Row { row, class, score, bounds: bounds.try_into().ok()? })
        });
        Some(Self { rows: rows.filter(|d| d.score > 0.0).collect(), capacity: scores.len() })
    }

    /// Whether a detection of this score may have been cut off at the end of a full list.
    fn cuts(&self, score: f32, tolerance: f32) -> bool {
        let last = self.rows.iter().map(|d| d.score).fold(f32::INFINITY, f32::min);
        self.rows.len() == self.capacity && self.capacity > 0 && score <= last + tolerance
    }
}

/// How two lists correspond.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Matching {
    /// Rows that are the same detection: expected, got.
    pub pairs: Vec<(Row, Row)>,
    /// Expected, not found.
    pub lost: Vec<Row>,
    /// Found, not expected.
    pub extra: Vec<Row>,
    /// Not found, or not expected, but so low that the end of the other, full list may have cut it off.
    pub cut: usize,
}

impl Matching {
    /// Largest difference of two matched scores.
    pub fn score_difference(&self) -> f32 {
        self.pairs.iter().map(|(a, b)| (a.score - b.score).abs()).fold(0.0, f32::max)
    }

    /// Least overlap of two matched boxes.
    pub fn least_overlap(&self) -> f32 {
        self.pairs.iter().map(|(a, b)| overlap(a, b)).fold(1.0, f32::min)
    }
}

/// Matches the lists. With `classes`, detections of higher ids among the new ones are those of new classes and are
/// passed over.
pub fn match_lists(expected: &Detections, got: &Detections, rule: Rule, classes: Option<usize>) -> Matching {
    let is_old = |d: &&Row| classes.is_none_or(|n| d.class <= n as f32);
    let mut free: Vec<Row> = got.rows.iter().filter(is_old).copied().collect();
    let mut out = Matching::default();
    for d in &expected.rows {
        let same = |other: &Row| {
            let mut edges = d.bounds.iter().zip(&other.bounds);
            let still = edges.all(|(a, b)| a == b || (a - b).abs() <= rule.edge);
            other.class == d.class
                && (other.score - d.score).abs() <= rule.score
                && (still || overlap(d, other) >= rule.iou)
        };
        let near = |other: &Row| (overlap(d, other), -(other.score - d.score).abs());
        let candidates = free.iter().enumerate().filter(|(_, other)| same(other));
        let best = candidates.max_by(|(i, a), (j, b)| {
            let ((overlap_a, score_a), (overlap_b, score_b)) = (near(a), near(b));
            // Among equals the first.
            overlap_a.total_cmp(&overlap_b).then(score_a.total_cmp(&score_b)).then(j.cmp(i))
        });
        match best.map(|(i, _)| i) {
            Some(i) => out.pairs.push((*d, free.remove(i))),
            None if got.cuts(d.score, rule.score) => out.cut += 1,
            None => out.lost.push(*d),
        }
    }
    for d in free {
        if expected.cuts(d.score, rule.score) { out.cut += 1 } else { out.extra.push(d) }
    }
    out
}

fn overlap(a: &Row, b: &Row) -> f32 {
    if a.bounds == b.bounds {
        return 1.0;
    }
    let [a, b] = [a, b].map(|d| BoxYxyx::new(d.bounds[0], d.bounds[1], d.bounds[2], d.bounds[3]));
    let overlap = a.iou(&b);
    if overlap.is_nan() { 0.0 } else { overlap }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { iou: 0.99, edge: 1e-4, score: 1e-3 };

    fn list(rows: &[(f32, f32, [f32; 4])], capacity: usize) -> Detections {
        let rows = rows.iter().enumerate();
        let rows: Vec<Row> =
            rows.map(|(row, &(class, score, bounds))| Row { row, class, score, bounds }).collect();
        Detections { rows, capacity }
    }

    const A: [f32; 4] = [0.1, 0.1, 0.5, 0.5];
    const B: [f32; 4] = [0.3, 0.3, 0.9, 0.9];

    #[test]
    fn ties_may_trade_places() {
        let one = list(&[(1.0, 0.9, A), (2.0, 0.5, A), (1.0, 0.5, B)], 10);
        let other = list(&[(1.0, 0.9, A), (1.0, 0.5002, B), (2.0, 0.5, A)], 10);
        let found = match_lists(&one, &other, RULE, None);
        assert_eq!((found.pairs.len(), found.lost.len(), found.extra.len(), found.cut), (3, 0, 0, 0));
        assert!((found.score_difference() - 2e-4).abs() < 1e-6);
        assert_eq!(found.least_overlap(), 1.0);
    }

    #[test]
    fn another_class_place_or_score_is_another_detection() {
        let one = list(&[(1.0, 0.9, A)], 10);
        for other in [(2.0, 0.9, A), (1.0, 0.9, B), (1.0, 0.89, A)] {
            let found = match_lists(&one, &list(&[other], 10), RULE, None);
            assert_eq!((found.pairs.len(), found.lost.len(), found.extra.len()), (0, 1, 1), "{other:?}");
        }
        let none = match_lists(&one, &list(&[], 10), RULE, None);
        assert_eq!(none.lost.len(), 1);
    }

    #[test]
    fn one_detection_answers_for_one() {
        let twice = list(&[(1.0, 0.9, A), (1.0, 0.9, A)], 10);
        let found = match_lists(&twice, &list(&[(1.0, 0.9, A)], 10), RULE, None);
        assert_eq!((found.pairs.len(), found.lost.len()), (1, 1));
    }

    #[test]
    fn only_a_full_list_excuses_its_end() {
        let one = list(&[(1.0, 0.9, A), (1.0, 0.3, B)], 2);
        let swapped = list(&[(1.0, 0.9, A), (2.0, 0.3004, B)], 2);
        let found = match_lists(&one, &swapped, RULE, None);
        assert_eq!((found.cut, found.lost.len(), found.extra.len()), (2, 0, 0));
        let roomy = |d: &Detections| Detections { capacity: 3, ..d.clone() };
        let found = match_lists(&roomy(&one), &roomy(&swapped), RULE, None);
        assert_eq!((found.cut, found.lost.len(), found.extra.len()), (0, 1, 1));
    }

    #[test]
    fn new_classes_are_passed_over_and_may_displace_the_last() {
        let old = list(&[(1.0, 0.9, A), (1.0, 0.3, B)], 2);
        let grown = list(&[(3.0, 0.95, B), (1.0, 0.9, A)], 2);
        let found = match_lists(&old, &grown, RULE, Some(2));
        assert_eq!((found.pairs.len(), found.cut, found.lost.len(), found.extra.len()), (1, 1, 0, 0));
        assert_eq!(match_lists(&old, &grown, RULE, None).extra.len(), 1);
    }

    #[test]
    fn slivers_and_wild_boxes_are_matched_by_their_edges() {
        let wild = [f32::NEG_INFINITY, 0.0, f32::INFINITY, 1.0];
        let (sliver, moved) = ([0.5, 0.1, 0.5, 0.9], [0.50005, 0.1, 0.50005, 0.9]);
        let one = list(&[(1.0, 0.9, wild), (1.0, 0.8, sliver)], 10);
        let found = match_lists(&one, &list(&[(1.0, 0.9, wild), (1.0, 0.8, moved)], 10), RULE, None);
        assert_eq!(found.pairs.len(), 2);
        let nan = [f32::NAN; 4];
        let found = match_lists(&list(&[(1.0, 0.9, A)], 9), &list(&[(1.0, 0.9, nan)], 9), RULE, None);
        assert_eq!(found.pairs.len(), 0);
    }
}
