//! From scores back to the class layers.

use std::collections::HashMap;

use super::super::trace::{packed_alone, static_rank};
use super::walk::{Walk, not};
use super::{Activation, Head};
use crate::error::Result;
use crate::graph::Source;

/// What the way back from the scores has shown so far.
#[derive(Default)]
pub(super) struct Trail {
    pub background: bool,
    pub activation: Option<Activation>,
    /// What it is applied to, as (scope, tensor).
    pub logits: Option<(usize, Source)>,
    pub heads: Vec<Head>,
    /// Nodes visited, each way to a node counted.
    steps: usize,
}

/// Ways that meet again and again would be followed without end.
const MOST_STEPS: usize = 20_000;

impl Walk<'_, '_> {
    /// From scores back to the class layers.
    pub(super) fn back(&self, scope: usize, source: Source, trail: &mut Trail, depth: usize) -> Result<()> {
        let (scope, source) = self.view.origin(scope, source);
        let Source::Node { node, .. } = source else {
            return Err(not(self.view.describe(scope, source), "scores come from outside the graph".into()));
        };
        trail.steps += 1;
        if depth > 200 || trail.steps > MOST_STEPS {
            return Err(not(
                self.view.describe(scope, source),
                "the way from the scores to the head is too long".into(),
            ));
        }
        let here = &self.view.scopes[scope];
        let (op, inputs) = (&*here.nodes[node].op, &here.inputs[node]);
        let mut follow = |walk: &Self, inputs: &[Source]| {
            inputs.iter().try_for_each(|&input| walk.back(scope, input, trail, depth + 1))
        };
        match op {
            "Reshape"
            | "Squeeze"
            | "ExpandDims"
            | "Transpose"
            | "Cast"
            | "Unpack"
            | "Switch"
            | "Exit"
            | "NextIteration"
            | "StridedSlice"
            | "FakeQuantWithMinMaxVars"
            | "FakeQuantWithMinMaxArgs"
            | "CheckNumerics" => follow(self, inputs.get(..1).unwrap_or_default()),
            "Slice" => {
                trail.background |= self.drops_first(scope, node);
                self.back(scope, *inputs.first().ok_or_else(|| self.odd(scope, node))?, trail, depth + 1)
            }
            "Sigmoid" | "Softmax" => {
                trail.activation =
                    Some(if op == "Sigmoid" { Activation::Sigmoid } else { Activation::Softmax });
                let &logits = inputs.first().ok_or_else(|| self.odd(scope, node))?;
                trail.logits = Some((scope, logits));
                self.back(scope, logits, trail, depth + 1)
            }
            // Logits are scaled by a constant (post_processing.logit_scale).
            "Mul" | "RealDiv" => {
                let mut scaled = self.without_constants(scope, inputs);
                // Samples around a point are weighed by numbers that all classes share (crops by products).
                scaled.retain(|&factor| !self.ends_in_new_axis(scope, factor));
                follow(self, &scaled)
            }
            // Suppression of a fixed size (use_static_shapes) fills the scores of boxes that are not there.
            "Select" | "SelectV2" => {
                follow(self, &self.without_constants(scope, inputs.get(1..).unwrap_or_default()))
            }
            "ConcatV2" => follow(self, &inputs[..inputs.len().saturating_sub(1)]),
            "Pack" | "Merge" | "AddN" => follow(self, &inputs.clone()),
            // Position-sensitive scores: one part of the channels for each bin of a proposal, cut out and averaged.
            "Split" => follow(self, inputs.get(1..2).unwrap_or_default()),
            "CropAndResize" | "Mean" | "AvgPool" => follow(self, inputs.get(..1).unwrap_or_default()),
            // Crops by products gather the rows of a map by their positions.
            "GatherV2" if self.view.integers(scope, node, 2).as_deref() == Some(&[0]) => {
                follow(self, inputs.get(..1).unwrap_or_default())
            }
            // An array that a loop fills; what it was before the loop holds nothing.
            "TensorArrayGatherV3" | "TensorArrayWriteV3" => {
                follow(self, inputs.get(2..3).unwrap_or_default())
            }
            "TensorArrayV3" => Ok(()),
            "TensorArrayReadV3" => {
                let flow = *inputs.get(2).ok_or_else(|| self.odd(scope, node))?;
                let (s, flow) = self.view.origin(scope, flow);
                match flow {
                    Source::Node { node: n, .. } if self.view.node(s, n).op == "TensorArrayScatterV3" => {
                        let value = *self.view.scopes[s].inputs[n].get(2).ok_or_else(|| self.odd(s, n))?;
                        self.back(s, value, trail, depth + 1)
                    }
                    _ => Err(not(
                        self.view.describe(s, flow),
                        "expected TensorArrayScatterV3 to fill this array".into(),
                    )),
                }
            }
            "TensorListGetItem" => {
                let &list = inputs.first().ok_or_else(|| self.odd(scope, node))?;
                if let Some((s, value)) = self.view.list_of(scope, list) {
                    return self.back(s, value, trail, depth + 1);
                }
                let (s, made) = self.view.origin(scope, list);
                Err(not(
                    self.view.describe(s, made),
                    "expected TensorListFromTensor to make this list, and the loop to leave it as it is"
                        .into(),
                ))
            }
            "BiasAdd" => {
                let head = self.head(scope, node)?;
                if !trail.heads.contains(&head) {
                    trail.heads.push(head);
                }
                Ok(())
            }
            _ => Err(not(
                self.view.describe(scope, source),
                "unknown operation on the way from the scores to the class head".into(),
            )),
        }
    }

    /// Whether a tensor has just been given its last axis, on which it has one number.
    fn ends_in_new_axis(&self, scope: usize, source: Source) -> bool {
        let (Source::Node { node, .. }, _) = packed_alone(self.view, scope, source) else { return false };
        let here = &self.view.scopes[scope];
        let inner = here.inputs[node].first();
        let rank = || static_rank(self.view, &HashMap::new(), scope, *inner?);
        let dim = self.view.integers(scope, node, 1).and_then(|dims| dims.first().copied());
        here.nodes[node].op == "ExpandDims"
            && dim.is_some_and(|dim| dim == -1 || dim >= 0 && usize::try_from(dim).ok() == rank())
    }

    /// Whether a Slice starts at 1 on the last axis: it cuts the background column off.
    fn drops_first(&self, scope: usize, node: usize) -> bool {
        let begin = self.view.integers(scope, node, 1);
        begin.is_some_and(|b| b.last() == Some(&1) && b.iter().rev().skip(1).all(|&v| v == 0))
    }
}
