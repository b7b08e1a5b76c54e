//! The class axis in loops made of functions, and the shapes that attributes declare for it.

use super::axis::{ClassAxis, Fact};
use super::flow::{AttributeEdit, Flow};
use crate::error::Result;
use crate::graph::Source;
use crate::graph::tensor::shape_within;

/// A loop's own list of the shapes of its variables; shape inference takes them as they are.
const SHAPES: &str = "output_shapes";

/// A fact reaches a variable of a loop, at its input or at the end of a round: it holds in every round and behind the loop.
pub(super) fn follow(
    flow: &mut Flow<'_, '_>,
    scope: usize,
    node: usize,
    variable: usize,
    fact: &Fact,
) -> Result<()> {
    let view = flow.view;
    let output = Source::Node { node, out: variable };
    let Some(body) = view.body(scope, node) else { return Ok(()) };
    // A list is filled round by round, and declares the shape of its elements where it is made (rules/lists.rs). Anything
    // else must come out as it went in: what a first round makes of it is not told by what the second does.
    if !matches!(fact, Fact::Elements(_) | Fact::Variable(_)) && !view.is_invariant(body, variable) {
        return Err(flow.not(scope, output, "a tensor that depends on the classes changes in a loop".into()));
    }
    for function in [Some(body), view.condition(scope, node)].into_iter().flatten() {
        flow.learn(function, Source::Arg(variable), fact.clone())?;
    }
    if let Fact::Axis(axis) = fact {
        declared(flow, (scope, node), SHAPES, Some(variable), axis);
    }
    flow.learn(scope, output, fact.clone())
}

/// The shape that an attribute declares for a tensor with a class axis grows with it; `entry` tells which one of a list.
pub(super) fn declared(
    flow: &mut Flow<'_, '_>,
    (scope, node): (usize, usize),
    attribute: &str,
    entry: Option<usize>,
    axis: &ClassAxis,
) {
    let (Some(old), Some(new)) = (axis.size(flow.growth), axis.grown_size(flow.growth)) else { return };
    let shape = flow.view.node(scope, node).attr.get(attribute).and_then(|value| shape_within(value, entry));
    if shape.and_then(|shape| shape.dim.get(axis.axis)).is_some_and(|dim| dim.size == old as i64) {
        flow.found.attributes.insert(AttributeEdit {
            scope,
            node,
            attribute: attribute.into(),
            entry,
            axis: axis.axis,
            size: new as i64,
        });
    }
}
