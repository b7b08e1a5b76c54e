//! What each anchor of a view should say of each new class, how much it counts, and which cells are kept.

use super::shape::Level;
use crate::data::BoxYxyx;

/// An object of a view.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truth {
    /// Its class, from 0.
    pub class: usize,
    /// Its box, clipped to the view, as fractions of the network's input.
    pub bbox: BoxYxyx,
    /// The part of its area that lies in the view.
    pub visible: f32,
    /// Whether it is a region of many objects.
    pub crowd: bool,
}

/// An object counts as shown from this part of its area on.
const SHOWN: f32 = 0.3;
/// Below this part of its area nothing can be seen of an object, and what is there counts as background.
const UNSEEN: f32 = 0.02;
/// Overlap with a crowd or a barely visible object from which on an anchor says nothing about its class.
const UNSURE: f32 = 0.25;
/// Overlap of the decoded box at which the target starts, and at which it is full.
const DECODED: (f32, f32) = (0.5, 0.85);
/// The same for the anchor itself.
const ANCHOR: (f32, f32) = (0.25, 0.5);
/// Overlap with any object up to which a cell counts as plain background.
const NEAR: f32 = 0.2;
/// The argmax matcher's threshold for both matched and unmatched, as all SSD configurations of the OD API have it.
const MATCHED: f32 = 0.5;

impl Truth {
    /// Whether it is an example of its class.
    pub fn shown(&self) -> bool {
        !self.crowd && self.visible >= SHOWN
    }

    /// Whether something of it can be seen, but not enough for an example.
    pub(super) fn unsure(&self) -> bool {
        !self.shown() && self.visible > UNSEEN
    }
}

/// Targets of one view.
#[derive(Debug, Clone, PartialEq)]
pub struct Targets {
    /// Number of classes.
    pub classes: usize,
    /// [anchors, classes]: 0 for background, 1 for an object.
    pub target: Vec<f32>,
    /// [anchors, classes]: 0 where nothing is known, else 1.
    pub weight: Vec<f32>,
    /// For each anchor its largest overlap, or its decoded box's, with any object.
    pub overlap: Vec<f32>,
}

/// Soft targets: a product of two ramps, over the overlap of the frozen decoded box and that of the anchor.
///
/// The decoded box is what will be shown, so a score should say how well it fits; the anchor keeps the target near
/// what the features of its cell can tell. `decoded` is unclipped; classes are independent of each other.
pub fn soft(anchors: &[BoxYxyx], decoded: &[BoxYxyx], truths: &[Truth], classes: usize) -> Targets {
    let count = anchors.len().min(decoded.len());
    let mut targets = Targets {
        classes,
        target: vec![0.0; count * classes],
        weight: vec![1.0; count * classes],
        overlap: vec![0.0; count],
    };
    let mut best = vec![(0.0f32, 0.0f32); classes];
    let mut unsure = vec![false; classes];
    for (number, (anchor, decoded)) in anchors.iter().zip(decoded).enumerate() {
        best.fill((0.0, 0.0));
        unsure.fill(false);
        let decoded = decoded.clip();
        for truth in truths {
            let (a, d) = (anchor.iou(&truth.bbox), decoded.iou(&truth.bbox));
            targets.overlap[number] = targets.overlap[number].max(a).max(d);
            let (Some(best), Some(unsure)) = (best.get_mut(truth.class), unsure.get_mut(truth.class)) else {
                continue;
            };
            if truth.shown() {
                *best = (best.0.max(d), best.1.max(a));
            }
            *unsure |= truth.unsure() && a.max(d) > UNSURE;
        }
        for class in 0..classes {
            let (d, a) = best[class];
            let target = ramp(d, DECODED) * ramp(a, ANCHOR);
            targets.target[number * classes + class] = target;
            if target == 0.0 && unsure[class] {
                targets.weight[number * classes + class] = 0.0;
            }
        }
    }
    targets
}

fn ramp(value: f32, (low, high): (f32, f32)) -> f32 {
    ((value - low) / (high - low)).clamp(0.0, 1.0)
}

