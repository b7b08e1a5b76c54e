//! What given columns find in a picture, as serving would: candidates of one class, each with a logit and a box.

use super::division::PRIOR;
use super::features::Seen;
use super::loss::Logits;
use super::network::{Heatmap, Regions};
use super::parameters::Columns;
use super::rois::log_sum;
use super::shape::{Backbone, Input};
use crate::data::BoxYxyx;
use crate::error::Result;

/// Suppression of overlapping detections, as nearly all configurations of the OD API have it.
const SUPPRESSED: f32 = 0.6;
/// The logit of a score that rounds to one.
const SURE: f64 = 20.0;

/// Candidates: at which logit, and where.
pub type Candidates = Vec<(f64, BoxYxyx)>;

/// A network that tells what columns find.
pub trait Finder: Sync {
    /// The pictures it takes.
    fn input(&self) -> Input;

    /// Whether boxes are those before the last regression: such a box lies loosely about its object.
    fn is_loose(&self) -> bool;

    /// The logit of one half where no object was found in any held-out picture: zero, where new scores are fitted as old ones are.
    fn blind(&self) -> f64 {
        0.0
    }

    /// From which overlap on serving drops the worse of two detections; none where it drops none.
    fn suppression(&self) -> Option<f32> {
        Some(SUPPRESSED)
    }

    /// For each set of columns and each of these `classes`, of so many in all, what it finds in a view from the logit `least` on.
    /// What columns read is computed once for all sets.
    fn find(
        &self,
        seen: &Seen,
        sets: &[Vec<Columns>],
        classes: (&[usize], usize),
        least: f64,
        logits: &Logits,
    ) -> Result<Vec<Vec<Candidates>>>;
}

/// A network with one answer for each anchor; its scores are sigmoids.
pub struct OfAnchors<'a>(pub &'a dyn Backbone);

impl Finder for OfAnchors<'_> {
    fn input(&self) -> Input {
        self.0.shape().input
    }

    fn is_loose(&self) -> bool {
        false
    }

    fn blind(&self) -> f64 {
        PRIOR
    }

    fn find(
        &self,
        seen: &Seen,
        sets: &[Vec<Columns>],
        (wanted, classes): (&[usize], usize),
        least: f64,
        logits: &Logits,
    ) -> Result<Vec<Vec<Candidates>>> {
        let features = self.0.run(&seen.rgb, seen.size.0, seen.size.1)?;
        let of_class = |columns: &[Columns], class: usize| -> Result<Candidates> {
            let mut found = Vec::new();
            for (level, x) in self.0.shape().levels.iter().zip(&features.levels) {
                let Some(columns) = columns.get(level.layer) else { continue };
                let [w, b] = columns.only(&[class], classes).tensors()?;
                for (at, &logit) in logits.run(x, &w, &b)?.f32()?.iter().enumerate() {
                    if let Some(bbox) = features.boxes.get(level.first_anchor + at)
                        && f64::from(logit) >= least
                    {
                        found.push((f64::from(logit), bbox.clip()));
                    }
                }
            }
            Ok(found)
        };
        let of_set = |set: &Vec<Columns>| wanted.iter().map(|&class| of_class(set, class)).collect();
        sets.iter().map(of_set).collect()
    }
}

/// A network that judges regions; its scores are a softmax, of which a class has one half where its logit is that of all other
/// classes together. Boxes are the proposals.
pub(super) struct OfRegions<'a>(pub &'a dyn Regions);

