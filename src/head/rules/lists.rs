//! Lists of tensors, in which TensorFlow 2 keeps what `tf.map_fn` takes apart and puts together.
//!
//! Each operation is told the shape of the elements by an input. One that is unknown is the scalar or the single number -1.

use super::super::axis::{ClassAxis, Fact, Span};
use super::super::flow::Flow;
use super::{At, Outcome};
use crate::error::Result;
use crate::graph::Use;

/// A tensor with a class axis becomes a list, or an element of one; none where the operation does neither.
pub(super) fn apply_axis(flow: &mut Flow<'_, '_>, at: At, axis: &ClassAxis) -> Result<Option<Outcome>> {
    let op = &*flow.view.node(at.scope, at.node).op;
    let element = match (op, at.input) {
        // The first axis is taken apart.
        ("TensorListFromTensor", 0) if axis.axis > 0 => {
            let element = ClassAxis { rank: axis.rank - 1, axis: axis.axis - 1, ..*axis };
            element_shape(flow, at, at.scope, at.edge(1), &element)?;
            element
        }
        ("TensorListSetItem", 2) => {
            reserved(flow, at, axis)?;
            *axis
        }
        _ => return Ok(None),
    };
    flow.learn(at.scope, at.out(0), Fact::Elements(element))?;
    Ok(Some(Outcome::Done))
}

/// A list whose elements have a class axis is read, written or stacked; false where the operation does none of these.
pub(super) fn apply_elements(flow: &mut Flow<'_, '_>, at: At, axis: &ClassAxis) -> Result<bool> {
    let op = &*flow.view.node(at.scope, at.node).op;
    match (op, at.input) {
        ("TensorListGetItem", 0) => {
            element_shape(flow, at, at.scope, at.edge(2), axis)?;
            flow.learn(at.scope, at.out(0), Fact::Axis(*axis))?;
        }
        ("TensorListSetItem", 0) => {
            // Whatever is written into it must have the axis, too.
            flow.must_join(at.scope, at.node, [2]);
            flow.learn(at.scope, at.out(0), Fact::Elements(*axis))?;
        }
        ("TensorListStack", 0) => {
            element_shape(flow, at, at.scope, at.edge(1), axis)?;
            let stacked = ClassAxis { rank: axis.rank + 1, axis: axis.axis + 1, ..*axis };
            flow.learn(at.scope, at.out(0), Fact::Axis(stacked))?;
        }
        ("TensorListLength", 0) => {}
        _ => return Ok(false),
    }
    Ok(true)
}

/// The list that an element is written into declares the element's shape where it is made, before the loop that fills it.
fn reserved(flow: &mut Flow<'_, '_>, at: At, axis: &ClassAxis) -> Result<()> {
    let view = flow.view;
    let list = view.scopes[at.scope].inputs[at.node].first().copied();
    match list.and_then(|list| view.maker_of_list(at.scope, list)) {
        Some((scope, node)) if view.node(scope, node).op == "TensorListReserve" => {
            element_shape(flow, at, scope, Use { node, input: 0 }, axis)
        }
        _ => Err(flow.not(at.scope, at.out(0), "expected TensorListReserve to make the list".into())),
    }
}

/// The declared shape of elements with a class axis grows with it.
fn element_shape(flow: &mut Flow<'_, '_>, at: At, scope: usize, edge: Use, axis: &ClassAxis) -> Result<()> {
    let sizes = flow.elements(scope, edge);
    let values = sizes.iter().flatten().map(|element| element.value());
    match (values.collect::<Vec<_>>().as_slice(), axis.outer) {
        ([Some(-1)], _) => {}
        (sizes, Some(outer)) if sizes.len() == axis.rank => {
            let span = Span { units: outer * axis.inner, background: axis.background };
            flow.must_grow(scope, edge, axis.axis, span);
        }
        (sizes, None) if sizes.len() == axis.rank && sizes[axis.axis] == Some(-1) => {}
        (found, _) => {
            let reason =
                format!("a list of elements with {} axes, told to have the shape {found:?}", axis.rank);
            return Err(flow.not(at.scope, at.out(0), reason));
        }
    }
    Ok(())
}
