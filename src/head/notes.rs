//! Notes of inferred shapes: `_output_shapes` of nodes and arguments, `_input_shapes` of functions.
//!
//! TensorFlow infers most of them anew, and its loaders refuse a model where one is wrong. What other programs make of a model
//! without them is another matter: a function's argument has no shape but its note, and tf2onnx takes the picture for a
//! scalar. So a note stays as it is where nothing that an edit changed can reach its tensor. Elsewhere it loses its sizes and
//! keeps their number: more classes make axes longer, never more of them. An edited node loses its note, since it may have more
//! outputs than before (Unpack of the classes).

use std::collections::HashSet;

use crate::error::Result;
use crate::graph::view::nodes_of_mut;
use crate::graph::{Editor, GraphView, MAIN, Source, ops};
use crate::pb;
use crate::pb::attr_value::Value;

const OUTPUTS: &str = "_output_shapes";
const INPUTS: &str = "_input_shapes";

/// Takes the sizes from the notes of every tensor behind a change: behind the nodes that the editor has touched, and behind
/// `changed` (scope and tensor), which change without an edit of their nodes, as weights do.
///
/// Errors: [`crate::Error::BadGraph`] where an edit left the graph broken.
pub fn forget(editor: &mut Editor<'_>, changed: impl IntoIterator<Item = (usize, Source)>) -> Result<()> {
    let touched = editor.touched();
    let meta = editor.meta();
    let Some(graph) = &meta.graph_def else { return Ok(()) };
    let view = GraphView::new(graph)?;
    let mut reach = Reach::new(&view);
    touched.iter().for_each(|&(scope, node)| reach.node(scope, node));
    changed.into_iter().for_each(|(scope, source)| reach.tensor(scope, source));
    reach.strangers(meta.object_graph_def.as_ref());
    reach.run();
    let stale = reach.stale();
    if let Some(graph) = &mut meta.graph_def {
        apply(graph, &stale);
        for (scope, node) in touched {
            if let Some(node) = nodes_of_mut(graph, scope).and_then(|nodes| nodes.get_mut(node)) {
                node.attr.remove(OUTPUTS);
            }
        }
    }
    Ok(())
}

/// What of one scope is stale.
struct Stale {
    /// Nodes with the outputs that are; `None` for all of them.
    nodes: Vec<(usize, Option<Vec<usize>>)>,
    /// Arguments.
    arguments: Vec<usize>,
}

/// All that a change can reach through the data flow.
struct Reach<'v, 'a> {
    view: &'v GraphView<'a>,
    /// Nodes of which all outputs are reached.
    nodes: HashSet<(usize, usize)>,
    /// Single outputs of calls, and arguments.
    tensors: HashSet<(usize, Source)>,
    queue: Vec<(usize, Source)>,
    open: Vec<(usize, usize)>,
}

impl<'v, 'a> Reach<'v, 'a> {
    fn new(view: &'v GraphView<'a>) -> Self {
        Self { view, nodes: HashSet::new(), tensors: HashSet::new(), queue: Vec::new(), open: Vec::new() }
    }

    fn node(&mut self, scope: usize, node: usize) {
        if self.nodes.insert((scope, node)) {
            self.open.push((scope, node));
        }
    }

    fn tensor(&mut self, scope: usize, source: Source) {
        match source {
            Source::Node { node, .. } if self.view.callee(scope, node).is_none() => self.node(scope, node),
            _ => {
                if self.tensors.insert((scope, source)) {
                    self.queue.push((scope, source));
                }
            }
        }
    }

    /// Functions that nobody is seen to call, such as gradients, which Python finds by name: what comes in is not known.
    fn strangers(&mut self, objects: Option<&pb::SavedObjectGraph>) {
        for (scope, here) in self.view.scopes.iter().enumerate().skip(1 + MAIN) {
            let public = objects.is_some_and(|o| o.concrete_functions.contains_key(here.name));
            if !public && self.view.callers(scope).is_empty() {
                self.arguments(scope);
            }
        }
    }

    fn arguments(&mut self, scope: usize) {
        let signature = self.view.scopes[scope].function.and_then(|f| f.signature.as_ref());
        for arg in 0..signature.map_or(0, |s| s.input_arg.len()) {
            self.tensor(scope, Source::Arg(arg));
        }
    }