impl Finder for OfRegions<'_> {
    fn input(&self) -> Input {
        self.0.input()
    }

    fn is_loose(&self) -> bool {
        true
    }

    fn find(
        &self,
        seen: &Seen,
        sets: &[Vec<Columns>],
        (wanted, classes): (&[usize], usize),
        least: f64,
        logits: &Logits,
    ) -> Result<Vec<Vec<Candidates>>> {
        let proposals = self.0.propose(&seen.rgb, seen.size.0, seen.size.1)?;
        let looked = self.0.look(&proposals, &proposals.boxes)?;
        let Some(x) = looked.of_layer.first().and_then(|&at| looked.features.get(at)) else {
            return Ok(vec![vec![Vec::new(); wanted.len()]; sets.len()]);
        };
        let wide = looked.logits.len() / proposals.boxes.len().max(1);
        let of_set = |set: &Vec<Columns>| -> Result<Vec<Candidates>> {
            let mut found = vec![Vec::new(); wanted.len()];
            let Some(columns) = set.first() else { return Ok(found) };
            let [w, b] = columns.tensors()?;
            let new = logits.run(x, &w, &b)?;
            let regions = new.f32()?.chunks_exact(classes).zip(looked.logits.chunks_exact(wide.max(1)));
            for ((new, old), bbox) in regions.zip(&proposals.boxes) {
                let bbox = bbox.clip();
                if bbox.area() <= 0.0 {
                    continue;
                }
                for (found, &class) in found.iter_mut().zip(wanted) {
                    let logit = odds(new, old, class);
                    if logit >= least {
                        found.push((logit, bbox));
                    }
                }
            }
            Ok(found)
        };
        sets.iter().map(of_set).collect()
    }
}

/// A network that ranks the peaks of a heatmap; its scores are sigmoids. The model's own ranking says where its detections lie.
pub(super) struct OfCells<'a>(pub &'a Heatmap);

impl Finder for OfCells<'_> {
    fn input(&self) -> Input {
        self.0.input()
    }

    fn is_loose(&self) -> bool {
        false
    }

    fn suppression(&self) -> Option<f32> {
        None
    }

    fn find(
        &self,
        seen: &Seen,
        sets: &[Vec<Columns>],
        (wanted, classes): (&[usize], usize),
        least: f64,
        logits: &Logits,
    ) -> Result<Vec<Vec<Candidates>>> {
        let [x, _] = self.0.run(&seen.rgb, seen.size.0, seen.size.1)?;
        let at_once = self.0.detects().unwrap_or(1).max(1);
        let of_set = |set: &Vec<Columns>| -> Result<Vec<Candidates>> {
            let mut found = vec![Vec::new(); wanted.len()];
            let Some(columns) = set.first() else { return Ok(found) };
            for (some, found) in wanted.chunks(at_once).zip(found.chunks_mut(at_once)) {
                let [w, b] = columns.only(some, classes).tensors()?;
                let heatmap = logits.run(&x, &w, &b)?;
                for (at, score, bbox) in self.0.detect((&seen.rgb, seen.size), heatmap.f32()?, some.len())? {
                    let score = f64::from(score);
                    let logit = (score / (1.0 - score)).ln();
                    if logit >= least && bbox.area() > 0.0 {
                        found[at].push((logit.min(SURE), bbox));
                    }
                }
            }
            Ok(found)
        };
        sets.iter().map(of_set).collect()
    }
}

/// The logarithm of a class's odds in a softmax of old and new logits.
fn odds(new: &[f32], old: &[f32], class: usize) -> f64 {
    let others = new.iter().enumerate().filter(|(at, _)| *at != class).map(|(_, z)| z).chain(old);
    f64::from(new[class]) - f64::from(log_sum(&others.copied().collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odds_are_those_of_the_softmax() {
        let (new, old) = ([1.5f32, -0.5], [0.25f32, 2.0, -3.0]);
        let sum: f64 = new.iter().chain(&old).map(|z| f64::from(*z).exp()).sum();
        for class in 0..2 {
            let score = f64::from(new[class]).exp() / sum;
            let found = odds(&new, &old, class);
            assert!((found - (score / (1.0 - score)).ln()).abs() < 1e-6, "{found}");
        }
        // Nothing overflows.
        assert!((odds(&[900.0], &[-900.0], 0) - 1800.0).abs() < 1e-6);
    }
}
