//! The bar that a model must clear: how good new classes must be, how little old ones may lose.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::coco_map::ClassMetrics;
use crate::error::{Error, Result};

/// A number at its limit passes, also where binary fractions put it a hair beyond (0.50 - 0.49 is more than 0.01).
const ROUNDING: f64 = 1e-9;

/// Limits on average precision (COCO's, boxes, over overlaps 0.50 to 0.95), each for every single class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Gate {
    /// Every new class has at least this.
    pub min_new_ap: Option<f64>,
    /// No old class has lost more than this.
    pub max_old_drop: Option<f64>,
}

/// What a gate said.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// The limits.
    #[serde(flatten)]
    pub gate: Gate,
    /// Whether all classes are within them.
    pub passed: bool,
    /// Those that are not.
    pub failures: Vec<Failure>,
}

/// A class beyond its limit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Failure {
    /// Its name.
    pub class: String,
    /// Its average precision before, for an old class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<f64>,
    /// Its average precision.
    pub ap: f64,
    /// The limit that it broke.
    pub limit: f64,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { class, before, ap, limit } = self;
        match before {
            None => write!(f, "new class {class}: AP {ap:.4} is below --min-new-ap {limit}"),
            Some(before) => write!(
                f,
                "old class {class}: AP fell by {:.4} ({before:.4} → {ap:.4}), more than --max-old-drop {limit}",
                before - ap
            ),
        }
    }
}

/// Objects that count, of one class.
type Objects<'a> = (&'a str, usize);

impl Gate {
    /// Whether no limit is set.
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// Errors where the data cannot answer: a limit on new classes needs objects of each, one on old classes of at least
    /// one of them.
    pub fn check_data<'a>(
        &self,
        new: impl IntoIterator<Item = Objects<'a>>,
        old: impl IntoIterator<Item = Objects<'a>>,
    ) -> Result<()> {
        if self.min_new_ap.is_some() {
            let mut none = true;
            for (name, objects) in new {
                none = false;
                if objects == 0 {
                    return Err(Error::Data(format!(
                        "--min-new-ap: the data to measure on has no object of the new class {name:?}; add pictures of it"
                    )));
                }
            }
            if none {
                return Err(Error::Usage(
                    "--min-new-ap: the data has no new class; say which are new with --new NAME or --old-classes N".into(),
                ));
            }
        }
        if self.max_old_drop.is_some() && old.into_iter().all(|(_, objects)| objects == 0) {
            return Err(Error::Data(
                "--max-old-drop: the data to measure on has no object of an old class, so that nothing can be said of \
                 them; add labelled pictures of old classes"
                    .into(),
            ));
        }
        Ok(())
    }

    /// Holds the measures of new classes, and of old ones before and after, against the limits.
    ///
    /// Errors: [`Error::Data`] for an old class that was measured before and is not now, or on other objects.
    pub fn judge(
        &self,
        new: &BTreeMap<String, ClassMetrics>,
        old_before: &BTreeMap<String, ClassMetrics>,
        old_after: &BTreeMap<String, ClassMetrics>,
    ) -> Result<Verdict> {
        let mut failures = Vec::new();
        if let Some(limit) = self.min_new_ap {
            for (class, metrics) in new {
                let ap = metrics.ap.unwrap_or(0.0);
                if ap < limit - ROUNDING {
                    failures.push(Failure { class: class.clone(), before: None, ap, limit });
                }
            }
        }
        if let Some(limit) = self.max_old_drop {
            let unknown = |(name, metrics): &(&String, &ClassMetrics)| {
                metrics.objects > 0 && !old_before.contains_key(*name)
            };
            if let Some((class, _)) = old_after.iter().find(unknown) {
                return Err(Error::Data(format!(
                    "--max-old-drop: the baseline does not know the old class {class:?}; if it is new, name it with --new"
                )));
            }
            for (class, before) in old_before {
                let objects = old_after.get(class).map_or(0, |after| after.objects);
                if objects != before.objects {
                    return Err(Error::Data(format!(
                        "--max-old-drop: the baseline was measured on {} objects of {class:?}, this model on {objects}; \
                         measure both on the same data",
                        before.objects
                    )));
                }
                let Some((before, ap)) = before.ap.zip(old_after.get(class).and_then(|after| after.ap))
                else {
                    continue;
                };
                if before - ap > limit + ROUNDING {
                    failures.push(Failure { class: class.clone(), before: Some(before), ap, limit });
                }
            }
        }
        Ok(Verdict { gate: *self, passed: failures.is_empty(), failures })
    }
}

impl Verdict {
    /// The check that said no, with a line for each class; nothing where all passed.
    pub fn check(&self) -> Result<()> {
        if self.passed {
            return Ok(());
        }
        let lines: Vec<String> = self.failures.iter().map(Failure::to_string).collect();
        Err(Error::CheckFailed(lines.join("\n")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(list: &[(&str, usize, Option<f64>)]) -> BTreeMap<String, ClassMetrics> {
        let metrics = |objects, ap| ClassMetrics { objects, ap, ..ClassMetrics::default() };
        list.iter().map(|&(name, objects, ap)| (name.to_owned(), metrics(objects, ap))).collect()
    }

    #[test]
    fn names_the_class_and_the_number() {
        let gate = Gate { min_new_ap: Some(0.4), max_old_drop: Some(0.01) };
        let new = measured(&[("cat", 3, Some(0.4)), ("kangaroo", 3, Some(0.3412))]);
        let before = measured(&[("dog", 5, Some(0.5)), ("cow", 5, Some(0.5)), ("owl", 0, None)]);
        let after = measured(&[("dog", 5, Some(0.49)), ("cow", 5, Some(0.45)), ("owl", 0, None)]);
        let verdict = gate.judge(&new, &before, &after).unwrap();
        assert!(!verdict.passed);
        let text = verdict.check().unwrap_err().to_string();
        assert!(text.contains("kangaroo: AP 0.3412 is below --min-new-ap 0.4"), "{text}");
        assert!(
            text.contains("cow: AP fell by 0.0500 (0.5000 → 0.4500), more than --max-old-drop 0.01"),
            "{text}"
        );
        assert!(!text.contains("cat") && !text.contains("dog"), "limits themselves pass: {text}");
        assert_eq!(verdict.check().unwrap_err().exit_code(), 1);
        let open = Gate::default().judge(&new, &before, &after).unwrap();
        assert!(open.passed && open.check().is_ok());
    }

    #[test]
    fn what_the_data_cannot_answer_is_refused() {
        let gate = Gate { min_new_ap: Some(0.4), max_old_drop: Some(0.01) };
        for (new, old, part) in [
            (vec![("a", 0)], vec![("b", 1)], "\"a\""),
            (vec![], vec![("b", 1)], "no new class"),
            (vec![("a", 1)], vec![("b", 0)], "no object of an old class"),
            (vec![("a", 1)], vec![], "no object of an old class"),
        ] {
            let error = gate.check_data(new, old).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
        assert!(gate.check_data([("a", 1)], [("b", 0), ("c", 2)]).is_ok());
        assert!(Gate::default().check_data([], []).is_ok());
        let (before, after) = (measured(&[("dog", 5, Some(0.5))]), measured(&[("dog", 4, Some(0.5))]));
        let refused = |before, after| gate.judge(&BTreeMap::new(), before, after).unwrap_err().to_string();
        assert!(refused(&before, &after).contains("same data"));
        assert!(refused(&BTreeMap::new(), &after).contains("does not know the old class \"dog\""));
    }
}
