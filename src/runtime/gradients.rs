//! Derivatives of a graph, added to it by TensorFlow.

use super::session::{import, output};
use super::{failed, library};
use crate::error::Result;

/// A graph with the nodes that compute its derivatives.
#[derive(Debug, Clone)]
pub struct Gradients {
    /// The serialized GraphDef: the nodes given and those added.
    pub graph_def: Vec<u8>,
    /// For each `x`, the tensor (`node:index`) with the derivative of the sum of all `y`.
    pub names: Vec<String>,
}

/// Adds the derivatives of the sum of `ys` with respect to each of `xs` to a flat graph.
///
/// TensorFlow's C++ gradients know fewer operations than Python's, and some are wrong: no path from an `x` to a `y`
/// may go through `IdentityN`, `SparseSoftmaxCrossEntropyWithLogits`, `TopKV2`, `LogSoftmax` of rank 3, `Conv2D` with
/// dilations or explicit padding, or variables inside functions. What has no gradient is an error; what is wrong is
/// not noticed.
pub fn add_gradients(graph_def: &[u8], ys: &[&str], xs: &[&str]) -> Result<Gradients> {
    library::load(None)?;
    let mut graph = import(graph_def)?;
    let resolve = |names: &[&str]| -> Result<Vec<tensorflow::Output>> {
        names.iter().map(|name| output(&graph, name)).collect()
    };
    let (y, x) = (resolve(ys)?, resolve(xs)?);
    // Initial derivatives of another value than one would have to go in as the last argument, which the crate
    // `tensorflow` frees before it is read: multiply `y` by a constant instead.
    let derivatives = graph
        .add_gradients(Some("gradients"), &y, &x, None)
        .map_err(|status| failed(format!("the derivatives of {}", ys.join(", ")), status))?;
    let named = derivatives.into_iter().zip(xs).map(|(derivative, x)| {
        let derivative =
            derivative.ok_or_else(|| failed(x, format!("{} does not depend on it", ys.join(", "))))?;
        Ok(derivative.name().map_err(|status| failed(x, status))?.to_string())
    });
    let names = named.collect::<Result<_>>()?;
    let graph_def = graph.graph_def().map_err(|status| failed("exporting the graph", status))?;
    Ok(Gradients { graph_def, names })
}

#[cfg(test)]
mod tests {
    use super::super::{AnyTensor, GraphSession, SessionConfig, testing};
    use super::*;
    use crate::graph::nodes::{graph, integers, node};
    use crate::pb::DataType::{DtFloat, DtInt32};

    const ROWS: usize = 5;
    const FEATURES: usize = 3;
    const CLASSES: usize = 2;

    /// sum(sigmoid_cross_entropy(x w, t)), spelled max(z, 0) - z t + log1p(exp(-|z|)) as TensorFlow's Python does.
    fn loss() -> Vec<u8> {
        let placeholder = |name| node::<&str>(name, "Placeholder", &[]).dtype("dtype", DtFloat).build();
        let float = |name, op, inputs: &[&str]| node(name, op, inputs).dtype("T", DtFloat).build();
        graph(vec![
            placeholder("x"),
            placeholder("w"),
            placeholder("t"),
            float("z", "MatMul", &["x", "w"]),
            float("relu", "Relu", &["z"]),
            float("zt", "Mul", &["z", "t"]),
            float("abs", "Abs", &["z"]),
            float("neg", "Neg", &["abs"]),
            float("exp", "Exp", &["neg"]),
            float("log", "Log1p", &["exp"]),
            float("part", "Sub", &["relu", "zt"]),
            float("each", "AddV2", &["part", "log"]),
            integers("axes", &[2], &[0, 1]),
            node("loss", "Sum", &["each", "axes"]).dtype("T", DtFloat).dtype("Tidx", DtInt32).build(),
            float("apart", "Neg", &["t"]),
        ])
    }

    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 24) as f32 * 2.0 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn agree_with_closed_form_and_with_differences() {
        if testing::library().is_none() {
            return;
        }
        let gradients = add_gradients(&loss(), &["loss:0"], &["w:0"]).unwrap();
        let session = GraphSession::new(&gradients.graph_def, &SessionConfig::default()).unwrap();
        let (x, w) = (numbers(ROWS * FEATURES, 1), numbers(FEATURES * CLASSES, 2));
        let t: Vec<f32> = numbers(ROWS * CLASSES, 3).iter().map(|v| f32::from(*v > 0.0)).collect();
        let run = |w: &[f32], fetch: &str| {
            let x = AnyTensor::new(&[ROWS, FEATURES], &x).unwrap();
            let w = AnyTensor::new(&[FEATURES, CLASSES], w).unwrap();
            let t = AnyTensor::new(&[ROWS, CLASSES], &t).unwrap();
            session.run(&[("x", &x), ("w", &w), ("t", &t)], &[fetch], &[]).unwrap().remove(0)
        };
        let got = run(&w, &gradients.names[0]);
        assert_eq!(got.shape(), [FEATURES, CLASSES]);
        for f in 0..FEATURES {
            for c in 0..CLASSES {
                let i = f * CLASSES + c;
                let closed: f32 = (0..ROWS)
                    .map(|r| {
                        let z: f32 = (0..FEATURES).map(|k| x[r * FEATURES + k] * w[k * CLASSES + c]).sum();
                        x[r * FEATURES + f] * (1.0 / (1.0 + (-z).exp()) - t[r * CLASSES + c])
                    })
                    .sum();
                let step = |by: f32| {
                    let mut w = w.clone();
                    w[i] += by;
                    run(&w, "loss").one::<f32>().unwrap()
                };
                let difference = (step(0.01) - step(-0.01)) / 0.02;
                let got = got.f32().unwrap()[i];
                assert!((got - closed).abs() < 1e-5, "{got} and {closed}");
                assert!((got - difference).abs() < 1e-3, "{got} and {difference}");
            }
        }
    }

    #[test]
    fn what_cannot_be_differentiated_is_an_error() {
        if testing::library().is_none() {
            return;
        }
        let unrelated = add_gradients(&loss(), &["apart:0"], &["w:0"]).unwrap_err();
        assert!(unrelated.to_string().contains("unreachable"), "{unrelated}");
        assert!(add_gradients(&loss(), &["nothing:0"], &["w:0"]).is_err());
        let no_rule = graph(vec![
            node::<&str>("x", "Placeholder", &[]).dtype("dtype", DtFloat).build(),
            node("y", "IdentityN", &["x"]).dtypes("T", &[DtFloat]).build(),
        ]);
        let error = add_gradients(&no_rule, &["y:0"], &["x:0"]).unwrap_err();
        assert!(error.to_string().contains("IdentityN"), "{error}");
    }
}
