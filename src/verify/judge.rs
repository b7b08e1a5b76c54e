//! Holds outputs against expected ones, by the kind of comparison that fits each.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::array::{Array, Outputs};
use super::detections::{self, BOXES, CLASSES, COUNT, Detections, Matching, Rule, SCORES, match_lists};
use super::numbers::{Difference, Tolerance, Worst, compare};

/// The list of detections among the comparisons: its four outputs are compared as one.
pub const LIST: &str = "detections";

/// How an output is compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Kind {
    /// Bit by bit.
    Exact {},
    /// Number by number, within a tolerance.
    Close(Tolerance),
    /// As a list whose order may change where scores tie.
    Detections(Rule),
    /// Not at all.
    None {
        /// Why not.
        why: String,
    },
}

/// What fits an output where nobody said otherwise.
///
/// Measured on the COCO model of the tests' shared folder: one thread against two moves raw scores and boxes by at most
/// 2.7e-7; a change of 1e-3 in one weight of a class layer moves its scores by up to 4.5e-6.
pub const CLOSE: Tolerance = Tolerance { rtol: 1e-5, atol: 1e-6 };

/// See [`CLOSE`].
pub const RULE: Rule = Rule { iou: 0.99, edge: 1e-4, score: 1e-3 };

/// The comparisons for a model's outputs.
pub fn kinds(outputs: &Outputs, strings: &[String], close: Tolerance) -> BTreeMap<String, Kind> {
    let mut kinds = BTreeMap::new();
    let list = Detections::of(outputs).is_some();
    for (name, array) in outputs {
        let kind = match name.as_str() {
            BOXES | SCORES | CLASSES | COUNT if list => continue,
            "detection_anchor_indices" if list => {
                Kind::None { why: "which of two like anchors won is left to rounding".into() }
            }
            _ if array.is_float() => Kind::Close(close),
            _ => Kind::Exact {},
        };
        kinds.insert(name.clone(), kind);
    }
    if list {
        kinds.insert(LIST.into(), Kind::Detections(RULE));
    }
    for name in strings {
        kinds.insert(name.clone(), Kind::None { why: "strings are not read".into() });
    }
    kinds
}

/// Classes of a model that has grown since the expected outputs were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Growth {
    /// Classes then.
    pub classes: usize,
    /// Classes since.
    pub added: usize,
}

/// The judgement of one output over all pictures.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verdict {
    /// The output, or [`LIST`].
    pub output: String,
    /// The kind of comparison.
    pub kind: &'static str,
    /// Whether it is as expected.
    pub passed: bool,
    /// Numbers, or detections, compared.
    pub compared: usize,
    /// How many of them differ.
    pub differing: usize,
    /// Largest difference of two numbers, or of two scores; `null` in JSON where there is no finite one.
    pub largest: f64,
    /// Where it is worst.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worst: Option<Place>,
    /// The tolerance that would pass, where one would.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would_pass: Option<Kind>,
    /// Least overlap of two matched boxes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub least_iou: Option<f32>,
    /// Detections that the end of a full list may have cut off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<usize>,
    /// What cannot be compared at all: an output that is missing, another shape.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// A number that differs.
#[derive(Debug, Clone, Serialize)]
pub struct Place {
    /// The case.
    pub case: String,
    /// The index on each axis.
    pub index: Vec<usize>,
    /// What came out; `null` in JSON where it is no finite number.
    pub got: f64,
    /// What was expected.
    pub expected: f64,
}

/// Judges case by case and keeps the sums.
#[derive(Debug)]
pub struct Judge {
    kinds: BTreeMap<String, Kind>,
    growth: Option<Growth>,
    verdicts: BTreeMap<String, Verdict>,
    /// The least absolute tolerance that would pass, by output.
    needed: BTreeMap<String, f64>,
}

impl Judge {
    /// A judge of outputs that these comparisons fit. With `growth` columns and detections of new classes are passed over.
    pub fn new(kinds: BTreeMap<String, Kind>, growth: Option<Growth>) -> Self {
        let named = kinds.iter().filter(|(_, kind)| !matches!(kind, Kind::None { .. }));
        let verdicts = named.map(|(name, kind)| {
            let kind = match kind {
                Kind::Exact {} => "exact",
                Kind::Close(_) => "close",
                Kind::Detections(_) => "detections",
                Kind::None { .. } => "none",
            };
            (name.clone(), Verdict { output: name.clone(), kind, passed: true, ..Verdict::default() })
        });
        let verdicts = verdicts.collect();
        Self { kinds, growth, verdicts, needed: BTreeMap::new() }
    }

