//! TensorArrays: the class axis goes in at one place and comes out at another, often through a loop.

use super::super::axis::{ClassAxis, Fact};
use super::super::flow::Flow;
use super::super::loops::declared;
use super::{At, Outcome, lists};
use crate::error::Result;
use crate::graph::Source;

const ELEMENT_SHAPE: &str = "element_shape";

/// A tensor with a class axis enters an array; none where the operation is no array operation.
pub fn apply_axis(flow: &mut Flow<'_, '_>, at: At, axis: &ClassAxis) -> Result<Option<Outcome>> {
    let op = &*flow.view.node(at.scope, at.node).op;
    let element = match (op, at.input) {
        // Scatter takes the first axis apart.
        ("TensorArrayScatterV3", 2) if axis.axis > 0 => {
            ClassAxis { rank: axis.rank - 1, axis: axis.axis - 1, ..*axis }
        }
        ("TensorArrayWriteV3", 2) => *axis,
        _ => return lists::apply_axis(flow, at, axis),
    };
    element_shape(flow, at, &element);
    flow.learn(at.scope, at.out(0), Fact::Elements(element))?;
    Ok(Some(Outcome::Done))
}

/// An array whose elements have a class axis is read, written or gathered.
pub fn apply_elements(flow: &mut Flow<'_, '_>, at: At, axis: &ClassAxis) -> Result<Outcome> {
    let op = &*flow.view.node(at.scope, at.node).op;
    match (op, at.input) {
        ("TensorArrayReadV3", 2) => flow.learn(at.scope, at.out(0), Fact::Axis(*axis))?,
        ("TensorArrayWriteV3", 3) => flow.learn(at.scope, at.out(0), Fact::Elements(*axis))?,
        ("TensorArrayGatherV3", 2) => {
            element_shape(flow, at, axis);
            declared(flow, (at.scope, at.node), ELEMENT_SHAPE, None, axis);
            let stacked = ClassAxis { rank: axis.rank + 1, axis: axis.axis + 1, ..*axis };
            flow.learn(at.scope, at.out(0), Fact::Axis(stacked))?;
        }
        ("TensorArraySizeV3" | "TensorArrayCloseV3", _) => {}
        _ if lists::apply_elements(flow, at, axis)? => {}
        _ => {
            return Err(flow.not(
                at.scope,
                at.out(0),
                format!("an array of class scores reaches operation {op}, which has no rule"),
            ));
        }
    }
    Ok(Outcome::Done)
}

/// The array's declared element shape, found through its handle (input 0).
fn element_shape(flow: &mut Flow<'_, '_>, at: At, axis: &ClassAxis) {
    let Some(&handle) = flow.view.scopes[at.scope].inputs[at.node].first() else { return };
    let (scope, handle) = flow.view.origin(at.scope, handle);
    if let Source::Node { node, .. } = handle {
        declared(flow, (scope, node), ELEMENT_SHAPE, None, axis);
    }
}
