//! A model's frozen part as training needs it: one flat graph from the picture to what the class layers read.
//!
//! | file | what |
//! |---|---|
//! | `picture.rs` | how pictures come to the network: size, geometry, feeds |
//! | `single_stage.rs` | features of maps, decoded boxes, anchors |
//! | `cut.rs` | where a flat graph can be fed with other regions of the picture |
//! | `regions.rs` | what networks that judge regions have in common |
//! | `two_stage.rs` | proposals, and features of any regions: class layers behind crops |
//! | `masks.rs` | what the layer of masks sees of the pixels of any boxes |
//! | `position_sensitive.rs` | the same for class layers before crops: R-FCN |
//! | `pool.rs` | what the bins of regions show of a feature map |
//! | `heatmap.rs` | features of the cells of a heatmap |

mod cut;
mod heatmap;
mod masks;
mod picture;
mod pool;
mod position_sensitive;
mod regions;
mod single_stage;
mod two_stage;

use std::cell::RefCell;

use prost::Message;

use super::task::Frozen;
use crate::data::BoxYxyx;
use crate::error::{Error, Result};
use crate::export::{VariableValues, Weights};
use crate::graph::check::{main_tensor, tensor_name};
use crate::graph::flatten::{Flat, Flattener};
use crate::graph::nodes::{integers, node};
use crate::graph::tensor::{ints_attr, str_attr};
use crate::graph::{GraphView, MAIN, Source};
use crate::head::locate::{Activation, Body, Head, Kind, Role};
use crate::head::{LayerValues, Understood};
use crate::pb;
use crate::pb::attr_value::{ListValue, Value};
use crate::runtime::pictures::Form;
use crate::runtime::{AnyTensor, Fed, GraphSession, SessionConfig};
use crate::saved_model::SavedModel;

pub use heatmap::Heatmap;
pub(in crate::train) use masks::MaskBranch;
use picture::Feed;
pub use position_sensitive::PositionSensitive;
pub(in crate::train) use regions::{Proposals, Regions};
pub use single_stage::SingleStage;
pub use two_stage::TwoStage;

/// How far our product of features and weights may be from the graph's own logits.
const LOGIT_TOLERANCE: f32 = 1e-3;
/// How far feeding a network what it computed itself may change its answer.
const FED_TOLERANCE: f32 = 1e-3;

/// What a network is opened from.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'m> {
    /// The model.
    pub model: &'m SavedModel,
    /// Its head and variables.
    pub understood: &'m Understood,
    /// The values of its variables.
    pub variables: &'m VariableValues,
    /// The values of its class layers.
    pub values: &'m [LayerValues],
    /// Weights that other graphs of the model hold, too.
    pub weights: &'m RefCell<Weights>,
}

/// Errors where this version has no training for the new columns of such a model, before anything runs.
pub fn check_trainable(understood: &Understood) -> Result<()> {
    let located = &understood.located;
    let refused = match (located.kind, located.activation) {
        (Kind::SingleStage | Kind::CenterPoints, Activation::Sigmoid) => None,
        (Kind::TwoStage, Activation::Softmax) => {
            let in_bins = position_sensitive::is_position_sensitive(located);
            let odd = located.layers.iter().zip(&understood.layers).find(|(layer, _)| match in_bins {
                true => !position_sensitive::is_trainable(layer),
                false => {
                    layer.axis.outer != Some(1)
                        || (layer.role != Role::Masks && layer.kernel_shape.len() != 2)
                }
            });
            odd.map(|(_, named)| named.kernel.name())
        }
        _ => understood.layers.first().map(|layer| layer.kernel.name()),
    };
    refused.map_or(Ok(()), |tensor| {
        Err(Error::NotUnderstood {
            tensor: tensor.to_owned(),
            reason: format!(
                "{} with {} scores can be grown, but this version does not train its new columns",
                located.name(),
                located.activation.name()
            ),
        })
    })
}

/// Opens the frozen part of a model of any kind that can be trained.
///
/// Errors: [`Error::NotUnderstood`] where the model is not one whose features can be taken.
pub fn open(parts: Parts<'_>, config: &SessionConfig) -> Result<Box<dyn Frozen>> {
    check_trainable(parts.understood)?;
    Ok(match parts.understood.located.kind {
        Kind::SingleStage => Box::new(SingleStage::open(parts, config)?),
        Kind::TwoStage if position_sensitive::is_position_sensitive(&parts.understood.located) => {
            Box::new(PositionSensitive::open(parts, config)?)
        }
        Kind::TwoStage => Box::new(TwoStage::open(parts, config)?),
        Kind::CenterPoints => Box::new(Heatmap::open(parts, config)?),
    })
}

