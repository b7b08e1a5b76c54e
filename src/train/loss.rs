//! The small graphs that compute losses of class columns and their derivatives.
//!
//! One graph serves all layers and chunks: its placeholders have no shapes. Losses are written with `Softplus` because
//! TensorFlow's fused cross entropies lack derivatives in the C library; they are summed in float64.

use super::task::Loss;
use crate::error::Result;
use crate::graph::nodes::{self, graph, integers, node};
use crate::pb::attr_value::Value;
use crate::pb::{self, DataType};
use crate::runtime::{AnyTensor, GraphSession, SessionConfig, add_gradients};

/// A graph of a loss: `x` [rows, depth], `w` [depth, columns], `b` [columns] and what else the loss needs.
#[derive(Debug)]
pub struct LossGraph {
    session: GraphSession,
    gradients: Vec<String>,
}

/// A loss with its derivatives.
#[derive(Debug)]
pub struct LossAndSlope {
    /// The sum over rows and columns.
    pub loss: f64,
    /// With respect to the kernel, [depth, columns].
    pub kernel: AnyTensor,
    /// With respect to the biases, [columns].
    pub biases: AnyTensor,
}

impl LossGraph {
    /// Weighted cross entropy of soft targets: sum of v·(1 + (q−1)·y)·(log(1 + e^z) − y·z), q the weight of positives.
    ///
    /// Further placeholders: `y` targets and `v` weights, both [rows, columns].
    pub fn cross_entropy(positive_weight: f32, config: &SessionConfig) -> Result<Self> {
        let mut all = logits();
        all.extend([
            placeholder("y"),
            placeholder("v"),
            nodes::float("extra", positive_weight - 1.0),
            nodes::float("one", 1.0),
            float("y_extra", "Mul", &["y", "extra"]),
            float("factor", "AddV2", &["one", "y_extra"]),
            float("weight", "Mul", &["v", "factor"]),
            float("plus", "Softplus", &["z"]),
            float("yz", "Mul", &["y", "z"]),
            float("entropy", "Sub", &["plus", "yz"]),
            float("each", "Mul", &["weight", "entropy"]),
        ]);
        all.extend(total());
        Self::new(all, config)
    }

    /// The graph of a fit's loss; `positive_weight` multiplies full targets of [`Loss::Sigmoid`].
    pub fn of(loss: Loss, positive_weight: f32, config: &SessionConfig) -> Result<Self> {
        match loss {
            Loss::Sigmoid => Self::cross_entropy(positive_weight, config),
            Loss::Softmax => Self::share_of_softmax(config),
            Loss::Focal => Self::hard_focal(config),
            Loss::Squares => Self::squares(config),
        }
    }

    /// Cross entropy of a softmax of which only the new columns may change: sum of v·(log(1 + Σ e^u) − Σ y·u), u = z − s,
    /// s the logarithm of the sum of the old columns' exponentials, background included.
    ///
    /// That is −log of the new class's share for a positive and −log of the old columns' common share for a negative,
    /// but for what does not depend on the new columns: old labels are not needed. Convex. Further placeholders: `y`
    /// targets [rows, columns], at most one of a row not zero; `v` and `s`, both [rows, 1].
    fn share_of_softmax(config: &SessionConfig) -> Result<Self> {
        let mut all = logits();
        all.extend([
            placeholder("y"),
            placeholder("v"),
            placeholder("s"),
            float("u", "Sub", &["z", "s"]),
            // The old columns together are one more, whose logit over s is zero.
            integers("before", &[2, 2], &[0, 0, 1, 0]),
            node("with_old", "Pad", &["u", "before"])
                .dtype("T", DataType::DtFloat)
                .dtype("Tpaddings", DataType::DtInt32)
                .build(),
            float("log_shares", "LogSoftmax", &["with_old"]),
            integers("across", &[], &[1]),
            node("any_new", "Sum", &["y", "across"])
                .dtype("T", DataType::DtFloat)
                .dtype("Tidx", DataType::DtInt32)
                .attr("keep_dims", Value::B(true))
                .build(),
            nodes::float("one", 1.0),
            float("old", "Sub", &["one", "any_new"]),
            node("target", "ConcatV2", &["old", "y", "across"])
                .dtype("T", DataType::DtFloat)
                .dtype("Tidx", DataType::DtInt32)
                .attr("N", Value::I(2))
                .build(),
            float("taken", "Mul", &["target", "log_shares"]),
            float("entropy", "Neg", &["taken"]),
            float("each", "Mul", &["entropy", "v"]),
        ]);
        all.extend(total());
        Self::new(all, config)
    }

