//! An index over a graph and its functions: who feeds whom, across calls.
//!
//! Building the view resolves every input of every node, so a view exists only of a graph whose references are whole.

use std::collections::HashMap;

use super::ops;
use super::tensor::{constant, ints};
use crate::error::{Error, Result};
use crate::pb;

/// Where a tensor comes from, within one scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// Output `out` (flat index) of node number `node`.
    Node {
        /// The node's index in the scope.
        node: usize,
        /// The flat output index.
        out: usize,
    },
    /// Argument number of the function.
    Arg(usize),
}

/// A data input: input number `input` of node number `node`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Use {
    /// The consuming node.
    pub node: usize,
    /// Which of its data inputs.
    pub input: usize,
}

/// The main graph (scope 0) or the body of one function.
#[derive(Debug)]
pub struct Scope<'a> {
    /// The function's name; empty for the main graph.
    pub name: &'a str,
    /// The function, where the scope is one.
    pub function: Option<&'a pb::FunctionDef>,
    /// The nodes, in file order.
    pub nodes: &'a [pb::NodeDef],
    /// Data inputs of every node.
    pub inputs: Vec<Vec<Source>>,
    /// Control inputs of every node.
    pub controls: Vec<Vec<usize>>,
    /// Results of the function, in order of its signature.
    pub results: Vec<Source>,
    index: HashMap<&'a str, usize>,
    consumers: HashMap<Source, Vec<Use>>,
    node_uses: Vec<Vec<Use>>,
    control_consumers: HashMap<usize, Vec<usize>>,
}

/// A whole model's graph.
#[derive(Debug)]
pub struct GraphView<'a> {
    /// Scope 0 is the main graph, the others are the library's functions in file order.
    pub scopes: Vec<Scope<'a>>,
    functions: HashMap<&'a str, usize>,
    callers: Vec<Vec<(usize, usize)>>,
}

/// The main graph's scope number.
pub const MAIN: usize = 0;

/// The nodes of a scope by its number, as [`GraphView`] counts them.
pub fn nodes_of(graph: &pb::GraphDef, scope: usize) -> Option<&Vec<pb::NodeDef>> {
    match scope.checked_sub(1) {
        None => Some(&graph.node),
        Some(function) => Some(&graph.library.as_ref()?.function.get(function)?.node_def),
    }
}

/// The same, to alter.
pub(crate) fn nodes_of_mut(graph: &mut pb::GraphDef, scope: usize) -> Option<&mut Vec<pb::NodeDef>> {
    match scope.checked_sub(1) {
        None => Some(&mut graph.node),
        Some(function) => Some(&mut graph.library.as_mut()?.function.get_mut(function)?.node_def),
    }
}

impl<'a> GraphView<'a> {
    /// Indexes a graph. Errors: [`Error::BadGraph`] for a name that appears twice or an input that leads nowhere.
    pub fn new(graph: &'a pb::GraphDef) -> Result<Self> {
        let mut scopes = vec![Scope::of_graph(&graph.node)?];
        let mut functions = HashMap::new();
        for function in graph.library.iter().flat_map(|l| &l.function) {
            let scope = Scope::of_function(function)?;
            if functions.insert(scope.name, scopes.len()).is_some() {
                return Err(bad(scope.name, "two functions have this name".into()));
            }
            scopes.push(scope);
        }
        let mut callers = vec![Vec::new(); scopes.len()];
        for (s, scope) in scopes.iter().enumerate() {
            for (n, node) in scope.nodes.iter().enumerate() {
                for (attr, name) in ops::called(node) {
                    let Some(&callee) = functions.get(name) else {
                        return Err(bad(
                            scope.name,
                            format!(
                                "node {} names function {name} in attribute {attr}, which is missing",
                                node.name
                            ),
                        ));
                    };
                    callers[callee].push((s, n));
                }
            }
        }
        Ok(Self { scopes, functions, callers })
    }

    /// The scope number of a function.
    pub fn function(&self, name: &str) -> Option<usize> {
        self.functions.get(name).copied()
    }

    /// The nodes that call a function, as (scope, node).
    pub fn callers(&self, scope: usize) -> &[(usize, usize)] {
        &self.callers[scope]
    }