    /// Compares the outputs for one picture.
    pub fn case(&mut self, case: &str, expected: &Outputs, got: &Outputs) {
        let matching = self.list(case, expected, got);
        let mut known: BTreeSet<&str> = self.kinds.keys().map(String::as_str).collect();
        if self.verdicts.contains_key(LIST) {
            known.extend([BOXES, SCORES, CLASSES, COUNT]);
        }
        for name in got.keys().filter(|name| !known.contains(name.as_str())) {
            let verdict = self.verdicts.entry(name.clone()).or_insert_with(|| Verdict {
                output: name.clone(),
                kind: "none",
                ..Verdict::default()
            });
            verdict.problem("the expected outputs have none of this name".into());
        }
        for (name, kind) in &self.kinds {
            let tolerance = match kind {
                Kind::Exact {} => Tolerance::EXACT,
                Kind::Close(tolerance) => *tolerance,
                Kind::Detections(_) | Kind::None { .. } => continue,
            };
            let Some(verdict) = self.verdicts.get_mut(name) else { continue };
            let (Some(want), Some(have)) = (expected.get(name), got.get(name)) else {
                let side = if got.contains_key(name) { "expected outputs have" } else { "model gives" };
                verdict.problem(format!("{case}: the {side} no {name}"));
                continue;
            };
            let added = self.growth.map_or(0, |g| g.added);
            let found = match &matching {
                // What belongs to single detections is compared for those that were matched.
                Some((matching, capacity)) if per_detection(name, want, *capacity) => {
                    let [old, new]: [Vec<usize>; 2] = [
                        matching.pairs.iter().map(|(a, _)| a.row).collect(),
                        matching.pairs.iter().map(|(_, b)| b.row).collect(),
                    ];
                    match (want.rows(&old), have.rows(&new)) {
                        (Some(want), Some(have)) => {
                            compare(&want, &have, added, tolerance).map(|d| (d, Some(want)))
                        }
                        _ => Err(format!("its shape is {:?}, expected {:?}", have.shape, want.shape)),
                    }
                }
                _ => compare(want, have, added, tolerance).map(|d| (d, None)),
            };
            match found {
                Ok((difference, gathered)) => {
                    let place = |w: &Worst| gathered.as_ref().unwrap_or(want).place(w.at);
                    verdict.numbers(case, &difference, place, self.needed.entry(name.clone()).or_default());
                }
                Err(reason) => verdict.problem(format!("{case}: {reason}")),
            }
        }
    }

    fn list(&mut self, case: &str, expected: &Outputs, got: &Outputs) -> Option<(Matching, usize)> {
        let Some(Kind::Detections(rule)) = self.kinds.get(LIST) else { return None };
        let verdict = self.verdicts.get_mut(LIST)?;
        let (Some(want), Some(have)) = (Detections::of(expected), Detections::of(got)) else {
            verdict
                .problem(format!("{case}: boxes, scores, classes or their number are missing or do not fit"));
            return None;
        };
        let matching = match_lists(&want, &have, *rule, self.growth.map(|g| g.classes));
        verdict.list(case, &matching, &want);
        Some((matching, want.capacity))
    }

    /// The verdicts, by output.
    pub fn verdicts(mut self) -> Vec<Verdict> {
        for (name, verdict) in &mut self.verdicts {
            let needed = self.needed.get(name).copied().unwrap_or(0.0);
            if let (Some(Kind::Close(t)), false, true) =
                (self.kinds.get(name), verdict.passed, needed.is_finite())
            {
                verdict.would_pass = Some(Kind::Close(Tolerance { rtol: t.rtol, atol: round_up(needed) }));
            }
        }
        self.verdicts.into_values().collect()
    }
}

impl Verdict {
    fn problem(&mut self, what: String) {
        self.passed = false;
        // One is enough where every picture has the same.
        if self.problems.len() < 3 {
            self.problems.push(what);
        }
    }

    fn numbers(
        &mut self,
        case: &str,
        found: &Difference,
        place: impl Fn(&Worst) -> Vec<usize>,
        needed: &mut f64,
    ) {
        self.compared += found.compared;
        self.differing += found.differing;
        self.passed &= found.differing == 0;
        self.largest = self.largest.max(found.largest);
        let Some(worst) = &found.worst else { return };
        if self.worst.is_none() || worst.atol_needed > *needed {
            self.worst = Some(Place {
                case: case.to_owned(),
                index: place(worst),
                got: worst.got,
                expected: worst.expected,
            });
        }
        *needed = needed.max(worst.atol_needed);
    }

    fn list(&mut self, case: &str, matching: &Matching, expected: &Detections) {
        self.compared += matching.pairs.len() + matching.lost.len() + matching.extra.len();
        self.differing += matching.lost.len() + matching.extra.len();
        self.cut = Some(self.cut.unwrap_or(0) + matching.cut);
        self.largest = self.largest.max(f64::from(matching.score_difference()));
        self.least_iou = Some(self.least_iou.unwrap_or(1.0).min(matching.least_overlap()));
        if matching.pairs.is_empty() && !expected.rows.is_empty() && matching.lost.is_empty() {
            self.problem(format!("{case}: not one detection was found again"));
        }
        self.passed &= matching.lost.is_empty() && matching.extra.is_empty();
        let tell = |what: &str, d: &detections::Row| {
            format!("{case}: {what} class {} with score {:.4} at {:?}", d.class, d.score, d.bounds)
        };
        for d in matching.lost.iter().take(1) {
            self.problem(tell("lost", d));
        }
        for d in matching.extra.iter().take(1) {
            self.problem(tell("not expected", d));
        }
    }
}

/// `[1, capacity, …]`: a row for each detection.
fn per_detection(name: &str, array: &Array, capacity: usize) -> bool {
    name.starts_with("detection_") && array.shape.len() >= 2 && array.shape[..2] == [1, capacity]
}

/// Two digits, never less than the number: what is printed must pass.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 0.0;
    }
    let unit = 10f64.powf(value.log10().floor() - 1.0);
    let mut rounded = (value / unit).ceil() * unit;
    // Powers of ten are not exact, and the text is what people copy.
    let text = format!("{rounded:.1e}");
    rounded = text.parse().unwrap_or(rounded);
    if rounded < value { (value / unit).ceil() * unit + unit } else { rounded }
}
