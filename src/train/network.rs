//! A model's frozen part as training needs it: one flat graph from the picture to the class layers' inputs and boxes.

use std::collections::HashMap;

use prost::Message;

use super::shape::{Backbone, Geometry, Level, NetworkShape, ViewFeatures};
use crate::data::BoxYxyx;
use crate::error::{Error, Result};
use crate::export::VariableValues;
use crate::graph::check::{main_tensor, tensor_name};
use crate::graph::flatten::Flattener;
use crate::graph::nodes::{integers, node};
use crate::graph::tensor::{ints_attr, str_attr};
use crate::graph::{GraphView, MAIN, Source};
use crate::head::locate::{Body, Head};
use crate::head::{LayerValues, Understood};
use crate::pb;
use crate::pb::attr_value::{ListValue, Value};
use crate::runtime::{AnyTensor, GraphSession, SessionConfig};
use crate::saved_model::SavedModel;

/// How far our product of features and weights may be from the graph's own logits.
const LOGIT_TOLERANCE: f32 = 1e-3;

/// The frozen part of a model in a session.
#[derive(Debug)]
pub struct Network {
    session: GraphSession,
    input: String,
    float_input: bool,
    levels: Vec<String>,
    boxes: String,
    shape: NetworkShape,
}

/// Names of what is fetched from the flat graph.
struct Tensors {
    features: Vec<String>,
    logits: Vec<String>,
    boxes: String,
    box_heads: Vec<String>,
}

impl Network {
    /// Builds the flat graph, runs it once to learn its shapes and anchors, and checks that features and old weights
    /// give the graph's own logits.
    ///
    /// Errors: [`Error::NotUnderstood`] where the model is not one whose features can be taken.
    pub fn open(
        model: &SavedModel,
        understood: &Understood,
        variables: &VariableValues,
        values: &[LayerValues],
        config: &SessionConfig,
    ) -> Result<Self> {
        let empty = pb::GraphDef::default();
        let view = GraphView::new(model.meta().graph_def.as_ref().unwrap_or(&empty))?;
        let (input, float_input) = image_input(model)?;
        let outputs = serving_outputs(model, &view);
        let body = serving_body(&view, understood, &outputs)?;

        let mut targets: Vec<(usize, Source)> = body.heads.iter().map(|h| (h.scope, h.features)).collect();
        targets.extend(body.heads.iter().map(|h| (h.scope, Source::Node { node: h.bias, out: 0 })));
        let boxes = body.boxes.ok_or_else(|| {
            not(view.scopes[body.scope].name, "its detections come without boxes of anchors".into())
        })?;
        targets.push((body.scope, boxes));
        targets.extend(body.box_heads.iter().map(|&(scope, node)| (scope, Source::Node { node, out: 0 })));
        let flat = Flattener::new(&view, &variables.0).flatten(&outputs, &targets)?;
        let count = body.heads.len();
        let names = &flat.targets;
        let mut tensors = Tensors {
            features: names[..count].to_vec(),
            logits: names[count..2 * count].to_vec(),
            boxes: names[2 * count].clone(),
            box_heads: names[2 * count + 1..].to_vec(),
        };
        let mut graph = flat.graph;
        for (i, head) in body.heads.iter().enumerate() {
            patches(&view, &mut graph, head, &mut tensors.features[i])?;
        }
        let resized = resized_picture(&graph, &tensors.features)?;
        let levels: Vec<String> = (0..count)
            .map(|i| {
                reshape(
                    &mut graph,
                    &format!("tfgraft/level{i}"),
                    &tensors.features[i],
                    &[-1, depth(&body.heads[i])],
                )
            })
            .collect();
        let boxes = reshape(&mut graph, "tfgraft/boxes", &tensors.boxes, &[-1, 4]);
        let anchors = anchors(&graph, &tensors, &boxes, &input, float_input, config)?;
        let session = GraphSession::new(&graph.encode_to_vec(), config)?;
        let (size, geometry) = geometry(&session, &input, float_input, &resized)?;
        let mut network = Self {
            session,
            input,
            float_input,
            levels,
            boxes,
            shape: NetworkShape { levels: Vec::new(), anchors, input: size, geometry },
        };
        network.learn_levels(&tensors, body, understood, values)?;
        Ok(network)
    }

