//! Flattens what some tensors need into one graph without calls: bodies are inlined, variables become constants.
//!
//! The result holds only what the tensors depend on, so running it costs nothing else, and every tensor of every body
//! can be fetched. Loops keep their functions.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::ops;
use super::view::{GraphView, MAIN, Source};
use crate::error::{Error, Result};
use crate::pb;

/// A graph without calls.
#[derive(Debug, Clone)]
pub struct Flat {
    /// Nodes and the functions of loops.
    pub graph: pb::GraphDef,
    /// The names of the tensors asked for, `node:out`.
    pub targets: Vec<String>,
}

/// One inlined body: its scope, and the call that led there.
#[derive(Debug, Clone, Copy)]
struct Frame {
    scope: usize,
    caller: Option<(usize, usize)>,
}

/// A node of one inlined body.
type Place = (usize, usize);

/// Inlines a graph on demand.
pub struct Flattener<'v, 'a> {
    view: &'v GraphView<'a>,
    /// Values of variables by the number of their handle in the main graph.
    constants: &'v HashMap<usize, pb::TensorProto>,
    frames: Vec<Frame>,
    calls: HashMap<(usize, usize), usize>,
}

impl<'v, 'a> Flattener<'v, 'a> {
    /// `constants` holds the values of the variables by the number of their VarHandleOp.
    pub fn new(view: &'v GraphView<'a>, constants: &'v HashMap<usize, pb::TensorProto>) -> Self {
        Self { view, constants, frames: vec![Frame { scope: MAIN, caller: None }], calls: HashMap::new() }
    }

    /// The graph that the targets need, each a tensor of a body that `from` (tensors of the main graph) calls.
    ///
    /// Errors: [`Error::NotUnderstood`] where a target's body is not called, or its inputs lead out of the graph.
    pub fn flatten(mut self, from: &[Source], targets: &[(usize, Source)]) -> Result<Flat> {
        for &source in from {
            self.resolve(0, source)?;
        }
        self.enter_all()?;
        let mut places = Vec::new();
        for &(scope, source) in targets {
            let frame =
                self.frames.iter().position(|f| f.scope == scope).ok_or_else(|| Error::NotUnderstood {
                    tensor: self.view.describe(scope, source),
                    reason: "the serving signature does not call this function".into(),
                })?;
            places.push(self.resolve(frame, source)?);
        }
        let mut nodes: BTreeMap<Place, pb::NodeDef> = BTreeMap::new();
        let mut stack: Vec<Place> = places.iter().map(|(place, _)| *place).collect();
        while let Some(place) = stack.pop() {
            if nodes.contains_key(&place) {
                continue;
            }
            let node = self.emit(place, &mut stack)?;
            nodes.insert(place, node);
        }
        let targets = places.iter().map(|&(place, out)| format!("{}:{out}", self.name(place))).collect();
        let nodes: Vec<pb::NodeDef> = nodes.into_values().collect();
        let library = self.functions_of(&nodes);
        Ok(Flat { graph: pb::GraphDef { node: nodes, library, ..Default::default() }, targets })
    }

    /// Opens the bodies of all calls of the bodies opened so far.
    fn enter_all(&mut self) -> Result<()> {
        let mut frame = 0;
        while frame < self.frames.len() {
            // Layers' functions outside the serving path are not opened: the main frame opens only what `from` needs.
            if frame > 0 {
                let scope = self.frames[frame].scope;
                for node in 0..self.view.scopes[scope].nodes.len() {
                    if self.view.callee(scope, node).is_some() {
                        self.enter(frame, node)?;
                    }
                }
            }
            frame += 1;
        }
        Ok(())
    }

    fn enter(&mut self, frame: usize, node: usize) -> Result<usize> {
        if let Some(&known) = self.calls.get(&(frame, node)) {
            return Ok(known);
        }
        let scope = self.frames[frame].scope;
        let callee =
            self.view.callee(scope, node).ok_or_else(|| self.not(frame, node, "it calls no function"))?;
        // The call graph is acyclic, but a lattice of calls can still multiply without bound.
        if self.frames.len() > 10_000 {
            return Err(self.not(frame, node, "too many nested calls"));
        }
        self.frames.push(Frame { scope: callee, caller: Some((frame, node)) });
        self.calls.insert((frame, node), self.frames.len() - 1);
        Ok(self.frames.len() - 1)
    }

