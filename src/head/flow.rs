//! Follows the class axis forward from the head through everything that reads it.
//!
//! The walk is a worklist over (scope, tensor) that ends when no new fact appears. Each operation has a rule
//! (`rules.rs`); one without a rule, reached by a class axis, is an error that names the tensor. What a rule finds to
//! change is collected, never applied here.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::axis::{ClassAxis, Fact, Growth, Span};
use super::locate::{Located, Root};
use super::loops;
use super::repeat;
use super::rules::{self, Outcome};
use super::trace::{self, Element, Facts};
use super::variables::{Variables, bound_arguments};
use crate::error::{Error, Result};
use crate::graph::tensor::int_attr;
use crate::graph::{GraphView, MAIN, Source, Use};
use crate::pb;

/// A Slice that takes the scores of one class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick {
    /// Scope of the Slice.
    pub scope: usize,
    /// The Slice.
    pub node: usize,
    /// The scores it cuts.
    pub scores: Source,
    /// Its class, from 0, without background.
    pub class: usize,
    /// Element of the Slice's `begin` that holds the class.
    pub element: usize,
}

/// A constant to change, as seen by the inputs that read it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConstantEdit {
    /// New value by element, for each reading input.
    pub by_edge: BTreeMap<Use, BTreeMap<usize, i64>>,
}

/// A size within a shape-valued attribute.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttributeEdit {
    /// Scope of the node.
    pub scope: usize,
    /// The node.
    pub node: usize,
    /// The attribute.
    pub attribute: String,
    /// Which shape of it, where it is a list.
    pub entry: Option<usize>,
    /// Which size of the shape.
    pub axis: usize,
    /// Its new value.
    pub size: i64,
}

/// What depends on the class count, and how.
#[derive(Debug, Default)]
pub struct ClassFlow {
    /// What is known of each tensor.
    pub facts: Facts,
    /// Constants to change, by (scope, node).
    pub constants: BTreeMap<(usize, usize), ConstantEdit>,
    /// Shape attributes to change.
    pub attributes: BTreeSet<AttributeEdit>,
    /// The per-class slices.
    pub picks: Vec<Pick>,
    /// Unpacks that give each class its own tensor, as (scope, node).
    pub unpacked: BTreeSet<(usize, usize)>,
    /// Scopes in which the best of all positions and classes are chosen together.
    pub ranked: BTreeSet<usize>,
}

/// The state of the walk; rules read it and report to it.
pub struct Flow<'v, 'a> {
    /// The graph.
    pub view: &'v GraphView<'a>,
    /// Old and new class count.
    pub growth: Growth,
    /// What has been found.
    pub found: ClassFlow,
    queue: Vec<(usize, Source)>,
    /// Rules to be asked again.
    waiting: Vec<(usize, Use, Source)>,
    /// Inputs that must carry the class axis too, checked when the walk is over.
    together: Vec<(usize, usize, Vec<usize>)>,
    /// Sizes that must grow, checked when the walk is over.
    demands: Vec<(usize, Use, usize, Span)>,
}

/// Follows the class axis of a located head. Errors: [`Error::NotUnderstood`].
pub fn follow(
    view: &GraphView<'_>,
    meta: &pb::MetaGraphDef,
    variables: &Variables,
    located: &Located,
    growth: Growth,
) -> Result<ClassFlow> {
    let mut flow = Flow {
        view,
        growth,
        found: ClassFlow::default(),
        queue: Vec::new(),
        waiting: Vec::new(),
        together: Vec::new(),
        demands: Vec::new(),
    };
    let bound = bound_arguments(view, meta, variables);
    for layer in &located.layers {
        for (root, rank) in [(layer.kernel, layer.kernel_shape.len()), (layer.biases, 1)] {
            flow.seed(root, ClassAxis { rank, axis: rank - 1, ..layer.axis }, variables, &bound)?;
        }
    }
    flow.settle()?;
    flow.finish()
}

impl Flow<'_, '_> {
    fn seed(
        &mut self,
        root: Root,
        axis: ClassAxis,
        variables: &Variables,
        bound: &HashMap<(usize, usize), usize>,
    ) -> Result<()> {
        match root {
            Root::Constant { scope, node } => {
                self.learn(scope, Source::Node { node, out: 0 }, Fact::Axis(axis))
            }
            Root::Variable(v) => {
                let handle = Source::Node { node: variables.all[v].handle, out: 0 };
                self.learn(MAIN, handle, Fact::Variable(axis))?;
                // Functions that only the object graph calls get their variables from it.
                for (&(scope, arg), _) in bound.iter().filter(|(_, bound)| **bound == v) {
                    self.learn(scope, Source::Arg(arg), Fact::Variable(axis))?;
                }
                Ok(())
            }
        }
    }

