//! Detectors that suppress each class by itself: object_detection/core/post_processing.py, unrolled over the classes.

use std::collections::{BTreeMap, HashSet};

use super::super::axis::ClassAxis;
use super::scores::Trail;
use super::walk::{Walk, not};
use super::{Body, Head, Kind, Located, Role};
use crate::error::Result;
use crate::graph::Source;
use crate::graph::tensor::{constant, ints};

/// What the function of loops says of itself in its attribute `_implements` (tensorflow/python/ops/image_ops_impl.py).
pub(super) const PADDED_SUPPRESSION: &str = "non_max_suppression_padded";

/// The suppressions that read columns of one tensor of scores.
pub(super) struct Group {
    /// Their scope: that of the model's body, or the body of a loop over the pictures in it.
    pub scope: usize,
    pub scores: Source,
    pub by_class: BTreeMap<i64, Suppression>,
}

/// One non-max suppression.
pub(super) struct Suppression {
    pub node: usize,
    /// The boxes it chooses from.
    pub boxes: Source,
}

impl Walk<'_, '_> {
    /// All suppressions as (scope, node), by the scope that the loops around them belong to.
    fn suppressions(&self) -> BTreeMap<usize, Vec<(usize, usize)>> {
        let mut found: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
        for (s, scope) in self.view.scopes.iter().enumerate() {
            for (n, node) in scope.nodes.iter().enumerate() {
                let one_operation = matches!(
                    &*node.op,
                    "NonMaxSuppression"
                        | "NonMaxSuppressionV2"
                        | "NonMaxSuppressionV3"
                        | "NonMaxSuppressionV4"
                        | "NonMaxSuppressionV5"
                );
                // Suppression of a fixed size is a function of loops since TensorFlow 2.3 (tf.image.non_max_suppression_padded);
                // its first inputs are those of the operation.
                let function =
                    || self.view.callee(s, n).is_some_and(|f| self.implements(f, PADDED_SUPPRESSION));
                if one_operation || function() {
                    found.entry(self.view.home(s)).or_default().push((s, n));
                }
            }
        }
        found
    }

    /// Reads the head of each copy of the body; none where nothing is suppressed.
    pub(super) fn suppressed_bodies(&self) -> Result<Vec<Located>> {
        self.suppressions().into_iter().map(|(home, nodes)| self.body(home, &nodes)).collect()
    }

    fn body(&self, home: usize, suppressions: &[(usize, usize)]) -> Result<Located> {
        let groups = self.groups(suppressions)?;
        let (scope, node) = suppressions[0];
        let first = Source::Node { node, out: 0 };
        let (kind, group, proposals) = match &groups[..] {
            [only] => (Kind::SingleStage, only, None),
            // Whatever the second stage scores was proposed by the first.
            [a, b] if self.depends_on(b.scope, b.scores, a) => (Kind::TwoStage, b, Some(a)),
            [a, b] if self.depends_on(a.scope, a.scores, b) => (Kind::TwoStage, a, Some(b)),
            _ => {
                return Err(not(
                    self.view.describe(scope, first),
                    format!(
                        "expected one non-max suppression per class, each reading one column of the same scores, and \
                         perhaps one before that for proposals; found {} score tensors for {} suppressions",
                        groups.len(),
                        suppressions.len()
                    ),
                ));
            }
        };
        let (classes, scope) = (group.by_class.len(), group.scope);
        if group.by_class.keys().copied().ne(0..classes as i64) {
            return Err(not(
                self.view.describe(scope, group.scores),
                format!("the {classes} suppressed columns are not 0..{classes}"),
            ));
        }
        let mut trail = Trail::default();
        self.back(scope, group.scores, &mut trail, 0)?;
        let activation = trail.activation.ok_or_else(|| {
            not(
                self.view.describe(scope, group.scores),
                "no Sigmoid or Softmax on the way back to the logits".into(),
            )
        })?;
        let mut layers = BTreeMap::new();
        let columns = classes + usize::from(trail.background);
        for head in &trail.heads {
            let channels = self.groups_of(head, columns)?;
            let axis = ClassAxis::last(1, channels, trail.background);
            layers.insert((head.kernel, head.biases), head.layer(axis, Role::Scores));
        }
        let (boxes, class_boxes) = self.class_boxes(group, proposals)?;
        for head in &class_boxes {
            let numbers = self.groups_of(head, classes)?;
            if !numbers.is_multiple_of(4) {
                return Err(not(
                    self.view.describe(head.scope, Source::Node { node: head.conv, out: 0 }),
                    format!("expected 4 channels for the box of each of {classes} classes"),
                ));
            }
            let axis = ClassAxis { inner: 4, ..ClassAxis::last(1, numbers / 4, false) };
            layers.insert((head.kernel, head.biases), head.layer(axis, Role::Boxes));
        }
        let masks = self.mask_heads(home, group)?;
        for head in &masks {
            if self.groups_of(head, classes)? != 1 {
                return Err(not(
                    self.view.describe(head.scope, Source::Node { node: head.conv, out: 0 }),
                    format!("expected one mask for each of {classes} classes"),
                ));
            }
            let axis = ClassAxis::last(1, 1, false);
            layers.insert((head.kernel, head.biases), head.layer(axis, Role::Masks));
        }
        let boxes = self.decoded_boxes(scope, boxes);
        let box_heads = self.layers_behind([boxes]).into_iter().collect();
        Ok(Located {
            kind,
            classes,
            background: trail.background,
            activation,
            bodies: vec![Body {
                home,
                scope,
                heads: trail.heads,
                class_boxes,
                masks,
                logits: trail.logits,
                boxes: Some(boxes),
                box_heads,
            }],
            layers: layers.into_values().collect(),
        })
    }

