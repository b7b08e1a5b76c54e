//! Decoded boxes, and the layers that make them.

use std::collections::{BTreeSet, HashSet};

use super::Head;
use super::suppression::Group;
use super::walk::{Walk, not};
use crate::error::Result;
use crate::graph::Source;

impl Walk<'_, '_> {
    /// The tensor that holds all classes' boxes, and the layers of boxes of each class's own; no layers where the
    /// classes share their boxes.
    ///
    /// With a single class the two look alike; it is then taken to share, which computes the same.
    pub(super) fn class_boxes(
        &self,
        group: &Group,
        proposals: Option<&Group>,
    ) -> Result<(Source, Vec<Head>)> {
        let scope = group.scope;
        let sources: BTreeSet<Source> = group.by_class.values().map(|s| s.boxes).collect();
        let (Some(&first), several) = (sources.first(), sources.len() > 1) else {
            return Err(not(
                self.view.describe(scope, group.scores),
                "nothing suppresses these scores".into(),
            ));
        };
        if !several {
            return Ok((first, Vec::new()));
        }
        let here = &self.view.scopes[scope];
        let of_class = |(&class, s): (&i64, &super::suppression::Suppression)| match s.boxes {
            Source::Node { node, out } if out as i64 == class && here.nodes[node].op == "Unpack" => {
                Some(node)
            }
            _ => None,
        };
        let unpacked: BTreeSet<Option<usize>> = group.by_class.iter().map(of_class).collect();
        let (Some(&Some(unpack)), 1, Some(proposals)) = (unpacked.first(), unpacked.len(), proposals) else {
            return Err(not(
                self.view.describe(scope, first),
                "expected the boxes of all classes to come from one Unpack of a two-stage model".into(),
            ));
        };
        let &all = here.inputs[unpack].first().ok_or_else(|| self.odd(scope, unpack))?;
        let mut heads = Vec::new();
        // The proposals, too, are decoded from boxes, and ranked by scores: those layers are the first stage's. Layers of
        // the second need not read the proposals themselves (R-FCN cuts them from what is computed for the picture).
        let first_stage = proposals.by_class.values().map(|s| s.boxes).chain([proposals.scores]);
        let first_stage = self.layers_behind(first_stage.map(|source| (proposals.scope, source)));
        for (scope, node) in self.layers_behind([(scope, all)]).difference(&first_stage) {
            heads.push(self.head(*scope, *node)?);
        }
        if heads.is_empty() {
            return Err(not(
                self.view.describe(scope, all),
                "no layer was found that makes the boxes of each class".into(),
            ));
        }
        Ok((all, heads))
    }

    /// From what non-max suppression reads back to where all decoded boxes are one tensor.
    pub(super) fn decoded_boxes(&self, mut scope: usize, mut source: Source) -> (usize, Source) {
        for _ in 0..100 {
            let Source::Node { node, .. } = source else { break };
            let here = &self.view.scopes[scope];
            let first = here.inputs[node].first();
            let next = match &*here.nodes[node].op {
                "Identity" | "Reshape" | "Squeeze" | "ExpandDims" | "Unpack" | "Slice" | "Enter" => {
                    first.map(|&input| (scope, input))
                }
                "TensorArrayReadV3" | "TensorArrayScatterV3" => {
                    here.inputs[node].get(2).map(|&input| (scope, input))
                }
                "TensorListGetItem" => first.and_then(|&list| self.view.list_of(scope, list)),
                _ => None,
            };
            match next {
                Some(next) => (scope, source) = next,
                None => break,
            }
        }
        (scope, source)
    }

    /// The last layers before these tensors, as BiasAdd nodes. Shapes are not followed: anchors may be made from those of
    /// the backbone.
    pub(super) fn layers_behind(
        &self,
        tensors: impl IntoIterator<Item = (usize, Source)>,
    ) -> BTreeSet<(usize, usize)> {
        let (mut seen, mut found) = (HashSet::new(), BTreeSet::new());
        let mut stack: Vec<(usize, Source)> = tensors.into_iter().collect();
        while let Some((scope, source)) = stack.pop() {
            let (scope, source) = self.view.origin(scope, source);
            let Source::Node { node, .. } = source else { continue };
            if !seen.insert((scope, node)) {
                continue;
            }
            let here = &self.view.scopes[scope];
            match &*here.nodes[node].op {
                "Shape" | "ShapeN" | "Size" | "VarHandleOp" => {}
                "BiasAdd" => {
                    found.insert((scope, node));
                }
                _ => stack.extend(here.inputs[node].iter().map(|&input| (scope, input))),
            }
        }
        found
    }
}