    /// Records a fact; a tensor cannot have two.
    pub fn learn(&mut self, scope: usize, source: Source, fact: Fact) -> Result<()> {
        match (self.found.facts.get(&(scope, source)), &fact) {
            (None, _) => {
                self.found.facts.insert((scope, source), fact);
                self.queue.push((scope, source));
                Ok(())
            }
            (Some(Fact::Axis(a)), Fact::Axis(b))
            | (Some(Fact::Elements(a)), Fact::Elements(b))
            | (Some(Fact::Variable(a)), Fact::Variable(b))
                if a.agrees(b) =>
            {
                Ok(())
            }
            (Some(Fact::Sizes { scalar, elements }), Fact::Sizes { scalar: also, elements: new })
                if scalar == also =>
            {
                let mut union = elements.clone();
                for &(i, span) in new {
                    match elements.iter().find(|(j, _)| *j == i) {
                        Some((_, known)) if *known == span => {}
                        Some(_) => {
                            return Err(self.not(scope, source, format!("size {i} grows in two ways")));
                        }
                        None => union.push((i, span)),
                    }
                }
                if union.len() > elements.len() {
                    let merged = Fact::Sizes { scalar: *scalar, elements: union };
                    self.found.facts.insert((scope, source), merged);
                    self.queue.push((scope, source));
                }
                Ok(())
            }
            (Some(known), new) if known == new => Ok(()),
            (Some(known), new) => {
                Err(self.not(scope, source, format!("its classes lie in two ways: {known:?} and {new:?}")))
            }
        }
    }

    /// Works the queue off, then asks the rules that wanted to know more, until nothing new comes.
    fn run(&mut self) -> Result<()> {
        loop {
            self.work()?;
            let known = self.found.facts.len();
            let mut refusal = None;
            for (scope, edge, source) in std::mem::take(&mut self.waiting) {
                let Some(fact) = self.found.facts.get(&(scope, source)).cloned() else { continue };
                if let Outcome::Later(error) = rules::apply(self, scope, edge, source, &fact)? {
                    self.waiting.push((scope, edge, source));
                    refusal.get_or_insert(error);
                }
            }
            match refusal {
                Some(error) if self.found.facts.len() == known && self.queue.is_empty() => return Err(error),
                None if self.queue.is_empty() => return Ok(()),
                _ => {}
            }
        }
    }

    /// Runs, explains what meets a class axis without having one, and runs again until nothing new comes.
    fn settle(&mut self) -> Result<()> {
        loop {
            self.run()?;
            let known = self.found.facts.len();
            for (scope, node, inputs) in self.together.clone() {
                let fact = |source: &Source| self.found.facts.get(&(scope, *source));
                let sources = &self.view.scopes[scope].inputs[node];
                let axis = sources.iter().find_map(|s| match fact(s) {
                    Some(Fact::Axis(axis)) => Some(*axis),
                    _ => None,
                });
                let bare: Vec<Source> = inputs
                    .iter()
                    .filter_map(|&i| sources.get(i))
                    .filter(|s| fact(s).is_none())
                    .copied()
                    .collect();
                for source in bare {
                    if let Some(axis) = &axis {
                        repeat::explain(self, scope, source, axis)?;
                    }
                }
            }
            for scope in self.found.picks.iter().map(|p| p.scope).collect::<BTreeSet<_>>() {
                for (node, _) in
                    self.view.scopes[scope].nodes.iter().enumerate().filter(|(_, n)| n.op == "Unpack")
                {
                    repeat::unpacked(self, scope, node)?;
                }
            }
            if self.found.facts.len() == known {
                return Ok(());
            }
        }
    }

