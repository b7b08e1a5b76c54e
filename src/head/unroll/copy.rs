//! Copies the last class's nodes for every new class, and joins them.

use std::collections::{BTreeSet, HashMap};

use super::super::axis::Growth;
use super::super::flow::Pick;
use super::compare::Indices;
use super::node_of;
use super::region::{Instance, Region};
use crate::error::Result;
use crate::graph::tensor::{attr, constant, floats, int_scalar, ints, with_ints};
use crate::graph::{Editor, Source};
use crate::pb;
use crate::pb::attr_value::Value;

/// Marks the nodes of a grafted class; its number follows.
const SUFFIX: &str = "_tfgraft_";

impl Region<'_, '_> {
    pub(super) fn copy(
        &self,
        editor: &mut Editor<'_>,
        template: &Instance,
        indices: &Indices,
        picks: &[Pick],
        growth: Growth,
    ) -> Result<()> {
        let here = &self.view.scopes[self.scope];
        let begin = here.inputs[picks[template.class].node].get(1).copied().and_then(node_of);
        if !begin.is_some_and(|b| template.members.contains(&b) && indices.keys().any(|(n, _)| *n == b)) {
            return Err(self.not(
                picks[template.class].node,
                "the constant that picks the class is shared with other classes".into(),
            ));
        }
        let mut members: Vec<usize> = template.members.iter().copied().collect();
        members.sort_unstable();
        let mut previous: Vec<String> =
            self.chains.iter().map(|&(end, _)| here.nodes[end].name.clone()).collect();
        let mut joined: Vec<Vec<String>> = vec![Vec::new(); self.joins.len()];
        for class in growth.classes..growth.classes + growth.added {
            let mut names: HashMap<&str, String> = HashMap::new();
            for &m in &members {
                let old = here.nodes[m].name.as_str();
                names.insert(old, editor.free_name(self.scope, &format!("{}{SUFFIX}{class}", stem(old))));
            }
            for &m in &members {
                let mut node = editor.peek(self.scope, m).clone();
                node.name = names[node.name.as_str()].clone();
                for (input, text) in node.input.iter_mut().enumerate() {
                    let source = here.inputs[m].get(input).copied();
                    *text = self.for_class(text, source, class).unwrap_or_else(|| renamed(text, &names));
                }
                node.attr.remove("_class");
                for (&(_, element), &first) in indices.range((m, 0)..=(m, usize::MAX)) {
                    set_number(&mut node, element, first + class as f64);
                }
                editor.add(self.scope, node)?;
            }
            for (chain, &(end, own)) in self.chains.iter().enumerate() {
                let mut node = editor.peek(self.scope, end).clone();
                let old = node.name.clone();
                node.name = editor.free_name(self.scope, &format!("{}{SUFFIX}{class}", stem(&old)));
                node.input[own] = renamed(&node.input[own], &names);
                node.input[1 - own] = with_node(&self.output_of(end), &previous[chain]);
                previous[chain] = node.name.clone();
                editor.add(self.scope, node)?;
            }
            for (join, &j) in self.joins.iter().enumerate() {
                let text = &editor.peek(self.scope, j).input[template.class];
                let source = here.inputs[j].get(template.class).copied();
                joined[join]
                    .push(self.for_class(text, source, class).unwrap_or_else(|| renamed(text, &names)));
            }
        }
        for (&j, inputs) in self.joins.iter().zip(joined) {
            self.widen_join(editor, j, inputs, begin)?;
            self.grow_counts(editor, j, growth)?;
        }
        for (&(end, _), last) in self.chains.iter().zip(&previous) {
            self.redirect(editor, end, last);
        }
        Ok(())
    }

    /// The text of an input that reads an output of its own for each class.
    fn for_class(&self, text: &str, source: Option<Source>, class: usize) -> Option<String> {
        let unpack = source.and_then(node_of).filter(|node| self.unpacked.contains(node))?;
        let name = &self.view.scopes[self.scope].nodes[unpack].name;
        // `node:2` in the main graph, `node:output:2` in a function; the first output of the former is just `node`.
        let front = text.rsplit_once(':').map_or(text, |(front, _)| front);
        (text.strip_prefix(name.as_str())?.is_empty() || text.contains(':'))
            .then(|| format!("{front}:{class}"))
    }

