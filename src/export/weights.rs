//! Weights of flat graphs, kept beside the graphs and fed in each run.
//!
//! TensorFlow holds a constant four times: in the imported graph, in the session's own two, and in the kernel. A fed tensor it
//! holds not at all: it reads the one that is there, and two models that share weights read the same.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::values::VariableValues;
use crate::error::Result;
use crate::graph::tensor::{attr, constant, floats, shape, shape_proto};
use crate::pb;
use crate::pb::attr_value::Value;
use crate::runtime::{AnyTensor, Fed};

/// Constants of fewer bytes stay where they are: there are many, and they weigh nothing.
const LEAST: usize = 1 << 14;

/// Tensors by where their bytes lie. The bytes are kept as long as this is, so that a place means the same throughout.
#[derive(Debug, Default)]
pub struct Weights(HashMap<(usize, usize), (Bytes, Arc<AnyTensor>)>);

impl Weights {
    /// With the tensors that variables have already.
    pub fn of(values: &VariableValues) -> Self {
        let placed = |(content, tensor): &(Bytes, Arc<AnyTensor>)| {
            ((content.as_ptr() as usize, content.len()), (content.clone(), tensor.clone()))
        };
        Self(values.tensors.iter().map(placed).collect())
    }

    /// Replaces the large constants of a graph by placeholders; returns what to feed to them.
    pub fn lift(&mut self, graph: &mut pb::GraphDef) -> Result<Fed> {
        let mut fed = Fed::new();
        for node in &mut graph.node {
            // A constant with control inputs belongs to the frame of a loop.
            let Some(tensor) =
                constant(node).filter(|t| node.input.is_empty() && t.tensor_content.len() >= LEAST)
            else {
                continue;
            };
            let Some(sizes) = shape(tensor) else { continue };
            let content = tensor.tensor_content.clone();
            let place = (content.as_ptr() as usize, content.len());
            let kept = match self.0.get(&place) {
                Some((_, kept)) if kept.shape() == sizes => kept.clone(),
                _ => {
                    let Some(values) = floats(tensor) else { continue };
                    let kept = Arc::new(AnyTensor::new(&sizes, &values)?);
                    self.0.insert(place, (content, kept.clone()));
                    kept
                }
            };
            node.op = "Placeholder".into();
            node.attr.remove("value");
            node.attr.insert("shape".into(), attr(Value::Shape(shape_proto(&sizes))));
            fed.push((node.name.clone(), kept));
        }
        Ok(fed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::nodes::constant;
    use crate::graph::tensor::float_tensor;
    use crate::runtime::testing;

    #[test]
    fn large_constants_are_lifted_once_and_others_stay() {
        if testing::library().is_none() {
            return;
        }
        let large = float_tensor(&[2, LEAST / 4], &vec![1.5; LEAST / 2]);
        let mut framed = constant("framed", pb::DataType::DtFloat, large.clone());
        framed.input.push("^frame".into());
        let small = constant("small", pb::DataType::DtFloat, float_tensor(&[2], &[1.0, 2.0]));
        let mut graph = pb::GraphDef {
            node: vec![constant("a", pb::DataType::DtFloat, large.clone()), framed, small],
            ..Default::default()
        };
        let mut again =
            pb::GraphDef { node: vec![constant("b", pb::DataType::DtFloat, large)], ..Default::default() };
        let mut weights = Weights::default();
        let (first, second) = (weights.lift(&mut graph).unwrap(), weights.lift(&mut again).unwrap());
        assert_eq!(first.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a"]);
        assert!(Arc::ptr_eq(&first[0].1, &second[0].1));
        assert_eq!(first[0].1.shape(), [2, LEAST / 4]);
        assert!(first[0].1.f32().unwrap().iter().all(|&value| value == 1.5));
        let ops: Vec<&str> = graph.node.iter().map(|n| n.op.as_str()).collect();
        assert_eq!(ops, ["Placeholder", "Const", "Const"]);
    }
}
