//! What is minimised: a loss over all kept rows, by TensorFlow, plus half the squares of the whitened numbers.

use super::incomplete::Weights;
use super::kept::KeptRows;
use super::loss::LossGraph;
use super::parameters::{Columns, Moments, Parameters};
use super::shape::LayerSize;
use super::task::Loss;
use crate::error::{Error, Result};
use crate::runtime::{SessionConfig, runs_at_once};
use crate::side_by_side::in_order;

/// Added to deviations: features that hardly move must not count as much as those that do.
const DEVIATION_FLOOR: f64 = 0.05;

/// The objective as a function of the whitened numbers.
pub struct Objective<'a> {
    kept: KeptRows<'a>,
    parameters: &'a Parameters,
    loss: Loss,
    graph: LossGraph,
    weights: &'a Weights,
}

impl<'a> Objective<'a> {
    /// `positive_weight` multiplies the loss of a full target of [`Loss::Sigmoid`], by parts that of a soft one; `weights`
    /// stand in for those of the kept rows.
    pub fn new(
        (kept, weights): (KeptRows<'a>, &'a Weights),
        parameters: &'a Parameters,
        (loss, positive_weight): (Loss, f32),
        threads: Option<usize>,
    ) -> Result<Self> {
        let config = SessionConfig { threads, optimize: false };
        let graph = LossGraph::of(loss, positive_weight, &config)?;
        Ok(Self { kept, parameters, loss, graph, weights })
    }

    /// Value and slope.
    pub fn evaluate(&self, whitened: &[f64]) -> Result<(f64, Vec<f64>)> {
        let columns = self.parameters.columns(whitened);
        let (mut value, slopes) = self.data_term(&columns)?;
        let mut slope = self.parameters.pull_back(&slopes);
        for (slope, t) in slope.iter_mut().zip(whitened) {
            value += 0.5 * t * t;
            *slope += t;
        }
        Ok((value, slope))
    }

    /// The loss of columns alone.
    pub fn loss(&self, columns: &[Columns]) -> Result<f64> {
        Ok(self.data_term(columns)?.0)
    }

    /// The loss and its slope in the columns of each layer; chunks are summed in their order, in float64.
    fn data_term(&self, columns: &[Columns]) -> Result<(f64, Vec<Columns>)> {
        let (mut total, mut slopes) = (0.0, Vec::with_capacity(columns.len()));
        let (mut fed, mut chunks) = (Vec::with_capacity(columns.len()), Vec::new());
        for (layer, columns) in columns.iter().enumerate() {
            fed.push(columns.tensors()?);
            let zeros = |values: &[f64]| vec![0.0; values.len()];
            slopes.push(Columns { kernel: zeros(&columns.kernel), biases: zeros(&columns.biases) });
            chunks.extend((0..self.kept.chunks(layer)).map(|chunk| (layer, chunk)));
        }
        let of_chunk = |(layer, chunk): (usize, usize)| {
            let [w, b] = &fed[layer];
            let others = self.weights.get(&(layer, chunk));
            let got =
                self.kept.read(layer, chunk, |parts| {
                    let mut feeds = vec![("w", w), ("b", b)];
                    feeds.extend(self.loss.parts().iter().copied().zip(parts).map(|(name, part)| {
                        (name, others.and_then(|others| others.part(name)).unwrap_or(part))
                    }));
                    self.graph.run(&feeds)
                })?;
            Ok((layer, got))
        };
        in_order(chunks, runs_at_once(), of_chunk, |(layer, got)| {
            let Some(got) = got else { return Ok(()) };
            total += got.loss;
            accumulate(&mut slopes[layer].kernel, got.kernel.f32()?);
            accumulate(&mut slopes[layer].biases, got.biases.f32()?);
            Ok(())
        })?;
        Ok((total, slopes))
    }
}

pub(super) fn accumulate(sums: &mut [f64], values: &[f32]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += f64::from(*value);
    }
}

