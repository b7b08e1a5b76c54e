//! Loops made of functions (`While`, `StatelessWhile`): what a tensor of a body is outside of it.
//!
//! Input, argument of the body, result of the body and output of the same number are one variable of the loop. One that the
//! body hands on as it came never changes (`Enter` with `is_constant` in a loop of frames): inside and outside it is the same.

use super::ops;
use super::view::{GraphView, Source};

/// Identities between an argument and the result that hands it on, at most.
const MOST_IDENTITIES: usize = 100;
/// Steps from a variable of a loop to where it is made, at most.
const MOST_STEPS: usize = 1_000;

impl GraphView<'_> {
    /// A function that a loop runs in every round, `body` or `cond`; none where the node is no loop of functions.
    fn of_loop(&self, scope: usize, node: usize, which: &str) -> Option<usize> {
        let node = &self.scopes[scope].nodes[node];
        if !is_loop(&node.op) {
            return None;
        }
        ops::called(node).find(|(attr, _)| *attr == which).and_then(|(_, name)| self.function(name))
    }

    /// The body of a loop; none where the node is no loop of functions.
    pub fn body(&self, scope: usize, node: usize) -> Option<usize> {
        self.of_loop(scope, node, "body")
    }

    /// The condition of a loop; none where the node is no loop of functions.
    pub fn condition(&self, scope: usize, node: usize) -> Option<usize> {
        self.of_loop(scope, node, "cond")
    }

    /// The loop, as (scope, node), whose body a function is; none where it is none, or where anything else calls it too.
    pub fn loop_of(&self, scope: usize) -> Option<(usize, usize)> {
        match *self.callers(scope) {
            [(caller, node)] if self.body(caller, node) == Some(scope) => Some((caller, node)),
            _ => None,
        }
    }

    /// The scope that a body belongs to: that of the outermost loop around it, or the scope itself.
    pub fn home(&self, mut scope: usize) -> usize {
        // Calls form no circle (check.rs); where that was not checked yet it must still end.
        for _ in 0..self.scopes.len() {
            match self.loop_of(scope) {
                Some((caller, _)) => scope = caller,
                None => break,
            }
        }
        scope
    }

    /// Whether the body of a loop hands this variable on as it came.
    pub fn is_invariant(&self, body: usize, variable: usize) -> bool {
        let here = &self.scopes[body];
        let mut result = here.results.get(variable).copied();
        for _ in 0..MOST_IDENTITIES {
            match result {
                Some(Source::Node { node, .. }) if here.nodes[node].op == "Identity" => {
                    result = here.inputs[node].first().copied();
                }
                other => return other == Some(Source::Arg(variable)),
            }
        }
        false
    }

    /// What a variable of a loop is outside of it: of an argument of a body or an output of a loop the loop's input, where the
    /// body hands it on as it came.
    pub(super) fn outside(&self, scope: usize, source: Source) -> Option<(usize, Source)> {
        let (caller, node, body, variable) = match source {
            Source::Arg(arg) => {
                let (caller, node) = self.loop_of(scope)?;
                (caller, node, scope, arg)
            }
            Source::Node { node, out } => (scope, node, self.body(scope, node)?, out),
        };
        let &outer = self.scopes[caller].inputs[node].get(variable)?;
        self.is_invariant(body, variable).then_some((caller, outer))
    }

    /// The operation that made a list (`TensorListReserve` and its kin), through loops that fill it; none where it is not found.
    pub fn maker_of_list(&self, mut scope: usize, mut source: Source) -> Option<(usize, usize)> {
        for _ in 0..MOST_STEPS {
            (scope, source) = self.origin(scope, source);
            match source {
                Source::Arg(arg) => {
                    let (caller, node) = self.loop_of(scope)?;
                    (scope, source) = (caller, *self.scopes[caller].inputs[node].get(arg)?);
                }
                Source::Node { node, out } => {
                    let here = &self.scopes[scope];
                    let before = match &*here.nodes[node].op {
                        "TensorListSetItem" => 0,
                        op if is_loop(op) => out,
                        _ => return Some((scope, node)),
                    };
                    source = *here.inputs[node].get(before)?;
                }
            }
        }
        None
    }

    /// The tensor that was taken apart into the list that an operation reads from; none where the list was made otherwise.
    pub fn list_of(&self, scope: usize, list: Source) -> Option<(usize, Source)> {
        let (scope, Source::Node { node, .. }) = self.origin(scope, list) else { return None };
        let here = &self.scopes[scope];
        (here.nodes[node].op == "TensorListFromTensor").then_some((scope, *here.inputs[node].first()?))
    }

    /// What a tensor is computed from, one step back: through the rounds of a loop, not into the functions of calls.
    pub fn before(&self, scope: usize, source: Source) -> Vec<(usize, Source)> {
        let variable = |caller: usize, node: usize, body: usize, variable: usize| {
            let input = self.scopes[caller].inputs[node].get(variable).map(|&input| (caller, input));
            let result = self.scopes[body].results.get(variable).map(|&result| (body, result));
            input.into_iter().chain(result).collect()
        };
        match source {
            Source::Arg(arg) => match self.loop_of(scope) {
                Some((caller, node)) => variable(caller, node, scope, arg),
                None => Vec::new(),
            },
            Source::Node { node, out } => match self.body(scope, node) {
                Some(body) => variable(scope, node, body, out),
                None => self.scopes[scope].inputs[node].iter().map(|&input| (scope, input)).collect(),
            },
        }
    }
}

/// Whether a node runs functions in rounds.
pub fn is_loop(op: &str) -> bool {
    matches!(op, "While" | "StatelessWhile")
}
