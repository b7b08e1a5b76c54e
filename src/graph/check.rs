//! The rules of a graph that are checked before and after every edit.

use super::ops;
use super::view::{GraphView, MAIN, Source};
use crate::error::{Error, Result};
use crate::pb;

/// Checks a meta graph: names are unique, inputs and functions resolve, calls have the right number of inputs and no
/// cycle, signatures name tensors that exist. Errors: [`Error::BadGraph`].
pub fn check(meta: &pb::MetaGraphDef) -> Result<()> {
    let empty = pb::GraphDef::default();
    let view = GraphView::new(meta.graph_def.as_ref().unwrap_or(&empty))?;
    arities(&view)?;
    acyclic(&view)?;
    for (key, signature) in &meta.signature_def {
        for (alias, info) in signature.inputs.iter().chain(&signature.outputs) {
            if let Some(name) = tensor_name(info)
                && main_tensor(&view, name).is_none()
            {
                return Err(bad(
                    "",
                    format!("signature {key} names tensor {name} for {alias}, which is missing"),
                ));
            }
        }
    }
    Ok(())
}

/// Checks that an edited meta graph still offers the same inputs and outputs by the same names and types.
pub fn same_interface(before: &pb::MetaGraphDef, after: &pb::MetaGraphDef) -> Result<()> {
    let interface = |meta: &pb::MetaGraphDef| -> Vec<(String, String, Option<String>, i32)> {
        let infos = meta.signature_def.iter().flat_map(|(key, s)| {
            s.inputs.iter().chain(&s.outputs).map(move |(alias, info)| {
                (key.clone(), alias.clone(), tensor_name(info).map(str::to_owned), info.dtype)
            })
        });
        infos.collect()
    };
    if interface(before) == interface(after) {
        return Ok(());
    }
    Err(bad("", "the edit changed the signatures' names or types".into()))
}

/// The name of a signature's dense tensor.
pub fn tensor_name(info: &pb::TensorInfo) -> Option<&str> {
    match info.encoding.as_ref()? {
        pb::tensor_info::Encoding::Name(name) => Some(name),
        _ => None,
    }
}

/// Finds `node:out` of the main graph.
pub fn main_tensor(view: &GraphView<'_>, name: &str) -> Option<Source> {
    let (node, out) = match name.rsplit_once(':') {
        Some((node, out)) => (node, out.parse().ok()?),
        None => (name, 0),
    };
    Some(Source::Node { node: view.scopes[MAIN].find(node)?, out })
}

fn arities(view: &GraphView<'_>) -> Result<()> {
    for (s, scope) in view.scopes.iter().enumerate() {
        for (n, node) in scope.nodes.iter().enumerate() {
            let Some(callee) = view.callee(s, n) else { continue };
            let expected = view.scopes[callee]
                .function
                .and_then(|f| f.signature.as_ref())
                .map_or(0, |f| f.input_arg.len());
            let got = scope.inputs[n].len();
            if got != expected {
                return Err(bad(
                    scope.name,
                    format!("node {} passes {got} inputs to a function of {expected} arguments", node.name),
                ));
            }
        }
    }
    Ok(())
}

/// Calls form no cycle; TensorFlow would recurse without end. Errors: [`Error::BadGraph`].
pub fn acyclic(view: &GraphView<'_>) -> Result<()> {
    let count = view.scopes.len();
    let callees: Vec<Vec<usize>> = view
        .scopes
        .iter()
        .map(|scope| {
            scope
                .nodes
                .iter()
                // A function may also be called by a node whose operation it is.
                .flat_map(|n| ops::called(n).map(|(_, f)| f).chain([n.op.as_str()]))
                .filter_map(|f| view.function(f))
                .collect()
        })
        .collect();
    let mut waiting = vec![0usize; count];
    callees.iter().flatten().for_each(|&c| waiting[c] += 1);
    let mut ready: Vec<usize> = (0..count).filter(|&s| waiting[s] == 0).collect();
    let mut done = 0;
    while let Some(scope) = ready.pop() {
        done += 1;
        for &callee in &callees[scope] {
            waiting[callee] -= 1;
            if waiting[callee] == 0 {
                ready.push(callee);
            }
        }
    }
    match (0..count).find(|&s| waiting[s] > 0) {
        Some(scope) if done < count => {
            Err(bad(view.scopes[scope].name, "functions call each other in a circle".into()))
        }
        _ => Ok(()),
    }
}

fn bad(scope: &str, reason: String) -> Error {
    let scope = if scope.is_empty() { "the main graph".to_owned() } else { format!("function {scope}") };
    Error::BadGraph { scope, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::tensor::attr;
    use crate::pb::attr_value::Value;

    fn node(name: &str, op: &str, input: &[&str]) -> pb::NodeDef {
        let input = input.iter().map(|s| (*s).to_owned()).collect();
        pb::NodeDef { name: name.into(), op: op.into(), input, ..Default::default() }
    }

    fn call(name: &str, function: &str) -> pb::NodeDef {
        let f = Value::Func(Box::new(pb::NameAttrList { name: function.into(), ..Default::default() }));
        pb::NodeDef { attr: [("f".to_owned(), attr(f))].into(), ..node(name, "PartitionedCall", &[]) }
    }

    fn function(name: &str, nodes: Vec<pb::NodeDef>) -> pb::FunctionDef {
        let signature = pb::OpDef { name: name.into(), ..Default::default() };
        pb::FunctionDef { signature: Some(signature), node_def: nodes, ..Default::default() }
    }

    fn meta(nodes: Vec<pb::NodeDef>, functions: Vec<pb::FunctionDef>) -> pb::MetaGraphDef {
        let library = Some(pb::FunctionDefLibrary { function: functions, ..Default::default() });
        let graph_def = Some(pb::GraphDef { node: nodes, library, ..Default::default() });
        pb::MetaGraphDef { graph_def, ..Default::default() }
    }

    #[test]
    fn broken_graphs_are_refused_by_name() {
        let cases = [
            ("nowhere", meta(vec![node("a", "Identity", &["nowhere"])], vec![])),
            ("called a", meta(vec![node("a", "NoOp", &[]), node("a", "NoOp", &[])], vec![])),
            ("function missing", meta(vec![call("a", "missing")], vec![])),
            (
                "in a circle",
                meta(vec![], vec![function("f", vec![call("a", "g")]), function("g", vec![call("b", "f")])]),
            ),
            (
                "passes 1 inputs",
                meta(
                    vec![node("x", "Const", &[]), pb::NodeDef { input: vec!["x".into()], ..call("a", "f") }],
                    vec![function("f", vec![])],
                ),
            ),
        ];
        for (expected, meta) in cases {
            let error = check(&meta).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        check(&meta(vec![call("a", "f")], vec![function("f", vec![])])).unwrap();
    }
}
