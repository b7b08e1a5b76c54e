//! Fits of new columns to rows: at any strength of the prior, stopped after any number of steps.

use super::frozen_columns::FitOptions;
use super::incomplete::Weights;
use super::kept::KeptRows;
use super::lbfgs::{self, Limits};
use super::objective::Objective;
use super::parameters::{Columns, Parameters};
use super::task::Loss;
use crate::error::Result;

/// The strength of the prior that [`FitOptions::penalties`] have, and that everything else was chosen with.
pub(super) const USUAL: f64 = 1.0;

/// How far a fit goes from what old columns say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Effort {
    /// How many times as strong the prior of what a column has for itself is as usual.
    pub strength: f64,
    /// Steps.
    pub steps: usize,
}

/// Rows, and what stands in for parts of them.
pub(super) type Rows<'a> = (KeptRows<'a>, &'a Weights);

/// What makes columns of rows, as often as it is asked.
pub(super) trait Learner {
    /// Columns after each of so many steps; the prior of what a column has for itself is `strength` times as strong as usual.
    fn learn(&mut self, rows: Rows<'_>, strength: f64, steps: &[usize]) -> Result<Vec<Vec<Columns>>>;

    /// The loss of columns on rows, without a prior.
    fn loss(&mut self, rows: Rows<'_>, columns: &[Columns]) -> Result<f64>;
}

/// The convex fit.
pub(super) struct Solver<'a> {
    parameters: Parameters,
    options: &'a FitOptions,
    /// What is minimised, one after the other.
    stages: &'a [Loss],
    /// Evaluations of all fits.
    pub evaluations: usize,
}

impl<'a> Solver<'a> {
    /// By these options, of columns that depend so on what is fitted.
    pub fn new(parameters: Parameters, options: &'a FitOptions) -> Self {
        // Far out the focal loss is concave for positives: it starts where the cross entropy, which is convex, ends.
        let stages: &[Loss] = match &options.loss {
            Loss::Focal => &[Loss::Sigmoid, Loss::Focal],
            only => std::slice::from_ref(only),
        };
        Self { parameters, options, stages, evaluations: 0 }
    }

    /// As [`Learner::learn`], and the loss before the first step and after each; `step` hears of each step's number and loss.
    pub fn solve(
        &mut self,
        rows: Rows<'_>,
        strength: f64,
        steps: &[usize],
        step: &mut dyn FnMut(usize, f64),
    ) -> Result<(Vec<Vec<Columns>>, Vec<f64>)> {
        let parameters = self.parameters.at(strength);
        let (mut point, mut values, mut passed) = (vec![0.0; parameters.len()], Vec::new(), Vec::new());
        let limits = Limits { iterations: steps.iter().copied().max().unwrap_or(0), ..self.options.limits };
        let empty = (0..rows.0.layers()).all(|layer| rows.0.rows(layer) == 0);
        for &loss in self.stages.iter().filter(|_| !empty) {
            let weighed = (loss, self.options.positive_weight);
            let objective = Objective::new(rows, &parameters, weighed, self.options.threads)?;
            passed.clear();
            let minimum = lbfgs::minimise(
                |t| objective.evaluate(t),
                point,
                limits,
                |number, value, at| {
                    if steps.contains(&number) && number < limits.iterations {
                        passed.push(at.to_vec());
                    }
                    step(number, value);
                },
            )?;
            (point, values) = (minimum.point, minimum.values);
            self.evaluations += minimum.evaluations;
        }
        // A fit that ended early has come to all of them.
        passed.resize(steps.len(), point);
        Ok((passed.iter().map(|point| parameters.columns(point)).collect(), values))
    }
}

impl Learner for Solver<'_> {
    fn learn(&mut self, rows: Rows<'_>, strength: f64, steps: &[usize]) -> Result<Vec<Vec<Columns>>> {
        Ok(self.solve(rows, strength, steps, &mut |_, _| {})?.0)
    }

    fn loss(&mut self, rows: Rows<'_>, columns: &[Columns]) -> Result<f64> {
        let weighed = (self.options.loss, self.options.positive_weight);
        Objective::new(rows, &self.parameters, weighed, self.options.threads)?.loss(columns)
    }
}