/// Mean and deviation of each layer's features over the kept rows, each row with the largest of its weights.
pub fn moments(kept: KeptRows<'_>, sizes: &[LayerSize]) -> Result<Vec<Moments>> {
    let mut out = Vec::with_capacity(sizes.len());
    for (layer, size) in sizes.iter().enumerate() {
        let (mut weights, mut sums, mut squares) = (0.0, vec![0.0; size.depth], vec![0.0; size.depth]);
        for chunk in 0..kept.chunks(layer) {
            kept.read(layer, chunk, |parts| {
                let [x, _, v, ..] = parts else {
                    return Err(Error::Data("kept rows without features, targets and weights".into()));
                };
                let wide = v.len() / x.shape().first().copied().unwrap_or(1).max(1);
                for (x, v) in x.f32()?.chunks_exact(size.depth).zip(v.f32()?.chunks_exact(wide.max(1))) {
                    let weight = f64::from(v.iter().copied().fold(0.0, f32::max));
                    weights += weight;
                    for ((sum, square), &x) in sums.iter_mut().zip(&mut squares).zip(x) {
                        let x = f64::from(x);
                        *sum += weight * x;
                        *square += weight * x * x;
                    }
                }
                Ok(())
            })?;
        }
        if sums.iter().any(|sum| !f64::is_finite(*sum)) {
            return Err(Error::Data(format!("class layer {layer} is fed features that are not finite")));
        }
        let weights: f64 = if weights > 0.0 { weights } else { 1.0 };
        let mean: Vec<f64> = sums.iter().map(|sum| sum / weights).collect();
        let deviation =
            |(square, mean): (&f64, &f64)| (square / weights - mean * mean).max(0.0).sqrt() + DEVIATION_FLOOR;
        let deviation = squares.iter().zip(&mean).map(deviation).collect();
        out.push(Moments { mean, deviation });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::cache::{CacheOptions, FeatureCache};
    use super::super::kept::OpenRows;
    use super::super::parameters::Penalties;
    use super::*;
    use crate::head::columns::LayerValues;
    use crate::random::SplitMix;
    use crate::runtime::testing;

    const SIZES: [LayerSize; 2] = [LayerSize { depth: 3, anchors: 2 }, LayerSize { depth: 4, anchors: 1 }];
    const CLASSES: usize = 2;

    /// Random rows with soft targets, and the same rows as plain numbers.
    fn rows(random: &mut SplitMix) -> (FeatureCache, Vec<Vec<[Vec<f32>; 3]>>) {
        let widths = SIZES.iter().map(|&size| Loss::Sigmoid.row_widths(size, CLASSES)).collect();
        let mut cache = FeatureCache::new(widths, CacheOptions::default());
        let mut plain = vec![Vec::new(); 2];
        for number in 0..40 {
            for (layer, size) in SIZES.iter().enumerate() {
                let mut draw =
                    |count: usize, low| (0..count).map(|_| random.uniform(low, 1.0) as f32).collect();
                let wide = size.anchors * CLASSES;
                let row: [Vec<f32>; 3] = [draw(size.depth, -1.0), draw(wide, -1.0), draw(wide, 0.0)];
                let row = [row[0].clone(), row[1].iter().map(|y| y.max(0.0)).collect(), row[2].clone()];
                cache.push(layer, &[&row[0], &row[1], &row[2]]).unwrap();
                plain[layer].push(row);
            }
            if number % 16 == 0 {
                cache.finish().unwrap();
            }
        }
        cache.finish().unwrap();
        (cache, plain)
    }

    /// The data term written out: value and slope.
    fn closed(rows: &[[Vec<f32>; 3]], columns: &Columns, q: f64) -> (f64, Columns) {
        let wide = columns.biases.len();
        let mut slope = Columns { kernel: vec![0.0; columns.kernel.len()], biases: vec![0.0; wide] };
        let mut value = 0.0;
        for [x, y, v] in rows {
            for c in 0..wide {
                let z: f64 = columns.biases[c]
                    + x.iter()
                        .enumerate()
                        .map(|(f, x)| f64::from(*x) * columns.kernel[f * wide + c])
                        .sum::<f64>();
                let (y, v) = (f64::from(y[c]), f64::from(v[c]));
                let factor = v * (1.0 + (q - 1.0) * y);
                value += factor * (z.exp().ln_1p() - y * z);
                let s = factor * (1.0 / (1.0 + (-z).exp()) - y);
                slope.biases[c] += s;
                for (f, x) in x.iter().enumerate() {
                    slope.kernel[f * wide + c] += s * f64::from(*x);
                }
            }
        }
        (value, slope)
    }

    #[test]
    fn slopes_agree_three_ways() {
        if testing::library().is_none() {
            return;
        }
        let mut random = SplitMix::new(9, &[]);
        let (cache, plain) = rows(&mut random);
        let mut draw = |count: usize| (0..count).map(|_| random.uniform(-1.0, 1.0)).collect::<Vec<f64>>();
        let old = SIZES.map(|size| LayerValues {
            kernel: draw(size.depth * size.anchors * 4).iter().map(|v| *v as f32).collect(),
            biases: draw(size.anchors * 4).iter().map(|v| *v as f32).collect(),
        });
        let (open, weights) = (OpenRows::new(SIZES.len()), Weights::new());
        let kept = KeptRows::new(&cache, &open, 0..SIZES.len()).unwrap();
        let moments = moments(kept, &SIZES).unwrap();
        let parameters =
            Parameters::new(&SIZES, &old, true, moments, CLASSES, &Penalties::default()).unwrap();
        let objective = Objective::new((kept, &weights), &parameters, (Loss::Sigmoid, 2.0), None).unwrap();
        let t = draw(parameters.len());
        let by_hand = |t: &[f64]| {
            let terms: Vec<_> =
                parameters.columns(t).iter().zip(&plain).map(|(c, rows)| closed(rows, c, 2.0)).collect();
            let value =
                terms.iter().map(|term| term.0).sum::<f64>() + t.iter().map(|t| 0.5 * t * t).sum::<f64>();
            let slopes: Vec<Columns> = terms.into_iter().map(|term| term.1).collect();
            let mut slope = parameters.pull_back(&slopes);
            slope.iter_mut().zip(t).for_each(|(s, t)| *s += t);
            (value, slope)
        };
        let (value, slope) = objective.evaluate(&t).unwrap();
        let (expected, closed) = by_hand(&t);
        assert!((value - expected).abs() < 1e-4 * expected, "{value} and {expected}");
        for at in 0..t.len() {
            let step = |by: f64| {
                let mut t = t.clone();
                t[at] += by;
                by_hand(&t).0
            };
            let difference = (step(1e-4) - step(-1e-4)) / 2e-4;
            assert!(
                (slope[at] - closed[at]).abs() < 1e-3 * closed[at].abs().max(1.0),
                "{at}: {} {}",
                slope[at],
                closed[at]
            );
            assert!(
                (difference - closed[at]).abs() < 1e-5 * closed[at].abs().max(1.0),
                "{at}: {difference} {}",
                closed[at]
            );
        }
    }
}
