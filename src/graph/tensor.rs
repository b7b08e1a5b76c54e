//! Reading and writing of attributes and of constants (TensorProto), without a panic on any content.

use bytes::Bytes;

use crate::pb;
use crate::pb::attr_value::Value;

/// No constant that is read element by element may claim more elements than this.
const MAX_ELEMENTS: usize = 1 << 29;
/// A list that stands for more values than it has may stand for this many: a few bytes must not ask for gigabytes.
const MAX_REPEATED: usize = 1 << 24;

/// An integer attribute.
pub fn int_attr(node: &pb::NodeDef, key: &str) -> Option<i64> {
    match node.attr.get(key)?.value.as_ref()? {
        Value::I(i) => Some(*i),
        _ => None,
    }
}

/// A list of integers.
pub fn ints_attr<'a>(node: &'a pb::NodeDef, key: &str) -> Option<&'a [i64]> {
    match node.attr.get(key)?.value.as_ref()? {
        Value::List(list) => Some(&list.i),
        _ => None,
    }
}

/// A boolean attribute.
pub fn bool_attr(node: &pb::NodeDef, key: &str) -> Option<bool> {
    match node.attr.get(key)?.value.as_ref()? {
        Value::B(b) => Some(*b),
        _ => None,
    }
}

/// A string attribute that is UTF-8.
pub fn str_attr<'a>(node: &'a pb::NodeDef, key: &str) -> Option<&'a str> {
    match node.attr.get(key)?.value.as_ref()? {
        Value::S(s) => std::str::from_utf8(s).ok(),
        _ => None,
    }
}

/// A type attribute.
pub fn type_attr(node: &pb::NodeDef, key: &str) -> Option<pb::DataType> {
    match node.attr.get(key)?.value.as_ref()? {
        Value::Type(t) => pb::DataType::try_from(*t).ok(),
        _ => None,
    }
}

/// A shape attribute of known rank; unknown sizes are -1.
pub fn shape_attr(node: &pb::NodeDef, key: &str) -> Option<Vec<i64>> {
    match node.attr.get(key)?.value.as_ref()? {
        Value::Shape(shape) if !shape.unknown_rank => Some(shape.dim.iter().map(|d| d.size).collect()),
        _ => None,
    }
}

/// A shape that an attribute holds, or one of a list of them.
pub fn shape_within(attribute: &pb::AttrValue, entry: Option<usize>) -> Option<&pb::TensorShapeProto> {
    match (attribute.value.as_ref()?, entry) {
        (Value::Shape(shape), None) => Some(shape),
        (Value::List(list), Some(entry)) => list.shape.get(entry),
        _ => None,
    }
}

/// The same, to alter.
pub fn shape_within_mut(
    attribute: &mut pb::AttrValue,
    entry: Option<usize>,
) -> Option<&mut pb::TensorShapeProto> {
    match (attribute.value.as_mut()?, entry) {
        (Value::Shape(shape), None) => Some(shape),
        (Value::List(list), Some(entry)) => list.shape.get_mut(entry),
        _ => None,
    }
}

/// The value of a Const node.
pub fn constant(node: &pb::NodeDef) -> Option<&pb::TensorProto> {
    match node.attr.get("value")?.value.as_ref()? {
        Value::Tensor(tensor) if node.op == "Const" => Some(tensor),
        _ => None,
    }
}

/// The sizes of a constant; none where they are unknown, negative or absurd.
pub fn shape(tensor: &pb::TensorProto) -> Option<Vec<usize>> {
    let Some(shape) = tensor.tensor_shape.as_ref() else { return Some(vec![]) };
    if shape.unknown_rank {
        return None;
    }
    let sizes: Vec<usize> = shape.dim.iter().map(|d| usize::try_from(d.size).ok()).collect::<Option<_>>()?;
    let count = sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size))?;
    (count <= MAX_ELEMENTS).then_some(sizes)
}

/// The elements of an integer constant (int32 or int64), row-major.
pub fn ints(tensor: &pb::TensorProto) -> Option<Vec<i64>> {
    let count = shape(tensor)?.iter().product();
    match tensor.dtype() {
        pb::DataType::DtInt32 => elements(
            count,
            &tensor.tensor_content,
            &tensor.int_val,
            |b| i64::from(i32::from_le_bytes(b)),
            |&v| i64::from(v),
        ),
        pb::DataType::DtInt64 => {
            elements(count, &tensor.tensor_content, &tensor.int64_val, i64::from_le_bytes, |&v| v)
        }
        _ => None,
    }
}

