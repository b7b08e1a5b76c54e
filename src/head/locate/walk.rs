//! The graph with its variables: from a tensor to the constant or variable behind it, and to the layer that it is part of.

use std::collections::{BTreeSet, HashMap};

use super::super::variables::Variables;
use super::{Head, Root};
use crate::error::{Error, Result};
use crate::graph::tensor::{constant, shape, str_attr};
use crate::graph::{GraphView, MAIN, Source};
use crate::pb::attr_value::Value;

/// What every search for a head needs.
pub(super) struct Walk<'v, 'a> {
    pub view: &'v GraphView<'a>,
    pub variables: &'v Variables,
    /// Variables that functions get from the object graph, by (scope, argument).
    pub bound: HashMap<(usize, usize), usize>,
}

impl Walk<'_, '_> {
    /// The layer that ends in a BiasAdd.
    pub(super) fn head(&self, scope: usize, bias: usize) -> Result<Head> {
        let here = &self.view.scopes[scope];
        let inputs = &here.inputs[bias];
        let tensor = || self.view.describe(scope, Source::Node { node: bias, out: 0 });
        let (&[value, biases], false) =
            (&inputs[..], str_attr(&here.nodes[bias], "data_format") == Some("NCHW"))
        else {
            return Err(not(tensor(), "expected a BiasAdd of two inputs in NHWC".into()));
        };
        let conv = match value {
            Source::Node { node, .. } if matches!(&*here.nodes[node].op, "Conv2D" | "MatMul") => node,
            other => {
                return Err(not(
                    self.view.describe(scope, other),
                    "expected a layer of the head to be a Conv2D or MatMul with bias".into(),
                ));
            }
        };
        let rank = if here.nodes[conv].op == "MatMul" { 2 } else { 4 };
        let &[features, kernel] = &here.inputs[conv][..] else { return Err(self.odd(scope, conv)) };
        let kernel = self.root(scope, kernel)?;
        let kernel_shape = self.shape_of(kernel).filter(|s| s.len() == rank).ok_or_else(|| {
            not(tensor(), format!("the kernel of a layer of the head has no shape of {rank} axes"))
        })?;
        Ok(Head { scope, conv, bias, features, kernel, biases: self.root(scope, biases)?, kernel_shape })
    }

    fn shape_of(&self, root: Root) -> Option<Vec<usize>> {
        match root {
            Root::Constant { scope, node } => shape(constant(self.view.node(scope, node))?),
            Root::Variable(v) => {
                self.variables.all[v].shape.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<_>>()
            }
        }
    }

    /// Where a layer's weights live; every caller of a function must pass the same.
    fn root(&self, scope: usize, source: Source) -> Result<Root> {
        let mut found = BTreeSet::new();
        self.collect_roots(scope, source, &mut found, 0, &mut 0)?;
        match found.first() {
            Some(&root) if found.len() == 1 => Ok(root),
            _ => Err(not(
                self.view.describe(scope, source),
                format!("weights come from {} places, expected one constant or variable", found.len()),
            )),
        }
    }

    fn collect_roots(
        &self,
        scope: usize,
        source: Source,
        found: &mut BTreeSet<Root>,
        depth: usize,
        steps: &mut usize,
    ) -> Result<()> {
        let (scope, source) = self.view.origin(scope, source);
        let unknown =
            || not(self.view.describe(scope, source), "expected a constant or a variable's value".into());
        // Functions that call each other twice at every level would be followed without end.
        *steps += 1;
        if depth > 50 || *steps > 10_000 {
            return Err(unknown());
        }
        match source {
            Source::Arg(arg) => {
                if let Some(&v) = self.bound.get(&(scope, arg)) {
                    found.insert(Root::Variable(v));
                } else if self.view.callers(scope).is_empty() {
                    return Err(unknown());
                }
                for &(caller, node) in self.view.callers(scope) {
                    if let (true, Some(&outer)) = (
                        self.view.callee(caller, node) == Some(scope),
                        self.view.scopes[caller].inputs[node].get(arg),
                    ) {
                        self.collect_roots(caller, outer, found, depth + 1, steps)?;
                    }
                }
                Ok(())
            }
            Source::Node { node, .. } => {
                let here = &self.view.scopes[scope];
                match &*here.nodes[node].op {
                    "Const" => found.insert(Root::Constant { scope, node }),
                    "ReadVariableOp" => {
                        let &handle = here.inputs[node].first().ok_or_else(|| self.odd(scope, node))?;
                        return self.collect_roots(scope, handle, found, depth + 1, steps);
                    }
                    "VarHandleOp" if scope == MAIN => {
                        found.insert(Root::Variable(self.variables.of_handle(node).ok_or_else(unknown)?))
                    }
                    // Quantised zoo models fake the rounding of weights; the columns are widened before it.
                    "FakeQuantWithMinMaxVars" => {
                        let &weights = here.inputs[node].first().ok_or_else(|| self.odd(scope, node))?;
                        return self.collect_roots(scope, weights, found, depth + 1, steps);
                    }
                    _ => return Err(unknown()),
                };
                Ok(())
            }
        }
    }

    /// The inputs that are no constants, nor filled with one number.
    pub(super) fn without_constants(&self, scope: usize, inputs: &[Source]) -> Vec<Source> {
        let is_constant = |source: Source| match self.view.origin(scope, source) {
            (s, Source::Node { node, .. }) => matches!(&*self.view.node(s, node).op, "Const" | "Fill"),
            _ => false,
        };
        inputs.iter().copied().filter(|&s| !is_constant(s)).collect()
    }

    /// Whether a function says that it stands for something of this name.
    pub(super) fn implements(&self, scope: usize, name: &str) -> bool {
        let function = self.view.scopes[scope].function;
        let attribute = function.and_then(|f| f.attr.get("_implements")).and_then(|a| a.value.as_ref());
        match attribute {
            Some(Value::S(text)) => String::from_utf8_lossy(text).contains(name),
            // Text with attributes of its own is parsed when the function is made.
            Some(Value::Func(function)) => function.name.contains(name),
            _ => false,
        }
    }

    pub(super) fn odd(&self, scope: usize, node: usize) -> Error {
        not(
            self.view.describe(scope, Source::Node { node, out: 0 }),
            "it has an unexpected number of inputs".into(),
        )
    }
}

/// The error that refuses a model at a tensor.
pub(super) fn not(tensor: String, reason: String) -> Error {
    Error::NotUnderstood { tensor, reason }
}
