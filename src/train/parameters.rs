//! How the new columns depend on the numbers that are fitted.
//!
//! A column of layer l and anchor a, for one new class, is
//!
//! ```text
//! w[l,a] = m[l,a] + Σ_k α_k · U_k[l,a] + (d_l + e_la) / σ_l
//! b[l,a] = same of the biases + b0 + β_la − μ_l · (d_l + e_la) / σ_l
//! ```
//!
//! m is the mean of the old columns of that anchor and U_k the old column k minus m: one α for all anchors and layers
//! says which old classes the new one is like, so that an anchor without a single positive still gets a sensible
//! column. d is shared by the anchors of a layer, e belongs to one; both act on features made to mean 0 and deviation 1
//! (μ, σ). Every number has a normal prior; numbers are stored divided by its deviation (whitened), so that the penalty
//! is half their squares and the solver's first steps go where the prior allows most. 60 steps from zero are part of
//! the regularisation: other variables would end elsewhere.

use std::sync::Arc;

use super::lbfgs::{add, dot};
use super::shape::LayerSize;
use crate::error::{Error, Result};
use crate::head::columns::LayerValues;
use crate::runtime::AnyTensor;

/// Precisions (inverse variances) of the priors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Penalties {
    /// Of α, the likeness to old classes.
    pub likeness: f64,
    /// Of d and e together.
    pub columns: f64,
    /// The part of the variance that anchors share: precision columns/share for d, columns/(1−share) for e.
    pub share: f64,
    /// Of b0 and β.
    pub biases: f64,
}

impl Default for Penalties {
    /// Chosen on folds of photographs of two classes; 30 to 100 for `columns` lie within the noise of each other.
    fn default() -> Self {
        Self { likeness: 30.0, columns: 60.0, share: 0.98, biases: 0.01 }
    }
}

/// Mean and deviation of the features that a layer sees, [depth] each.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// Means.
    pub mean: Vec<f64>,
    /// Standard deviations, kept away from zero.
    pub deviation: Vec<f64>,
}

/// Kernel [depth, anchors, classes] and biases [anchors, classes] of a layer's new columns, or slopes in them.
#[derive(Debug, Clone, PartialEq)]
pub struct Columns {
    /// Kernel.
    pub kernel: Vec<f64>,
    /// Biases.
    pub biases: Vec<f64>,
}

impl Columns {
    /// Those of some of `classes` classes, in their order.
    pub(super) fn only(&self, some: &[usize], classes: usize) -> Self {
        let of = |values: &[f64]| {
            let rows = values.chunks_exact(classes);
            rows.flat_map(|row| some.iter().map(|&class| row[class])).collect()
        };
        Self { kernel: of(&self.kernel), biases: of(&self.biases) }
    }

    /// In float32, as graphs of logits and losses take them: kernel [depth, anchors·classes], biases [anchors·classes].
    pub(super) fn tensors(&self) -> Result<[AnyTensor; 2]> {
        let single = |values: &[f64]| values.iter().map(|v| *v as f32).collect::<Vec<f32>>();
        let wide = self.biases.len();
        let depth = self.kernel.len() / wide.max(1);
        let kernel = AnyTensor::new(&[depth, wide], &single(&self.kernel))?;
        Ok([kernel, AnyTensor::new(&[wide], &single(&self.biases))?])
    }
}

/// A bias below this belongs to a column that was made never to fire; it says nothing of detectors.
const SILENT: f32 = -100.0;

struct Layer {
    size: LayerSize,
    /// [depth·anchors] and [anchors].
    mean_kernel: Vec<f64>,
    mean_biases: Vec<f64>,
    /// Old columns minus their mean: [depth·anchors, old] and [anchors, old].
    old_kernel: Vec<f64>,
    old_biases: Vec<f64>,
    moments: Moments,
}

