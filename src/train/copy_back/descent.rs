//! Gradient descent with momentum over views in random order.

use super::super::loss::LossAndSlope;
use super::super::objective::accumulate;
use super::super::parameters::Columns;
use super::super::shape::LayerSize;
use super::DescentOptions;
use crate::error::{Error, Result};
use crate::head::axis::{ClassAxis, Growth};
use crate::head::columns::{Init, LayerValues, initial};
use crate::random::SplitMix;
use crate::runtime::AnyTensor;

/// A layer in training.
pub(super) struct Layer {
    pub size: LayerSize,
    /// [depth, anchors · columns].
    pub kernel: Vec<f32>,
    /// [anchors · columns].
    pub biases: Vec<f32>,
    kernel_speed: Vec<f64>,
    bias_speed: Vec<f64>,
}

/// What the views of one step say.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// The sum of losses.
    pub loss: f64,
    /// What it is divided by.
    pub worth: f64,
    /// The derivatives of each layer, not divided.
    pub slopes: Vec<Columns>,
}

impl Layer {
    /// Random weights as the API starts a head, of `columns` columns for each anchor.
    pub fn random(size: LayerSize, columns: usize, seed: u64) -> Result<Self> {
        // No old columns: all of them are new, and random as the API makes them.
        let nothing =
            LayerValues { kernel: vec![0.0; size.depth * size.anchors], biases: vec![0.0; size.anchors] };
        let growth = Growth { classes: 1, added: columns };
        let axis = ClassAxis::last(1, size.anchors, false);
        let inits = vec![Init::Random; columns];
        let drawn = initial(&nothing, &axis, crate::head::Role::Scores, growth, &inits, seed)?;
        Ok(Self {
            size,
            kernel_speed: vec![0.0; drawn.kernel.len()],
            bias_speed: vec![0.0; drawn.biases.len()],
            kernel: drawn.kernel,
            biases: drawn.biases,
        })
    }

    /// The same with these biases.
    pub fn biased(mut self, bias: f32) -> Self {
        self.biases.fill(bias);
        self
    }

    /// Loss and derivatives, summed over views; `run` gives those of one view for this kernel and these biases, none where it has
    /// no rows.
    pub fn over(
        &self,
        views: &[usize],
        mut run: impl FnMut(usize, &AnyTensor, &AnyTensor) -> Result<Option<LossAndSlope>>,
    ) -> Result<(f64, Columns)> {
        let wide = self.biases.len();
        let w = AnyTensor::new(&[self.size.depth, wide], &self.kernel)?;
        let b = AnyTensor::new(&[wide], &self.biases)?;
        let mut loss = 0.0;
        let mut slopes = Columns { kernel: vec![0.0; self.kernel.len()], biases: vec![0.0; wide] };
        for &view in views {
            let Some(said) = run(view, &w, &b)? else { continue };
            loss += said.loss;
            accumulate(&mut slopes.kernel, said.kernel.f32()?);
            accumulate(&mut slopes.biases, said.biases.f32()?);
        }
        Ok((loss, slopes))
    }
}

/// Trains `layers` on so many views; `slopes` tells what some of these say of the layers as they are. Gives the loss of each step.
///
/// Errors: those of `slopes`; [`Error::Data`] where the loss is not finite any more.
pub(super) fn descend(
    layers: &mut [Layer],
    views: usize,
    options: &DescentOptions,
    mut slopes: impl FnMut(&[Layer], &[usize]) -> Result<Step>,
    mut step: impl FnMut(usize, f64),
) -> Result<Vec<f64>> {
    let mut order: Vec<usize> = (0..views).collect();
    let mut random = SplitMix::new(options.seed, &[1]);
    let mut next = views;
    let mut losses = Vec::with_capacity(options.steps);
    for number in 1..=options.steps {
        let mut batch = Vec::with_capacity(options.batch);
        while batch.len() < options.batch.clamp(1, views.max(1)) && views > 0 {
            if next == views {
                random.shuffle(&mut order);
                next = 0;
            }
            batch.push(order[next]);
            next += 1;
        }
        let said = slopes(layers, &batch)?;
        let loss = said.loss / said.worth;
        if !loss.is_finite() {
            return Err(Error::Data(format!("training diverged at step {number}: lower the learning rate")));
        }
        let rate = options.rate * (number as f64 / options.warmup.max(1) as f64).min(1.0);
        let by = (rate, options.momentum, said.worth);
        for (layer, slope) in layers.iter_mut().zip(&said.slopes) {
            advance(&mut layer.kernel, &mut layer.kernel_speed, &slope.kernel, by);
            advance(&mut layer.biases, &mut layer.bias_speed, &slope.biases, by);
        }
        losses.push(loss);
        step(number, loss);
    }
    Ok(losses)
}

/// TensorFlow's momentum: speed ← momentum · speed + slope, value ← value − rate · speed.
fn advance(values: &mut [f32], speeds: &mut [f64], slopes: &[f64], (rate, momentum, worth): (f64, f64, f64)) {
    for ((value, speed), slope) in values.iter_mut().zip(speeds).zip(slopes) {
        *speed = momentum * *speed + slope / worth;
        *value = (f64::from(*value) - rate * *speed) as f32;
    }
}
