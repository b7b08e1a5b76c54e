//! Nodes of the small graphs that the program builds for itself.

use prost::Message;

use super::tensor::{float_tensor, shape_proto};
use crate::pb::{AttrValue, DataType, GraphDef, NodeDef, TensorProto, attr_value};

/// A node under construction.
pub(crate) struct Node(NodeDef);

/// A node with data inputs.
pub(crate) fn node<S: AsRef<str>>(name: &str, op: &str, inputs: &[S]) -> Node {
    let input = inputs.iter().map(|input| input.as_ref().to_owned()).collect();
    Node(NodeDef { name: name.to_owned(), op: op.to_owned(), input, ..NodeDef::default() })
}

/// A constant of strings: a scalar for one with `shape` empty, a vector with `shape` of its length.
pub(crate) fn strings<S: AsRef<[u8]>>(name: &str, shape: &[usize], values: &[S]) -> NodeDef {
    let string_val = values.iter().map(|value| value.as_ref().to_vec().into()).collect();
    let tensor = tensor(DataType::DtString, shape, TensorProto { string_val, ..TensorProto::default() });
    constant(name, DataType::DtString, tensor)
}

/// A constant of integers.
pub(crate) fn integers(name: &str, shape: &[usize], values: &[i32]) -> NodeDef {
    let value = TensorProto { int_val: values.to_vec(), ..TensorProto::default() };
    constant(name, DataType::DtInt32, tensor(DataType::DtInt32, shape, value))
}

/// A constant of one float32.
pub(crate) fn float(name: &str, value: f32) -> NodeDef {
    constant(name, DataType::DtFloat, float_tensor(&[], &[value]))
}

fn tensor(dtype: DataType, shape: &[usize], value: TensorProto) -> TensorProto {
    TensorProto { dtype: dtype.into(), tensor_shape: Some(shape_proto(shape)), ..value }
}

/// A constant of any tensor.
pub(crate) fn constant(name: &str, dtype: DataType, value: TensorProto) -> NodeDef {
    node::<&str>(name, "Const", &[])
        .dtype("dtype", dtype)
        .attr("value", attr_value::Value::Tensor(Box::new(value)))
        .build()
}

impl Node {
    /// Sets an attribute.
    pub(crate) fn attr(mut self, name: &str, value: attr_value::Value) -> Self {
        self.0.attr.insert(name.to_owned(), AttrValue { value: Some(value) });
        self
    }

    /// Sets an attribute that is a type.
    pub(crate) fn dtype(self, name: &str, dtype: DataType) -> Self {
        self.attr(name, attr_value::Value::Type(dtype.into()))
    }

    /// Sets an attribute that is a list of types.
    pub(crate) fn dtypes(self, name: &str, dtypes: &[DataType]) -> Self {
        let r#type = dtypes.iter().map(|&dtype| dtype.into()).collect();
        self.attr(
            name,
            attr_value::Value::List(Box::new(attr_value::ListValue { r#type, ..Default::default() })),
        )
    }

    /// The finished node.
    pub(crate) fn build(self) -> NodeDef {
        self.0
    }
}

/// The serialized graph of these nodes. It names no producer, so operations take their oldest meaning: fine for the
/// plain ones used here.
pub(crate) fn graph(node: Vec<NodeDef>) -> Vec<u8> {
    GraphDef { node, ..GraphDef::default() }.encode_to_vec()
}