    /// The function that a plain call calls.
    pub fn callee(&self, scope: usize, node: usize) -> Option<usize> {
        let node = &self.scopes[scope].nodes[node];
        if !ops::is_call(&node.op) {
            return None;
        }
        ops::called(node).find(|(attr, _)| *attr == "f").and_then(|(_, name)| self.function(name))
    }

    /// A node by scope and number.
    pub fn node(&self, scope: usize, node: usize) -> &'a pb::NodeDef {
        &self.scopes[scope].nodes[node]
    }

    /// The name of a tensor for messages: `function/node:out`.
    pub fn describe(&self, scope: usize, source: Source) -> String {
        let scope = &self.scopes[scope];
        let prefix = if scope.name.is_empty() { String::new() } else { format!("{} / ", scope.name) };
        match source {
            Source::Node { node, out } => {
                let node = &scope.nodes[node];
                format!("{prefix}{}:{out} ({})", node.name, node.op)
            }
            Source::Arg(arg) => {
                let name = scope
                    .function
                    .and_then(|f| f.signature.as_ref())
                    .and_then(|s| s.input_arg.get(arg))
                    .map_or("?", |a| a.name.as_str());
                format!("{prefix}argument {name}")
            }
        }
    }

    /// The integers of the constant that an input of a node reads, wherever it comes from; none where it is no constant.
    pub fn integers(&self, scope: usize, node: usize, input: usize) -> Option<Vec<i64>> {
        match self.origin(scope, *self.scopes[scope].inputs[node].get(input)?) {
            (scope, Source::Node { node, .. }) => ints(constant(self.node(scope, node))?),
            (_, Source::Arg(_)) => None,
        }
    }

    /// Follows a tensor backwards through identities, calls and function arguments to what makes it, and out of loops whose
    /// bodies hand it on as it came.
    ///
    /// An argument of a function that several nodes call stops the walk, as do arguments nobody passes.
    pub fn origin(&self, mut scope: usize, mut source: Source) -> (usize, Source) {
        // Call graphs are acyclic (check.rs); identities of a loop could still chase each other.
        for _ in 0..10_000 {
            if let Some(outer) = self.outside(scope, source) {
                (scope, source) = outer;
                continue;
            }
            match source {
                Source::Arg(arg) => {
                    let &[(caller, node)] = self.callers(scope) else { return (scope, source) };
                    if self.callee(caller, node) != Some(scope) {
                        return (scope, source);
                    }
                    let Some(&outer) = self.scopes[caller].inputs[node].get(arg) else {
                        return (scope, source);
                    };
                    (scope, source) = (caller, outer);
                }
                Source::Node { node, out } => {
                    let here = &self.scopes[scope];
                    if let Some(callee) = self.callee(scope, node) {
                        let Some(&inner) = self.scopes[callee].results.get(out) else {
                            return (scope, source);
                        };
                        (scope, source) = (callee, inner);
                        continue;
                    }
                    let passes = matches!(
                        here.nodes[node].op.as_str(),
                        "Identity" | "Snapshot" | "StopGradient" | "Enter"
                    );
                    match here.inputs[node].first() {
                        Some(&input) if passes => source = input,
                        _ => return (scope, source),
                    }
                }
            }
        }
        (scope, source)
    }
}

impl<'a> Scope<'a> {
    fn of_graph(nodes: &'a [pb::NodeDef]) -> Result<Self> {
        let index = index("the main graph", nodes)?;
        let mut scope = Self::empty("", None, nodes, index);
        for node in nodes {
            let (mut data, mut control) = (Vec::new(), Vec::new());
            for input in &node.input {
                if let Some(name) = input.strip_prefix('^') {
                    control.push(scope.lookup(node, input, name)?);
                    continue;
                }
                let (name, out) = match input.rsplit_once(':') {
                    Some((name, out)) => (name, out.parse().map_err(|_| scope.unresolved(node, input))?),
                    None => (input.as_str(), 0),
                };
                data.push(Source::Node { node: scope.lookup(node, input, name)?, out });
            }
            scope.inputs.push(data);
            scope.controls.push(control);
        }
        scope.index_consumers();
        Ok(scope)
    }