/// The OD API's own assignment: for each anchor the number of the object that it is matched to.
///
/// `argmax_matcher.py` with both thresholds .5 and `force_match_for_each_row`: an anchor takes the object that it
/// overlaps most, if at least by half; every object takes its best anchor, the first object winning a dispute.
pub fn matched(anchors: &[BoxYxyx], truths: &[Truth]) -> Vec<Option<usize>> {
    let shown: Vec<usize> = (0..truths.len()).filter(|&t| truths[t].shown()).collect();
    let mut forced: Vec<Option<(usize, f32)>> = vec![None; truths.len()];
    let mut matched: Vec<Option<usize>> = vec![None; anchors.len()];
    for (number, anchor) in anchors.iter().enumerate() {
        let mut most = (0, -1.0);
        for &t in &shown {
            let overlap = anchor.iou(&truths[t].bbox);
            if overlap > most.1 {
                most = (t, overlap);
            }
            if forced[t].is_none_or(|(_, best)| overlap > best) {
                forced[t] = Some((number, overlap));
            }
        }
        matched[number] = (most.1 >= MATCHED).then_some(most.0);
    }
    for &t in shown.iter().rev() {
        if let Some((anchor, _)) = forced[t] {
            matched[anchor] = Some(t);
        }
    }
    matched
}

/// A kept cell of a map.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kept {
    /// Its number, row by row.
    pub cell: usize,
    /// How many cells it stands for.
    pub stands_for: f32,
}

/// From so many views on cells without an object are thinned, so that a fit costs no more than for so many: what the first
/// four hundred views say of background the next say again.
const TELLING_VIEWS: usize = 400;

/// One of how many plain background cells is kept: large maps have hundreds that are all alike.
pub fn background_share(cells: usize) -> u32 {
    match cells {
        0..100 => 1,
        100..300 => 8,
        _ => 32,
    }
}

/// The cells of a map that are kept: all that `hot` says of one of their anchors, of those near objects a share that depends on
/// how many views there are, of plain background a smaller one. A hash of their number chooses.
///
/// `view` is the number of the view among all `views`.
pub fn select(
    level: &Level,
    (view, views): (usize, usize),
    overlap: &[f32],
    hot: impl Fn(usize) -> bool,
) -> Vec<Kept> {
    let near = |anchor: usize| overlap.get(anchor).is_some_and(|&overlap| overlap > NEAR);
    let crowded = (views as f64 / TELLING_VIEWS as f64).max(1.0);
    let keep = |cell: usize| {
        let first = level.first_anchor + cell * level.anchors;
        let mut anchors = first..first + level.anchors;
        let one_in = match () {
            () if anchors.clone().any(&hot) => 1.0,
            () if anchors.any(near) => crowded,
            () => crowded * f64::from(background_share(level.cells())),
        };
        // Knuth's multiplicative hash: spread evenly, the same for every run.
        let hash = ((view * level.cells() + cell) as u32).wrapping_mul(2_654_435_761);
        (f64::from(hash) * one_in < 4_294_967_296.0).then_some(Kept { cell, stands_for: one_in as f32 })
    };
    (0..level.cells()).filter_map(keep).collect()
}