    /// The focal loss with γ = 2 and without α (arXiv 1904.07850): sum of v·(y·(1−p)²·(−log p) + (1−y)·p²·(−log(1−p))).
    ///
    /// Further placeholders: `y` targets, 0 or 1, and `v` weights, both [rows, columns]. (1−p)² is e^(−2·softplus(z)).
    fn hard_focal(config: &SessionConfig) -> Result<Self> {
        let mut all = logits();
        all.extend([
            placeholder("y"),
            placeholder("v"),
            nodes::float("minus_two", -2.0),
            nodes::float("one", 1.0),
            float("minus_z", "Neg", &["z"]),
            float("plus", "Softplus", &["z"]),
            float("minus", "Softplus", &["minus_z"]),
            float("miss_power", "Mul", &["plus", "minus_two"]),
            float("miss_factor", "Exp", &["miss_power"]),
            float("miss", "Mul", &["miss_factor", "minus"]),
            float("false_power", "Mul", &["minus", "minus_two"]),
            float("false_factor", "Exp", &["false_power"]),
            float("false", "Mul", &["false_factor", "plus"]),
            float("negative", "Sub", &["one", "y"]),
            float("missed", "Mul", &["y", "miss"]),
            float("false_alarm", "Mul", &["negative", "false"]),
            float("focal", "AddV2", &["missed", "false_alarm"]),
            float("each", "Mul", &["v", "focal"]),
        ]);
        all.extend(total());
        Self::new(all, config)
    }

    /// Half the weighted squares: sum of v·(z − y)²/2. Further placeholders: `y` and `v`, both [rows, columns].
    fn squares(config: &SessionConfig) -> Result<Self> {
        let mut all = logits();
        all.extend([
            placeholder("y"),
            placeholder("v"),
            nodes::float("half", 0.5),
            float("off", "Sub", &["z", "y"]),
            float("square", "Square", &["off"]),
            float("halved", "Mul", &["square", "half"]),
            float("each", "Mul", &["v", "halved"]),
        ]);
        all.extend(total());
        Self::new(all, config)
    }

    /// The sigmoid focal loss (arXiv 1708.02002) of hard targets: sum of v·α_t·(1−p_t)^γ·(−log p_t).
    ///
    /// Further placeholders: `class` int32 [rows·groups], the class of each group of `classes` columns or −1, and `v`
    /// [rows·groups, 1], weights. With q = z for a negative and −z for a positive, p_t is σ(−q), so that the loss is
    /// α_t·e^(−γ·softplus(−q))·softplus(q): exact far out, and without powers.
    pub fn focal(alpha: f32, gamma: f32, classes: usize, config: &SessionConfig) -> Result<Self> {
        let mut all = logits();
        all.extend([
            node::<&str>("class", "Placeholder", &[]).dtype("dtype", DataType::DtInt32).build(),
            placeholder("v"),
            integers("classes", &[], &[classes as i32]),
            integers("by_class", &[2], &[-1, classes as i32]),
            nodes::float("one", 1.0),
            nodes::float("zero", 0.0),
            nodes::float("minus_two", -2.0),
            nodes::float("alpha_slope", 2.0 * alpha - 1.0),
            nodes::float("alpha_start", 1.0 - alpha),
            nodes::float("minus_gamma", -gamma),
            node("y", "OneHot", &["class", "classes", "one", "zero"])
                .dtype("T", DataType::DtFloat)
                .dtype("TI", DataType::DtInt32)
                .attr("axis", Value::I(-1))
                .build(),
            float("zc", "Reshape", &["z", "by_class"]),
            float("y_twice", "Mul", &["y", "minus_two"]),
            float("sign", "AddV2", &["y_twice", "one"]),
            float("q", "Mul", &["sign", "zc"]),
            float("minus_q", "Neg", &["q"]),
            float("entropy", "Softplus", &["q"]),
            float("plus", "Softplus", &["minus_q"]),
            float("power", "Mul", &["plus", "minus_gamma"]),
            float("modulation", "Exp", &["power"]),
            float("focal", "Mul", &["modulation", "entropy"]),
            float("alpha_y", "Mul", &["y", "alpha_slope"]),
            float("alpha_t", "AddV2", &["alpha_y", "alpha_start"]),
            float("weight", "Mul", &["alpha_t", "v"]),
            float("each", "Mul", &["weight", "focal"]),
        ]);
        all.extend(total());
        Self::new(all, config)
    }