    fn widen_join(
        &self,
        editor: &mut Editor<'_>,
        join: usize,
        inputs: Vec<String>,
        begin: Option<usize>,
    ) -> Result<()> {
        let here = &self.view.scopes[self.scope];
        let count = self.classes + inputs.len();
        let axis = if self.classes == 1 {
            // The join was an Identity. In a loop a constant lives in the frame of its control inputs.
            let name = editor.free_name(self.scope, &format!("{}/axis", here.nodes[join].name));
            let controls = begin
                .map(|b| here.nodes[b].input.iter().filter(|i| i.starts_with('^')).cloned().collect())
                .unwrap_or_default();
            let dtype = attr(Value::Type(pb::DataType::DtInt32 as i32));
            let value = attr(Value::Tensor(Box::new(int_scalar(0))));
            editor.add(
                self.scope,
                pb::NodeDef {
                    name: name.clone(),
                    op: "Const".into(),
                    input: controls,
                    attr: [("dtype".to_owned(), dtype), ("value".to_owned(), value)].into(),
                    ..Default::default()
                },
            )?;
            Some(Editor::first_output(self.scope, &name))
        } else {
            None
        };
        let node = editor.node(self.scope, join);
        let place = self.classes;
        node.input.splice(place..place, inputs);
        if let Some(axis) = axis {
            node.op = "ConcatV2".into();
            node.input.insert(count, axis);
            node.attr.insert("Tidx".into(), attr(Value::Type(pb::DataType::DtInt32 as i32)));
        }
        node.attr.insert("N".into(), attr(Value::I(count as i64)));
        Ok(())
    }

    /// Constants that hold how many boxes all classes have together: a count folded when the model was traced, compared
    /// with the true one before sorting (box_list_ops.sort_by_field).
    fn grow_counts(&self, editor: &mut Editor<'_>, join: usize, growth: Growth) -> Result<()> {
        let here = &self.view.scopes[self.scope];
        let readers = |node: usize, op: &'static str| {
            here.consumers(Source::Node { node, out: 0 })
                .iter()
                .map(|e| e.node)
                .filter(move |&n| here.nodes[n].op == op)
        };
        let firsts =
            readers(join, "Shape").flat_map(|shape| readers(shape, "StridedSlice")).filter(|&slice| {
                let begin = here.inputs[slice].get(1).copied().and_then(node_of);
                begin.and_then(|b| constant(&here.nodes[b])).and_then(ints).as_deref() == Some(&[0])
            });
        let compared: BTreeSet<usize> = firsts.flat_map(|first| readers(first, "Equal")).collect();
        for equal in compared {
            for count in here.inputs[equal].iter().copied().filter_map(node_of) {
                let Some(&[boxes]) = constant(&here.nodes[count]).and_then(ints).as_deref() else { continue };
                let others = here
                    .node_consumers(count)
                    .iter()
                    .any(|e| e.node != equal && here.nodes[e.node].op != "Assert");
                if others || boxes % growth.classes as i64 != 0 {
                    return Err(self.not(
                        count,
                        format!(
                            "expected a count of the boxes of all {} classes, found {boxes}",
                            growth.classes
                        ),
                    ));
                }
                let grown = boxes / growth.classes as i64 * (growth.classes + growth.added) as i64;
                set_number(editor.node(self.scope, count), 0, grown as f64);
            }
        }
        Ok(())
    }

    /// Lets the readers of a chain's old end read its new end.
    fn redirect(&self, editor: &mut Editor<'_>, end: usize, last: &str) {
        let here = &self.view.scopes[self.scope];
        let old = here.nodes[end].name.clone();
        let readers: BTreeSet<usize> = here.node_consumers(end).iter().map(|e| e.node).collect();
        let names = HashMap::from([(old.as_str(), last.to_owned())]);
        for reader in readers {
            editor.node(self.scope, reader).input.iter_mut().for_each(|i| *i = renamed(i, &names));
        }
        if let Some(function) = editor.function(self.scope) {
            function.ret.values_mut().for_each(|r| *r = renamed(r, &names));
        }
    }

    fn output_of(&self, node: usize) -> String {
        let here = &self.view.scopes[self.scope];
        let name = &here.nodes[node].name;
        if here.name.is_empty() { name.clone() } else { format!("{name}:z:0") }
    }
}

/// A name without the mark of an earlier graft, so that names do not grow with every growth.
fn stem(name: &str) -> &str {
    match name.rsplit_once(SUFFIX) {
        Some((stem, number)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => stem,
        _ => name,
    }
}

/// An input text with its node renamed: `node`, `node:1`, `node:output:0`, `^node`.
fn renamed(text: &str, names: &HashMap<&str, String>) -> String {
    let (caret, body) = text.strip_prefix('^').map_or(("", text), |b| ("^", b));
    let name = body.split(':').next().unwrap_or(body);
    names.get(name).map_or_else(|| text.to_owned(), |new| format!("{caret}{new}{}", &body[name.len()..]))
}

/// An input text with another node in it.
fn with_node(text: &str, name: &str) -> String {
    text.split_once(':').map_or_else(|| name.to_owned(), |(_, rest)| format!("{name}:{rest}"))
}

fn set_number(node: &mut pb::NodeDef, element: usize, value: f64) {
    let Some(Value::Tensor(tensor)) = node.attr.get_mut("value").and_then(|a| a.value.as_mut()) else {
        return;
    };
    if let Some(mut values) = ints(tensor) {
        if let Some(v) = values.get_mut(element) {
            *v = value as i64;
        }
        **tensor = with_ints(tensor, &values);
    } else if let Some(mut values) = floats(tensor) {
        if let Some(v) = values.get_mut(element) {
            *v = value as f32;
        }
        tensor.tensor_content = bytes::Bytes::new();
        tensor.float_val = values;
    }
}
