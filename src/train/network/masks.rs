//! The branch of masks of a two-stage network: what its last layer reads of each pixel of any box's mask.
//!
//! Masks are computed of the boxes that were detected, behind the last suppression (faster_rcnn_meta_arch.py,
//! `_predict_third_stage`): this branch has a cut of its own, and its boxes are cut from the same feature map again.

use std::collections::BTreeSet;

use super::cut::{Flow, shape_of};
use super::regions::first_fitting;
use super::{Parts, Serving, boxes_of, check_logits, depth, differs, not, patches, quick_session, reshape};
use crate::data::BoxYxyx;
use crate::error::Result;
use crate::graph::nodes::{integers, node};
use crate::head::locate::Head;
use crate::pb::{self, DataType};
use crate::runtime::{AnyTensor, Fed, GraphSession, SessionConfig};

/// Boxes of one run at most: the tower in front of the masks holds megabytes for each.
const AT_ONCE: usize = 8;
/// What the added nodes are fed: which of the boxes count, and which pixels of those.
const BOXES: &str = "tfgraft/mask_boxes";
const PIXELS: &str = "tfgraft/mask_pixels";

/// Where boxes go into the branch and what comes out.
#[derive(Debug)]
pub(in crate::train) struct MaskBranch {
    /// The number of its layer among the model's.
    pub layer: usize,
    /// Numbers that the layer sees of a pixel.
    pub depth: usize,
    /// Rows and columns of a mask.
    pub size: (usize, usize),
    boxes: String,
    /// [1, boxes, 4] or [boxes, 4].
    boxes_shape: Vec<usize>,
    /// Whether any number of boxes can be fed, or only the network's own.
    any_number: bool,
    /// What else the branch needs of the picture.
    pub given: Vec<String>,
    features: String,
    logits: String,
}

impl MaskBranch {
    /// Finds where boxes can be fed and adds what picks pixels to the graph, which is as it was where there is an error.
    /// `ends` are the names of the layer's features and logits, `probe` is a picture for the input.
    ///
    /// Errors: [`Error::NotUnderstood`](crate::error::Error::NotUnderstood) with the tensor; those of TensorFlow.
    pub(super) fn find(
        serving: &Serving<'_>,
        (graph, fed): (&mut pb::GraphDef, &Fed),
        head: &Head,
        ends: [&str; 2],
        probe: &AnyTensor,
        config: &SessionConfig,
    ) -> Result<Self> {
        let nodes = graph.node.len();
        let found = Self::add(serving, (graph, fed), head, ends, probe, config);
        if found.is_err() {
            graph.node.truncate(nodes);
        }
        found
    }

    fn add(
        serving: &Serving<'_>,
        (graph, fed): (&mut pb::GraphDef, &Fed),
        head: &Head,
        [features, logits]: [&str; 2],
        probe: &AnyTensor,
        config: &SessionConfig,
    ) -> Result<Self> {
        let candidates = Flow::new(graph).narrows(features)?;
        let nodes = graph.node.len();
        let shapes: Vec<String> = candidates.iter().map(|tensor| shape_of(graph, tensor)).collect();
        let size = shape_of(graph, logits);
        let session = quick_session(graph, fed, config)?;
        graph.node.truncate(nodes);
        let input = &serving.feed.name;
        let run = |tensors: &[&String]| -> Result<Vec<AnyTensor>> {
            let fetches: Vec<&str> = tensors.iter().map(|tensor| tensor.as_str()).collect();
            session.run(&[(input, probe)], &fetches, &[])
        };
        let Some((boxes, boxes_shape)) = first_fitting(&candidates, &shapes, run)? else {
            return Err(not(
                features,
                "no one tensor of boxes, as fractions of the picture, was found that its crops are cut by"
                    .into(),
            ));
        };
        let shape =
            run(&[&size])?.first().map_or_else(|| Ok(Vec::new()), |s| s.i32().map(<[i32]>::to_vec))?;
        let &[_, rows, columns, _] = &shape[..] else {
            return Err(not(
                logits,
                format!("masks of shape {shape:?}, expected [boxes, rows, columns, classes]"),
            ));
        };
        let size = (rows.max(0) as usize, columns.max(0) as usize);
        let given = Flow::new(graph).given(&[features, logits], &boxes, input)?;
        let picked = pick_pixels(serving, graph, head, features)?;
        Ok(Self {
            layer: serving.layer(head)?,
            depth: usize::try_from(depth(head)).unwrap_or(0),
            size,
            boxes,
            boxes_shape,
            any_number: false,
            given,
            features: picked,
            logits: logits.to_owned(),
        })
    }