impl Targets {
    /// The cells of a map that are kept: those with a target or with something unknown, and a share, see [`select`].
    pub fn select(&self, level: &Level, view: (usize, usize)) -> Vec<Kept> {
        let each = |anchor: usize| anchor * self.classes..(anchor + 1) * self.classes;
        select(level, view, &self.overlap, |anchor| {
            self.target[each(anchor)].iter().any(|&y| y > 0.0) || self.weight[each(anchor)].contains(&0.0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn across(xmin: f32, xmax: f32) -> BoxYxyx {
        BoxYxyx::new(0.0, xmin, 1.0, xmax)
    }

    fn truth(class: usize, xmin: f32, xmax: f32) -> Truth {
        Truth { class, bbox: across(xmin, xmax), visible: 1.0, crowd: false }
    }

    #[test]
    fn soft_targets() {
        let whole = truth(0, 0.0, 0.5);
        let crowd = Truth { crowd: true, ..whole };
        let hidden = Truth { visible: 0.1, ..whole };
        let unseen = Truth { visible: 0.01, ..whole };
        let exact = across(0.0, 0.5);
        let wide = across(0.0, 0.75);
        let thin = across(0.0, 0.1875);
        let far = across(0.6, 1.0);
        for (name, anchor, decoded, truths, target, weight) in [
            ("both fit", exact, exact, vec![whole], 1.0, 1.0),
            ("a third too wide", exact, wide, vec![whole], (2.0 / 3.0 - 0.5) / 0.35, 1.0),
            ("anchor half way", thin, exact, vec![whole], (0.375 - 0.25) / 0.25, 1.0),
            ("anchor far away", far, exact, vec![whole], 0.0, 1.0),
            ("box far away", exact, far, vec![whole], 0.0, 1.0),
            ("outside counts not", exact, across(-0.5, 0.5), vec![whole], 1.0, 1.0),
            ("crowd", exact, far, vec![crowd], 0.0, 0.0),
            ("barely visible", far, exact, vec![hidden], 0.0, 0.0),
            ("not visible", exact, exact, vec![unseen], 0.0, 1.0),
            ("crowd under an object", exact, exact, vec![whole, crowd], 1.0, 1.0),
            ("another class", exact, exact, vec![truth(1, 0.0, 0.5)], 0.0, 1.0),
            ("a class beyond", exact, exact, vec![truth(9, 0.0, 0.5)], 0.0, 1.0),
            ("nothing", exact, exact, vec![], 0.0, 1.0),
        ] {
            let got = soft(&[anchor], &[decoded], &truths, 2);
            assert!((got.target[0] - target).abs() < 1e-5, "{name}: {:?}", got.target);
            assert_eq!(got.weight[0], weight, "{name}");
        }
    }

    #[test]
    fn matches_like_the_api() {
        let anchors = [across(0.0, 0.5), across(0.5, 1.0), across(0.0, 0.6), across(0.9, 1.0)];
        for (name, truths, expected) in [
            ("none", vec![], [None; 4]),
            ("both that fit", vec![truth(0, 0.0, 0.5)], [Some(0), None, Some(0), None]),
            ("forced", vec![truth(0, 0.3, 0.6)], [None, None, Some(0), None]),
            ("the first wins", vec![truth(0, 0.9, 0.95), truth(1, 0.9, 0.96)], [None, None, None, Some(0)]),
            ("most overlap", vec![truth(0, 0.0, 0.6), truth(1, 0.0, 0.5)], [Some(1), None, Some(0), None]),
            ("crowd", vec![Truth { crowd: true, ..truth(0, 0.0, 0.5) }], [None; 4]),
        ] {
            assert_eq!(matched(&anchors, &truths), expected, "{name}");
        }
    }

    #[test]
    fn keeps_what_matters_and_a_share_of_the_rest() {
        let level = Level { height: 20, width: 20, anchors: 2, depth: 1, layer: 0, first_anchor: 10 };
        let mut overlap = vec![0.0; 810];
        overlap[10 + 2 * 7 + 1] = 0.21;
        let kept = select(&level, (3, 10), &overlap, |anchor| anchor == 10 + 2 * 9);
        let ones: Vec<usize> = kept.iter().filter(|k| k.stands_for == 1.0).map(|k| k.cell).collect();
        assert_eq!(ones, [7, 9]);
        let total: f32 = kept.iter().map(|k| k.stands_for).sum();
        assert!((300.0..500.0).contains(&total), "{total}");
        let small = Level { height: 5, width: 5, ..level };
        assert_eq!(select(&small, (0, 10), &overlap, |_| false).len(), 25);
    }

    #[test]
    fn many_views_keep_objects_and_thin_the_rest() {
        let level = Level { height: 9, width: 9, anchors: 1, depth: 1, layer: 0, first_anchor: 0 };
        let near = vec![1.0; 81];
        for (views, one_in) in [(400, 1.0), (2000, 5.0)] {
            let kept: Vec<Kept> = (0..100)
                .flat_map(|view| select(&level, (view, views), &near, |anchor| anchor == 40))
                .collect();
            let hot = kept.iter().filter(|kept| kept.cell == 40);
            assert!(hot.clone().all(|kept| kept.stands_for == 1.0) && hot.count() == 100, "{views}");
            let others: Vec<&Kept> = kept.iter().filter(|kept| kept.cell != 40).collect();
            assert!(others.iter().all(|kept| kept.stands_for == one_in), "{views}");
            let stand_for: f32 = others.iter().map(|kept| kept.stands_for).sum();
            assert!((stand_for - 8000.0).abs() < 400.0, "{views}: {stand_for}");
        }
    }
}
