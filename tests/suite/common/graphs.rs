//! Graphs built node by node, for rewrites that are tested without a model.

use tfgraft::graph::tensor::{attr, constant, float_tensor, int_scalar, ints, shape_proto};
use tfgraft::pb::{self, attr_value::Value};

/// A node without attributes.
pub fn node(name: &str, op: &str, inputs: &[&str]) -> pb::NodeDef {
    let input = inputs.iter().map(|i| (*i).to_owned()).collect();
    pb::NodeDef { name: name.into(), op: op.into(), input, ..Default::default() }
}

/// The node with one attribute more.
pub fn with(mut node: pb::NodeDef, key: &str, value: Value) -> pb::NodeDef {
    node.attr.insert(key.into(), attr(value));
    node
}

/// A constant.
pub fn value(name: &str, tensor: pb::TensorProto) -> pb::NodeDef {
    with(node(name, "Const", &[]), "value", Value::Tensor(Box::new(tensor)))
}

/// A constant integer vector.
pub fn vector(name: &str, values: &[i32]) -> pb::NodeDef {
    let tensor = pb::TensorProto {
        dtype: pb::DataType::DtInt32 as i32,
        tensor_shape: Some(shape_proto(&[values.len()])),
        int_val: values.to_vec(),
        ..Default::default()
    };
    value(name, tensor)
}

/// A constant integer.
pub fn number(name: &str, number: i32) -> pb::NodeDef {
    value(name, int_scalar(number))
}

/// Constant weights of a shape.
pub fn weights(name: &str, shape: &[usize]) -> pb::NodeDef {
    value(name, float_tensor(shape, &vec![0.5; shape.iter().product()]))
}

/// A graph that serves these outputs, each with its shape.
pub fn served(nodes: Vec<pb::NodeDef>, outputs: &[(&str, &str, &[usize])]) -> pb::MetaGraphDef {
    let outputs = outputs.iter().map(|&(alias, tensor, shape)| {
        let info = pb::TensorInfo {
            dtype: pb::DataType::DtFloat as i32,
            tensor_shape: Some(shape_proto(shape)),
            encoding: Some(pb::tensor_info::Encoding::Name(format!("{tensor}:0"))),
        };
        (alias.to_owned(), info)
    });
    let signature = pb::SignatureDef { outputs: outputs.collect(), ..Default::default() };
    pb::MetaGraphDef {
        graph_def: Some(pb::GraphDef { node: nodes, ..Default::default() }),
        signature_def: [("serving_default".to_owned(), signature)].into(),
        ..Default::default()
    }
}

/// The nodes of a graph.
pub fn nodes(meta: &pb::MetaGraphDef) -> &[pb::NodeDef] {
    meta.graph_def.as_ref().map_or(&[], |graph| &graph.node)
}

/// The integers of a constant; none for other nodes.
pub fn integers(node: &pb::NodeDef) -> Option<Vec<i64>> {
    ints(constant(node)?)
}