/// The map between fitted numbers and columns.
#[derive(Clone)]
pub struct Parameters {
    layers: Arc<[Layer]>,
    /// New classes.
    classes: usize,
    /// Old classes that columns are built from.
    old: usize,
    likeness: f64,
    shared: f64,
    own: f64,
    biases: f64,
}

impl Parameters {
    /// From the old layers, one for each of `sizes`, and the moments of their features.
    ///
    /// Errors: [`Error::Data`] when the values do not fit the sizes, or where no old class is left to start from.
    pub fn new(
        sizes: &[LayerSize],
        old: &[LayerValues],
        background: bool,
        moments: Vec<Moments>,
        classes: usize,
        penalties: &Penalties,
    ) -> Result<Self> {
        if old.len() != sizes.len() || moments.len() != sizes.len() {
            return Err(Error::Data(format!(
                "{} class layers for {} of the network",
                old.len(),
                sizes.len()
            )));
        }
        let columns = old_columns(sizes, old)?;
        let mut layers = Vec::new();
        let used: Vec<usize> = (usize::from(background)..columns)
            .filter(|&column| {
                old.iter().all(|l| l.biases.iter().skip(column).step_by(columns).any(|&b| b > SILENT))
            })
            .collect();
        if used.is_empty() {
            return Err(Error::Data(
                "the model has no class whose columns new ones could be built from".into(),
            ));
        }
        for ((&size, old), moments) in sizes.iter().zip(old).zip(moments) {
            if moments.mean.len() != size.depth || moments.deviation.len() != size.depth {
                return Err(Error::Data("feature statistics of another depth than the layer's".into()));
            }
            let (mean_kernel, old_kernel) = centred(&old.kernel, columns, &used);
            let (mean_biases, old_biases) = centred(&old.biases, columns, &used);
            layers.push(Layer { size, mean_kernel, mean_biases, old_kernel, old_biases, moments });
        }
        Ok(Self {
            layers: layers.into(),
            classes,
            old: used.len(),
            likeness: penalties.likeness.powf(-0.5),
            shared: (penalties.share / penalties.columns).sqrt(),
            own: ((1.0 - penalties.share) / penalties.columns).sqrt(),
            biases: penalties.biases.powf(-0.5),
        })
    }

    /// The same where the prior of d and e is so many times as strong.
    pub fn at(&self, strength: f64) -> Self {
        let deviation = strength.powf(-0.5);
        Self { shared: self.shared * deviation, own: self.own * deviation, ..self.clone() }
    }

    /// How many numbers are fitted: α [old, classes], b0 [classes], then for each layer d [depth, classes],
    /// e [depth, anchors, classes], β [anchors, classes].
    pub fn len(&self) -> usize {
        let layer = |l: &Layer| l.size.depth + l.size.depth * l.size.anchors + l.size.anchors;
        (self.old + 1 + self.layers.iter().map(layer).sum::<usize>()) * self.classes
    }

    /// Whether there is nothing to fit.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The columns of every layer. `whitened` has [`Parameters::len`] numbers.
    pub fn columns(&self, whitened: &[f64]) -> Vec<Columns> {
        let n = self.classes;
        let (alpha, rest) = whitened.split_at(self.old * n);
        let (b0, mut rest) = rest.split_at(n);
        // Class by class, so that sums over old classes run along memory.
        let mut likeness = vec![0.0; alpha.len()];
        for (at, value) in alpha.iter().enumerate() {
            likeness[(at % n) * self.old + at / n] = value * self.likeness;
        }
        let mut out = Vec::with_capacity(self.layers.len());
        for layer in self.layers.iter() {
            let LayerSize { depth, anchors } = layer.size;
            let (d, more) = rest.split_at(depth * n);
            let (e, more) = more.split_at(depth * anchors * n);
            let (beta, more) = more.split_at(anchors * n);
            rest = more;
            let group = anchors * n;
            let mut kernel = vec![0.0; depth * group];
            let mut biases = vec![0.0; group];
            for a in 0..anchors {
                for c in 0..n {
                    let like = &likeness[c * self.old..][..self.old];
                    biases[a * n + c] = layer.mean_biases[a]
                        + dot(&layer.old_biases[a * self.old..][..self.old], like)
                        + (b0[c] + beta[a * n + c]) * self.biases;
                }
            }
            for f in 0..depth {
                let (mean, deviation) = (layer.moments.mean[f], layer.moments.deviation[f]);
                for a in 0..anchors {
                    let row = f * anchors + a;
                    for c in 0..n {
                        let like = &likeness[c * self.old..][..self.old];
                        let free = (d[f * n + c] * self.shared + e[row * n + c] * self.own) / deviation;
                        let built = dot(&layer.old_kernel[row * self.old..][..self.old], like);
                        kernel[row * n + c] = layer.mean_kernel[row] + built + free;
                        biases[a * n + c] -= mean * free;
                    }
                }
            }
            out.push(Columns { kernel, biases });
        }
        out
    }