    fn of_function(function: &'a pb::FunctionDef) -> Result<Self> {
        let signature =
            function.signature.as_ref().ok_or_else(|| bad("a function", "it has no signature".into()))?;
        let index = index(&signature.name, &function.node_def)?;
        let mut scope = Self::empty(&signature.name, Some(function), &function.node_def, index);
        let arguments: HashMap<&str, usize> =
            signature.input_arg.iter().enumerate().map(|(i, a)| (a.name.as_str(), i)).collect();
        for node in &function.node_def {
            let (mut data, mut control) = (Vec::new(), Vec::new());
            for input in &node.input {
                match input.strip_prefix('^') {
                    // A control input may name an argument, which is no node: nothing to wait for.
                    Some(name) if arguments.contains_key(name) => {}
                    Some(name) => control.push(scope.lookup(node, input, name)?),
                    None => {
                        data.push(
                            scope.tensor(&arguments, input).ok_or_else(|| scope.unresolved(node, input))?,
                        );
                    }
                }
            }
            scope.inputs.push(data);
            scope.controls.push(control);
        }
        for result in &signature.output_arg {
            let tensor = function.ret.get(&result.name);
            let source = tensor.and_then(|t| scope.tensor(&arguments, t)).ok_or_else(|| {
                bad(scope.name, format!("result {} leads nowhere ({tensor:?})", result.name))
            })?;
            scope.results.push(source);
        }
        scope.index_consumers();
        Ok(scope)
    }

    fn empty(
        name: &'a str,
        function: Option<&'a pb::FunctionDef>,
        nodes: &'a [pb::NodeDef],
        index: HashMap<&'a str, usize>,
    ) -> Self {
        Self {
            name,
            function,
            nodes,
            inputs: Vec::with_capacity(nodes.len()),
            controls: Vec::with_capacity(nodes.len()),
            results: Vec::new(),
            index,
            consumers: HashMap::new(),
            node_uses: vec![Vec::new(); nodes.len()],
            control_consumers: HashMap::new(),
        }
    }

    /// Resolves `argument`, `node:output:index` or `node:output` of a function body.
    fn tensor(&self, arguments: &HashMap<&str, usize>, text: &str) -> Option<Source> {
        let mut parts = text.split(':');
        let name = parts.next()?;
        let Some(argument) = parts.next() else {
            return arguments.get(name).map(|&i| Source::Arg(i));
        };
        let position = parts.next().map_or(Some(0), |p| p.parse().ok())?;
        let node = self.find(name)?;
        Some(Source::Node { node, out: ops::output_index(&self.nodes[node], argument, position)? })
    }

    fn index_consumers(&mut self) {
        for (node, inputs) in self.inputs.iter().enumerate() {
            for (input, &source) in inputs.iter().enumerate() {
                self.consumers.entry(source).or_default().push(Use { node, input });
                if let Source::Node { node: producer, .. } = source {
                    self.node_uses[producer].push(Use { node, input });
                }
            }
        }
        for (node, controls) in self.controls.iter().enumerate() {
            for &before in controls {
                self.control_consumers.entry(before).or_default().push(node);
            }
        }
    }

    /// A node's number by name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// The data inputs that read a tensor.
    pub fn consumers(&self, source: Source) -> &[Use] {
        self.consumers.get(&source).map_or(&[], Vec::as_slice)
    }

    /// The nodes that wait for a node through a control edge.
    pub fn control_consumers(&self, node: usize) -> &[usize] {
        self.control_consumers.get(&node).map_or(&[], Vec::as_slice)
    }

    /// Every data input that reads any output of a node.
    pub fn node_consumers(&self, node: usize) -> &[Use] {
        &self.node_uses[node]
    }

    fn lookup(&self, node: &pb::NodeDef, input: &str, name: &str) -> Result<usize> {
        self.find(name).ok_or_else(|| self.unresolved(node, input))
    }

    fn unresolved(&self, node: &pb::NodeDef, input: &str) -> Error {
        bad(self.name, format!("input {input} of node {} ({}) leads nowhere", node.name, node.op))
    }
}

fn index<'a>(scope: &str, nodes: &'a [pb::NodeDef]) -> Result<HashMap<&'a str, usize>> {
    let mut index = HashMap::with_capacity(nodes.len());
    for (i, node) in nodes.iter().enumerate() {
        if index.insert(node.name.as_str(), i).is_some() {
            return Err(bad(scope, format!("two nodes are called {}", node.name)));
        }
    }
    Ok(index)
}

fn bad(scope: &str, reason: String) -> Error {
    let scope = if scope.is_empty() { "the main graph".to_owned() } else { format!("function {scope}") };
    Error::BadGraph { scope, reason }
}
