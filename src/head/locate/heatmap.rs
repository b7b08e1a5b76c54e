//! Detectors that rank the peaks of a heatmap with one channel for each class (CenterNet).

use std::collections::{BTreeMap, HashSet};

use super::super::axis::ClassAxis;
use super::super::trace::{Element, Facts, elements};
use super::walk::{Walk, not};
use super::{Activation, Body, Head, Kind, Located, Role};
use crate::error::{Error, Result};
use crate::graph::{Source, Use};

impl Walk<'_, '_> {
    /// Reads the head of each copy of the body; none where no heatmap is ranked.
    pub(super) fn ranked_bodies(&self) -> Result<Vec<Located>> {
        let mut found: BTreeMap<usize, Vec<Head>> = BTreeMap::new();
        for (s, scope) in self.view.scopes.iter().enumerate() {
            for (n, _) in scope.nodes.iter().enumerate().filter(|(_, node)| node.op == "TopKV2") {
                if let Some(head) = self.ranked_heatmap(s, n)? {
                    let heads = found.entry(s).or_default();
                    if !heads.contains(&head) {
                        heads.push(head);
                    }
                }
            }
        }
        found.into_iter().map(|(scope, heads)| self.ranked_body(scope, heads)).collect()
    }

    fn ranked_body(&self, scope: usize, heads: Vec<Head>) -> Result<Located> {
        let [head] = &heads[..] else {
            let tensor = self.view.describe(scope, Source::Node { node: heads[0].bias, out: 0 });
            return Err(not(
                tensor,
                format!("expected one ranked heatmap of classes, found {}", heads.len()),
            ));
        };
        let classes = head.kernel_shape.last().copied().unwrap_or(0);
        let layer = head.layer(ClassAxis::last(1, 1, false), Role::Scores);
        Ok(Located {
            kind: Kind::CenterPoints,
            classes,
            background: false,
            activation: Activation::Sigmoid,
            bodies: vec![Body {
                home: self.view.home(scope),
                scope,
                heads,
                class_boxes: Vec::new(),
                masks: Vec::new(),
                logits: None,
                boxes: None,
                box_heads: Vec::new(),
            }],
            layers: vec![layer],
        })
    }

    /// The layer whose sigmoid a TopKV2 ranks over positions and classes at once; none where it ranks something else.
    fn ranked_heatmap(&self, scope: usize, top: usize) -> Result<Option<Head>> {
        let here = &self.view.scopes[scope];
        let Some(&Source::Node { node: flat, .. }) = here.inputs[top].first() else { return Ok(None) };
        // Keypoints are ranked channel by channel; that keeps an axis for them.
        let sizes = || elements(self.view, &Facts::new(), scope, Use { node: flat, input: 1 });
        // The number of pictures may be anything.
        let rows = |sizes: Vec<Element>| matches!(&sizes[..], [_, rest] if rest.value() == Some(-1));
        if here.nodes[flat].op != "Reshape" || !sizes().is_some_and(rows) {
            return Ok(None);
        }
        let sigmoids = self.sigmoids(scope, flat);
        let [sigmoid] = sigmoids[..] else { return Ok(None) };
        let &logits = here.inputs[sigmoid].first().ok_or_else(|| self.odd(scope, sigmoid))?;
        match self.view.origin(scope, logits) {
            (s, Source::Node { node, .. }) if self.view.node(s, node).op == "BiasAdd" => {
                self.head(s, node).map(Some)
            }
            (s, source) => Err::<_, Error>(not(
                self.view.describe(s, source),
                "expected the layer of a heatmap, a Conv2D with bias".into(),
            )),
        }
    }

    /// The Sigmoids from which a tensor is computed by peak finding: pooling, comparing, masking.
    fn sigmoids(&self, scope: usize, node: usize) -> Vec<usize> {
        let here = &self.view.scopes[scope];
        let (mut seen, mut stack, mut found) = (HashSet::new(), vec![node], Vec::new());
        while let Some(node) = stack.pop() {
            if !seen.insert(node) {
                continue;
            }
            match &*here.nodes[node].op {
                "Sigmoid" => found.push(node),
                "Reshape" | "Mul" | "Cast" | "Less" | "LessEqual" | "Equal" | "Abs" | "Sub" | "MaxPool"
                | "Select" | "SelectV2" | "Identity" => {
                    let inputs = here.inputs[node].iter();
                    stack.extend(inputs.filter_map(|&source| match source {
                        Source::Node { node, .. } => Some(node),
                        Source::Arg(_) => None,
                    }));
                }
                _ => {}
            }
        }
        found
    }
}
