//! What fires where: false detections by class, and which classes fire on the objects of which.
//!
//! Everything here looks at detections from [`SCORE`] on, those that an application would act upon, and at overlaps from
//! [`OVERLAP`] on.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::coco_map::EvalImage;
use super::matching::{Pairs, Scored, Truth};

/// A detection fires from this score on.
pub const SCORE: f64 = 0.5;
/// A detection is on an object from this intersection over union on.
pub const OVERLAP: f64 = 0.5;

/// The classes of a model, by id.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    /// Their names, each of one class.
    pub names: BTreeMap<u32, String>,
    /// Those that the data labels; detections of others may be right without the data knowing.
    pub labelled: BTreeSet<u32>,
    /// The new ones, where that is known.
    pub new: Option<BTreeSet<u32>>,
}

impl Roster {
    /// Whether a class is one of the new ones.
    pub fn is_new(&self, id: u32) -> bool {
        self.new.as_ref().is_some_and(|new| new.contains(&id))
    }
}

/// False detections at [`SCORE`].
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct FalsePositives {
    /// Least score of what counts.
    pub score: f64,
    /// Least overlap with an object of its class at which a detection is right.
    pub overlap: f64,
    /// Every class that the data labels, and others that fire.
    pub per_class: BTreeMap<String, ClassFalsePositives>,
    /// The median over old classes of false positives per picture: over those that the data labels, else over all.
    pub median_old: Option<f64>,
    /// How many old classes that is over.
    pub old_classes: usize,
    /// Whether the data labels them; if not, their "false" detections may be right.
    pub old_labelled: bool,
}

/// False detections of one class.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ClassFalsePositives {
    /// Detections that fire.
    pub detections: usize,
    /// Those on no object of the class; doubles count too, those on crowds and difficult objects do not.
    pub false_positives: usize,
    /// The same for each picture.
    pub per_image: f64,
    /// Whether the data labels the class.
    pub labelled: bool,
}

/// Counts false positives as COCO's matching has them, at one overlap and one score.
pub fn false_positives(images: &[EvalImage], roster: &Roster) -> FalsePositives {
    let mut counts: BTreeMap<u32, ClassFalsePositives> =
        roster.names.keys().map(|&id| (id, ClassFalsePositives::default())).collect();
    for image in images {
        let mut firing: BTreeMap<u32, Vec<&Scored>> = BTreeMap::new();
        for detection in image.detections.iter().filter(|d| fires(d)) {
            firing.entry(detection.class).or_default().push(detection);
        }
        for (class, detections) in firing {
            let truths: Vec<&Truth> = image.truths.iter().filter(|t| t.class == class).collect();
            let entry = counts.entry(class).or_default();
            entry.detections += detections.len();
            let matched =
                Pairs::new(truths, detections, usize::MAX).evaluate((0.0, f64::INFINITY), &[OVERLAP]);
            entry.false_positives +=
                (0..matched.scores.len()).filter(|&d| !matched.found[0][d] && !matched.ignored[0][d]).count();
        }
    }
    let pictures = images.len().max(1) as f64;
    for (id, entry) in &mut counts {
        entry.labelled = roster.labelled.contains(id);
        entry.per_image = entry.false_positives as f64 / pictures;
    }
    let rates = |labelled: bool| -> Vec<f64> {
        let old = |id: &u32| roster.new.is_some() && !roster.is_new(*id);
        counts
            .iter()
            .filter(|(id, e)| old(id) && (e.labelled || !labelled))
            .map(|(_, e)| e.per_image)
            .collect()
    };
    let of_labelled = rates(true);
    let old_labelled = !of_labelled.is_empty();
    let old = if old_labelled { of_labelled } else { rates(false) };
    FalsePositives {
        score: SCORE,
        overlap: OVERLAP,
        old_classes: old.len(),
        old_labelled,
        median_old: median(old),
        per_class: counts
            .into_iter()
            .filter(|(_, entry)| entry.labelled || entry.detections > 0)
            .map(|(id, entry)| (name(roster, id), entry))
            .collect(),
    }
}

/// What fires on the objects of one class.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct FiredOn {
    /// Objects of the class, without crowds and difficult ones.
    pub objects: usize,
    /// By class, the objects on which it fires; one object may have several.
    pub by: BTreeMap<String, usize>,
    /// Objects on which nothing fires.
    pub nothing: usize,
}