/// The serving path of a model: where pictures go in, and the copy of the body that they run through.
struct Serving<'m> {
    parts: Parts<'m>,
    view: GraphView<'m>,
    feed: Feed,
    outputs: Vec<Source>,
    body: &'m Body,
}

impl<'m> Serving<'m> {
    fn new(parts: Parts<'m>, empty: &'m pb::GraphDef) -> Result<Self> {
        let view = GraphView::new(parts.model.meta().graph_def.as_ref().unwrap_or(empty))?;
        let feed = image_input(parts.model)?;
        let outputs = serving_outputs(parts.model, &view);
        let body = serving_body(&view, parts.understood, &outputs)?;
        Ok(Self { parts, view, feed, outputs, body })
    }

    /// A flat graph of what these targets need, and the weights to feed it with.
    fn flatten(&self, targets: &[(usize, Source)]) -> Result<(Flat, Fed)> {
        let mut flat =
            Flattener::new(&self.view, &self.parts.variables.protos).flatten(&self.outputs, targets)?;
        let fed = self.parts.weights.borrow_mut().lift(&mut flat.graph)?;
        Ok((flat, fed))
    }

    /// Which of the model's class layers a head applies.
    fn layer(&self, head: &Head) -> Result<usize> {
        let mut layers = self.parts.understood.located.layers.iter();
        layers.position(|l| (l.kernel, l.biases) == (head.kernel, head.biases)).ok_or_else(|| {
            not(
                &self.view.node(head.scope, head.bias).name,
                "it is none of the layers that were found".into(),
            )
        })
    }
}

/// A session of a flat graph and the weights that it is fed with.
fn session(graph: &pb::GraphDef, fed: &Fed, config: &SessionConfig) -> Result<GraphSession> {
    Ok(GraphSession::new(&graph.encode_to_vec(), config)?.with_fed(fed.clone()))
}

/// The same for a few runs.
fn quick_session(graph: &pb::GraphDef, fed: &Fed, config: &SessionConfig) -> Result<GraphSession> {
    session(graph, fed, &SessionConfig { optimize: false, ..*config })
}

/// A head's features and logits as targets of a flat graph.
fn ends(head: &Head) -> [(usize, Source); 2] {
    [(head.scope, head.features), (head.scope, Source::Node { node: head.bias, out: 0 })]
}

/// The serving input.
fn image_input(model: &SavedModel) -> Result<Feed> {
    let signature = model.meta().signature_def.get("serving_default");
    let inputs: Vec<_> = signature.iter().flat_map(|s| &s.inputs).collect();
    let &[(alias, info)] = &inputs[..] else {
        return Err(not("serving_default", format!("expected one input, found {}", inputs.len())));
    };
    let form = Form::of_input(info.dtype(), model.meta().graph_def.as_ref()).ok_or_else(|| {
        let reason = "training feeds pictures and this input takes";
        not(
            alias,
            format!("{reason} {}; use an export with an image_tensor input", info.dtype().as_str_name()),
        )
    })?;
    Ok(Feed { name: tensor_name(info).unwrap_or_default().to_owned(), form })
}

fn serving_outputs(model: &SavedModel, view: &GraphView<'_>) -> Vec<Source> {
    let signature = model.meta().signature_def.get("serving_default");
    signature
        .iter()
        .flat_map(|s| s.outputs.values())
        .filter_map(|info| main_tensor(view, tensor_name(info)?))
        .collect()
}

/// The copy of the body that serving runs.
fn serving_body<'u>(
    view: &GraphView<'_>,
    understood: &'u Understood,
    outputs: &[Source],
) -> Result<&'u Body> {
    let mut scopes = vec![MAIN];
    let mut stack: Vec<(usize, Source)> = outputs.iter().map(|&s| (MAIN, s)).collect();
    while let Some((scope, source)) = stack.pop() {
        let Source::Node { node, out } = source else { continue };
        let callee = view.callee(scope, node);
        if let Some(callee) = callee.filter(|c| !scopes.contains(c)) {
            scopes.push(callee);
            stack.extend(view.scopes[callee].results.get(out).map(|&r| (callee, r)));
        } else if callee.is_none() {
            // Identities behind a call.
            stack.extend(
                view.scopes[scope].inputs[node]
                    .first()
                    .filter(|_| view.scopes[scope].nodes[node].op == "Identity")
                    .map(|&i| (scope, i)),
            );
        }
    }
    understood
        .located
        .bodies
        .iter()
        .find(|b| scopes.contains(&b.home))
        .ok_or_else(|| not("serving_default", "it calls none of the model's bodies".into()))
}

