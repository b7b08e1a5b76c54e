//! Damage to bytes and to protobuf messages, the same for the same seed.

use prost::encoding::{decode_varint, encode_varint};
use tfgraft::pb::{self, attr_value::Value};

/// SplitMix64: numbers that depend on the seed alone.
pub struct Draw(u64);

impl Draw {
    /// Numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 where `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.any() % end as u64) as usize }
    }

    /// One of several.
    pub fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// A number of the kind that breaks arithmetic.
    pub fn number(&mut self) -> u64 {
        let near = self.below(5) as u64;
        let edges = [0, 1, 127, 255, 1 << 15, 1 << 20, 1 << 29, 1 << 31, 1 << 32, 1 << 62, 1 << 63, u64::MAX];
        self.one(&edges).wrapping_add(near).wrapping_sub(2)
    }
}

/// Changes bytes in one to four places; `other` lends parts.
pub fn bytes(draw: &mut Draw, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..*draw.one(&[1, 1, 2, 4]) {
        let at = draw.below(bytes.len());
        let end = at + draw.below(bytes.len().saturating_sub(at).min(64) + 1);
        match draw.below(9) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << draw.below(8),
            1 if !bytes.is_empty() => {
                bytes[at] = *draw.one(&[0, 1, 0x7f, 0x80, 0xff, b'9', b'"', b'<', b'\n'])
            }
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let again = bytes[at..end].to_vec();
                let times = *draw.one(&[1, 2, 100]);
                drop(bytes.splice(at..at, again.repeat(times)));
            }
            5 => {
                let from = draw.below(other.len());
                let to = from + draw.below((other.len() - from).min(200) + 1);
                drop(bytes.splice(at..end, other[from..to].iter().copied()));
            }
            6 => {
                let number = draw.number();
                drop(bytes.splice(at..end.min(at + 10), varint(number)));
            }
            7 => {
                let fill = *draw.one(&[0, 0xff, b'[']);
                bytes[at..end].fill(fill);
            }
            _ => {
                let number = draw.number();
                let text =
                    (*draw.one(&[&format!("{number}"), &format!("-{number}"), "1e999", "NaN", "null"]))
                        .to_owned();
                drop(bytes.splice(at..(at + 3).min(end), text.into_bytes()));
            }
        }
    }
}

/// A number as protobuf writes it.
pub fn varint(value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    encode_varint(value, &mut out);
    out
}

/// A field as it stands on the wire: its key, and its payload without a length.
#[derive(Clone)]
struct Field {
    key: u64,
    payload: Vec<u8>,
}

