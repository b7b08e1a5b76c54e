//! What fits find of a class in pictures that they did not see, and at which logit a score of one half belongs.

use serde::Serialize;

use super::features::Seen;
use crate::data::BoxYxyx;
use crate::eval::OVERLAP;
use crate::eval::matching::{Pairs, Scored, Truth};

/// How much more the recall counts than the precision: half as much. A class that is new to a detector is rare where the
/// detector is used, and its training pictures are full of it.
const BETA: f64 = 0.5;
/// Logits over which a found or a false object is counted by parts, so that one picture does not decide.
const SOFTNESS: f64 = 0.3;
/// The division where nothing is known of pictures that were not seen.
pub(super) const PRIOR: f64 = 1.0;
/// Pictures with the object that weigh as much as that belief.
const DOUBT: f64 = 3.0;
/// Where the division is looked for, logits.
const RANGE: (f64, f64) = (-1.0, 5.0);
/// Detections below this logit are of no account.
pub(super) const FLOOR: f64 = -5.0;

/// Where a class's score of one half was put, and what held-out pictures said there.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Division {
    /// The logit of the fit that became a score of one half; 0 where nothing was moved.
    pub logit: f64,
    /// Held-out pictures that were looked at.
    pub pictures: usize,
    /// Objects in them.
    pub objects: usize,
    /// Of these, how many are found from a score of one half on.
    pub found: usize,
    /// False detections from a score of one half on.
    pub wrong: usize,
}

impl Division {
    /// The fit's own zero.
    pub const NONE: Self = Self { logit: 0.0, pictures: 0, objects: 0, found: 0, wrong: 0 };

    /// What it says of a class, for people; nothing where nothing was moved.
    pub fn sentence(&self, class: &str) -> Option<String> {
        let Self { pictures, objects, found, wrong, .. } = self;
        match pictures {
            0 if self.logit == 0.0 => None,
            0 => Some(format!(
                "{class}: no picture could be held out; one half stands for a high logit, to be on the safe side"
            )),
            _ => Some(format!(
                "{class}: {found} of {objects} objects in {pictures} held-out pictures score 0.5 or more, and {wrong} false \
                 detections"
            )),
        }
    }
}

/// What is found of one class in held-out pictures.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    /// Logits of detections on objects, each object counted once.
    right: Vec<f64>,
    /// Logits of all others, but for those on what counts neither way.
    wrong: Vec<f64>,
    objects: usize,
    pictures: usize,
    /// Pictures that show an object.
    showing: usize,
}

impl Found {
    /// Adds what was found in one view, the best first. Where boxes are `loose`, what lies on an object of the class counts
    /// neither way, unless it is the best that fits: the last regression would move it there, where it is suppressed.
    pub(super) fn add(&mut self, seen: &Seen, class: usize, detections: &[(f64, BoxYxyx)], loose: bool) {
        let corner = |b: &BoxYxyx| [b.xmin, b.ymin, b.width(), b.height()].map(f64::from);
        let truth = |t: &super::targets::Truth| Truth {
            class: 0,
            bbox: corner(&t.bbox),
            area: f64::from(t.bbox.area()),
            crowd: t.crowd,
            ignore: !t.shown(),
        };
        let mine = seen.truths.iter().filter(|t| t.class == class);
        let mut truths: Vec<Truth> = mine.map(truth).collect();
        if loose {
            let around = truths.clone().into_iter().filter(|t| !t.crowd);
            truths.extend(around.map(|t| Truth { crowd: true, ..t }));
        }
        let scored: Vec<Scored> =
            detections.iter().map(|(logit, b)| Scored { class: 0, bbox: corner(b), score: *logit }).collect();
        let matched = Pairs::new(truths.iter().collect(), scored.iter().collect(), usize::MAX)
            .evaluate((0.0, f64::INFINITY), &[OVERLAP]);
        self.pictures += 1;
        self.objects += matched.positives;
        self.showing += usize::from(matched.positives > 0);
        for ((&logit, found), ignored) in
            matched.scores.iter().zip(&matched.found[0]).zip(&matched.ignored[0])
        {
            match (*found, *ignored) {
                (_, true) => {}
                (true, false) => self.right.push(logit),
                (false, false) => self.wrong.push(logit),
            }
        }
    }

