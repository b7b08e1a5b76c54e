//! Finds the class head: from the scores of the detections backwards to the layers that make them.
//!
//! | file | what |
//! |---|---|
//! | `walk.rs` | the graph with its variables; from a tensor to the constant or variable behind it |
//! | `scores.rs` | from scores back to the class layers |
//! | `suppression.rs` | detectors with one non-max suppression per class: single-stage and two-stage |
//! | `boxes.rs` | decoded boxes and the layers that make them |
//! | `masks.rs` | the layer of masks from which each detection takes its class's |
//! | `heatmap.rs` | detectors that rank the peaks of a heatmap: CenterNet |
//! | `refusal.rs` | what is said of a model that is none of these |

mod boxes;
mod heatmap;
mod masks;
mod refusal;
mod scores;
mod suppression;
mod walk;

use super::axis::ClassAxis;
use super::variables::{Variables, bound_arguments};
use crate::error::Result;
use crate::graph::{GraphView, Source};
use crate::pb;
use walk::{Walk, not};

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

/// The kind of detector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Scores and boxes of anchors, in one step (SSD, RetinaNet, EfficientDet).
    SingleStage,
    /// Proposals first, then scores and boxes of each (Faster R-CNN).
    TwoStage,
    /// Peaks of a heatmap with one channel for each class (CenterNet).
    CenterPoints,
}

impl Activation {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sigmoid => "sigmoid",
            Self::Softmax => "softmax",
        }
    }
}

impl Kind {
    /// What to call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::SingleStage => "SSD (single stage, anchors, per-class non-max suppression)",
            Self::TwoStage => "Faster R-CNN (two stages, proposals, per-class non-max suppression)",
            Self::CenterPoints => "CenterNet (peaks of a heatmap, no suppression)",
        }
    }
}

/// What the columns of a layer are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A number for each class (and the background): logits.
    Scores,
    /// Four numbers for each class: the encoding of its own box.
    Boxes,
    /// A number for each class: the logit of its mask at a pixel.
    Masks,
}

/// A layer with a class axis, once, however often it is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The kernel's values.
    pub kernel: Root,
    /// The biases' values.
    pub biases: Root,
    /// Kernel shape [height, width, depth, channels], or [depth, channels] of a dense layer.
    pub kernel_shape: Vec<usize>,
    /// Where the classes lie in the biases.
    pub axis: ClassAxis,
    /// What its columns are.
    pub role: Role,
}

/// One application of a class layer: features → kernel → bias → logits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Scope of the layer.
    pub scope: usize,
    /// The Conv2D or MatMul.
    pub conv: usize,
    /// The BiasAdd.
    pub bias: usize,
    /// What it reads.
    pub features: Source,
    /// The kernel's values.
    pub kernel: Root,
    /// The biases' values.
    pub biases: Root,
    /// Kernel shape [height, width, depth, channels], or [depth, channels].
    pub kernel_shape: Vec<usize>,
}

/// The class heads of one copy of the model's body, in the order in which their anchors are concatenated.
#[derive(Debug, Clone)]
pub struct Body {
    /// The scope of the body.
    pub home: usize,
    /// The scope with the post-processing: the same, or a loop over the pictures of a batch in it.
    pub scope: usize,
    /// Score layers, one per feature map.
    pub heads: Vec<Head>,
    /// Layers of boxes of each class's own.
    pub class_boxes: Vec<Head>,
    /// Layers of masks of each class's own.
    pub masks: Vec<Head>,
    /// What sigmoid or softmax make scores of, as (scope, tensor): all logits; none for a heatmap.
    pub logits: Option<(usize, Source)>,
    /// Decoded boxes, as non-max suppression's input is cut from them: (scope, tensor) of [.., anchors, 4]; none without
    /// suppression.
    pub boxes: Option<(usize, Source)>,
    /// The box layers' BiasAdd nodes, as (scope, node).
    pub box_heads: Vec<(usize, usize)>,
}

/// The class head of a model.
#[derive(Debug, Clone)]
pub struct Located {
    /// The kind of detector.
    pub kind: Kind,
    /// Number of classes without background.
    pub classes: usize,
    /// Whether column 0 of each group of scores is the background.
    pub background: bool,
    /// How logits become scores.
    pub activation: Activation,
    /// Copies of the body: one in a TF1 graph, one or more functions in a TF2 export.
    pub bodies: Vec<Body>,
    /// The layers with a class axis, each once, sorted by where their weights live.
    pub layers: Vec<Layer>,
}

/// Finds the class head.
///
/// Errors: [`Error::NotUnderstood`](crate::error::Error::NotUnderstood) with the tensor that could not be explained.
pub fn locate(view: &GraphView<'_>, meta: &pb::MetaGraphDef, variables: &Variables) -> Result<Located> {
    let walk = Walk { view, variables, bound: bound_arguments(view, meta, variables) };
    let mut located: Option<Located> = None;
    let mut bodies = walk.suppressed_bodies()?;
    if bodies.is_empty() {
        bodies = walk.ranked_bodies()?;
    }
    for found in bodies {
        match &mut located {
            None => located = Some(found),
            Some(l) if l.same_head(&found) => l.bodies.extend(found.bodies),
            Some(l) => {
                let scope = found.bodies.first().map_or(0, |body| body.scope);
                return Err(not(
                    view.scopes[scope].name.to_owned(),
                    format!(
                        "this copy of the model has {} classes, another has {}, or their layers differ",
                        found.classes, l.classes
                    ),
                ));
            }
        }
    }
    located.ok_or_else(|| walk.nothing_to_suppress(meta))
}

impl Head {
    fn layer(&self, axis: ClassAxis, role: Role) -> Layer {
        let Self { kernel, biases, ref kernel_shape, .. } = *self;
        Layer { kernel, biases, kernel_shape: kernel_shape.clone(), axis, role }
    }
}

impl Located {
    /// What to call the detector.
    pub fn name(&self) -> &'static str {
        let masks = self.layers.iter().any(|l| l.role == Role::Masks);
        let bins = self.layers.iter().any(|l| l.role == Role::Scores && l.axis.outer != Some(1));
        match self.kind {
            Kind::TwoStage if masks => "Mask R-CNN (two stages, a mask for each class and detection)",
            Kind::TwoStage if bins => "R-FCN (two stages, position-sensitive scores and boxes)",
            kind => kind.name(),
        }
    }

    /// Columns of one anchor: classes and background.
    pub fn columns(&self) -> usize {
        self.classes + usize::from(self.background)
    }

    fn same_head(&self, other: &Self) -> bool {
        (self.kind, self.classes, self.background, self.activation, &self.layers)
            == (other.kind, other.classes, other.background, other.activation, &other.layers)
    }
}
