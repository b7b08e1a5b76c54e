//! What fits are worth, by detections in pictures that they did not see.
//!
//! A fit to few pictures is surer of them than of new ones, and its training views are full of objects. So the fit is done
//! again without some of the pictures, these are shown whole to the network, as serving shows them, and what the fit finds
//! there is suppressed and matched as an evaluation does it. That says where a score of one half belongs ([`super::division`]),
//! and whether the fit should have gone on: it starts from what old columns have in common and stops early, which is part of
//! its regularisation; where old classes are few or far from the new ones, that is too early. Before that, the loss of rows that
//! it did not see says how strong its prior should be ([`strength`]).

mod folds;
mod strength;
#[cfg(test)]
mod tests;

use std::fmt;

use self::folds::Folds;
use super::division::{Division, FLOOR, Found};
use super::features::{Seen, Showing};
use super::finder::{Candidates, Finder};
use super::incomplete::Weights;
use super::kept::{KeptRows, OpenRows};
use super::loss::Logits;
use super::parameters::Columns;
use super::solver::{Effort, Learner, Rows, USUAL};
use crate::data::Dataset;
use crate::error::Result;
use crate::random::evenly;
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

/// A part that is held out.
struct Round {
    part: usize,
    held: Vec<usize>,
    /// Classes that other parts show. What a fit that saw no object of a class finds of it says nothing.
    learned: Vec<usize>,
    /// Whether its rows tell a good fit from a bad one: they show objects, and every class was learned.
    judging: bool,
}

/// Fits without each of some parts: for each the columns after each of some numbers of steps.
type Fits = Vec<Vec<Vec<Columns>>>;

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

    /// How strong the prior of the fit should be and how many steps it should take, `usual` or more, and for each class the
    /// division between objects and all else.
    ///
    /// `learner` is given some of the kept rows, with the stand-ins in their places.
    pub(super) fn judge(
        &self,
        rows: Rows<'_>,
        asked: Asked,
        learner: &mut dyn Learner,
    ) -> Result<(Effort, Vec<Division>)> {
        let Asked { classes, usual, most_false } = asked;
        let rounds = self.rounds(classes);
        let telling = self.folds.pictures() >= TELLING;
        let mut tried = if telling { vec![usual, 2 * usual] } else { vec![usual] };
        let mut fits = self.fits(rows, &rounds, (USUAL, &tried), learner)?;
        let judging = rounds.iter().filter(|round| round.judging).count();
        // Of many pictures one part is enough.
        let judging = if telling { judging.min(1) } else { judging };
        let mut strength = USUAL;
        if judging > 0 {
            let judging = &rounds[..judging];
            let loss = self.loss(rows, judging, &fits, learner)?;
            let (best, of_best) = strength::climb((fits, loss), |strength| {
                let fits = self.fits(rows, judging, (strength, &[usual]), learner)?;
                let loss = self.loss(rows, judging, &fits, learner)?;
                Ok((fits, loss))
            })?;
            let again = best != USUAL && (telling || judging.len() < rounds.len());
            fits = if again { self.fits(rows, &rounds, (best, &tried), learner)? } else { of_best };
            tracing::debug!("the prior is {best} times as strong as usual");
            strength = best;
        }
        let mut best: Option<(usize, Vec<Found>)> = None;
        loop {
            let found = self.found(&fits, &rounds, classes, tried.len())?;
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
                return Ok((Effort { strength, steps }, divisions));
            }
            tried = vec![2 * steps];
            fits = self.fits(rows, &rounds, (strength, &tried), learner)?;
        }
    }

    /// The parts that are held out and say something, first those whose rows do.
    fn rounds(&self, classes: usize) -> Vec<Round> {
        let round = |part| {
            let learned: Vec<usize> =
                (0..classes).filter(|&class| self.folds.shown_elsewhere(class, part)).collect();
            let judging = learned.len() == classes && self.folds.shows_objects(part);
            Round { part, held: self.folds.held(part), learned, judging }
        };
        let rounds = (0..self.folds.rounds()).map(round);
        let mut rounds: Vec<Round> =
            rounds.filter(|round| !round.held.is_empty() && !round.learned.is_empty()).collect();
        rounds.sort_by_key(|round| !round.judging);
        rounds
    }

    /// Fits with a prior of some strength, of so many steps each.
    fn fits(
        &self,
        (kept, weights): Rows<'_>,
        rounds: &[Round],
        (strength, steps): (f64, &[usize]),
        learner: &mut dyn Learner,
    ) -> Result<Fits> {
        let fit = |round: &Round| {
            let rows = self.folds.without(kept, weights, round.part)?;
            let none_open = OpenRows::new(rows.layers());
            let seen = KeptRows::new(&rows, &none_open, 0..rows.layers())?;
            learner.learn((seen, &Weights::new()), strength, steps)
        };
        rounds.iter().map(fit).collect()
    }

    /// The loss of the rows that fits did not see, of the shortest of them.
    fn loss(
        &self,
        (kept, weights): Rows<'_>,
        rounds: &[Round],
        fits: &Fits,
        learner: &mut dyn Learner,
    ) -> Result<f64> {
        let mut loss = 0.0;
        for (round, columns) in rounds.iter().zip(fits) {
            let rows = self.folds.only(kept, weights, round.part)?;
            let none_open = OpenRows::new(rows.layers());
            let unseen = KeptRows::new(&rows, &none_open, 0..rows.layers())?;
            let shortest = columns.first().map_or(&[][..], Vec::as_slice);
            loss += learner.loss((unseen, &Weights::new()), shortest)?;
        }
        Ok(loss)
    }

    /// What columns find after each of `count` numbers of steps, by class.
    fn found(&self, fits: &Fits, rounds: &[Round], classes: usize, count: usize) -> Result<Vec<Vec<Found>>> {
        let mut found = vec![vec![Found::default(); classes]; count];
        let logits = Logits::new(&SessionConfig::default())?;
        for (Round { held, learned, .. }, columns) in rounds.iter().zip(fits) {
            let chosen = evenly(held, MOST / self.folds.rounds());
            let chosen = chosen.map(|&at| self.showing.dataset.images[at].clone());
            let dataset = Dataset { images: chosen.collect(), ..Dataset::default() };
            let whole = Showing { dataset: &dataset, views: 1, ..self.showing.clone() };
            let look = |seen: Seen| {
                let wanted: Vec<usize> =
                    learned.iter().copied().filter(|class| !seen.open.contains(class)).collect();
                let sets = self.network.find(&seen, columns, (&wanted, classes), FLOOR, &logits)?;
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