    fn work(&mut self) -> Result<()> {
        let view = self.view;
        while let Some((scope, source)) = self.queue.pop() {
            let Some(fact) = self.found.facts.get(&(scope, source)).cloned() else { continue };
            let here = &view.scopes[scope];
            for &edge in here.consumers(source) {
                if let Some(callee) = view.callee(scope, edge.node) {
                    self.learn(callee, Source::Arg(edge.input), fact.clone())?;
                } else if view.body(scope, edge.node).is_some() {
                    loops::follow(self, scope, edge.node, edge.input, &fact)?;
                } else if let Outcome::Later(_) = rules::apply(self, scope, edge, source, &fact)? {
                    self.waiting.push((scope, edge, source));
                }
            }
            for (position, _) in here.results.iter().enumerate().filter(|(_, result)| **result == source) {
                for &(caller, node) in view.callers(scope) {
                    if view.callee(caller, node) == Some(scope) {
                        self.learn(caller, Source::Node { node, out: position }, fact.clone())?;
                    } else if view.body(caller, node) == Some(scope) {
                        loops::follow(self, caller, node, position, &fact)?;
                    } else if !matches!(fact, Fact::Variable(_)) {
                        let tensor = Source::Node { node, out: 0 };
                        return Err(self.not(
                            caller,
                            tensor,
                            "the class axis leaves a loop or branch here".into(),
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<ClassFlow> {
        for (scope, node, inputs) in std::mem::take(&mut self.together) {
            for input in inputs {
                let Some(&source) = self.view.scopes[scope].inputs[node].get(input) else { continue };
                if !self.found.facts.contains_key(&(scope, source)) {
                    let (view, output) = (self.view, Source::Node { node, out: 0 });
                    return Err(self.not(
                        scope,
                        source,
                        format!(
                            "{} joins it with a tensor that has a class axis; this one has none",
                            view.describe(scope, output)
                        ),
                    ));
                }
            }
        }
        for (scope, edge, element, span) in std::mem::take(&mut self.demands) {
            let elements = self.elements(scope, edge);
            let Some(found) = elements.as_ref().and_then(|e| e.get(element)) else {
                return Err(self.size_error(scope, edge, element, span));
            };
            self.demand(scope, edge, element, found.clone(), span)?;
        }
        self.found.picks.sort_by_key(|p| (p.scope, p.class));
        Ok(self.found)
    }

    fn demand(&mut self, scope: usize, edge: Use, element: usize, found: Element, span: Span) -> Result<()> {
        match found {
            Element::Grows(s) if s == span => Ok(()),
            // -1 means "whatever is there".
            Element::Constant { value: -1, .. } => Ok(()),
            Element::Constant { scope, node, element, value, edge: Some(read) }
                if value == span.value(self.growth) =>
            {
                self.change_constant(scope, node, read, element, span);
                Ok(())
            }
            Element::Either(a, b) => {
                self.demand(scope, edge, element, *a, span)?;
                self.demand(scope, edge, element, *b, span)
            }
            _ => Err(self.size_error(scope, edge, element, span)),
        }
    }

    fn size_error(&self, scope: usize, edge: Use, element: usize, span: Span) -> Error {
        let expected = span.value(self.growth);
        let source = self.view.scopes[scope].inputs[edge.node].get(edge.input).copied();
        self.not(
            scope,
            source.unwrap_or(Source::Node { node: edge.node, out: 0 }),
            format!("size {element} should be {expected} or follow the class axis, and does neither"),
        )
    }

    /// Notes that the constant read through `edge` must hold a grown size.
    pub fn change_constant(&mut self, scope: usize, node: usize, edge: Use, element: usize, span: Span) {
        let grown = span.grown(self.growth);
        let edit = self.found.constants.entry((scope, node)).or_default();
        edit.by_edge.entry(edge).or_default().insert(element, grown);
    }

    /// Demands that element `element` of the sizes read through `edge` grow with the classes.
    pub fn must_grow(&mut self, scope: usize, edge: Use, element: usize, span: Span) {
        self.demands.push((scope, edge, element, span));
    }

    /// Demands that these inputs of a node carry the class axis as well.
    pub fn must_join(&mut self, scope: usize, node: usize, inputs: impl IntoIterator<Item = usize>) {
        self.together.push((scope, node, inputs.into_iter().collect()));
    }

    /// The elements of the integers that `edge` reads.
    pub fn elements(&self, scope: usize, edge: Use) -> Option<Vec<Element>> {
        trace::elements(self.view, &self.found.facts, scope, edge)
    }

    /// The constants that `edge` reads, all of them.
    pub fn constants(&self, scope: usize, edge: Use) -> Option<Vec<i64>> {
        self.elements(scope, edge)?.iter().map(Element::value).collect()
    }

    /// The number of axes of what `edge` reads.
    pub fn rank(&self, scope: usize, edge: Use) -> Option<usize> {
        let &source = self.view.scopes[scope].inputs[edge.node].get(edge.input)?;
        trace::static_rank(self.view, &self.found.facts, scope, source)
    }

    /// The size of the last axis of what `edge` reads.
    pub fn last_size(&self, scope: usize, edge: Use) -> Option<i64> {
        trace::last_size(self.view, &self.found.facts, scope, edge)
    }

    /// An integer attribute, or `default`.
    pub fn attr(&self, scope: usize, node: usize, key: &str, default: i64) -> i64 {
        int_attr(self.view.node(scope, node), key).unwrap_or(default)
    }

    /// The error that refuses a model at a tensor.
    pub fn not(&self, scope: usize, source: Source, reason: String) -> Error {
        Error::NotUnderstood { tensor: self.view.describe(scope, source), reason }
    }
}
