//! What fits are worth, by detections in pictures that they did not see.
//!
//! A fit to few pictures is surer of them than of new ones, and its training views are full of objects. So the fit is done
//! again without some of the pictures, these are shown whole to the network, as serving shows them, and what the fit finds
//! there is suppressed and matched as an evaluation does it. That says where a score of one half belongs ([`super::division`]),
//! and whether the fit should have gone on: it starts from what old columns have in common and stops early, which is part of
//! its regularisation; where old classes are few or far from the new ones, that is too early.

use std::fmt;

use super::division::{Division, FLOOR, Found};
use super::features::{Seen, Showing};
use super::finder::{Candidates, Finder};
use super::folds::Folds;
use super::incomplete::Weights;
use super::kept::{KeptRows, OpenRows};
use super::loss::Logits;
use super::parameters::Columns;
use crate::data::Dataset;
use crate::error::Result;
use crate::runtime::SessionConfig;

/// Held-out pictures that are looked at, so that thousands cost no more than these.
const MOST: usize = 60;
/// Candidates of one class and picture that are looked at, the best ones.
const CANDIDATES: usize = 1000;
/// From so many pictures on they can say whether a longer fit is better.
const TELLING: usize = 30;
/// What a fit of twice the steps must find more, as a part of the mean average precision: less is chance.
const GAIN: f64 = 0.1;
/// Times the usual steps that a fit may take.
const LONGEST: usize = 4;

/// The pictures and the network that kept rows come from.
pub struct HeldOut<'a> {
    network: &'a dyn Finder,
    showing: &'a Showing<'a>,
    folds: Folds,
}

/// What held-out pictures are asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// How many new classes there are.
    pub classes: usize,
    /// Steps of the fit, unless more are better.
    pub usual: usize,
    /// See [`super::frozen_columns::FitOptions::most_false`].
    pub most_false: Option<f64>,
}

/// Makes columns after each of so many steps, from rows and what stands in for parts of them.
type Fit<'f> = dyn FnMut(KeptRows<'_>, &Weights, &[usize]) -> Result<Vec<Vec<Columns>>> + 'f;

impl fmt::Debug for HeldOut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldOut").field("folds", &self.folds).finish_non_exhaustive()
    }
}

impl<'a> HeldOut<'a> {
    /// For rows that `network` made of what `showing` shows; classes are numbered from 0.
    pub fn new(network: &'a dyn Finder, showing: &'a Showing<'a>) -> Self {
        Self { network, showing, folds: Folds::new(showing, network.input().geometry) }
    }

