//! Networks with one answer for each anchor: features of maps, decoded boxes, anchors.

use super::super::shape::{Backbone, Geometry, Level, NetworkShape, ViewFeatures};
use super::picture::{Feed, geometry, resized_picture};
use super::{Parts, Serving, boxes_of, check_logits, depth, not, patches, quick_session, reshape, session};
use crate::data::BoxYxyx;
use crate::error::Result;
use crate::graph::Source;
use crate::graph::nodes::node;
use crate::pb;
use crate::runtime::{Fed, GraphSession, SessionConfig};

/// The frozen part of a single-stage model in a session.
#[derive(Debug)]
pub struct SingleStage {
    session: GraphSession,
    feed: Feed,
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

impl SingleStage {
    /// Builds the flat graph, runs it once to learn its shapes and anchors, and checks that features and old weights
    /// give the graph's own logits.
    ///
    /// Errors: [`Error::NotUnderstood`](crate::error::Error::NotUnderstood) where features cannot be taken.
    pub fn open(parts: Parts<'_>, config: &SessionConfig) -> Result<Self> {
        let empty = pb::GraphDef::default();
        let serving = Serving::new(parts, &empty)?;
        let body = serving.body;
        let mut targets: Vec<(usize, Source)> = body.heads.iter().map(|h| (h.scope, h.features)).collect();
        targets.extend(body.heads.iter().map(|h| (h.scope, Source::Node { node: h.bias, out: 0 })));
        let boxes = body.boxes.ok_or_else(|| {
            not(serving.view.scopes[body.scope].name, "its detections come without boxes of anchors".into())
        })?;
        targets.push(boxes);
        targets.extend(body.box_heads.iter().map(|&(scope, node)| (scope, Source::Node { node, out: 0 })));
        let (flat, fed) = serving.flatten(&targets)?;
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
            patches(&serving.view, &mut graph, head, &mut tensors.features[i])?;
        }
        let resized = resized_picture(&graph, &tensors.features)?;
        let levels: Vec<String> = (0..count)
            .map(|i| {
                let name = format!("tfgraft/level{i}");
                reshape(&mut graph, &name, &tensors.features[i], &[-1, depth(&body.heads[i])])
            })
            .collect();
        let boxes = reshape(&mut graph, "tfgraft/boxes", &tensors.boxes, &[-1, 4]);
        let anchors = anchors((&graph, &fed), &tensors, &boxes, &serving.feed, config)?;
        let session = session(&graph, &fed, config)?;
        let input = geometry(&session, &serving.feed, &resized)?;
        if let Geometry::Range { .. } = input.geometry {
            return Err(not(
                &resized,
                "the network's input depends on the picture's shape, and with it the anchors; only fixed sizes can be trained"
                    .into(),
            ));
        }
        let shape = NetworkShape { levels: Vec::new(), anchors, input };
        let mut network = Self { session, feed: serving.feed.clone(), levels, boxes, shape };
        network.learn_levels(&tensors, &serving)?;
        Ok(network)
    }

    /// Sizes of the maps, and the check of logits.
    fn learn_levels(&mut self, tensors: &Tensors, serving: &Serving<'_>) -> Result<()> {
        let heads = &serving.body.heads;
        let feed = self.feed.probe(self.shape.input.size)?;
        let mut fetches: Vec<&str> = tensors.features.iter().map(String::as_str).collect();
        fetches.extend(tensors.logits.iter().map(String::as_str));
        let found = self.session.run(&[(&self.feed.name, &feed)], &fetches, &[])?;
        let (features, logits) = found.split_at(heads.len());
        let columns = serving.parts.understood.located.columns();
        let mut first_anchor = 0;
        for (i, head) in heads.iter().enumerate() {
            let layer = serving.layer(head)?;
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
            check_logits(&features[i], &logits[i], &serving.parts.values[layer], depth, &tensors.logits[i])?;
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

impl Backbone for SingleStage {
    fn shape(&self) -> &NetworkShape {
        &self.shape
    }

    fn run(&self, rgb: &[u8], height: usize, width: usize) -> Result<ViewFeatures> {
        let feed = self.feed.tensor(rgb, height, width)?;
        let mut fetches: Vec<&str> = self.levels.iter().map(String::as_str).collect();
        fetches.push(&self.boxes);
        let mut found = self.session.run(&[(&self.feed.name, &feed)], &fetches, &[])?;
        let boxes = found.pop().map_or_else(|| Ok(Vec::new()), |b| boxes_of(&b))?;
        Ok(ViewFeatures { levels: found, boxes })
    }
}

/// Anchors come from the graph itself: with zeros as box encodings the decoded boxes are the anchors
/// (box_coders/faster_rcnn_box_coder.py: all offsets vanish).
fn anchors(
    (graph, fed): (&pb::GraphDef, &Fed),
    tensors: &Tensors,
    boxes: &str,
    feed: &Feed,
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
    let session = quick_session(&zeroed, fed, config)?;
    let found = session.run(&[(&feed.name, &feed.probe((320, 320))?)], &[boxes], &[])?;
    let anchors = found.first().map_or_else(|| Ok(Vec::new()), boxes_of)?;
    match anchors.iter().position(|a| !a.is_finite() || a.area() <= 0.0) {
        Some(bad) => Err(not(boxes, format!("anchor {bad} is {:?}", anchors[bad]))),
        None => Ok(anchors),
    }
}