    /// Cross entropy of a whole softmax: sum of −v·log p of the column that each row should be.
    ///
    /// Further placeholders: `class` int32 [rows], one of `columns`, and `v` [rows, 1], weights.
    pub fn softmax(columns: usize, config: &SessionConfig) -> Result<Self> {
        let mut all = logits();
        all.extend([
            node::<&str>("class", "Placeholder", &[]).dtype("dtype", DataType::DtInt32).build(),
            placeholder("v"),
            integers("columns", &[], &[columns as i32]),
            nodes::float("minus_one", -1.0),
            nodes::float("zero", 0.0),
            node("minus_y", "OneHot", &["class", "columns", "minus_one", "zero"])
                .dtype("T", DataType::DtFloat)
                .dtype("TI", DataType::DtInt32)
                .attr("axis", Value::I(-1))
                .build(),
            float("log_shares", "LogSoftmax", &["z"]),
            float("entropy", "Mul", &["minus_y", "log_shares"]),
            float("each", "Mul", &["entropy", "v"]),
        ]);
        all.extend(total());
        Self::new(all, config)
    }

    fn new(all: Vec<pb::NodeDef>, config: &SessionConfig) -> Result<Self> {
        let gradients = add_gradients(&graph(all), &["loss:0"], &["w:0", "b:0"])?;
        let session = GraphSession::new(&gradients.graph_def, config)?;
        Ok(Self { session, gradients: gradients.names })
    }

    /// Loss and derivatives for these feeds.
    pub fn run(&self, feeds: &[(&str, &AnyTensor)]) -> Result<LossAndSlope> {
        let fetches = ["loss:0", &self.gradients[0], &self.gradients[1]];
        let out = self.session.run(feeds, &fetches, &[])?;
        let [loss, kernel, biases] = <[AnyTensor; 3]>::try_from(out)
            .map_err(|_| crate::Error::TensorFlow("a run gave fewer tensors than asked for".into()))?;
        Ok(LossAndSlope { loss: loss.one()?, kernel, biases })
    }
}

/// The graph of the class logits alone: `x`, `w`, `b` to `z` [rows, columns].
#[derive(Debug)]
pub struct Logits(GraphSession);

impl Logits {
    /// Makes the graph.
    pub fn new(config: &SessionConfig) -> Result<Self> {
        Ok(Self(GraphSession::new(&graph(logits()), config)?))
    }

    /// x·w + b.
    pub fn run(&self, x: &AnyTensor, w: &AnyTensor, b: &AnyTensor) -> Result<AnyTensor> {
        let mut out = self.0.run(&[("x", x), ("w", w), ("b", b)], &["z:0"], &[])?;
        out.pop().ok_or_else(|| crate::Error::TensorFlow("a run gave fewer tensors than asked for".into()))
    }
}

/// Of the kernel turned, since its slope is then the product of a narrow matrix and a wide one, [columns, rows] by [rows, depth]. The
/// other way about, a tall matrix by a narrow one, TensorFlow takes three to five times as long.
fn logits() -> Vec<pb::NodeDef> {
    vec![
        placeholder("x"),
        placeholder("w"),
        placeholder("b"),
        integers("order", &[2], &[1, 0]),
        node("w_turned", "Transpose", &["w", "order"])
            .dtype("T", DataType::DtFloat)
            .dtype("Tperm", DataType::DtInt32)
            .build(),
        node("xw", "MatMul", &["x", "w_turned"])
            .dtype("T", DataType::DtFloat)
            .attr("transpose_b", Value::B(true))
            .build(),
        float("z", "BiasAdd", &["xw", "b"]),
    ]
}

fn total() -> Vec<pb::NodeDef> {
    vec![
        node("wide", "Cast", &["each"])
            .dtype("SrcT", DataType::DtFloat)
            .dtype("DstT", DataType::DtDouble)
            .build(),
        integers("axes", &[2], &[0, 1]),
        node("loss", "Sum", &["wide", "axes"])
            .dtype("T", DataType::DtDouble)
            .dtype("Tidx", DataType::DtInt32)
            .build(),
    ]
}

fn float(name: &str, op: &str, inputs: &[&str]) -> pb::NodeDef {
    node(name, op, inputs).dtype("T", DataType::DtFloat).build()
}