    /// Sizes of the maps, and the check of logits.
    fn learn_levels(
        &mut self,
        tensors: &Tensors,
        body: &Body,
        understood: &Understood,
        values: &[LayerValues],
    ) -> Result<()> {
        let (height, width) = self.shape.input;
        let picture = probe(height, width);
        let feed = picture_tensor(&picture, height, width, self.float_input)?;
        let mut fetches: Vec<&str> = tensors.features.iter().map(String::as_str).collect();
        fetches.extend(tensors.logits.iter().map(String::as_str));
        let found = self.session.run(&[(&self.input, &feed)], &fetches, &[])?;
        let (features, logits) = found.split_at(body.heads.len());
        let layers = &understood.located.layers;
        let mut first_anchor = 0;
        for (i, head) in body.heads.iter().enumerate() {
            let layer =
                layers.iter().position(|l| (l.kernel, l.biases) == (head.kernel, head.biases)).unwrap_or(0);
            let columns = understood.located.columns();
            let shape = features[i].shape();
            let &[1, rows, cols, depth] = &shape[..] else {
                return Err(not(
                    &tensors.features[i],
                    format!("features of shape {shape:?}, expected [1, height, width, depth]"),
                ));
            };
            let anchors = head.kernel_shape[3] / columns;
            self.shape.levels.push(Level { height: rows, width: cols, anchors, depth, layer, first_anchor });
            first_anchor += rows * cols * anchors;
            check_logits(&features[i], &logits[i], &values[layer], depth, &tensors.logits[i])?;
        }
        if first_anchor != self.shape.anchors.len() {
            return Err(not(
                &self.boxes,
                format!(
                    "{} boxes are decoded, the class layers answer for {first_anchor} anchors",
                    self.shape.anchors.len()
                ),
            ));
        }
        Ok(())
    }
}

impl Backbone for Network {
    fn shape(&self) -> &NetworkShape {
        &self.shape
    }

    fn run(&self, rgb: &[u8], height: usize, width: usize) -> Result<ViewFeatures> {
        let feed = picture_tensor(rgb, height, width, self.float_input)?;
        let mut fetches: Vec<&str> = self.levels.iter().map(String::as_str).collect();
        fetches.push(&self.boxes);
        let mut found = self.session.run(&[(&self.input, &feed)], &fetches, &[])?;
        let boxes = found.pop().map_or_else(|| Ok(Vec::new()), |b| boxes_of(&b))?;
        Ok(ViewFeatures { levels: found, boxes })
    }
}

fn boxes_of(tensor: &AnyTensor) -> Result<Vec<BoxYxyx>> {
    Ok(tensor.f32()?.as_chunks::<4>().0.iter().map(|&[a, b, c, d]| BoxYxyx::new(a, b, c, d)).collect())
}

/// The serving input, which must take pixels.
fn image_input(model: &SavedModel) -> Result<(String, bool)> {
    let signature = model.meta().signature_def.get("serving_default");
    let inputs: Vec<_> = signature.iter().flat_map(|s| &s.inputs).collect();
    let &[(alias, info)] = &inputs[..] else {
        return Err(not("serving_default", format!("expected one input, found {}", inputs.len())));
    };
    let float = match info.dtype() {
        pb::DataType::DtUint8 => false,
        pb::DataType::DtFloat => true,
        other => {
            return Err(not(
                alias,
                format!(
                    "training feeds pixels and this input takes {}; use an export with an image_tensor input",
                    other.as_str_name()
                ),
            ));
        }
    };
    Ok((tensor_name(info).unwrap_or_default().to_owned(), float))
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
        .find(|b| scopes.contains(&b.scope))
        .ok_or_else(|| not("serving_default", "it calls none of the model's bodies".into()))
}