    /// The area under precision over recall, each precision the best of its recall or more; none without objects.
    pub(super) fn average_precision(&self) -> Option<f64> {
        let right = self.right.iter().map(|logit| (*logit, true));
        let mut all: Vec<_> = right.chain(self.wrong.iter().map(|logit| (*logit, false))).collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut found = 0usize;
        let mut precisions = Vec::new();
        for (at, _) in all.iter().enumerate().filter(|(_, (_, right))| *right) {
            found += 1;
            precisions.push(found as f64 / (at + 1) as f64);
        }
        let mut best = 0.0f64;
        let of_recall = precisions.iter().rev().map(|precision| {
            best = best.max(*precision);
            best
        });
        let sum: f64 = of_recall.sum();
        (self.objects > 0).then(|| sum / self.objects as f64)
    }

    /// The logit with the best F-measure, shrunk towards the prior where few pictures speak for it, and `blind` where no object is
    /// found in any picture; a higher one where more false detections of a picture would be above it than `most_false`.
    pub(super) fn division(&self, most_false: Option<f64>, blind: f64) -> Division {
        let above = |logits: &[f64], at: f64| -> f64 {
            logits
                .iter()
                .filter(|logit| **logit >= RANGE.0 - SOFTNESS)
                .map(|logit| 1.0 / (1.0 + ((at - logit) / SOFTNESS).exp()))
                .sum()
        };
        let squared = BETA * BETA;
        let measure = |at: f64| {
            let (found, wrong) = (above(&self.right, at), above(&self.wrong, at));
            let all = (1.0 + squared) * found + squared * (self.objects as f64 - found) + wrong;
            (1.0 + squared) * found / all.max(f64::MIN_POSITIVE)
        };
        const STEPS: usize = 120;
        let place = |step: usize| RANGE.0 + (RANGE.1 - RANGE.0) * step as f64 / STEPS as f64;
        // Where no object is found at any place, all are equally bad, and the pictures say nothing of where objects begin.
        let tells = self.right.iter().any(|logit| *logit >= RANGE.0 - SOFTNESS);
        let places = (0..=STEPS).map(place).filter(|_| tells);
        let best = places.max_by(|a, b| measure(*a).total_cmp(&measure(*b)));
        let evidence = self.showing as f64;
        let blind = if self.pictures == 0 { PRIOR } else { blind };
        let shrunk = |best: f64| PRIOR + (best - PRIOR) * evidence / (evidence + DOUBT);
        let likely = best.map_or(blind, shrunk);
        let most = most_false.map_or(f64::INFINITY, |most| most * self.pictures as f64);
        let higher = (0..=STEPS).map(place).filter(|at| *at > likely);
        let mut few = std::iter::once(likely).chain(higher);
        let logit = few.find(|at| above(&self.wrong, *at) <= most).unwrap_or(likely.max(RANGE.1));
        let count = |logits: &[f64]| logits.iter().filter(|z| **z >= logit).count();
        Division {
            logit,
            pictures: self.pictures,
            objects: self.objects,
            found: count(&self.right),
            wrong: count(&self.wrong),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::outlines::Outlines;
    use super::*;

    #[test]
    fn precision_is_the_area_under_the_curve() {
        let found = |right: &[f64], wrong: &[f64], objects| {
            Found { right: right.to_vec(), wrong: wrong.to_vec(), objects, ..Found::default() }
                .average_precision()
        };
        assert_eq!(found(&[2.0, 1.0], &[0.0], 2), Some(1.0));
        // Precisions 1, 2/3 and 3/4: the second is lifted to the third.
        assert_eq!(found(&[5.0, 3.0, 2.0], &[4.0], 4), Some((1.0 + 0.75 + 0.75) / 4.0));
        assert_eq!(found(&[], &[1.0], 3), Some(0.0));
        assert_eq!(found(&[], &[1.0], 0), None);
    }

    #[test]
    fn few_pictures_move_it_little() {
        let found = |showing: usize| Found {
            right: vec![4.0; showing],
            wrong: vec![2.0; showing],
            objects: showing,
            pictures: showing,
            showing,
        };
        let [few, some, many] = [1, 10, 100].map(|count| found(count).division(None, PRIOR).logit);
        assert!(PRIOR < few && few < some && some < many && many < 4.0, "{few} {some} {many}");
        assert_eq!(Found::default().division(None, PRIOR).logit, PRIOR);
    }

    #[test]
    fn false_detections_can_be_limited() {
        let found = Found {
            right: vec![4.0; 40],
            wrong: (0..40).map(|n| f64::from(n) * 0.1).collect(),
            objects: 40,
            pictures: 80,
            showing: 40,
        };
        let free = found.division(None, PRIOR);
        assert!(free.wrong > 0);
        let mut last = free;
        for most in [0.2, 0.1, 0.02, 0.005] {
            let limited = found.division(Some(most), PRIOR);
            assert!(limited.wrong as f64 <= most * 80.0, "{most}: {limited:?}");
            assert!(limited.logit >= last.logit && limited.found <= last.found, "{most}: {limited:?}");
            last = limited;
        }
        // What is allowed is not aimed at, and what cannot be is come near.
        assert_eq!(found.division(Some(10.0), PRIOR), free);
        assert_eq!(found.division(Some(0.0), PRIOR).logit, RANGE.1);
        // No object was found, whatever else was: the belief stands.
        let blind =
            Found { right: vec![-4.0], wrong: vec![0.5, 3.0], objects: 5, pictures: 5, ..Found::default() };
        assert_eq!((blind.division(None, PRIOR).logit, blind.division(None, PRIOR).wrong), (PRIOR, 1));
        assert_eq!(blind.division(None, 0.0).logit, 0.0);
        // Nothing was seen: so it does.
        assert_eq!(Found::default().division(Some(0.0), 0.0).logit, PRIOR);
    }

    #[test]
    fn doubles_are_wrong_and_crowds_count_neither_way() {
        let truth =
            |bbox: BoxYxyx, crowd| super::super::targets::Truth { class: 0, bbox, visible: 1.0, crowd };
        let (left, right) = (BoxYxyx::new(0.0, 0.0, 1.0, 0.4), BoxYxyx::new(0.0, 0.6, 1.0, 1.0));
        let seen = Seen {
            number: 0,
            of_all: 1,
            of_picture: 1,
            truths: vec![truth(left, false), truth(right, true)],
            outlines: Outlines::default(),
            open: [].into(),
            rgb: Vec::new(),
            size: (1, 1),
        };
        let mut found = Found::default();
        let all = [(3.0, left), (2.0, left), (1.0, right), (0.5, right)];
        found.add(&seen, 0, &all, false);
        assert_eq!((found.right, found.wrong, found.objects), (vec![3.0], vec![2.0], 1));
        // Loose boxes: a double counts neither way, nor a part of the object; what lies beside it is wrong.
        let (part, beside) = (BoxYxyx::new(0.0, 0.0, 0.4, 0.4), BoxYxyx::new(0.0, 0.3, 0.5, 0.9));
        let mut found = Found::default();
        let seen = Seen { truths: vec![truth(left, false)], ..seen };
        found.add(&seen, 0, &[(4.0, part), (3.0, left), (2.0, left), (1.0, beside)], true);
        assert_eq!((found.right, found.wrong, found.objects), (vec![3.0], vec![1.0], 1));
    }
}