fn placeholder(name: &str) -> pb::NodeDef {
    node::<&str>(name, "Placeholder", &[]).dtype("dtype", DataType::DtFloat).build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix;
    use crate::runtime::testing;

    const ROWS: usize = 7;
    const DEPTH: usize = 3;
    const CLASSES: usize = 2;

    fn softplus(z: f64) -> f64 {
        z.max(0.0) + (-z.abs()).exp().ln_1p()
    }

    /// The loss of a row as its formula says.
    fn by_hand(loss: Loss, z: &[f64], y: &[f64], v: &[f64], s: f64) -> f64 {
        let pairs = || z.iter().zip(y).zip(v).map(|((z, y), v)| (*z, *y, *v));
        match loss {
            Loss::Sigmoid => pairs().map(|(z, y, v)| v * (softplus(z) - y * z)).sum(),
            Loss::Focal => pairs()
                .map(|(z, y, v)| {
                    let p = 1.0 / (1.0 + (-z).exp());
                    v * if y == 1.0 { -(1.0 - p).powi(2) * p.ln() } else { -p * p * (1.0 - p).ln() }
                })
                .sum(),
            Loss::Squares => pairs().map(|(z, y, v)| v * (z - y).powi(2) / 2.0).sum(),
            Loss::Softmax => {
                let all = 1.0 + z.iter().map(|z| (z - s).exp()).sum::<f64>();
                v[0] * (all.ln() - z.iter().zip(y).map(|(z, y)| y * (z - s)).sum::<f64>())
            }
        }
    }

    #[test]
    fn losses_are_their_formulas_and_slopes_their_differences() {
        if testing::library().is_none() {
            return;
        }
        for loss in [Loss::Sigmoid, Loss::Focal, Loss::Squares, Loss::Softmax] {
            let mut random = SplitMix::new(3, &[loss as u64]);
            let mut draw = |count: usize, low: f64| {
                (0..count).map(|_| random.uniform(low, 2.0) as f32).collect::<Vec<f32>>()
            };
            let (x, w, b) = (draw(ROWS * DEPTH, -2.0), draw(DEPTH * CLASSES, -2.0), draw(CLASSES, -2.0));
            let softmax = loss == Loss::Softmax;
            let v = draw(if softmax { ROWS } else { ROWS * CLASSES }, 0.0);
            let s = draw(ROWS, -1.0);
            // Rows of nothing, of the first class and of the second.
            let mut y: Vec<f32> = (0..ROWS * CLASSES)
                .map(|i| f32::from(u8::from(i / CLASSES % 3 == 1 + i % CLASSES)))
                .collect();
            if loss == Loss::Squares {
                y = draw(ROWS * CLASSES, -2.0);
            }
            let wide = |values: &[f32]| values.iter().map(|v| f64::from(*v)).collect::<Vec<f64>>();
            let formula = |w: &[f64], b: &[f64]| -> f64 {
                let row = |row: usize| {
                    let z: Vec<f64> = (0..CLASSES)
                        .map(|c| {
                            b[c] + (0..DEPTH)
                                .map(|f| f64::from(x[row * DEPTH + f]) * w[f * CLASSES + c])
                                .sum::<f64>()
                        })
                        .collect();
                    let weights =
                        if softmax { &v[row..=row] } else { &v[row * CLASSES..(row + 1) * CLASSES] };
                    by_hand(
                        loss,
                        &z,
                        &wide(&y[row * CLASSES..(row + 1) * CLASSES]),
                        &wide(weights),
                        f64::from(s[row]),
                    )
                };
                (0..ROWS).map(row).sum()
            };
            let tensor = |shape: &[usize], values: &[f32]| AnyTensor::new(shape, values).unwrap();
            let parts = [
                tensor(&[ROWS, DEPTH], &x),
                tensor(&[ROWS, CLASSES], &y),
                tensor(&[ROWS, v.len() / ROWS], &v),
                tensor(&[ROWS, 1], &s),
            ];
            let (wt, bt) = (tensor(&[DEPTH, CLASSES], &w), tensor(&[CLASSES], &b));
            let mut feeds = vec![("w", &wt), ("b", &bt)];
            feeds.extend(loss.parts().iter().copied().zip(&parts));
            let got = LossGraph::of(loss, 1.0, &SessionConfig::default()).unwrap().run(&feeds).unwrap();
            let (w, b) = (wide(&w), wide(&b));
            let expected = formula(&w, &b);
            assert!((got.loss - expected).abs() < 1e-5 * expected, "{loss:?}: {} and {expected}", got.loss);
            let slopes: Vec<f32> = [got.kernel.f32().unwrap(), got.biases.f32().unwrap()].concat();
            for (at, slope) in slopes.into_iter().enumerate() {
                let step = |by: f64| {
                    let (mut w, mut b) = (w.clone(), b.clone());
                    if at < w.len() {
                        w[at] += by
                    } else {
                        b[at - w.len()] += by
                    }
                    formula(&w, &b)
                };
                let difference = (step(1e-5) - step(-1e-5)) / 2e-5;
                let off = (f64::from(slope) - difference).abs();
                assert!(off < 1e-4 * difference.abs().max(1.0), "{loss:?} {at}: {slope} and {difference}");
            }
        }
    }
}
