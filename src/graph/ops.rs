//! Output arguments of TensorFlow's ops, needed to tell `node:selected_scores:0` (functions) from `node:1` (graphs).
//!
//! `op_outputs.txt` lists every op with more than one output argument, one a line: `Op name[*list_attr] ...`. It was
//! read off the op registry of TensorFlow 2.15; all other ops have one output argument.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::pb;
use crate::pb::attr_value::Value;

struct Argument {
    name: &'static str,
    list_attr: Option<&'static str>,
}

fn table() -> &'static HashMap<&'static str, Vec<Argument>> {
    static TABLE: OnceLock<HashMap<&'static str, Vec<Argument>>> = OnceLock::new();
    TABLE.get_or_init(|| {
        include_str!("op_outputs.txt")
            .lines()
            .filter_map(|line| {
                let mut words = line.split(' ');
                let op = words.next()?;
                let arguments = words
                    .map(|word| match word.split_once('*') {
                        Some((name, list)) => Argument { name, list_attr: Some(list) },
                        None => Argument { name: word, list_attr: None },
                    })
                    .collect();
                Some((op, arguments))
            })
            .collect()
    })
}

/// The flat output index of `node:argument:index`; none where the op has no such argument.
pub fn output_index(node: &pb::NodeDef, argument: &str, index: usize) -> Option<usize> {
    let Some(arguments) = table().get(node.op.as_str()) else {
        return Some(index);
    };
    let mut offset = 0;
    for a in arguments {
        if a.name == argument {
            return Some(offset + index);
        }
        offset += match a.list_attr {
            None => 1,
            Some(attr) => list_length(node, attr)?,
        };
    }
    None
}

fn list_length(node: &pb::NodeDef, attr: &str) -> Option<usize> {
    match node.attr.get(attr)?.value.as_ref()? {
        Value::I(n) => usize::try_from(*n).ok(),
        Value::List(list) => Some(list.r#type.len()),
        _ => None,
    }
}

/// The functions that a node calls, with the attribute that names each.
pub fn called(node: &pb::NodeDef) -> impl Iterator<Item = (&str, &str)> {
    node.attr.iter().flat_map(|(key, attr)| {
        let names: Vec<&str> = match &attr.value {
            Some(Value::Func(f)) => vec![f.name.as_str()],
            Some(Value::List(list)) => list.func.iter().map(|f| f.name.as_str()).collect(),
            _ => vec![],
        };
        names.into_iter().map(move |name| (key.as_str(), name))
    })
}

/// Whether a node is a plain call: inputs are the function's arguments, outputs its results.
pub fn is_call(op: &str) -> bool {
    matches!(op, "PartitionedCall" | "StatefulPartitionedCall")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(op: &str) -> pb::NodeDef {
        pb::NodeDef { name: "n".into(), op: op.into(), ..Default::default() }
    }

    #[test]
    fn names_become_flat_indices() {
        let cases = [
            ("NonMaxSuppressionV5", "selected_scores", 0, Some(1)),
            ("TopKV2", "indices", 0, Some(1)),
            ("Switch", "output_true", 0, Some(1)),
            ("Unpack", "output", 3, Some(3)),
            ("Relu6", "activations", 0, Some(0)),
            ("TopKV2", "nothing", 0, None),
        ];
        for (op, argument, index, expected) in cases {
            assert_eq!(output_index(&node(op), argument, index), expected, "{op}:{argument}");
        }
    }
}