    /// Fed the boxes that it detected itself, the branch must answer as it does by itself, and as features and old weights
    /// do. Learns whether other numbers of boxes can be fed.
    pub fn check(
        &mut self,
        session: &GraphSession,
        (input, picture): (&str, &AnyTensor),
        parts: Parts<'_>,
    ) -> Result<()> {
        let names: Vec<&str> =
            [&self.boxes, &self.logits].into_iter().chain(&self.given).map(String::as_str).collect();
        let mut found = session.run(&[(input, picture)], &names, &[])?.into_iter();
        let (Some(boxes), Some(own)) = (found.next(), found.next()) else {
            return Err(not(&self.logits, "a run gave fewer tensors than asked for".into()));
        };
        let (boxes, given) = (boxes_of(&boxes)?, found.collect::<Vec<_>>());
        let own = own.f32()?;
        let pixels = self.size.0 * self.size.1;
        let of_box = own.len() / boxes.len().max(1);
        let fed = |branch: &Self, few: &[BoxYxyx]| -> Result<()> {
            let Some(last) = few.len().checked_sub(1) else { return Ok(()) };
            let whole: Vec<(usize, usize)> = (0..pixels).map(|pixel| (last, pixel)).collect();
            let fetches = [branch.logits.as_str(), branch.features.as_str()];
            let [logits, features] = branch.run(session, &given, few, &whole, &fetches)?;
            let expected = own.get(..few.len() * of_box).unwrap_or_default();
            let got = logits.f32()?;
            if got.len() != expected.len() || got.iter().zip(expected).any(|(a, b)| differs(*b, *a)) {
                return Err(not(&branch.logits, "fed its own boxes, the network gives other masks".into()));
            }
            let of_last = AnyTensor::new(&[of_box], &got[last * of_box..])?;
            check_logits(&features, &of_last, &parts.values[branch.layer], branch.depth, &branch.logits)
        };
        fed(self, &boxes)?;
        self.any_number = true;
        self.any_number = boxes.len() > 1 && fed(self, &boxes[..boxes.len() / 2]).is_ok();
        Ok(())
    }

    /// How many boxes one [look](Self::look) takes.
    pub fn at_once(&self) -> usize {
        if self.any_number { AT_ONCE } else { AT_ONCE.min(self.own_number()) }
    }

    fn own_number(&self) -> usize {
        self.boxes_shape.iter().rev().nth(1).copied().unwrap_or(0)
    }

    /// What the layer reads of pixels, float32 [pixels, depth]; each is the number of its box and its place in the mask, row
    /// by row. `given` are the tensors of that name from the picture.
    pub fn look(
        &self,
        session: &GraphSession,
        given: &[AnyTensor],
        boxes: &[BoxYxyx],
        pixels: &[(usize, usize)],
    ) -> Result<AnyTensor> {
        let [features] = self.run(session, given, boxes, pixels, &[&self.features])?;
        if features.shape() != [pixels.len(), self.depth] {
            return Err(not(&self.features, format!("{features:?} for {} pixels", pixels.len())));
        }
        Ok(features)
    }

    fn run<const N: usize>(
        &self,
        session: &GraphSession,
        given: &[AnyTensor],
        boxes: &[BoxYxyx],
        pixels: &[(usize, usize)],
        fetches: &[&str; N],
    ) -> Result<[AnyTensor; N]> {
        let fed = if self.any_number { boxes.len() } else { boxes.len().max(self.own_number()) };
        let filled = boxes.iter().chain(std::iter::repeat(boxes.last().unwrap_or(&EMPTY))).take(fed);
        let values: Vec<f32> = filled.flat_map(|b| b.to_array()).collect();
        let mut shape = self.boxes_shape.clone();
        let axis = shape.len() - 2;
        shape[axis] = fed;
        let of_mask = self.size.0 * self.size.1;
        let whole = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        // Patches are made of the boxes that are asked about alone: those of a hundred are a gigabyte.
        let asked: Vec<usize> =
            pixels.iter().map(|pixel| pixel.0).collect::<BTreeSet<_>>().into_iter().collect();
        let place = |&(of, at): &(usize, usize)| asked.partition_point(|&other| other < of) * of_mask + at;
        let places: Vec<i32> = pixels.iter().map(|pixel| whole(place(pixel))).collect();
        let which: Vec<i32> = asked.iter().map(|&number| whole(number)).collect();
        let values = AnyTensor::new(&shape, &values)?;
        let (which, places) =
            (AnyTensor::new(&[which.len()], &which)?, AnyTensor::new(&[places.len()], &places)?);
        let mut feeds = vec![(self.boxes.as_str(), &values), (BOXES, &which), (PIXELS, &places)];
        feeds.extend(self.given.iter().map(String::as_str).zip(given));
        session
            .run(&feeds, fetches, &[])?
            .try_into()
            .map_err(|_| not(&self.logits, "a run gave fewer tensors than asked for".into()))
    }
}

const EMPTY: BoxYxyx = BoxYxyx::new(0.0, 0.0, 0.0, 0.0);

/// Adds nodes that give the layer's view of some pixels alone, [pixels, depth]: all of them are hundreds of megabytes.
fn pick_pixels(
    serving: &Serving<'_>,
    graph: &mut pb::GraphDef,
    head: &Head,
    features: &str,
) -> Result<String> {
    let axis = "tfgraft/mask_axis";
    graph.node.push(integers(axis, &[], &[0]));
    for name in [BOXES, PIXELS] {
        graph.node.push(node::<&str>(name, "Placeholder", &[]).dtype("dtype", DataType::DtInt32).build());
    }
    let gather = |name: &str, from: &str, which: &str| {
        let gather = node(name, "GatherV2", &[from, which, axis]).dtype("Tparams", DataType::DtFloat);
        gather.dtype("Tindices", DataType::DtInt32).dtype("Taxis", DataType::DtInt32).build()
    };
    graph.node.push(gather("tfgraft/mask_features", features, BOXES));
    let mut picked = "tfgraft/mask_features:0".to_owned();
    patches(&serving.view, graph, head, &mut picked)?;
    let rows = reshape(graph, "tfgraft/mask_rows", &picked, &[-1, depth(head)]);
    graph.node.push(gather("tfgraft/mask_pixels_seen", &rows, PIXELS));
    Ok("tfgraft/mask_pixels_seen:0".to_owned())
}