    /// How many steps the fit should take, `usual` or more, and for each class the division between objects and all else.
    ///
    /// `fit` is given some of the kept rows, with the stand-ins in their places.
    pub(super) fn judge(
        &self,
        (kept, weights): (KeptRows<'_>, &Weights),
        asked: Asked,
        fit: &mut Fit<'_>,
    ) -> Result<(usize, Vec<Division>)> {
        let Asked { classes, usual, most_false } = asked;
        let telling = self.folds.pictures() >= TELLING;
        let mut tried = if telling { vec![usual, 2 * usual] } else { vec![usual] };
        let mut best: Option<(usize, Vec<Found>)> = None;
        loop {
            let found = self.found((kept, weights), classes, &tried, fit)?;
            for (&steps, found) in tried.iter().zip(found) {
                let precision = mean_precision(&found);
                tracing::debug!("a fit of {steps} steps finds held-out objects with AP50 {precision:.3}");
                if best.as_ref().is_none_or(|(_, best)| precision > (1.0 + GAIN) * mean_precision(best)) {
                    best = Some((steps, found));
                }
            }
            let steps = best.as_ref().map_or(usual, |(steps, _)| *steps);
            if tried.last() != Some(&steps) || !telling || steps >= LONGEST * usual {
                let found = best.iter().flat_map(|(_, found)| found);
                let divisions = found.map(|found| found.division(most_false, self.network.blind())).collect();
                return Ok((steps, divisions));
            }
            tried = vec![2 * steps];
        }
    }

    /// What columns find after each of so many steps, by class.
    fn found(
        &self,
        (kept, weights): (KeptRows<'_>, &Weights),
        classes: usize,
        steps: &[usize],
        fit: &mut Fit<'_>,
    ) -> Result<Vec<Vec<Found>>> {
        let mut found = vec![vec![Found::default(); classes]; steps.len()];
        let rounds = self.folds.rounds();
        let logits = Logits::new(&SessionConfig::default())?;
        for round in 0..rounds {
            let held = self.folds.held(round);
            // What a fit that saw no object of a class finds of it says nothing.
            let learned: Vec<usize> =
                (0..classes).filter(|&class| self.folds.shown_elsewhere(class, round)).collect();
            if held.is_empty() || learned.is_empty() {
                continue;
            }
            let rows = self.folds.without(kept, weights, round)?;
            let none_open = OpenRows::new(rows.layers());
            let columns = fit(KeptRows::new(&rows, &none_open, 0..rows.layers())?, &Weights::new(), steps)?;
            drop(rows);
            let step = held.len().div_ceil(MOST / rounds);
            let chosen = held.iter().step_by(step).map(|&at| self.showing.dataset.images[at].clone());
            let dataset = Dataset { images: chosen.collect(), ..Dataset::default() };
            let whole = Showing { dataset: &dataset, views: 1, ..self.showing.clone() };
            let look = |seen: Seen| {
                let wanted: Vec<usize> =
                    learned.iter().copied().filter(|class| !seen.open.contains(class)).collect();
                let sets = self.network.find(&seen, &columns, (&wanted, classes), FLOOR, &logits)?;
                let overlap = self.network.suppression();
                let detected = |candidates: Vec<Candidates>| {
                    candidates.into_iter().map(|candidates| suppressed(candidates, overlap)).collect()
                };
                let sets: Vec<Vec<Candidates>> = sets.into_iter().map(detected).collect();
                Ok((seen, wanted, sets))
            };
            let loose = self.network.is_loose();
            whole.run(self.network.input(), 0, look, |(seen, wanted, sets)| {
                for (found, detected) in found.iter_mut().zip(sets) {
                    for (&class, detections) in wanted.iter().zip(&detected) {
                        found[class].add(&seen, class, detections, loose);
                    }
                }
                Ok(())
            })?;
        }
        Ok(found)
    }
}

/// The best first, without those that overlap a better one by more than this.
fn suppressed(mut candidates: Candidates, most: Option<f32>) -> Candidates {
    candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
    candidates.truncate(CANDIDATES);
    let mut kept = Candidates::new();
    for (logit, bbox) in candidates {
        if !most.is_some_and(|most| kept.iter().any(|(_, other)| other.iou(&bbox) > most)) {
            kept.push((logit, bbox));
        }
    }
    kept
}

/// Over the classes that have objects.
fn mean_precision(found: &[Found]) -> f64 {
    let of: Vec<f64> = found.iter().filter_map(Found::average_precision).collect();
    of.iter().sum::<f64>() / of.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::super::cache::{CacheOptions, FeatureCache};
    use super::super::finder::OfAnchors;
    use super::super::kept::OpenRows;
    use super::super::shape::{Backbone, Geometry, Input, Level, NetworkShape, ViewFeatures};
    use super::*;
    use crate::data::{BoxYxyx, ImageSource, LabelledImage, Object, Picture};
    use crate::runtime::{AnyTensor, testing};

    /// A network of one anchor, the whole picture, whose one feature is how bright the first pixel is, 0 to 5.
    struct Brightness(NetworkShape);

    const WHOLE: BoxYxyx = BoxYxyx::new(0.0, 0.0, 1.0, 1.0);

    impl Brightness {
        fn new() -> Self {
            let level = Level { height: 1, width: 1, anchors: 1, depth: 1, layer: 0, first_anchor: 0 };
            let input = Input { size: (4, 4), geometry: Geometry::Squash };
            Self(NetworkShape { levels: vec![level], anchors: vec![WHOLE], input })
        }
    }

    impl Backbone for Brightness {
        fn shape(&self) -> &NetworkShape {
            &self.0
        }

        fn run(&self, rgb: &[u8], _: usize, _: usize) -> Result<ViewFeatures> {
            let x = f32::from(rgb[0]) / 51.0;
            Ok(ViewFeatures { levels: vec![AnyTensor::new(&[1, 1], &[x])?], boxes: vec![WHOLE] })
        }
    }

    /// Pictures of one brightness each, with an object of a class over all of it or none.
    fn dataset(dir: &std::path::Path, pictures: &[(u8, Option<&str>)]) -> Dataset {
        let image = |(number, (grey, class)): (usize, &(u8, Option<&str>))| {
            let path = dir.join(format!("{number}.png"));
            Picture { width: 4, height: 4, rgb: vec![*grey; 48] }.save(&path).unwrap();
            let object = |class: &&str| Object {
                class: (*class).to_owned(),
                bbox: WHOLE,
                crowd: false,
                difficult: false,
                area: 16.0,
                mask: None,
            };
            LabelledImage {
                source: ImageSource::File(path),
                width: 4,
                height: 4,
                objects: class.iter().map(object).collect(),
                incomplete: Default::default(),
            }
        };
        Dataset { images: pictures.iter().enumerate().map(image).collect(), ..Dataset::default() }
    }

    /// Columns whose logit is so many times the feature.
    fn columns(kernel: f64, wide: usize) -> Vec<Columns> {
        vec![Columns { kernel: vec![kernel; wide], biases: vec![0.0; wide] }]
    }

    /// What is judged of a fit to these pictures, two views a picture and three rows a view; it may take 60 steps or more.
    fn judge(
        pictures: &[(u8, Option<&str>)],
        names: &[&'static str],
        most_false: Option<f64>,
        fit: &mut Fit<'_>,
    ) -> (usize, Vec<Division>) {
        let dir = tempfile::tempdir().unwrap();
        let dataset = dataset(dir.path(), pictures);
        let classes = names.iter().enumerate().map(|(number, name)| (*name, number)).collect();
        let showing =
            Showing { dataset: &dataset, classes, first_new: 0, views: 2, seed: 0, outlines: false };
        let wide = names.len();
        let mut cache = FeatureCache::new(vec![vec![1, wide, wide]], CacheOptions::default());
        let mut open = OpenRows::new(1);
        for _ in 0..2 * pictures.len() {
            for _ in 0..3 {
                cache.push(0, &[&[0.0], &vec![0.0; wide], &vec![1.0; wide]]).unwrap();
                open.push(0, &[].into());
            }
            cache.view_done(Vec::new).unwrap();
        }
        cache.finish().unwrap();
        let network = Brightness::new();
        let finder = OfAnchors(&network);
        let held_out = HeldOut::new(&finder, &showing);
        let kept = KeptRows::new(&cache, &open, 0..1).unwrap();
        let asked = Asked { classes: wide, usual: 60, most_false };
        held_out.judge((kept, &Weights::new()), asked, fit).unwrap()
    }

    /// Divisions, and for each fit the sum of its weights.
    fn divide(pictures: &[(u8, Option<&str>)], names: &[&'static str]) -> (Vec<Division>, Vec<f32>) {
        let mut sums = Vec::new();
        let (steps, divisions) = judge(pictures, names, None, &mut |kept, _, steps| {
            assert_eq!(steps, [60]);
            let sum = |parts: &[AnyTensor]| Ok(parts[2].f32()?.iter().sum::<f32>());
            sums.push((0..kept.chunks(0)).filter_map(|chunk| kept.read(0, chunk, sum).unwrap()).sum());
            Ok(vec![columns(1.0, names.len())])
        });
        assert_eq!(steps, 60);
        (divisions, sums)
    }

    #[test]
    fn a_fit_goes_on_while_it_finds_more() {
        if testing::library().is_none() {
            return;
        }
        // Objects are darker than all else.
        let pictures: Vec<_> =
            (0..36).map(|number| if number % 2 == 0 { (51, Some("a")) } else { (153, None) }).collect();
        for longest in [60, 120] {
            let mut asked = Vec::new();
            let (steps, found) = judge(&pictures, &["a"], None, &mut |_, _, steps| {
                asked.push(steps.to_vec());
                // It learns that sign after so many steps, and what it knew before it only knows better.
                Ok(steps
                    .iter()
                    .map(|&steps| {
                        let known = steps.min(longest) as f64 / 60.0;
                        columns(1.0 - 0.6 * known, 1)
                    })
                    .collect())
            });
            assert_eq!(steps, longest, "{asked:?}");
            assert_eq!(found[0].pictures, 36);
            asked.dedup();
            let all: &[&[usize]] = if longest == 60 { &[&[60, 120]] } else { &[&[60, 120], &[240]] };
            assert_eq!(asked, all);
        }
    }

    #[test]
    fn one_half_lies_between_objects_and_all_else() {
        if testing::library().is_none() {
            return;
        }
        // Objects at a logit of 3, another thing at 1: both are above the fit's own zero.
        let pictures: Vec<_> =
            (0..24).map(|number| if number % 2 == 0 { (153, Some("a")) } else { (51, None) }).collect();
        let (found, sums) = divide(&pictures, &["a"]);
        assert!((1.4..2.6).contains(&found[0].logit), "{found:?}");
        let got = (found[0].pictures, found[0].objects, found[0].found, found[0].wrong);
        assert_eq!(got, (24, 12, 12, 0));
        let said = found[0].sentence("a").unwrap();
        assert!(said.starts_with("a: 12 of 12 objects in 24 held-out pictures"), "{said}");
        // Each of three fits lacks eight of 24 pictures, of two views with three rows each.
        assert_eq!(sums, [96.0; 3]);
    }

    #[test]
    fn false_detections_are_limited_as_asked() {
        if testing::library().is_none() {
            return;
        }
        // Of pictures that look like objects one in four is none.
        let pictures: Vec<_> = (0..32).map(|at| (153, if at % 4 == 0 { None } else { Some("a") })).collect();
        let divided = |most_false| {
            let (_, found) = judge(&pictures, &["a"], most_false, &mut |_, _, steps| {
                Ok(vec![columns(1.0, 1); steps.len()])
            });
            (found[0].found, found[0].wrong)
        };
        assert_eq!([None, Some(0.3), Some(0.1)].map(divided), [(24, 8), (24, 8), (0, 0)]);
    }

    #[test]
    fn with_one_picture_of_a_class_there_is_only_the_prior() {
        if testing::library().is_none() {
            return;
        }
        let (found, sums) = divide(&[(153, Some("a"))], &["a"]);
        assert_eq!((found[0].logit, found[0].pictures, sums.len()), (super::super::division::PRIOR, 0, 0));
        assert!(found[0].sentence("a").is_some_and(|said| said.contains("safe side")));
        assert_eq!(Division::NONE.sentence("a"), None);
        // Held out, the one picture of a class leaves a fit that never saw it, which says nothing of it.
        let (found, _) = divide(&[(153, Some("a")), (153, Some("b")), (102, None)], &["a", "b"]);
        assert_eq!(found.iter().map(|f| f.objects).collect::<Vec<_>>(), [0, 0]);
    }
}
