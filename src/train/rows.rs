//! Kept rows as plain numbers, for what is done to them outside of TensorFlow.

use super::parameters::Columns;
use crate::error::{Error, Result};
use crate::runtime::AnyTensor;

/// The rows of a chunk as plain numbers.
pub(super) struct Rows<'a> {
    pub features: &'a [f32],
    pub targets: &'a [f32],
    pub weights: &'a [f32],
    /// Of a softmax, for each row the logarithm of the sum of the old columns' exponentials.
    old: Option<&'a [f32]>,
    pub count: usize,
    depth: usize,
    wide: usize,
    /// Weights of a row: one for each column, or one for all.
    pub per_row: usize,
}

/// One of them.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub features: &'a [f32],
    pub targets: &'a [f32],
    old: f64,
}

impl<'a> Rows<'a> {
    pub fn new(parts: &'a [AnyTensor], depth: usize, wide: usize) -> Result<Self> {
        let [x, y, v, rest @ ..] = parts else {
            return Err(Error::Data("kept rows without features, targets and weights".into()));
        };
        let (features, targets, weights) = (x.f32()?, y.f32()?, v.f32()?);
        let count = targets.len() / wide.max(1);
        let old = rest.first().map(AnyTensor::f32).transpose()?;
        let per_row = weights.len() / count.max(1);
        Ok(Self { features, targets, weights, old, count, depth, wide, per_row })
    }

    pub fn row(&self, number: usize) -> Row<'a> {
        Row {
            features: &self.features[number * self.depth..][..self.depth],
            targets: &self.targets[number * self.wide..][..self.wide],
            old: self.old.map_or(0.0, |old| f64::from(old[number])),
        }
    }
}

impl Row<'_> {
    /// The logit of a column; of a softmax against all old columns together.
    pub fn score(&self, columns: &Columns, at: usize) -> f64 {
        let weights = columns.kernel.iter().skip(at).step_by(columns.biases.len());
        let product: f64 = self.features.iter().zip(weights).map(|(x, w)| f64::from(*x) * w).sum();
        columns.biases[at] + product - self.old
    }

    /// The logits of all columns.
    pub fn scores(&self, columns: &Columns) -> Vec<f64> {
        let mut scores: Vec<f64> = columns.biases.iter().map(|bias| bias - self.old).collect();
        for (x, weights) in self.features.iter().zip(columns.kernel.chunks_exact(columns.biases.len().max(1)))
        {
            for (score, weight) in scores.iter_mut().zip(weights) {
                *score += f64::from(*x) * weight;
            }
        }
        scores
    }
}