/// The fields of a message; `None` where the bytes are none.
fn fields(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let key = decode_varint(&mut bytes).ok().filter(|key| key >> 3 != 0)?;
        let length = match key & 7 {
            0 => bytes.iter().position(|b| b & 0x80 == 0)? + 1,
            1 => 8,
            2 => usize::try_from(decode_varint(&mut bytes).ok()?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (payload, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        out.push(Field { key, payload: payload.to_vec() });
    }
    Some(out)
}

/// Changes a message somewhere within: fields left out, doubled, swapped, given other values or the wrong length.
/// Lengths around the change are made right, so that the change gets past the decoder.
pub fn message(draw: &mut Draw, bytes: &[u8]) -> Vec<u8> {
    let Some(mut fields) = fields(bytes).filter(|fields| !fields.is_empty()) else { return bytes.to_vec() };
    let at = draw.below(fields.len());
    let nested = fields[at].key & 7 == 2 && self::fields(&fields[at].payload).is_some_and(|f| !f.is_empty());
    let mut wrong = None;
    match draw.below(9) {
        // Deeper more often than not: the interesting messages lie far down.
        0..=5 if nested => fields[at].payload = message(draw, &fields[at].payload),
        0 | 6 => drop(fields.remove(at)),
        1 | 7 => {
            let again = fields[at].clone();
            let times = *draw.one(&[1, 1, 30]);
            drop(fields.splice(at..at, vec![again; times]));
        }
        2 => {
            let other = draw.below(fields.len());
            fields.swap(at, other);
        }
        3 => {
            let other = draw.one(&fields).payload.clone();
            if fields[at].key & 7 == 2 {
                fields[at].payload = other;
            }
        }
        4 => match fields[at].key & 7 {
            0 => fields[at].payload = varint(draw.number()),
            _ => fields[at].payload.iter_mut().for_each(|b| *b ^= 1 << draw.below(8)),
        },
        5 => wrong = Some((at, draw.number())),
        _ => {
            let length = draw.below(fields[at].payload.len());
            if fields[at].key & 7 == 2 {
                fields[at].payload.truncate(length);
            }
        }
    }
    let mut out = Vec::with_capacity(bytes.len() + 16);
    for (number, field) in fields.iter().enumerate() {
        out.extend(varint(field.key));
        if field.key & 7 == 2 {
            let stated = wrong.filter(|(at, _)| *at == number).map(|(_, n)| n);
            out.extend(varint(stated.unwrap_or(field.payload.len() as u64)));
        }
        out.extend(&field.payload);
    }
    out
}

/// Changes a decoded model so that every name may still resolve: edges, calls, types, sizes, whole nodes.
pub fn graph(draw: &mut Draw, meta: &mut pb::MetaGraphDef) {
    for _ in 0..*draw.one(&[1, 1, 2, 3]) {
        let Some(graph) = &mut meta.graph_def else { return };
        let functions: Vec<String> = graph
            .library
            .iter()
            .flat_map(|l| &l.function)
            .filter_map(|f| Some(f.signature.as_ref()?.name.clone()))
            .collect();
        let library = graph.library.as_mut().map_or(&mut [][..], |l| &mut l.function);
        let nodes = match draw.below(library.len() + 1) {
            0 => &mut graph.node,
            _ => {
                // The largest bodies hold the detector.
                let chosen =
                    (0..3).map(|_| draw.below(library.len())).max_by_key(|&f| library[f].node_def.len());
                &mut library[chosen.unwrap_or(0)].node_def
            }
        };
        if nodes.is_empty() {
            continue;
        }
        let (at, other) = (draw.below(nodes.len()), draw.below(nodes.len()));
        match draw.below(9) {
            0 => drop(nodes.remove(at)),
            1 => nodes.push(nodes[at].clone()),
            2 => {
                let mut copy = nodes[at].clone();
                copy.name.push_str("/copy");
                nodes.push(copy);
            }
            3 => nodes.swap(at, other),
            4 => nodes[at].op = nodes[other].op.clone(),
            5 => {
                // An edge to another node, which may close a circle.
                let (name, outputs) = (nodes[other].name.clone(), draw.below(3));
                let edge = draw.below(nodes[at].input.len());
                if let Some(input) = nodes[at].input.get_mut(edge) {
                    let tail = input.split_once(':').map_or("", |(_, tail)| tail).to_owned();
                    *input = if tail.is_empty() {
                        name
                    } else {
                        format!("{name}:{}", tail.replace('0', &outputs.to_string()))
                    };
                }
            }
            6 => nodes[at].input.reverse(),
            _ => {
                let chosen = draw.below(nodes[at].attr.len());
                if let Some(value) = nodes[at].attr.values_mut().nth(chosen) {
                    attribute(draw, value, &functions);
                }
            }
        }
    }
    if draw.below(8) == 0 {
        let chosen = draw.below(meta.signature_def.len());
        if let Some(signature) = meta.signature_def.values_mut().nth(chosen) {
            let outputs = &mut signature.outputs;
            let first = outputs.values().next().cloned();
            let at = draw.below(outputs.len());
            if let (Some(first), Some(info)) = (first, outputs.values_mut().nth(at)) {
                *info = first;
            }
        }
    }
}

fn attribute(draw: &mut Draw, attribute: &mut pb::AttrValue, functions: &[String]) {
    match &mut attribute.value {
        Some(Value::I(i)) => *i = draw.number() as i64,
        Some(Value::B(b)) => *b = !*b,
        Some(Value::Type(t)) => *t = draw.below(30) as i32,
        Some(Value::Func(f)) if !functions.is_empty() => f.name = draw.one(functions).clone(),
        Some(Value::Shape(shape)) => sizes(draw, shape),
        Some(Value::List(list)) => {
            list.i.iter_mut().for_each(|i| *i = draw.number() as i64);
            list.shape.iter_mut().for_each(|shape| sizes(draw, shape));
            list.r#type.pop();
        }
        Some(Value::Tensor(tensor)) => match draw.below(4) {
            0 => tensor.tensor_shape.iter_mut().for_each(|shape| sizes(draw, shape)),
            1 => {
                let length = draw.below(tensor.tensor_content.len());
                tensor.tensor_content = tensor.tensor_content.slice(..length);
            }
            2 => tensor.int_val.iter_mut().for_each(|v| *v = draw.number() as i32),
            _ => {
                let mut content = tensor.tensor_content.to_vec();
                let at = draw.below(content.len());
                if let Some(byte) = content.get_mut(at) {
                    *byte = draw.any() as u8;
                }
                tensor.tensor_content = content.into();
            }
        },
        other => *other = None,
    }
}

fn sizes(draw: &mut Draw, shape: &mut pb::TensorShapeProto) {
    match draw.below(3) {
        0 => drop(shape.dim.pop()),
        1 => shape.dim.push(pb::tensor_shape_proto::Dim { size: draw.number() as i64, ..Default::default() }),
        _ => {
            let at = draw.below(shape.dim.len());
            if let Some(dim) = shape.dim.get_mut(at) {
                dim.size = draw.number() as i64;
            }
        }
    }
}