    /// The slope in the fitted numbers from the slopes in the columns: the transpose of [`Parameters::columns`].
    pub fn pull_back(&self, slopes: &[Columns]) -> Vec<f64> {
        let n = self.classes;
        let mut likeness = vec![0.0; self.old * n];
        let mut b0 = vec![0.0; n];
        let mut rest = Vec::with_capacity(self.len());
        for (layer, slope) in self.layers.iter().zip(slopes) {
            let LayerSize { depth, anchors } = layer.size;
            let mut d = vec![0.0; depth * n];
            let mut e = vec![0.0; depth * anchors * n];
            for a in 0..anchors {
                for c in 0..n {
                    let s = slope.biases[a * n + c];
                    add(
                        &mut likeness[c * self.old..][..self.old],
                        s,
                        &layer.old_biases[a * self.old..][..self.old],
                    );
                    b0[c] += s * self.biases;
                }
            }
            for f in 0..depth {
                let (mean, deviation) = (layer.moments.mean[f], layer.moments.deviation[f]);
                for a in 0..anchors {
                    let row = f * anchors + a;
                    for c in 0..n {
                        let s = slope.kernel[row * n + c];
                        let built = &layer.old_kernel[row * self.old..][..self.old];
                        add(&mut likeness[c * self.old..][..self.old], s, built);
                        let free = (s - mean * slope.biases[a * n + c]) / deviation;
                        d[f * n + c] += free * self.shared;
                        e[row * n + c] = free * self.own;
                    }
                }
            }
            rest.extend(d);
            rest.extend(e);
            rest.extend(slope.biases.iter().map(|s| s * self.biases));
        }
        let mut out = vec![0.0; self.old * n];
        for (at, value) in out.iter_mut().enumerate() {
            *value = likeness[(at % n) * self.old + at / n] * self.likeness;
        }
        out.extend(b0);
        out.extend(rest);
        out
    }
}

/// The number of old columns of each anchor, the same in all layers.
pub(super) fn old_columns(sizes: &[LayerSize], old: &[LayerValues]) -> Result<usize> {
    let first =
        sizes.first().zip(old.first()).map_or(0, |(size, old)| old.biases.len() / size.anchors.max(1));
    for (number, (size, old)) in sizes.iter().zip(old).enumerate() {
        let wide = size.anchors * first;
        if wide == 0 || old.biases.len() != wide || old.kernel.len() != size.depth * wide {
            return Err(Error::Data(format!(
                "class layer {number} has {} weights and {} biases, expected {} and {wide}",
                old.kernel.len(),
                old.biases.len(),
                size.depth * wide,
            )));
        }
        if old.kernel.iter().chain(&old.biases).any(|value| !value.is_finite()) {
            return Err(Error::Data(format!("class layer {number} has weights that are not finite")));
        }
    }
    Ok(first)
}

