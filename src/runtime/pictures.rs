//! Pictures in the form that a model's input takes: pixels, or the bytes of a file, alone or in a tf.Example.
//!
//! The OD API's exporters know them as `image_tensor`, `float_image_tensor`, `encoded_image_string_tensor` and
//! `tf_example`. Files are PNG, from which every decoder gets the same pixels back.

use std::collections::BTreeMap;

use prost::Message;

use super::{AnyTensor, serving};
use crate::data::{picture, tfrecord};
use crate::error::{Error, Result};
use crate::graph::tensor::shape_proto;
use crate::pb::{DataType, FunctionDef, GraphDef, NodeDef, TensorProto};

/// The form that an input takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// uint8 [1, height, width, 3].
    Bytes,
    /// float32 [1, height, width, 3], 0 to 255.
    Float,
    /// The bytes of a picture file, string [1].
    Encoded,
    /// A serialized tf.Example with such bytes, string [1].
    Example,
}

/// The operations of a graph and nothing else of it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Ops {
    #[prost(message, repeated, tag = "1")]
    node: Vec<Op>,
    #[prost(message, optional, tag = "2")]
    library: Option<Library>,
}

#[derive(Clone, PartialEq, Message)]
struct Library {
    #[prost(message, repeated, tag = "1")]
    function: Vec<Function>,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(message, repeated, tag = "3")]
    node_def: Vec<Op>,
}

#[derive(Clone, PartialEq, Message)]
struct Op {
    #[prost(string, tag = "2")]
    op: String,
}

impl Ops {
    /// Reads a serialized GraphDef.
    pub(crate) fn read(graph_def: &[u8]) -> Result<Self> {
        Self::decode(graph_def).map_err(|error| super::failed("reading the graph", error))
    }

    fn any(&self, is: impl Fn(&str) -> bool) -> bool {
        let functions = self.library.iter().flat_map(|library| &library.function);
        self.node.iter().chain(functions.flat_map(|function| &function.node_def)).any(|node| is(&node.op))
    }
}

impl Form {
    /// The form that an input of this type takes; none where it takes no picture.
    ///
    /// Strings are files or examples by what the graph does: exports of TensorFlow 2 name both `input_tensor`.
    pub(crate) fn of(dtype: DataType, ops: &Ops) -> Option<Self> {
        match dtype {
            DataType::DtUint8 => Some(Self::Bytes),
            DataType::DtFloat => Some(Self::Float),
            // ParseExample, ParseSingleExample and their later versions.
            DataType::DtString if ops.any(|op| op.starts_with("Parse") && op.contains("Example")) => {
                Some(Self::Example)
            }
            DataType::DtString => Some(Self::Encoded),
            _ => None,
        }
    }

    /// The same from the graph's messages.
    pub fn of_input(dtype: DataType, graph: Option<&GraphDef>) -> Option<Self> {
        let nodes = |nodes: &[NodeDef]| nodes.iter().map(|node| Op { op: node.op.clone() }).collect();
        let function = |function: &FunctionDef| Function { node_def: nodes(&function.node_def) };
        let ops = graph.map(|graph| Ops {
            node: nodes(&graph.node),
            library: graph
                .library
                .as_ref()
                .map(|all| Library { function: all.function.iter().map(function).collect() }),
        });
        Self::of(dtype, &ops.unwrap_or_default())
    }

    /// A picture, `height · width · 3` bytes, as a message.
    pub fn message(self, rgb: &[u8], height: usize, width: usize) -> Result<TensorProto> {
        let proto = |dtype: DataType, shape: &[usize]| TensorProto {
            dtype: dtype.into(),
            tensor_shape: Some(shape_proto(shape)),
            ..TensorProto::default()
        };
        let text = |bytes: Vec<u8>| TensorProto {
            string_val: vec![bytes.into()],
            ..proto(DataType::DtString, &[1])
        };
        let pixels = [1, height, width, 3];
        Ok(match self {
            Self::Bytes => {
                TensorProto { tensor_content: rgb.to_vec().into(), ..proto(DataType::DtUint8, &pixels) }
            }
            Self::Float => {
                let bytes: Vec<u8> = rgb.iter().flat_map(|&v| f32::from(v).to_le_bytes()).collect();
                TensorProto { tensor_content: bytes.into(), ..proto(DataType::DtFloat, &pixels) }
            }
            Self::Encoded => text(png(rgb, height, width)?),
            Self::Example => text(tfrecord::example(BTreeMap::from([
                ("image/encoded", png(rgb, height, width)?),
                ("image/format", b"png".to_vec()),
            ]))),
        })
    }

    /// A picture, `height · width · 3` bytes, as a tensor.
    pub fn tensor(self, rgb: &[u8], height: usize, width: usize) -> Result<AnyTensor> {
        let pixels = [1, height, width, 3];
        match self {
            Self::Bytes => AnyTensor::new(&pixels, rgb),
            Self::Float => {
                let values: Vec<f32> = rgb.iter().map(|&v| f32::from(v)).collect();
                AnyTensor::new(&pixels, &values)
            }
            Self::Encoded | Self::Example => serving::tensor(&self.message(rgb, height, width)?),
        }
    }
}

fn png(rgb: &[u8], height: usize, width: usize) -> Result<Vec<u8>> {
    let side = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let mut out = Vec::new();
    if rgb.len() != height.saturating_mul(width).saturating_mul(3) {
        return Err(Error::Data(format!("{} bytes are no picture of {height} x {width} pixels", rgb.len())));
    }
    picture::write_png(rgb, side(width), side(height), &mut out)
        .map_err(|error| Error::Data(format!("cannot encode a picture: {error}")))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::nodes::{graph, node};
    use crate::pb::FunctionDefLibrary;

    #[test]
    fn strings_are_examples_where_the_graph_parses_them() {
        let parser = |op: &str| NodeDef { op: op.into(), ..NodeDef::default() };
        let in_function = |op: &str| GraphDef {
            library: Some(FunctionDefLibrary {
                function: vec![FunctionDef { node_def: vec![parser(op)], ..FunctionDef::default() }],
                ..FunctionDefLibrary::default()
            }),
            ..GraphDef::default()
        };
        let form = |bytes: &[u8], dtype| Form::of(dtype, &Ops::read(bytes).unwrap());
        let plain = graph(vec![node::<&str>("a", "DecodePng", &[]).build()]);
        let parsing = graph(vec![node::<&str>("a", "ParseSingleExample", &[]).build()]);
        assert_eq!(form(&plain, DataType::DtString), Some(Form::Encoded));
        assert_eq!(form(&parsing, DataType::DtString), Some(Form::Example));
        assert_eq!(
            form(&in_function("ParseExampleV2").encode_to_vec(), DataType::DtString),
            Some(Form::Example)
        );
        assert_eq!(
            form(&in_function("ParseTensor").encode_to_vec(), DataType::DtString),
            Some(Form::Encoded)
        );
        assert_eq!(form(&parsing, DataType::DtFloat), Some(Form::Float));
        assert_eq!(form(&parsing, DataType::DtInt64), None);
        assert!(Ops::read(b"\xff").is_err());
    }

    #[test]
    fn bytes_that_are_no_picture_are_an_error() {
        assert!(Form::Encoded.message(&[0; 5], 1, 2).is_err());
        assert!(Form::Example.message(&[0; 6], 1, 2).is_ok());
    }
}
