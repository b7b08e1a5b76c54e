//! Finds the class head: from the scores that non-max suppression reads, backwards to the layers that make them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::variables::{Variables, bound_arguments};
use crate::error::{Error, Result};
use crate::graph::tensor::{constant, ints, shape, str_attr};
use crate::graph::{GraphView, MAIN, Source};
use crate::pb;

/// Where a layer's weights live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Root {
    /// A constant of the graph (TF1 exports).
    Constant {
        /// Scope of the Const node.
        scope: usize,
        /// Its number.
        node: usize,
    },
    /// A variable, by its number in [`Variables::all`].
    Variable(usize),
}

/// How logits become scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Every class by itself.
    Sigmoid,
    /// Classes and background share a sum of one.
    Softmax,
}

/// One application of a class layer: features → kernel → bias → logits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Scope of the layer.
    pub scope: usize,
    /// The Conv2D.
    pub conv: usize,
    /// The BiasAdd.
    pub bias: usize,
    /// What the convolution reads.
    pub features: Source,
    /// The kernel's values.
    pub kernel: Root,
    /// The biases' values.
    pub biases: Root,
    /// Kernel shape [height, width, depth, channels].
    pub kernel_shape: Vec<usize>,
}

/// The class heads of one copy of the model's body, in the order in which their anchors are concatenated.
#[derive(Debug, Clone)]
pub struct Body {
    /// The scope with the non-max suppression.
    pub scope: usize,
    /// Class layers, one per feature map.
    pub heads: Vec<Head>,
    /// Decoded boxes, as non-max suppression's input is cut from them: [.., anchors, 4].
    pub boxes: Source,
    /// The box layers' BiasAdd nodes, as (scope, node).
    pub box_heads: Vec<(usize, usize)>,
}

/// The class head of a model.
#[derive(Debug, Clone)]
pub struct Located {
    /// Number of classes without background.
    pub classes: usize,
    /// Whether column 0 of each group is the background.
    pub background: bool,
    /// How logits become scores.
    pub activation: Activation,
    /// Copies of the body: one in a TF1 graph, one or more functions in a TF2 export.
    pub bodies: Vec<Body>,
}

/// Finds the class head of a single-stage detector with per-class non-max suppression.
///
/// Errors: [`Error::NotUnderstood`] with the tensor that could not be explained.
pub fn locate(view: &GraphView<'_>, meta: &pb::MetaGraphDef, variables: &Variables) -> Result<Located> {
    let walk = Walk { view, variables, bound: bound_arguments(view, meta, variables) };
    let suppressions = walk.suppressions();
    if suppressions.is_empty() {
        return Err(walk.nothing_to_suppress());
    }
    let mut located: Option<Located> = None;
    for (scope, nodes) in suppressions {
        let (classes, background, activation, body) = walk.body(scope, &nodes)?;
        match &mut located {
            None => located = Some(Located { classes, background, activation, bodies: vec![body] }),
            Some(l) if (l.classes, l.background, l.activation) == (classes, background, activation) => {
                l.bodies.push(body);
            }
            Some(l) => {
                return Err(not(
                    view.scopes[scope].name.to_owned(),
                    format!("this copy of the model has {classes} classes, another has {}", l.classes),
                ));
            }
        }
    }
    located.ok_or_else(|| walk.nothing_to_suppress())
}

impl Located {
    /// Columns of one anchor: classes and background.
    pub fn columns(&self) -> usize {
        self.classes + usize::from(self.background)
    }

    /// Every distinct (kernel, biases) pair with the kernel's shape, sorted.
    pub fn layers(&self) -> BTreeMap<(Root, Root), Vec<usize>> {
        self.bodies
            .iter()
            .flat_map(|b| &b.heads)
            .map(|h| ((h.kernel, h.biases), h.kernel_shape.clone()))
            .collect()
    }
}

