//! Everything takes one of its classes: positions and classes lie on one axis, which is indexed by
//! position · classes + class (object_detection/meta_architectures/faster_rcnn_meta_arch.py: _gather_instance_masks, and
//! batch_gather of the boxes of the likeliest classes).

use super::super::axis::{ClassAxis, Span};
use super::super::flow::Flow;
use super::super::trace::Element;
use super::{At, Outcome};
use crate::error::Result;
use crate::graph::{Source, Use};

/// The rule for a gather along an axis of positions and classes; what is gathered has no class axis any more.
pub fn apply(flow: &mut Flow<'_, '_>, at: At, axis: &ClassAxis) -> Result<Outcome> {
    let columns = axis.columns(flow.growth);
    let factors = if axis.outer == Some(1) || axis.inner != 1 { None } else { strides(flow, at) };
    let mut growing = Vec::new();
    for factor in factors.unwrap_or_default() {
        match flow.elements(at.scope, factor).as_deref() {
            Some([Element::Grows(span)]) => growing.push((factor, span.units)),
            // Computed from sizes at run time, it follows them.
            Some([Element::Other]) => {}
            Some([one]) => {
                let value = one.value().and_then(|v| usize::try_from(v).ok()).unwrap_or(0);
                growing.push((factor, value / columns));
            }
            _ => growing.push((factor, 0)),
        }
    }
    if !growing.iter().any(|&(_, units)| units == 1) {
        return Ok(Outcome::Later(flow.not(
            at.scope,
            at.out(0),
            "a gather along the class axis by anything but Range · classes + class has no rule".into(),
        )));
    }
    for (factor, units) in growing {
        flow.must_grow(at.scope, factor, 0, Span { units, background: axis.background });
    }
    Ok(Outcome::Done)
}

/// The factors of `Range(0, n, 1)` among the summands of the indices, where exactly one summand is something else: the class.
fn strides(flow: &Flow<'_, '_>, at: At) -> Option<Vec<Use>> {
    let view = flow.view;
    let here = &view.scopes[at.scope];
    let number = |node: usize, input: usize| view.integers(at.scope, node, input)?.first().copied();
    let counts = |source: Source| match source {
        Source::Node { node, .. } => {
            here.nodes[node].op == "Range" && (number(node, 0), number(node, 2)) == (Some(0), Some(1))
        }
        Source::Arg(_) => false,
    };
    let (mut factors, mut others) = (Vec::new(), 0);
    let mut stack = vec![*here.inputs[at.node].get(1)?];
    while let Some(source) = stack.pop() {
        let Source::Node { node, .. } = source else { return None };
        let inputs = &here.inputs[node];
        match &*here.nodes[node].op {
            "Identity" | "Cast" | "Reshape" if others < 2 && factors.len() < 8 => {
                // The class, too, may come through these; what is no sum behind them is looked at no further.
                stack.push(*inputs.first()?);
            }
            "AddV2" | "Add" => stack.extend(inputs),
            "Mul" => {
                let range = inputs.iter().position(|&s| counts(s))?;
                factors.push(Use { node, input: 1 - range });
            }
            _ => others += 1,
        }
    }
    (others == 1 && !factors.is_empty()).then_some(factors)
}