    /// The real node behind a tensor: through arguments to the caller, through calls to their results.
    fn resolve(&mut self, mut frame: usize, mut source: Source) -> Result<(Place, usize)> {
        // A call that hands its own result on as its argument leads in a circle.
        for _ in 0..10_000 {
            match source {
                Source::Arg(arg) => {
                    let Some((caller, node)) = self.frames[frame].caller else {
                        return Err(Error::NotUnderstood {
                            tensor: format!("argument {arg}"),
                            reason: "nobody passes it".into(),
                        });
                    };
                    let outer = self.view.scopes[self.frames[caller].scope].inputs[node].get(arg).copied();
                    source = outer.ok_or_else(|| self.not(caller, node, "it passes too few arguments"))?;
                    frame = caller;
                }
                Source::Node { node, out } => {
                    let scope = self.frames[frame].scope;
                    if self.view.callee(scope, node).is_none() {
                        return Ok(((frame, node), out));
                    }
                    let inner = self.enter(frame, node)?;
                    let results = &self.view.scopes[self.frames[inner].scope].results;
                    source =
                        *results.get(out).ok_or_else(|| self.not(frame, node, "it has too few results"))?;
                    frame = inner;
                }
            }
        }
        Err(Error::NotUnderstood {
            tensor: self.view.describe(self.frames[frame].scope, source),
            reason: "the way to what makes it has no end".into(),
        })
    }

    fn emit(&mut self, (frame, number): Place, stack: &mut Vec<Place>) -> Result<pb::NodeDef> {
        let scope = self.frames[frame].scope;
        let here = &self.view.scopes[scope];
        let node = &here.nodes[number];
        let mut flat = pb::NodeDef { input: Vec::new(), name: self.name((frame, number)), ..node.clone() };
        for key in ["_output_shapes", "_class", "_has_manual_control_dependencies"] {
            flat.attr.remove(key);
        }
        if node.op == "ReadVariableOp" {
            let handle = here.inputs[number]
                .first()
                .copied()
                .ok_or_else(|| self.not(frame, number, "it reads nothing"))?;
            let ((at, handle), _) = self.resolve(frame, handle)?;
            let value = self.constants.get(&handle).filter(|_| at == 0);
            let value =
                value.ok_or_else(|| self.not(frame, number, "the value of its variable is not known"))?;
            flat.op = "Const".into();
            flat.attr = [
                ("dtype".to_owned(), super::tensor::attr(pb::attr_value::Value::Type(value.dtype))),
                (
                    "value".to_owned(),
                    super::tensor::attr(pb::attr_value::Value::Tensor(Box::new(value.clone()))),
                ),
            ]
            .into();
            return Ok(flat);
        }
        for &input in &here.inputs[number] {
            let (place, out) = self.resolve(frame, input)?;
            let name = self.name(place);
            flat.input.push(if out == 0 { name } else { format!("{name}:{out}") });
            stack.push(place);
        }
        // In the main graph control edges tie constants to the frames of v1 loops. In functions they order effects,
        // and what is flattened here has none.
        if frame == 0 {
            for &before in &here.controls[number] {
                if self.view.callee(scope, before).is_none() {
                    flat.input.push(format!("^{}", self.name((0, before))));
                    stack.push((0, before));
                }
            }
        }
        Ok(flat)
    }

    fn name(&self, (frame, node): Place) -> String {
        let name = &self.view.scopes[self.frames[frame].scope].nodes[node].name;
        if frame == 0 { name.clone() } else { format!("body{frame}/{name}") }
    }

    /// The functions that loops and branches among the nodes need, with those that these need.
    fn functions_of(&self, nodes: &[pb::NodeDef]) -> Option<pb::FunctionDefLibrary> {
        let called = |nodes: &[pb::NodeDef]| -> Vec<usize> {
            nodes
                .iter()
                .flat_map(|n| ops::called(n).filter_map(|(_, f)| self.view.function(f)).collect::<Vec<_>>())
                .collect()
        };
        let mut stack = called(nodes);
        let mut seen: HashSet<usize> = HashSet::new();
        while let Some(scope) = stack.pop() {
            if seen.insert(scope) {
                stack.extend(called(self.view.scopes[scope].nodes));
            }
        }
        let mut scopes: Vec<usize> = seen.into_iter().collect();
        scopes.sort_unstable();
        let function: Vec<pb::FunctionDef> =
            scopes.into_iter().filter_map(|s| self.view.scopes[s].function.cloned()).collect();
        (!function.is_empty()).then(|| pb::FunctionDefLibrary { function, ..Default::default() })
    }

    fn not(&self, frame: usize, node: usize, reason: &str) -> Error {
        let tensor = self.view.describe(self.frames[frame].scope, Source::Node { node, out: 0 });
        Error::NotUnderstood { tensor, reason: reason.into() }
    }
}