fn depth(head: &Head) -> i32 {
    i32::try_from(head.kernel_shape[..3].iter().product::<usize>()).unwrap_or(i32::MAX)
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
    let list = |i: Vec<i64>| Value::List(ListValue { i, ..Default::default() });
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

/// Anchors come from the graph itself: with zeros as box encodings the decoded boxes are the anchors
/// (box_coders/faster_rcnn_box_coder.py: all offsets vanish).
fn anchors(
    graph: &pb::GraphDef,
    tensors: &Tensors,
    boxes: &str,
    input: &str,
    float: bool,
    config: &SessionConfig,
) -> Result<Vec<BoxYxyx>> {
    let mut zeroed = graph.clone();
    let heads: Vec<&str> = tensors.box_heads.iter().map(|t| t.trim_end_matches(":0")).collect();
    for node in &mut zeroed.node {
        for text in &mut node.input {
            if heads.contains(&text.as_str()) {
                text.push_str("/tfgraft_zero");
            }
        }
    }
    for head in heads {
        let zero = node(&format!("{head}/tfgraft_zero"), "ZerosLike", &[head]);
        zeroed.node.push(zero.dtype("T", pb::DataType::DtFloat).build());
    }
    let session = GraphSession::new(&zeroed.encode_to_vec(), &SessionConfig { optimize: false, ..*config })?;
    let feed = picture_tensor(&probe(320, 320), 320, 320, float)?;
    let found = session.run(&[(input, &feed)], &[boxes], &[])?;
    let anchors = found.first().map_or_else(|| Ok(Vec::new()), boxes_of)?;
    match anchors.iter().position(|a| !a.is_finite() || a.area() <= 0.0) {
        Some(bad) => Err(not(boxes, format!("anchor {bad} is {:?}", anchors[bad]))),
        None => Ok(anchors),
    }
}

/// The picture as the first convolution gets it, before its padding.
fn resized_picture(graph: &pb::GraphDef, features: &[String]) -> Result<String> {
    let index: HashMap<&str, usize> =
        graph.node.iter().enumerate().map(|(i, n)| (n.name.as_str(), i)).collect();
    let inputs =
        |n: usize| graph.node[n].input.iter().filter_map(|i| index.get(i.split(':').next()?).copied());
    let convolution = |n: usize| matches!(&*graph.node[n].op, "Conv2D" | "DepthwiseConv2dNative");
    // The first convolution is the one that a walk towards the picture meets last.
    let mut seen = vec![false; graph.node.len()];
    let mut stack: Vec<usize> =
        features.iter().filter_map(|f| index.get(f.split(':').next()?).copied()).collect();
    let mut found = Vec::new();
    while let Some(node) = stack.pop() {
        if !std::mem::replace(&mut seen[node], true) {
            if convolution(node) {
                found.push(node);
            }
            stack.extend(inputs(node));
        }
    }
    let above = |start: usize| {
        let (mut seen, mut stack) = (vec![false; graph.node.len()], inputs(start).collect::<Vec<_>>());
        while let Some(node) = stack.pop() {
            if !std::mem::replace(&mut seen[node], true) {
                if convolution(node) {
                    return true;
                }
                stack.extend(inputs(node));
            }
        }
        false
    };
    let first = found
        .into_iter()
        .find(|&c| !above(c))
        .ok_or_else(|| not("the graph", "it has no convolution".into()))?;
    let mut tensor = graph.node[first].input.first().cloned().unwrap_or_default();
    while let Some(&n) = tensor.split(':').next().and_then(|name| index.get(name)) {
        match (&*graph.node[n].op, graph.node[n].input.first()) {
            ("Pad" | "PadV2" | "Identity", Some(before)) => tensor = before.clone(),
            _ => break,
        }
    }
    Ok(if tensor.contains(':') { tensor } else { format!("{tensor}:0") })
}

/// The input's size, and whether pictures are stretched to it. Shown a white picture twice as wide as high, a network
/// that keeps the aspect has something else at the bottom than at the top.
fn geometry(
    session: &GraphSession,
    input: &str,
    float: bool,
    resized: &str,
) -> Result<((usize, usize), Geometry)> {
    let look = |height: usize, width: usize| -> Result<(Vec<usize>, bool)> {
        let white = picture_tensor(&vec![255; height * width * 3], height, width, float)?;
        let found = session.run(&[(input, &white)], &[resized], &[])?;
        let Some(tensor) = found.first() else { return Ok((vec![], true)) };
        let values = tensor.f32()?;
        Ok((tensor.shape(), values.iter().all(|&v| (v - values[0]).abs() < 1e-3) || uniform_channels(values)))
    };
    let (wide, uniform) = look(100, 200)?;
    let (tall, _) = look(200, 100)?;
    match (&wide[..], wide == tall) {
        (&[1, height, width, 3], true) => {
            Ok(((height, width), if uniform { Geometry::Squash } else { Geometry::KeepAspect }))
        }
        _ => Err(not(
            resized,
            format!(
                "the network's input is {wide:?} for a wide picture and {tall:?} for a tall one; only fixed sizes can be trained"
            ),
        )),
    }
}

/// Whether every pixel is the same, channel by channel.
fn uniform_channels(values: &[f32]) -> bool {
    let pixels = values.as_chunks::<3>().0;
    pixels.iter().all(|p| pixels.first().is_some_and(|f| p.iter().zip(f).all(|(a, b)| (a - b).abs() < 1e-3)))
}

/// A picture with structure, for shapes and checks.
fn probe(height: usize, width: usize) -> Vec<u8> {
    (0..height * width * 3)
        .map(|i| ((i / 3 % width * 5) ^ (i / 3 / width * 3) ^ (i % 3 * 80)) as u8)
        .collect()
}

fn picture_tensor(rgb: &[u8], height: usize, width: usize, float: bool) -> Result<AnyTensor> {
    let shape = [1, height, width, 3];
    if float {
        let values: Vec<f32> = rgb.iter().map(|&v| f32::from(v)).collect();
        return AnyTensor::new(&shape, &values);
    }
    AnyTensor::new(&shape, rgb)
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

fn not(tensor: &str, reason: String) -> Error {
    Error::NotUnderstood { tensor: tensor.to_owned(), reason }
}