/// The elements of a float32 constant, row-major.
pub fn floats(tensor: &pb::TensorProto) -> Option<Vec<f32>> {
    if tensor.dtype() != pb::DataType::DtFloat {
        return None;
    }
    let count = shape(tensor)?.iter().product();
    elements(count, &tensor.tensor_content, &tensor.float_val, f32::from_le_bytes, |&v| v)
}

/// Raw content, or a list in which the last value repeats to the end (tensor.proto).
fn elements<const W: usize, L, T: Clone>(
    count: usize,
    content: &[u8],
    list: &[L],
    parse: impl Fn([u8; W]) -> T,
    convert: impl Fn(&L) -> T,
) -> Option<Vec<T>> {
    if !content.is_empty() {
        if content.len() != count.checked_mul(W)? {
            return None;
        }
        return Some(content.as_chunks::<W>().0.iter().map(|&chunk| parse(chunk)).collect());
    }
    if list.len() > count || (count > list.len() && count > MAX_REPEATED) {
        return None;
    }
    let mut values: Vec<T> = list.iter().map(&convert).collect();
    // An empty list means zeros.
    let fill = values.last().cloned().unwrap_or_else(|| parse([0; W]));
    values.resize(count, fill);
    Some(values)
}

/// A constant of the same type as `like` with new integers and the same shape.
pub fn with_ints(like: &pb::TensorProto, values: &[i64]) -> pb::TensorProto {
    let mut tensor = pb::TensorProto { tensor_content: Bytes::new(), ..like.clone() };
    if like.dtype() == pb::DataType::DtInt64 {
        tensor.int64_val = values.to_vec();
    } else {
        // Values come from an int32 constant and grow by a class count: saturation is unreachable in a checked model.
        tensor.int_val = values.iter().map(|&v| i32::try_from(v).unwrap_or(i32::MAX)).collect();
    }
    tensor
}

/// A float32 constant.
pub fn float_tensor(shape: &[usize], values: &[f32]) -> pb::TensorProto {
    pb::TensorProto {
        dtype: pb::DataType::DtFloat as i32,
        tensor_shape: Some(shape_proto(shape)),
        tensor_content: values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>().into(),
        ..Default::default()
    }
}

/// A scalar int32 constant.
pub fn int_scalar(value: i32) -> pb::TensorProto {
    pb::TensorProto {
        dtype: pb::DataType::DtInt32 as i32,
        tensor_shape: Some(shape_proto(&[])),
        int_val: vec![value],
        ..Default::default()
    }
}

/// A shape message.
pub fn shape_proto(shape: &[usize]) -> pb::TensorShapeProto {
    let dim = |&size: &usize| pb::tensor_shape_proto::Dim { size: size as i64, name: String::new() };
    pb::TensorShapeProto { dim: shape.iter().map(dim).collect(), unknown_rank: false }
}

/// An attribute that holds a value.
pub fn attr(value: Value) -> pb::AttrValue {
    pb::AttrValue { value: Some(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int32(shape: &[usize], values: &[i32]) -> pb::TensorProto {
        pb::TensorProto {
            dtype: pb::DataType::DtInt32 as i32,
            tensor_shape: Some(shape_proto(shape)),
            int_val: values.to_vec(),
            ..Default::default()
        }
    }

    #[test]
    fn lists_repeat_their_last_value() {
        assert_eq!(ints(&int32(&[3], &[7])), Some(vec![7, 7, 7]));
        assert_eq!(ints(&int32(&[3], &[1, 2])), Some(vec![1, 2, 2]));
        assert_eq!(ints(&int32(&[2], &[])), Some(vec![0, 0]));
        assert_eq!(ints(&int32(&[1], &[1, 2])), None);
    }

    #[test]
    fn content_of_the_wrong_length_is_no_value() {
        let mut tensor = float_tensor(&[2], &[1.0, 2.0]);
        assert_eq!(floats(&tensor), Some(vec![1.0, 2.0]));
        tensor.tensor_content = Bytes::from_static(&[0; 7]);
        assert_eq!(floats(&tensor), None);
    }

    #[test]
    fn absurd_shapes_have_no_value() {
        let mut tensor = int32(&[1], &[1]);
        for absurd in [&[usize::MAX >> 1, 4][..], &[1 << 14, 1 << 14]] {
            tensor.tensor_shape = Some(shape_proto(absurd));
            assert_eq!(ints(&tensor), None);
        }
    }
}