/// Which classes fire on the objects of each class that the data labels.
pub fn confusion(images: &[EvalImage], roster: &Roster) -> BTreeMap<String, FiredOn> {
    let mut out: BTreeMap<String, FiredOn> = BTreeMap::new();
    for image in images {
        for truth in image.truths.iter().filter(|t| !t.crowd && !t.ignore) {
            let entry = out.entry(name(roster, truth.class)).or_default();
            entry.objects += 1;
            let on = |d: &&Scored| fires(d) && d.overlap(truth) >= OVERLAP;
            let by: BTreeSet<u32> = image.detections.iter().filter(on).map(|d| d.class).collect();
            entry.nothing += usize::from(by.is_empty());
            for class in by {
                *entry.by.entry(name(roster, class)).or_default() += 1;
            }
        }
    }
    out
}

fn fires(d: &Scored) -> bool {
    d.score >= SCORE && d.bbox.iter().all(|v| v.is_finite())
}

fn name(roster: &Roster, id: u32) -> String {
    roster.names.get(&id).cloned().unwrap_or_else(|| format!("class_{id}"))
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(class: u32, x: f64) -> Truth {
        Truth { class, bbox: [x, 0.0, 10.0, 10.0], area: 100.0, crowd: false, ignore: false }
    }

    fn found(class: u32, x: f64, score: f64) -> Scored {
        Scored { class, bbox: [x, 0.0, 10.0, 10.0], score }
    }

    fn roster() -> Roster {
        Roster {
            names: (1..=5).map(|id| (id, format!("c{id}"))).collect(),
            labelled: BTreeSet::from([1, 2, 5]),
            new: Some(BTreeSet::from([5])),
        }
    }

    fn images() -> Vec<EvalImage> {
        let crowd = Truth { crowd: true, ..truth(5, 200.0) };
        vec![
            EvalImage {
                truths: vec![truth(5, 0.0), truth(1, 50.0), crowd],
                detections: vec![
                    found(5, 0.0, 0.9),
                    found(5, 1.0, 0.8),
                    found(5, 200.0, 0.8),
                    found(2, 2.0, 0.7),
                    found(3, 2.0, 0.5),
                    found(1, 0.0, 0.49),
                    found(5, 50.0, 0.6),
                    found(1, 50.0, f64::NAN),
                ],
                ..EvalImage::default()
            },
            EvalImage {
                truths: vec![truth(5, 100.0), Truth { ignore: true, ..truth(2, 0.0) }],
                detections: vec![found(2, 0.0, 1.0), found(2, 100.0, 0.9), found(2, 106.0, 0.9)],
                ..EvalImage::default()
            },
        ]
    }

    #[test]
    fn false_positives_per_picture() {
        let got = false_positives(&images(), &roster());
        let of =
            |class: &str| got.per_class.get(class).map(|c| (c.detections, c.false_positives, c.labelled));
        // One on its object, one double, one on a crowd, one on an object of another class.
        assert_eq!(of("c5"), Some((4, 2, true)));
        assert_eq!(of("c2"), Some((4, 3, true)));
        assert_eq!(of("c3"), Some((1, 1, false)));
        assert_eq!(of("c1"), Some((0, 0, true)));
        assert_eq!(of("c4"), None);
        assert_eq!(got.per_class["c2"].per_image, 1.5);
        assert_eq!((got.median_old, got.old_classes, got.old_labelled), (Some(0.75), 2, true));
        let nothing_labelled = Roster { labelled: BTreeSet::new(), ..roster() };
        let got = false_positives(&images(), &nothing_labelled);
        assert_eq!((got.median_old, got.old_classes, got.old_labelled), (Some(0.25), 4, false));
        let unknown = Roster { new: None, ..roster() };
        assert_eq!(false_positives(&images(), &unknown).median_old, None);
    }

    #[test]
    fn who_fires_on_whom() {
        let got = confusion(&images(), &roster());
        let by = |list: &[(&str, usize)]| list.iter().map(|(n, c)| ((*n).to_owned(), *c)).collect();
        // Class 2 lies 2 of 10 pixels off on the one, 6 off and exactly on the other.
        let five = FiredOn { objects: 2, by: by(&[("c2", 2), ("c3", 1), ("c5", 1)]), nothing: 0 };
        assert_eq!(got["c5"], five);
        assert_eq!(got["c1"], FiredOn { objects: 1, by: by(&[("c5", 1)]), nothing: 0 });
        assert_eq!(got.get("c2"), None, "ignored objects do not count");
    }
}