struct Walk<'v, 'a> {
    view: &'v GraphView<'a>,
    variables: &'v Variables,
    bound: HashMap<(usize, usize), usize>,
}

/// What the way back from the scores has shown so far.
#[derive(Default)]
struct Trail {
    background: bool,
    activation: Option<Activation>,
    heads: Vec<Head>,
}

impl<'a> Walk<'_, 'a> {
    fn suppressions(&self) -> BTreeMap<usize, Vec<usize>> {
        let mut found: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (s, scope) in self.view.scopes.iter().enumerate() {
            for (n, node) in scope.nodes.iter().enumerate() {
                if matches!(
                    &*node.op,
                    "NonMaxSuppression"
                        | "NonMaxSuppressionV2"
                        | "NonMaxSuppressionV3"
                        | "NonMaxSuppressionV4"
                        | "NonMaxSuppressionV5"
                ) {
                    found.entry(s).or_default().push(n);
                }
            }
        }
        found
    }

    /// Explains a model without per-class non-max suppression as well as its ops allow.
    fn nothing_to_suppress(&self) -> Error {
        let ops: BTreeSet<&str> =
            self.view.scopes.iter().flat_map(|s| s.nodes.iter().map(|n| n.op.as_str())).collect();
        let reason = if ops.contains("CombinedNonMaxSuppression") {
            "its detections come from CombinedNonMaxSuppression, which the zoo's exports do not use"
        } else if ops.contains("TFLite_Detection_PostProcess") {
            "its post-processing is TFLite's; grow the SavedModel it was converted from"
        } else if ops.contains("MaxPool") && ops.contains("TopKV2") && ops.contains("GatherNd") {
            "it picks peaks of a heatmap (CenterNet), which this version does not grow"
        } else {
            "no non-max suppression was found: this is not a detection model with its post-processing \
             (a classifier, or an export for TFLite?)"
        };
        not("the graph".into(), reason.into())
    }

    fn body(&self, scope: usize, suppressions: &[usize]) -> Result<(usize, bool, Activation, Body)> {
        let here = &self.view.scopes[scope];
        // Every per-class suppression reads one column of the same scores.
        let mut groups: HashMap<Source, BTreeSet<i64>> = HashMap::new();
        let mut boxes = None;
        for &nms in suppressions {
            let input = |i: usize| here.inputs[nms].get(i).copied().ok_or_else(|| self.odd(scope, nms));
            if let Some((scores, class)) = self.column(scope, input(1)?) {
                groups.entry(scores).or_default().insert(class);
                boxes = Some(input(0)?);
            }
        }
        let two_stage = here.nodes.iter().any(|n| n.op.starts_with("CropAndResize"));
        if two_stage {
            return Err(not(
                self.view.describe(scope, Source::Node { node: suppressions[0], out: 0 }),
                "boxes are cropped from the feature map (a two-stage model: Faster R-CNN, Mask R-CNN or R-FCN), \
                 which this version does not grow"
                    .into(),
            ));
        }
        let (Some((&scores, columns)), Some(boxes), 1) = (groups.iter().next(), boxes, groups.len()) else {
            return Err(not(
                self.view.describe(scope, Source::Node { node: suppressions[0], out: 0 }),
                format!(
                    "expected one non-max suppression per class, each reading one column of the same scores; found \
                     {} score tensors for {} suppressions",
                    groups.len(),
                    suppressions.len()
                ),
            ));
        };
        let classes = columns.len();
        if columns.iter().copied().ne(0..classes as i64) {
            return Err(not(
                self.view.describe(scope, scores),
                format!("the {classes} suppressed columns are not 0..{classes}"),
            ));
        }
        let mut trail = Trail::default();
        self.back(scope, scores, &mut trail, 0)?;
        let columns = classes + usize::from(trail.background);
        for head in &trail.heads {
            let channels = head.kernel_shape[3];
            if !channels.is_multiple_of(columns) {
                return Err(not(
                    self.view.describe(head.scope, Source::Node { node: head.conv, out: 0 }),
                    format!("{channels} channels are no multiple of {columns} columns"),
                ));
            }
        }
        let activation = trail.activation.ok_or_else(|| {
            not(
                self.view.describe(scope, scores),
                "no Sigmoid or Softmax on the way back to the logits".into(),
            )
        })?;
        let boxes = self.decoded_boxes(scope, boxes);
        let box_heads = self.box_heads(scope, boxes);
        Ok((classes, trail.background, activation, Body { scope, heads: trail.heads, boxes, box_heads }))
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

    /// From scores back to the class layers.
    fn back(&self, scope: usize, source: Source, trail: &mut Trail, depth: usize) -> Result<()> {
        let (scope, source) = self.view.origin(scope, source);
        let Source::Node { node, .. } = source else {
            return Err(not(self.view.describe(scope, source), "scores come from outside the graph".into()));
        };
        if depth > 200 {
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
                self.back(scope, *inputs.first().ok_or_else(|| self.odd(scope, node))?, trail, depth + 1)
            }
            // Logits are scaled by a constant (post_processing.logit_scale).
            "Mul" | "RealDiv" => follow(self, &self.without_constants(scope, inputs)),
            "ConcatV2" => follow(self, &inputs[..inputs.len().saturating_sub(1)]),
            "Pack" | "Merge" => follow(self, &inputs.clone()),
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

    /// Whether a Slice starts at 1 on the last axis: it cuts the background column off.
    fn drops_first(&self, scope: usize, node: usize) -> bool {
        let here = &self.view.scopes[scope];
        let begin = here.inputs[node].get(1).and_then(|&begin| match self.view.origin(scope, begin) {
            (s, Source::Node { node, .. }) => ints(constant(self.view.node(s, node))?),
            _ => None,
        });
        begin.is_some_and(|b| b.last() == Some(&1) && b.iter().rev().skip(1).all(|&v| v == 0))
    }

    fn without_constants(&self, scope: usize, inputs: &[Source]) -> Vec<Source> {
        let is_constant = |source: Source| match self.view.origin(scope, source) {
            (s, Source::Node { node, .. }) => self.view.node(s, node).op == "Const",
            _ => false,
        };
        inputs.iter().copied().filter(|&s| !is_constant(s)).collect()
    }

    fn head(&self, scope: usize, bias: usize) -> Result<Head> {
        let here = &self.view.scopes[scope];
        let inputs = &here.inputs[bias];
        let tensor = || self.view.describe(scope, Source::Node { node: bias, out: 0 });
        let (&[value, biases], false) =
            (&inputs[..], str_attr(&here.nodes[bias], "data_format") == Some("NCHW"))
        else {
            return Err(not(tensor(), "expected a BiasAdd of two inputs in NHWC".into()));
        };
        let conv = match value {
            Source::Node { node, .. } if here.nodes[node].op == "Conv2D" => node,
            other => {
                return Err(not(
                    self.view.describe(scope, other),
                    "expected the class head to be a Conv2D with bias".into(),
                ));
            }
        };
        let &[features, kernel] = &here.inputs[conv][..] else { return Err(self.odd(scope, conv)) };
        let kernel = self.root(scope, kernel)?;
        let kernel_shape = self.shape_of(kernel).filter(|s| s.len() == 4).ok_or_else(|| {
            not(tensor(), "the class head's kernel has no shape [height, width, depth, channels]".into())
        })?;
        Ok(Head { scope, conv, bias, features, kernel, biases: self.root(scope, biases)?, kernel_shape })
    }

    fn shape_of(&self, root: Root) -> Option<Vec<usize>> {
        match root {
            Root::Constant { scope, node } => shape(constant(self.view.node(scope, node))?),
            Root::Variable(v) => {
                self.variables.all[v].shape.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<_>>()
            }
        }
    }

    /// Where a layer's weights live; every caller of a function must pass the same.
    fn root(&self, scope: usize, source: Source) -> Result<Root> {
        let mut found = BTreeSet::new();
        self.collect_roots(scope, source, &mut found, 0)?;
        match found.first() {
            Some(&root) if found.len() == 1 => Ok(root),
            _ => Err(not(
                self.view.describe(scope, source),
                format!("weights come from {} places, expected one constant or variable", found.len()),
            )),
        }
    }

    fn collect_roots(
        &self,
        scope: usize,
        source: Source,
        found: &mut BTreeSet<Root>,
        depth: usize,
    ) -> Result<()> {
        let (scope, source) = self.view.origin(scope, source);
        let unknown =
            || not(self.view.describe(scope, source), "expected a constant or a variable's value".into());
        if depth > 50 {
            return Err(unknown());
        }
        match source {
            Source::Arg(arg) => {
                if let Some(&v) = self.bound.get(&(scope, arg)) {
                    found.insert(Root::Variable(v));
                } else if self.view.callers(scope).is_empty() {
                    return Err(unknown());
                }
                for &(caller, node) in self.view.callers(scope) {
                    if let (true, Some(&outer)) = (
                        self.view.callee(caller, node) == Some(scope),
                        self.view.scopes[caller].inputs[node].get(arg),
                    ) {
                        self.collect_roots(caller, outer, found, depth + 1)?;
                    }
                }
                Ok(())
            }
            Source::Node { node, .. } => {
                let here = &self.view.scopes[scope];
                match &*here.nodes[node].op {
                    "Const" => found.insert(Root::Constant { scope, node }),
                    "ReadVariableOp" => {
                        let &handle = here.inputs[node].first().ok_or_else(|| self.odd(scope, node))?;
                        return self.collect_roots(scope, handle, found, depth + 1);
                    }
                    "VarHandleOp" if scope == MAIN => {
                        found.insert(Root::Variable(self.variables.of_handle(node).ok_or_else(unknown)?))
                    }
                    // Quantised zoo models fake the rounding of weights; the columns are widened before it.
                    "FakeQuantWithMinMaxVars" => {
                        let &weights = here.inputs[node].first().ok_or_else(|| self.odd(scope, node))?;
                        return self.collect_roots(scope, weights, found, depth + 1);
                    }
                    _ => return Err(unknown()),
                };
                Ok(())
            }
        }
    }

    /// From what non-max suppression reads back to where all decoded boxes are one tensor.
    fn decoded_boxes(&self, scope: usize, source: Source) -> Source {
        let here = &self.view.scopes[scope];
        let mut source = source;
        for _ in 0..100 {
            let Source::Node { node, .. } = source else { return source };
            let inputs = &here.inputs[node];
            let next = match &*here.nodes[node].op {
                "Identity" | "Reshape" | "Squeeze" | "ExpandDims" | "Unpack" | "Slice" | "Enter" => {
                    inputs.first().copied()
                }
                "TensorArrayReadV3" => inputs.get(2).copied(),
                "TensorArrayScatterV3" => inputs.get(2).copied(),
                _ => return source,
            };
            match next {
                Some(next) => source = next,
                None => return source,
            }
        }
        source
    }

    /// The last layers before the decoded boxes. Shapes are not followed: anchors may be made from those of the backbone.
    fn box_heads(&self, scope: usize, boxes: Source) -> Vec<(usize, usize)> {
        let (mut seen, mut found) = (HashSet::new(), BTreeSet::new());
        let mut stack = vec![(scope, boxes)];
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
        found.into_iter().collect()
    }

    fn odd(&self, scope: usize, node: usize) -> Error {
        not(
            self.view.describe(scope, Source::Node { node, out: 0 }),
            "it has an unexpected number of inputs".into(),
        )
    }
}

fn not(tensor: String, reason: String) -> Error {
    Error::NotUnderstood { tensor, reason }
}
