//! Minimises a smooth function: L-BFGS with a weak Wolfe search.
//!
//! Nocedal and Wright, Numerical Optimization, algorithm 7.4; the step by doubling and bisection (Lewis and Overton
//! 2013), which needs nothing but the two Wolfe conditions.

use crate::error::{Error, Result};

/// Pairs of steps and slope changes that are remembered.
const MEMORY: usize = 10;
/// A step must lower the value by this part of what the slope promises.
const DECREASE: f64 = 1e-4;
/// A step must flatten the slope to this part.
const CURVATURE: f64 = 0.9;
/// Trials of one search.
const TRIALS: usize = 12;

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Steps at most.
    pub iterations: usize,
    /// A step that lowers the value by less than this part of it is the last.
    pub tolerance: f64,
}

/// Where the search ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Minimum {
    /// The point.
    pub point: Vec<f64>,
    /// The value at the start and after each step.
    pub values: Vec<f64>,
    /// How often the function was evaluated.
    pub evaluations: usize,
}

/// Minimises `function`, which gives value and slope at a point; `step` hears of each step's number, value and point.
///
/// Errors: those of `function`; [`Error::Data`] when it is not finite at the start.
pub fn minimise(
    mut function: impl FnMut(&[f64]) -> Result<(f64, Vec<f64>)>,
    start: Vec<f64>,
    limits: Limits,
    mut step: impl FnMut(usize, f64, &[f64]),
) -> Result<Minimum> {
    let mut point = start;
    let (mut value, mut slope) = function(&point)?;
    if !value.is_finite() || slope.iter().any(|g| !g.is_finite()) {
        return Err(Error::Data(
            "the loss is not finite before the first step: features or weights are not".into(),
        ));
    }
    let mut memory = Memory::default();
    let mut minimum = Minimum { point: Vec::new(), values: vec![value], evaluations: 1 };
    for iteration in 1..=limits.iterations {
        let mut direction = memory.direction(&slope);
        let mut descent = dot(&slope, &direction);
        if descent >= 0.0 {
            memory = Memory::default();
            direction = memory.direction(&slope);
            descent = dot(&slope, &direction);
        }
        let (mut length, mut low, mut high) = (1.0, 0.0, None);
        let mut reached = None;
        for _ in 0..TRIALS {
            let trial: Vec<f64> = point.iter().zip(&direction).map(|(x, d)| x + length * d).collect();
            let (there, slope_there) = function(&trial)?;
            minimum.evaluations += 1;
            let enough = there <= value + DECREASE * length * descent;
            let flat = dot(&slope_there, &direction) >= CURVATURE * descent;
            if enough {
                reached = Some((trial, there, slope_there));
                if flat {
                    break;
                }
                low = length;
            } else {
                high = Some(length);
            }
            length = high.map_or(2.0 * length, |high| 0.5 * (low + high));
        }
        let Some((trial, there, slope_there)) = reached else { break };
        memory.learn(&point, &slope, &trial, &slope_there);
        let fell = value - there;
        (point, value, slope) = (trial, there, slope_there);
        minimum.values.push(value);
        step(iteration, value, &point);
        if fell < limits.tolerance * value.abs() {
            break;
        }
    }
    minimum.point = point;
    Ok(minimum)
}

/// What is remembered of the last steps, oldest first: step, slope change and their product.
#[derive(Default)]
struct Memory(Vec<(Vec<f64>, Vec<f64>, f64)>);

impl Memory {
    /// Minus the approximate inverse Hessian times the slope; without memory, a step of length one downhill.
    fn direction(&self, slope: &[f64]) -> Vec<f64> {
        let mut q = slope.to_vec();
        let mut shares = Vec::with_capacity(self.0.len());
        for (s, y, sy) in self.0.iter().rev() {
            let share = dot(s, &q) / sy;
            add(&mut q, -share, y);
            shares.push(share);
        }
        let scale = match self.0.last() {
            Some((_, y, sy)) => sy / dot(y, y),
            None => 1.0 / dot(slope, slope).sqrt().max(1e-12),
        };
        q.iter_mut().for_each(|q| *q *= scale);
        for ((s, y, sy), share) in self.0.iter().zip(shares.into_iter().rev()) {
            let other = dot(y, &q) / sy;
            add(&mut q, share - other, s);
        }
        q.iter_mut().for_each(|q| *q = -*q);
        q
    }

    fn learn(&mut self, from: &[f64], slope_from: &[f64], to: &[f64], slope_to: &[f64]) {
        let minus = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>();
        let (s, y) = (minus(to, from), minus(slope_to, slope_from));
        let sy = dot(&s, &y);
        if sy > 1e-12 {
            if self.0.len() == MEMORY {
                self.0.remove(0);
            }
            self.0.push((s, y, sy));
        }
    }
}

/// Four sums side by side, which a processor adds at once; the order is fixed.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a4, a_rest) = a.as_chunks::<4>();
    let (b4, b_rest) = b.as_chunks::<4>();
    let mut sums = [0.0; 4];
    for (a, b) in a4.iter().zip(b4) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}

/// `to += factor · from`.
pub(super) fn add(to: &mut [f64], factor: f64, from: &[f64]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += factor * from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { iterations: 200, tolerance: 1e-14 };

    #[test]
    fn finds_the_bottom_of_a_bent_valley() {
        let rosenbrock = |x: &[f64]| {
            let (a, b) = (1.0 - x[0], x[1] - x[0] * x[0]);
            Ok((1.0 + a * a + 100.0 * b * b, vec![-2.0 * a - 400.0 * b * x[0], 200.0 * b]))
        };
        let mut steps = 0;
        let minimum = minimise(rosenbrock, vec![-1.2, 1.0], LIMITS, |number, _, _| steps = number).unwrap();
        assert!((minimum.point[0] - 1.0).abs() < 1e-4, "{:?}", minimum.point);
        assert!(minimum.values.windows(2).all(|pair| pair[1] <= pair[0]));
        assert_eq!(minimum.values.len(), steps + 1);
        assert!(minimum.evaluations < 100, "{}", minimum.evaluations);
    }

    #[test]
    fn stops_where_nothing_falls_and_refuses_what_is_not_finite() {
        let flat = minimise(|_| Ok((1.0, vec![0.0; 3])), vec![0.0; 3], LIMITS, |_, _, _| {}).unwrap();
        assert_eq!(flat.point, [0.0; 3]);
        assert!(minimise(|_| Ok((f64::NAN, vec![0.0])), vec![0.0], LIMITS, |_, _, _| {}).is_err());
        // A wall of infinities: only short steps are taken.
        let wall = |x: &[f64]| {
            Ok(if x[0] < -0.5 {
                (f64::INFINITY, vec![0.0])
            } else {
                (x[0] + x[0] * x[0], vec![1.0 + 2.0 * x[0]])
            })
        };
        let minimum = minimise(wall, vec![3.0], LIMITS, |_, _, _| {}).unwrap();
        assert!((minimum.point[0] + 0.5).abs() < 1e-3, "{:?}", minimum.point);
    }
}
