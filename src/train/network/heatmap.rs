//! Networks that answer for each cell of a heatmap with one channel for each class.

use super::super::shape::{Input, Level};
use super::picture::{Feed, geometry, resized_picture};
use super::{Parts, Serving, boxes_of, check_logits, depth, ends, not, patches, reshape, session};
use crate::data::BoxYxyx;
use crate::error::Result;
use crate::graph::check::{main_tensor, tensor_name};
use crate::graph::{MAIN, Source};
use crate::pb;
use crate::runtime::{AnyTensor, GraphSession, SessionConfig};

/// The frozen part of a CenterNet in a session.
#[derive(Debug)]
pub struct Heatmap {
    session: GraphSession,
    feed: Feed,
    input: Input,
    features: String,
    logits: String,
    pub(in crate::train) map: Level,
    /// Channels of the heatmap: old classes.
    channels: usize,
    /// What serving gives of the ranked peaks: boxes, scores, label ids. None where a signature lacks one of them.
    detections: Option<[String; 3]>,
}

/// The outputs with detections, in the order of [`Heatmap::detections`].
const DETECTIONS: [&str; 3] = ["detection_boxes", "detection_scores", "detection_classes"];

impl Heatmap {
    /// Builds the flat graph, runs it once to learn its shapes, and checks that features and old weights give the
    /// graph's own logits.
    ///
    /// Errors: [`Error::NotUnderstood`](crate::error::Error::NotUnderstood) with the tensor where features cannot be taken.
    pub fn open(parts: Parts<'_>, config: &SessionConfig) -> Result<Self> {
        let empty = pb::GraphDef::default();
        let serving = Serving::new(parts, &empty)?;
        let [head] = &serving.body.heads[..] else {
            let scope = serving.view.scopes[serving.body.scope].name;
            return Err(not(scope, format!("{} heatmaps, expected one", serving.body.heads.len())));
        };
        let mut targets = ends(head).to_vec();
        targets.extend(detections(&serving).into_iter().flatten());
        let (flat, fed) = serving.flatten(&targets)?;
        let [mut features, logits] = [flat.targets[0].clone(), flat.targets[1].clone()];
        let detections = <[String; 3]>::try_from(flat.targets[2..].to_vec()).ok();
        let mut graph = flat.graph;
        patches(&serving.view, &mut graph, head, &mut features)?;
        let resized = resized_picture(&graph, std::slice::from_ref(&features))?;
        let rows = reshape(&mut graph, "tfgraft/cells", &features, &[-1, depth(head)]);
        let session = session(&graph, &fed, config)?;
        let feed = serving.feed.clone();
        let input = geometry(&session, &feed, &resized)?;
        let probe = feed.probe(input.size)?;
        let found = session.run(&[(&feed.name, &probe)], &[features.as_str(), logits.as_str()], &[])?;
        let [x, z] = <[AnyTensor; 2]>::try_from(found)
            .map_err(|_| not(&logits, "a run gave fewer tensors than asked for".into()))?;
        let shape = x.shape();
        let &[1, height, width, depth] = &shape[..] else {
            return Err(not(
                &features,
                format!("features of shape {shape:?}, expected [1, height, width, depth]"),
            ));
        };
        let layer = serving.layer(head)?;
        check_logits(&x, &z, &parts.values[layer], depth, &logits)?;
        let map = Level { height, width, anchors: 1, depth, layer, first_anchor: 0 };
        let channels = parts.values[layer].biases.len();
        Ok(Self { session, feed, input, features: rows, logits, map, channels, detections })
    }

    /// The pictures it takes.
    pub fn input(&self) -> Input {
        self.input
    }

    /// Features [cells, depth] and old logits of a view.
    pub(in crate::train) fn run(&self, rgb: &[u8], height: usize, width: usize) -> Result<[AnyTensor; 2]> {
        let picture = self.feed.tensor(rgb, height, width)?;
        let fetches = [self.features.as_str(), self.logits.as_str()];
        let found = self.session.run(&[(&self.feed.name, &picture)], &fetches, &[])?;
        let [x, z] = <[AnyTensor; 2]>::try_from(found)
            .map_err(|_| not(&self.logits, "a run gave fewer tensors than asked for".into()))?;
        let expected = [self.map.cells(), self.map.depth];
        if x.shape() != expected {
            return Err(not(&self.features, format!("features {x:?}, expected {expected:?}")));
        }
        Ok([x, z])
    }

    /// Of how many classes [`Self::detect`] can rank peaks at once; none where serving's detections are not known.
    pub(in crate::train) fn detects(&self) -> Option<usize> {
        self.detections.is_some().then_some(self.channels)
    }

    /// What serving would detect in a view if its heatmap had these `logits`, [cells, classes]: the class, its score and where.
    pub(in crate::train) fn detect(
        &self,
        (rgb, (height, width)): (&[u8], (usize, usize)),
        logits: &[f32],
        classes: usize,
    ) -> Result<Vec<(usize, f32, BoxYxyx)>> {
        let Some([boxes, scores, ids]) = &self.detections else { return Ok(Vec::new()) };
        // Channels without a class have no peak that ranks.
        let mut heatmap = vec![NO_PEAK; self.map.cells() * self.channels];
        for (cell, mine) in heatmap.chunks_exact_mut(self.channels).zip(logits.chunks_exact(classes)) {
            cell[..classes].copy_from_slice(mine);
        }
        let heatmap = AnyTensor::new(&[1, self.map.height, self.map.width, self.channels], &heatmap)?;
        let picture = self.feed.tensor(rgb, height, width)?;
        let feeds = [(self.feed.name.as_str(), &picture), (self.logits.as_str(), &heatmap)];
        let found = self.session.run(&feeds, &[boxes, scores, ids], &[])?;
        let [boxes, scores, ids] = &found[..] else {
            return Err(not(boxes, "a run gave fewer tensors than asked for".into()));
        };
        let of_all = scores.f32()?.iter().zip(ids.f32()?).zip(boxes_of(boxes)?);
        // Label ids start at 1.
        Ok(of_all
            .map(|((&score, &id), bbox)| ((id as usize).wrapping_sub(1), score, bbox.clip()))
            .filter(|(class, ..)| *class < classes)
            .collect())
    }
}

/// A logit whose score is 0.
const NO_PEAK: f32 = -1e4;

/// Serving's detections as targets of a flat graph.
fn detections(serving: &Serving<'_>) -> Option<Vec<(usize, Source)>> {
    let signature = serving.parts.model.meta().signature_def.get("serving_default")?;
    let of = |key: &str| main_tensor(&serving.view, tensor_name(signature.outputs.get(key)?)?);
    DETECTIONS.iter().map(|key| Some((MAIN, of(key)?))).collect()
}