fn boxes_of(tensor: &AnyTensor) -> Result<Vec<BoxYxyx>> {
    Ok(tensor.f32()?.as_chunks::<4>().0.iter().map(|&[a, b, c, d]| BoxYxyx::new(a, b, c, d)).collect())
}

fn depth(head: &Head) -> i32 {
    let rows = head.kernel_shape.split_last().map_or(0, |(_, rows)| rows.iter().product::<usize>());
    i32::try_from(rows).unwrap_or(i32::MAX)
}

/// A kernel wider than one cell sees patches: [1, h, w, kernel height · kernel width · depth], in the kernel's order.
fn patches(view: &GraphView<'_>, graph: &mut pb::GraphDef, head: &Head, features: &mut String) -> Result<()> {
    let conv = view.node(head.scope, head.conv);
    let strides = ints_attr(conv, "strides").unwrap_or(&[1, 1, 1, 1]).to_vec();
    let rates = ints_attr(conv, "dilations").filter(|d| d.len() == 4).unwrap_or(&[1, 1, 1, 1]).to_vec();
    let padding = str_attr(conv, "padding").unwrap_or("SAME");
    let (height, width) = (head.kernel_shape[0] as i64, head.kernel_shape[1] as i64);
    if (height, width) == (1, 1) && strides == [1, 1, 1, 1] {
        return Ok(());
    }
    if !matches!(padding, "SAME" | "VALID") {
        return Err(not(&conv.name, format!("a class layer with {padding} padding")));
    }
    let list = |i: Vec<i64>| Value::List(Box::new(ListValue { i, ..Default::default() }));
    let name = format!("{}/tfgraft_patches", features.split(':').next().unwrap_or_default());
    graph.node.push(
        node(&name, "ExtractImagePatches", &[features.as_str()])
            .dtype("T", pb::DataType::DtFloat)
            .attr("ksizes", list(vec![1, height, width, 1]))
            .attr("strides", list(strides))
            .attr("rates", list(rates))
            .attr("padding", Value::S(padding.as_bytes().to_vec().into()))
            .build(),
    );
    *features = format!("{name}:0");
    Ok(())
}

fn reshape(graph: &mut pb::GraphDef, name: &str, tensor: &str, shape: &[i32]) -> String {
    let sizes = format!("{name}/shape");
    graph.node.push(integers(&sizes, &[shape.len()], shape));
    let reshape = node(name, "Reshape", &[tensor, &sizes]);
    graph.node.push(reshape.dtype("T", pb::DataType::DtFloat).dtype("Tshape", pb::DataType::DtInt32).build());
    format!("{name}:0")
}

/// Features times old weights must be the graph's logits; otherwise the columns would be trained for another layer.
fn check_logits(
    features: &AnyTensor,
    logits: &AnyTensor,
    layer: &LayerValues,
    depth: usize,
    name: &str,
) -> Result<()> {
    let (x, z) = (features.f32()?, logits.f32()?);
    let channels = layer.biases.len();
    let cells = x.len() / depth.max(1);
    for cell in [0, cells / 2, cells.saturating_sub(1)] {
        for channel in [0, channels / 3, channels - 1] {
            let row = &x[cell * depth..(cell + 1) * depth];
            let product: f64 = row
                .iter()
                .enumerate()
                .map(|(d, &v)| f64::from(v) * f64::from(layer.kernel[d * channels + channel]))
                .sum();
            let ours = product as f32 + layer.biases[channel];
            let theirs = z.get(cell * channels + channel).copied().unwrap_or(f32::NAN);
            let difference = (ours - theirs).abs();
            if difference.is_nan() || difference > LOGIT_TOLERANCE * theirs.abs().max(1.0) {
                return Err(not(name, format!("features and weights give logit {ours}, the graph {theirs}")));
            }
        }
    }
    Ok(())
}

/// Whether an answer to fed values is another than the network's own.
fn differs(own: f32, fed: f32) -> bool {
    let difference = (own - fed).abs();
    difference.is_nan() || difference > FED_TOLERANCE * own.abs().max(1.0)
}

fn not(tensor: &str, reason: String) -> Error {
    Error::NotUnderstood { tensor: tensor.to_owned(), reason }
}
