//! One rule per operation: what a fact about an input says of the outputs, and what must change.
//!
//! | file | operations |
//! |---|---|
//! | `layers.rs` | convolutions, biases, element-wise operations, reductions |
//! | `shapes.rs` | operations that move or cut axes |
//! | `arrays.rs` | TensorArrays |
//! | `lists.rs` | lists of tensors, which TensorFlow 2 has for arrays |
//! | `sizes.rs` | integers that hold sizes |
//! | `indices.rs` | choosing the best of all positions and classes, and what is computed from their indices |
//! | `choices.rs` | every detection takes one of its classes |

mod arrays;
mod choices;
mod indices;
mod layers;
mod lists;
mod shapes;
mod sizes;

use super::axis::{ClassAxis, Fact};
use super::flow::Flow;
use crate::error::{Error, Result};
use crate::graph::{Source, Use};

/// How a rule ended.
pub enum Outcome {
    /// Everything it had to say is said.
    Done,
    /// It must be asked again when more is known; the error says why it stands if nothing more comes.
    Later(Error),
}

/// Applies the rule of the operation that reads `source` through `edge`.
pub fn apply(
    flow: &mut Flow<'_, '_>,
    scope: usize,
    edge: Use,
    source: Source,
    fact: &Fact,
) -> Result<Outcome> {
    let node = flow.view.node(scope, edge.node);
    let at = At { scope, node: edge.node, input: edge.input, source };
    if passes_anything(&node.op) {
        let outputs = if node.op == "Switch" { 2 } else { 1 };
        let out = if node.op == "IdentityN" { edge.input } else { 0 };
        if node.op == "Switch" && edge.input == 1 {
            return Ok(Outcome::Done);
        }
        for o in out..out + outputs {
            flow.learn(scope, at.out(o), fact.clone())?;
        }
        return Ok(Outcome::Done);
    }
    match fact {
        Fact::Variable(axis) => variable(flow, at, axis),
        Fact::Axis(axis) => {
            if is_sink(&node.op) {
                return Ok(Outcome::Done);
            }
            for rule in [layers::apply, shapes::apply, arrays::apply_axis, indices::apply_axis] {
                if let Some(outcome) = rule(flow, at, axis)? {
                    return Ok(outcome);
                }
            }
            Err(flow.not(
                scope,
                at.out(0),
                format!("a class axis reaches operation {}, which has no rule", node.op),
            ))
        }
        Fact::Elements(axis) => arrays::apply_elements(flow, at, axis),
        Fact::Sizes { scalar, elements } => sizes::apply(flow, at, *scalar, elements),
        Fact::Index(part) => indices::apply(flow, at, *part),
    }
}

/// The place where a rule stands.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// Scope of the node.
    pub scope: usize,
    /// The node.
    pub node: usize,
    /// Which of its inputs has the fact.
    pub input: usize,
    /// The tensor with the fact.
    pub source: Source,
}

impl At {
    /// An output of the node.
    pub fn out(&self, out: usize) -> Source {
        Source::Node { node: self.node, out }
    }

    /// Another input of the node.
    pub fn edge(&self, input: usize) -> Use {
        Use { node: self.node, input }
    }
}

fn variable(flow: &mut Flow<'_, '_>, at: At, axis: &ClassAxis) -> Result<Outcome> {
    let op = &*flow.view.node(at.scope, at.node).op;
    match op {
        "ReadVariableOp" => {
            flow.learn(at.scope, at.out(0), Fact::Axis(*axis))?;
            Ok(Outcome::Done)
        }
        "AssignVariableOp" | "VarIsInitializedOp" | "DestroyResourceOp" | "DisableCopyOnRead" => {
            Ok(Outcome::Done)
        }
        _ => Err(flow.not(
            at.scope,
            at.out(0),
            format!("a class variable reaches operation {op}, which has no rule"),
        )),
    }
}

/// Operations that hand on whatever they get.
fn passes_anything(op: &str) -> bool {
    matches!(
        op,
        "Identity"
            | "IdentityN"
            | "Snapshot"
            | "StopGradient"
            | "PreventGradient"
            | "Enter"
            | "RefEnter"
            | "Exit"
            | "NextIteration"
            | "Switch"
            | "Merge"
            | "CheckNumerics"
    )
}

/// Operations behind which the class axis does not matter.
fn is_sink(op: &str) -> bool {
    matches!(op, "SaveV2" | "L2Loss" | "Assert" | "Print" | "PrintV2" | "NoOp" | "AssignVariableOp" | "Rank")
}
