//! TensorArrays: the class axis goes in at one place and comes out at another, often through a loop.

use super::super::axis::{ClassAxis, Fact};
use super::super::flow::{AttributeEdit, Flow};
use super::{At, Outcome};
use crate::error::Result;
use crate::graph::Source;
use crate::graph::tensor::shape_attr;

/// A tensor with a class axis enters an array; none where the operation is no array operation.
pub fn apply_axis(flow: &mut Flow<'_, '_>, at: At, axis: &ClassAxis) -> Result<Option<Outcome>> {
    let op = &*flow.view.node(at.scope, at.node).op;
    let element = match (op, at.input) {
        // Scatter takes the first axis apart.
        ("TensorArrayScatterV3", 2) if axis.axis > 0 => {
            ClassAxis { rank: axis.rank - 1, axis: axis.axis - 1, ..*axis }
        }
        ("TensorArrayWriteV3", 2) => *axis,
        _ => return Ok(None),
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
            own_element_shape(flow, at.scope, at.node, axis);
            let stacked = ClassAxis { rank: axis.rank + 1, axis: axis.axis + 1, ..*axis };
            flow.learn(at.scope, at.out(0), Fact::Axis(stacked))?;
        }
        ("TensorArraySizeV3" | "TensorArrayCloseV3", _) => {}
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
        own_element_shape(flow, scope, node, axis);
    }
}

fn own_element_shape(flow: &mut Flow<'_, '_>, scope: usize, node: usize, axis: &ClassAxis) {
    const ATTRIBUTE: &str = "element_shape";
    let Some(shape) = shape_attr(flow.view.node(scope, node), ATTRIBUTE) else { return };
    let (Some(old), Some(new)) = (axis.size(flow.growth), axis.grown_size(flow.growth)) else { return };
    if shape.get(axis.axis) == Some(&(old as i64)) {
        flow.found.attributes.insert(AttributeEdit {
            scope,
            node,
            attribute: ATTRIBUTE.into(),
            axis: axis.axis,
            size: new as i64,
        });
    }
}