    fn run(&mut self) {
        let view = self.view;
        loop {
            if let Some((scope, node)) = self.open.pop() {
                for edge in view.scopes[scope].node_consumers(node) {
                    self.read(scope, edge.node, edge.input);
                }
                self.results(scope, |source| matches!(source, Source::Node { node: n, .. } if n == node));
            } else if let Some((scope, source)) = self.queue.pop() {
                for edge in view.scopes[scope].consumers(source) {
                    self.read(scope, edge.node, edge.input);
                }
                self.results(scope, |result| result == source);
            } else {
                return;
            }
        }
    }

    /// Something reached is read by a node.
    fn read(&mut self, scope: usize, node: usize, input: usize) {
        if let Some(callee) = self.view.callee(scope, node) {
            return self.tensor(callee, Source::Arg(input));
        }
        self.node(scope, node);
        // Of loops and branches it is not asked which argument becomes which.
        let view = self.view;
        for (_, name) in ops::called(view.node(scope, node)) {
            if let Some(callee) = view.function(name) {
                self.arguments(callee);
            }
        }
    }

    /// Something reached is a result of its function.
    fn results(&mut self, scope: usize, is: impl Fn(Source) -> bool) {
        let view = self.view;
        for (out, _) in view.scopes[scope].results.iter().enumerate().filter(|(_, result)| is(**result)) {
            for &(caller, node) in view.callers(scope) {
                if view.callee(caller, node) == Some(scope) {
                    self.tensor(caller, Source::Node { node, out });
                } else {
                    self.read(caller, node, 0);
                }
            }
        }
    }

    fn stale(&self) -> Vec<Stale> {
        let of = |scope: usize| {
            let mut calls: Vec<(usize, usize)> = Vec::new();
            let mut arguments = Vec::new();
            for (_, source) in self.tensors.iter().filter(|(s, _)| *s == scope) {
                match *source {
                    Source::Node { node, out } => calls.push((node, out)),
                    Source::Arg(arg) => arguments.push(arg),
                }
            }
            calls.sort_unstable();
            let calls = calls.chunk_by(|a, b| a.0 == b.0);
            let calls = calls.map(|c| (c[0].0, Some(c.iter().map(|&(_, out)| out).collect())));
            let whole = self.nodes.iter().filter(|(s, _)| *s == scope).map(|&(_, node)| (node, None));
            Stale { nodes: calls.chain(whole).collect(), arguments }
        };
        (0..self.view.scopes.len()).map(of).collect()
    }
}

fn apply(graph: &mut pb::GraphDef, stale: &[Stale]) {
    for (scope, stale) in stale.iter().enumerate() {
        let Some(nodes) = nodes_of_mut(graph, scope) else { continue };
        for (node, outputs) in &stale.nodes {
            let shapes = nodes.get_mut(*node).and_then(|n| n.attr.get_mut(OUTPUTS));
            unsized_shapes(shapes, |i| outputs.as_ref().is_none_or(|o| o.contains(&i)));
        }
        let function = scope.checked_sub(1).and_then(|f| graph.library.as_mut()?.function.get_mut(f));
        let Some(function) = function else { continue };
        unsized_shapes(function.attr.get_mut(INPUTS), |i| stale.arguments.contains(&i));
        for &arg in &stale.arguments {
            let attributes = u32::try_from(arg).ok().and_then(|arg| function.arg_attr.get_mut(&arg));
            unsized_shapes(attributes.and_then(|a| a.attr.get_mut(OUTPUTS)), |_| true);
        }
    }
}