    /// Suppressions by the scores of which each reads a column.
    fn groups(&self, suppressions: &[(usize, usize)]) -> Result<Vec<Group>> {
        let mut groups: Vec<Group> = Vec::new();
        for &(scope, nms) in suppressions {
            let here = &self.view.scopes[scope];
            let input = |i: usize| here.inputs[nms].get(i).copied().ok_or_else(|| self.odd(scope, nms));
            let Some((scores, class)) = self.column(scope, input(1)?) else { continue };
            let known =
                groups.iter().position(|g| (g.scope, g.scores) == (scope, scores)).unwrap_or_else(|| {
                    groups.push(Group { scope, scores, by_class: BTreeMap::new() });
                    groups.len() - 1
                });
            groups[known].by_class.insert(class, Suppression { node: nms, boxes: input(0)? });
        }
        Ok(groups)
    }

    /// Whether a tensor is computed from what a group's suppressions chose.
    pub(super) fn depends_on(&self, scope: usize, source: Source, group: &Group) -> bool {
        let chosen: HashSet<(usize, usize)> =
            group.by_class.values().map(|s| (group.scope, s.node)).collect();
        let (mut seen, mut stack) = (HashSet::new(), vec![(scope, source)]);
        while let Some((scope, source)) = stack.pop() {
            if matches!(source, Source::Node { node, .. } if chosen.contains(&(scope, node))) {
                return true;
            }
            if seen.insert((scope, source)) {
                stack.extend(self.view.before(scope, source));
            }
        }
        false
    }

    /// How many channels a layer has for each of so many columns.
    fn groups_of(&self, head: &Head, columns: usize) -> Result<usize> {
        match head.kernel_shape.last() {
            Some(channels) if channels.is_multiple_of(columns) => Ok(channels / columns),
            channels => Err(not(
                self.view.describe(head.scope, Source::Node { node: head.conv, out: 0 }),
                format!("{} channels are no multiple of {columns} columns", channels.unwrap_or(&0)),
            )),
        }
    }

    /// The scores and the column that one suppression reads: `Slice(scores, [0, c], [n, 1])`, flattened.
    fn column(&self, scope: usize, mut source: Source) -> Option<(Source, i64)> {
        let here = &self.view.scopes[scope];
        for _ in 0..8 {
            let Source::Node { node, .. } = source else { return None };
            let inputs = &here.inputs[node];
            match &*here.nodes[node].op {
                "Reshape" | "Squeeze" | "Identity" => source = *inputs.first()?,
                "Slice" => {
                    let Source::Node { node: begin, .. } = *inputs.get(1)? else { return None };
                    let begin = ints(constant(&here.nodes[begin])?)?;
                    return Some((*inputs.first()?, *begin.last()?));
                }
                _ => return None,
            }
        }
        None
    }
}
