//! The small graphs that compute losses of class columns and their derivatives.
//!
//! One graph serves all layers and chunks: its placeholders have no shapes. Losses are written with `Softplus` because
//! TensorFlow's fused cross entropies lack derivatives in the C library; they are summed in float64.

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

fn logits() -> Vec<pb::NodeDef> {
    vec![
        placeholder("x"),
        placeholder("w"),
        placeholder("b"),
        float("xw", "MatMul", &["x", "w"]),
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