/// The mean over the used columns of each group, and what each used column adds to it.
fn centred(values: &[f32], columns: usize, used: &[usize]) -> (Vec<f64>, Vec<f64>) {
    let groups = values.len() / columns;
    let (mut means, mut rest) = (Vec::with_capacity(groups), Vec::with_capacity(groups * used.len()));
    for group in values.chunks_exact(columns) {
        let mean = used.iter().map(|&column| f64::from(group[column])).sum::<f64>() / used.len() as f64;
        means.push(mean);
        rest.extend(used.iter().map(|&column| f64::from(group[column]) - mean));
    }
    (means, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix;

    const SIZES: [LayerSize; 2] = [LayerSize { depth: 4, anchors: 2 }, LayerSize { depth: 3, anchors: 3 }];

    fn draw(random: &mut SplitMix, count: usize) -> Vec<f64> {
        (0..count).map(|_| random.uniform(-1.0, 1.0)).collect()
    }

    fn parameters(silent: bool) -> Parameters {
        let mut random = SplitMix::new(5, &[]);
        let layers = SIZES.map(|size| {
            let mut values = |count| draw(&mut random, count).iter().map(|v| *v as f32).collect::<Vec<f32>>();
            let mut biases = values(size.anchors * 6);
            if silent {
                biases.iter_mut().skip(2).step_by(6).for_each(|b| *b = -1000.0);
            }
            LayerValues { kernel: values(size.depth * size.anchors * 6), biases }
        });
        let moments =
            SIZES.map(|size| Moments { mean: vec![0.3; size.depth], deviation: vec![0.7; size.depth] });
        Parameters::new(&SIZES, &layers, true, moments.to_vec(), 2, &Penalties::default()).unwrap()
    }

    #[test]
    fn starts_from_the_mean_of_the_old_columns_and_leaves_silent_ones_out() {
        let (all, fewer) = (parameters(false), parameters(true));
        assert_eq!(all.old, 5);
        assert_eq!(fewer.old, 4);
        let start = fewer.columns(&vec![0.0; fewer.len()]);
        assert_eq!(start.len(), 2);
        assert!(start.iter().all(|layer| layer.biases.iter().all(|b| b.abs() < 1.0)));
        assert_eq!(start[1].kernel.len(), 3 * 3 * 2);
    }

    #[test]
    fn slopes_are_pulled_back_by_the_transpose() {
        let parameters = parameters(false);
        let mut random = SplitMix::new(6, &[]);
        let (zero, t) = (vec![0.0; parameters.len()], draw(&mut random, parameters.len()));
        let slopes: Vec<Columns> = SIZES
            .iter()
            .map(|s| Columns {
                kernel: draw(&mut random, s.depth * s.anchors * 2),
                biases: draw(&mut random, s.anchors * 2),
            })
            .collect();
        let along = |columns: &[Columns]| -> f64 {
            columns
                .iter()
                .zip(&slopes)
                .map(|(a, b)| dot(&a.kernel, &b.kernel) + dot(&a.biases, &b.biases))
                .sum()
        };
        let forward = along(&parameters.columns(&t)) - along(&parameters.columns(&zero));
        let back = dot(&parameters.pull_back(&slopes), &t);
        assert!((forward - back).abs() < 1e-10, "{forward} and {back}");
    }

    #[test]
    fn layers_of_other_sizes_are_refused() {
        let moments = vec![Moments { mean: vec![0.0; 4], deviation: vec![1.0; 4] }];
        let make = |kernel: usize, biases: usize, value: f32| {
            let old = LayerValues { kernel: vec![value; kernel], biases: vec![0.0; biases] };
            Parameters::new(&SIZES[..1], &[old], true, moments.clone(), 1, &Penalties::default())
        };
        assert!(make(24, 6, 0.0).is_ok());
        assert!(make(23, 6, 0.0).is_err());
        assert!(make(24, 5, 0.0).is_err());
        assert!(make(0, 0, 0.0).is_err());
        assert!(make(24, 6, f32::NAN).is_err());
        assert!(make(8, 2, 0.0).is_err(), "a background alone is no class");
    }
}