/// Takes the sizes from these shapes of a list; the others stay.
fn unsized_shapes(shapes: Option<&mut pb::AttrValue>, which: impl Fn(usize) -> bool) {
    if let Some(Value::List(list)) = shapes.and_then(|a| a.value.as_mut()) {
        for (_, shape) in list.shape.iter_mut().enumerate().filter(|(i, _)| which(*i)) {
            shape.dim.iter_mut().for_each(|dim| dim.size = -1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::tensor::{attr, shape_proto};

    fn shapes(sizes: &[usize]) -> pb::AttrValue {
        attr(Value::List(Box::new(pb::attr_value::ListValue {
            shape: sizes.iter().map(|&s| shape_proto(&[s])).collect(),
            ..Default::default()
        })))
    }

    fn node(name: &str, op: &str, input: &[&str], sizes: &[usize]) -> pb::NodeDef {
        let input = input.iter().map(|s| (*s).to_owned()).collect();
        let attr = [(OUTPUTS.to_owned(), shapes(sizes))].into();
        pb::NodeDef { name: name.into(), op: op.into(), input, attr, ..Default::default() }
    }

    fn calling(mut node: pb::NodeDef, key: &str, function: &str) -> pb::NodeDef {
        let f = Value::Func(Box::new(pb::NameAttrList { name: function.into(), ..Default::default() }));
        node.attr.insert(key.into(), attr(f));
        node
    }

    /// A function of two arguments with notes 1 and 2.
    fn function(name: &str, nodes: Vec<pb::NodeDef>, results: &[&str]) -> pb::FunctionDef {
        let argument = |name: &str| pb::op_def::ArgDef { name: name.into(), ..Default::default() };
        let names: Vec<String> = (0..results.len()).map(|i| format!("r{i}")).collect();
        let signature = pb::OpDef {
            name: name.into(),
            input_arg: ["x", "k"].map(argument).into(),
            output_arg: names.iter().map(|n| argument(n)).collect(),
            ..Default::default()
        };
        let note = |size| pb::function_def::ArgAttrs { attr: [(OUTPUTS.to_owned(), shapes(&[size]))].into() };
        pb::FunctionDef {
            signature: Some(signature),
            attr: [(INPUTS.to_owned(), shapes(&[1, 2]))].into(),
            arg_attr: [(0, note(1)), (1, note(2))].into(),
            node_def: nodes,
            ret: names.into_iter().zip(results.iter().map(|r| (*r).to_owned())).collect(),
            ..Default::default()
        }
    }

    /// The sizes that notes still tell.
    fn told(notes: Option<&pb::AttrValue>) -> Vec<i64> {
        match notes.and_then(|a| a.value.as_ref()) {
            Some(Value::List(list)) => {
                list.shape.iter().map(|s| s.dim.first().map_or(0, |d| d.size)).collect()
            }
            _ => Vec::new(),
        }
    }

    #[test]
    fn notes_stay_before_a_change_and_lose_their_sizes_behind_it() {
        let inner = function(
            "inner",
            vec![node("conv", "Conv2D", &["x", "k"], &[4]), node("same", "Identity", &["x"], &[1])],
            &["conv:output:0", "same:output:0"],
        );
        let body = function("body", vec![node("step", "Identity", &["x"], &[1])], &["step:output:0"]);
        let unseen = function("unseen", vec![node("grad", "Neg", &["x"], &[9])], &["grad:y:0"]);
        let nodes = vec![
            node("image", "Placeholder", &[], &[1]),
            node("kernel", "Const", &[], &[2]),
            calling(node("call", "PartitionedCall", &["image", "kernel"], &[4, 1]), "f", "inner"),
            node("scores", "Sigmoid", &["call"], &[4]),
            node("pixels", "Neg", &["call:1"], &[1]),
            calling(node("loop", "StatelessWhile", &["pixels", "scores"], &[1, 4]), "body", "body"),
            node("edited", "Const", &[], &[3]),
            node("reader", "Neg", &["edited"], &[3]),
        ];
        let library = pb::FunctionDefLibrary { function: vec![inner, body, unseen], ..Default::default() };
        let graph = pb::GraphDef { node: nodes, library: Some(library), ..Default::default() };
        let meta = pb::MetaGraphDef { graph_def: Some(graph), ..Default::default() };
        let mut editor = Editor::new(&meta).unwrap();
        editor.node(MAIN, 6).attr.insert("touched".into(), attr(Value::B(true)));
        forget(&mut editor, [(MAIN, Source::Node { node: 1, out: 0 })]).unwrap();

        let graph = editor.meta().graph_def.clone().unwrap();
        let main: Vec<Vec<i64>> = graph.node.iter().map(|n| told(n.attr.get(OUTPUTS))).collect();
        assert_eq!(
            main,
            [vec![1], vec![-1], vec![-1, 1], vec![-1], vec![1], vec![-1, -1], vec![], vec![-1]],
            "none where an edit may have added outputs"
        );
        let functions = graph.library.unwrap().function;
        let of = |f: &pb::FunctionDef| {
            let arguments: Vec<i64> =
                [0, 1].iter().flat_map(|i| told(f.arg_attr[i].attr.get(OUTPUTS))).collect();
            let nodes: Vec<i64> = f.node_def.iter().flat_map(|n| told(n.attr.get(OUTPUTS))).collect();
            assert_eq!(told(f.attr.get(INPUTS)), arguments);
            (arguments, nodes)
        };
        assert_eq!(of(&functions[0]), (vec![1, -1], vec![-1, 1]), "arguments one by one, results one by one");
        assert_eq!(of(&functions[1]), (vec![-1, -1], vec![-1]), "a loop as a whole");
        assert_eq!(of(&functions[2]), (vec![-1, -1], vec![-1]), "what nobody is seen to call");
    }
}
