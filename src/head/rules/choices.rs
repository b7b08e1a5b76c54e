//! Every detection takes one of its classes: detections and classes lie on one axis, which is indexed by
//! detection · classes + class (object_detection/meta_architectures/faster_rcnn_meta_arch.py, _gather_instance_masks).

use super::super::axis::{ClassAxis, Span};
use super::super::flow::Flow;
use super::At;
use crate::error::Result;
use crate::graph::tensor::{constant, ints};
use crate::graph::{Source, Use};

/// The rule for a gather along an axis of detections and classes; what is gathered has no class axis any more.
pub fn apply(flow: &mut Flow<'_, '_>, at: At, axis: &ClassAxis) -> Result<()> {
    let count = number_of_classes(flow, at).filter(|_| axis.outer.is_none() && axis.inner == 1);
    let Some(count) = count else {
        return Err(flow.not(
            at.scope,
            at.out(0),
            "a gather along the class axis by anything but Range · classes + class has no rule".into(),
        ));
    };
    flow.must_grow(at.scope, count, 0, Span { units: 1, background: axis.background });
    Ok(())
}

/// Where the number of classes is read: the factor of `Range(0, n, 1)` in one summand of the indices.
fn number_of_classes(flow: &Flow<'_, '_>, at: At) -> Option<Use> {
    let view = flow.view;
    let here = &view.scopes[at.scope];
    let producer = |source: Source, ops: &[&str]| match source {
        Source::Node { node, .. } if ops.contains(&&*here.nodes[node].op) => Some(node),
        _ => None,
    };
    let plain = |mut source: Source| {
        while let Some(node) = producer(source, &["Identity", "Cast"]) {
            source = *here.inputs[node].first()?;
        }
        Some(source)
    };
    let sum = producer(plain(*here.inputs[at.node].get(1)?)?, &["AddV2", "Add"])?;
    let product = here.inputs[sum].iter().find_map(|&summand| producer(plain(summand)?, &["Mul"]))?;
    let number = |node: usize, input: usize| match view.origin(at.scope, *here.inputs[node].get(input)?) {
        (s, Source::Node { node, .. }) => ints(constant(view.node(s, node))?)?.first().copied(),
        _ => None,
    };
    let counts = |&factor: &usize| {
        let range = here.inputs[product].get(factor).and_then(|&s| producer(plain(s)?, &["Range"]));
        range.is_some_and(|range| (number(range, 0), number(range, 2)) == (Some(0), Some(1)))
    };
    let range = [0, 1].into_iter().find(counts)?;
    Some(Use { node: product, input: 1 - range })
}
