//! Networks of two stages: proposals, and what the class layers see of any regions of the picture.
//!
//! A view runs in two steps. The first computes the feature map and the network's own proposals; the second is fed both,
//! the proposals with other regions among them, and computes what the layers of the second stage read. The feature map
//! is computed once.

use prost::Message;

use super::super::shape::Input;
use super::cut::{Flow, shape_of};
use super::masks::MaskBranch;
use super::picture::{Feed, geometry, resized_picture};
use super::{Parts, Serving, boxes_of, check_logits, depth, differs, ends, not};
use crate::data::BoxYxyx;
use crate::error::Result;
use crate::graph::Source;
use crate::head::locate::{Head, Role};
use crate::pb;
use crate::runtime::{AnyTensor, GraphSession, SessionConfig};

/// The frozen part of a two-stage model in a session.
#[derive(Debug)]
pub struct TwoStage {
    session: GraphSession,
    feed: Feed,
    input: Input,
    /// The tensor of regions, by which crops are cut from the feature map.
    regions: String,
    /// Its shape: [1, regions, 4] or [regions, 4].
    regions_shape: Vec<usize>,
    /// What else the layers need of the picture.
    given: Vec<String>,
    /// The layers of the second stage, scores first.
    pub(in crate::train) layers: Vec<StageLayer>,
    /// The layers of masks, and the numbers that they see of a pixel.
    pub(in crate::train) masks: Vec<(usize, usize)>,
    /// How masks are learned, or why they are not; none where the model has no masks of each class's own.
    pub(in crate::train) mask_branch: Option<std::result::Result<MaskBranch, String>>,
}

/// A class layer behind crops.
#[derive(Debug)]
pub(in crate::train) struct StageLayer {
    /// Its number among the model's.
    pub layer: usize,
    /// What its columns are.
    pub role: Role,
    /// Numbers that it sees of a region.
    pub depth: usize,
    features: String,
    logits: String,
}

/// What the first step makes of a view.
pub(in crate::train) struct Proposals {
    /// The network's proposals, best first, as fractions of its input. Where there are too few the rest are empty.
    pub boxes: Vec<BoxYxyx>,
    given: Vec<AnyTensor>,
    /// What the branch of masks needs.
    given_to_masks: Vec<AnyTensor>,
}

impl TwoStage {
    /// Finds where regions can be fed, runs the network once to learn its shapes, and checks that fed proposals change
    /// nothing and that features and old weights give the graph's own logits.
    ///
    /// Errors: [`Error::NotUnderstood`](crate::error::Error::NotUnderstood) with the tensor where features cannot be taken.
    pub fn open(parts: Parts<'_>, config: &SessionConfig) -> Result<Self> {
        let empty = pb::GraphDef::default();
        let serving = Serving::new(parts, &empty)?;
        let body = serving.body;
        let heads: Vec<(&Head, Role)> = one(&serving, &body.heads, Role::Scores)?
            .into_iter()
            .chain(one(&serving, &body.class_boxes, Role::Boxes)?)
            .collect();
        let mut targets: Vec<(usize, Source)> = heads.iter().flat_map(|(head, _)| ends(head)).collect();
        let own = targets.len();
        targets.extend(body.masks.iter().flat_map(ends));
        let mut flat = serving.flatten(&targets).or_else(|_| serving.flatten(&targets[..own]))?;
        let resized = resized_picture(&flat.graph, &flat.targets[..1])?;
        let flow = Flow::new(&flat.graph);

        let candidates = flow.narrows(&flat.targets[0])?;
        let mut probing = flat.graph.clone();
        let shapes: Vec<String> = candidates.iter().map(|tensor| shape_of(&mut probing, tensor)).collect();
        let quick =
            GraphSession::new(&probing.encode_to_vec(), &SessionConfig { optimize: false, ..*config })?;
        let input = geometry(&quick, &serving.feed, &resized)?;
        let probe = serving.feed.probe(input.size)?;
        let run = |tensors: &[&String]| -> Result<Vec<AnyTensor>> {
            let fetches: Vec<&str> = tensors.iter().map(|tensor| tensor.as_str()).collect();
            quick.run(&[(&serving.feed.name, &probe)], &fetches, &[])
        };
        let Some((regions, regions_shape)) = find_regions(&candidates, &shapes, run)? else {
            return Err(not(
                &flat.targets[0],
                "no one tensor of regions, as fractions of the picture, was found by which its crops are cut"
                    .into(),
            ));
        };
        drop(quick);
        let targets: Vec<&str> = flat.targets.iter().take(own).map(String::as_str).collect();
        let given = flow.given(&targets, &regions, &serving.feed.name)?;
        let mut layers = Vec::new();
        for ((head, role), ends) in heads.iter().zip(flat.targets.chunks_exact(2)) {
            layers.push(StageLayer {
                layer: serving.layer(head)?,
                role: *role,
                depth: usize::try_from(depth(head)).unwrap_or(0),
                features: ends[0].clone(),
                logits: ends[1].clone(),
            });
        }
        let mask = |head: &Head| Ok((serving.layer(head)?, usize::try_from(depth(head)).unwrap_or(0)));
        let masks = body.masks.iter().map(mask).collect::<Result<_>>()?;
        let of_masks: Vec<&str> = flat.targets.iter().skip(own).map(String::as_str).collect();
        let mask_branch = match (&body.masks[..], &of_masks[..]) {
            ([], _) => None,
            ([head], &[x, z]) => {
                Some(MaskBranch::find(&serving, &mut flat.graph, head, [x, z], &probe, config))
            }
            ([head, others @ ..], _) => {
                let tensor = &serving.view.node(head.scope, head.bias).name;
                let reason = format!(
                    "it is one of {} layers, or the serving path does not lead to it",
                    others.len() + 1
                );
                Some(Err(not(tensor, reason)))
            }
        };
        let mask_branch = mask_branch.map(|found| found.map_err(|error| error.to_string()));
        let session = GraphSession::new(&flat.graph.encode_to_vec(), config)?;
        let feed = serving.feed.clone();
        let mut network =
            Self { session, feed, input, regions, regions_shape, given, layers, masks, mask_branch };
        network.check(&probe, parts)?;
        // Masks that cannot be learned are no reason to refuse scores and boxes.
        if let Some(Ok(branch)) = &mut network.mask_branch
            && let Err(error) = branch.check(&network.session, (&network.feed.name, &probe), parts)
        {
            network.mask_branch = Some(Err(error.to_string()));
        }
        Ok(network)
    }

    /// The pictures it takes.
    pub fn input(&self) -> Input {
        self.input
    }

    /// The first step, on a picture of the network's input size.
    pub(in crate::train) fn propose(&self, rgb: &[u8], height: usize, width: usize) -> Result<Proposals> {
        self.propose_for(&self.feed.tensor(rgb, height, width)?)
    }

    fn propose_for(&self, picture: &AnyTensor) -> Result<Proposals> {
        let of_masks = self.mask_branch.iter().flatten().flat_map(|branch| &branch.given);
        let names: Vec<&str> =
            std::iter::once(&self.regions).chain(&self.given).chain(of_masks).map(String::as_str).collect();
        let mut found = self.session.run(&[(&self.feed.name, picture)], &names, &[])?.into_iter();
        let boxes = found.next().map_or_else(|| Ok(Vec::new()), |boxes| boxes_of(&boxes))?;
        if let Some(bad) =
            boxes.iter().find(|b| !(b.is_finite() && b.to_array().iter().all(|v| v.abs() < 2.0)))
        {
            return Err(not(
                &self.regions,
                format!("a proposal is {bad:?}, expected fractions of the picture"),
            ));
        }
        let given = found.by_ref().take(self.given.len()).collect();
        Ok(Proposals { boxes, given, given_to_masks: found.collect() })
    }

    /// The second step: of each layer the features and logits of these regions, as many as were proposed.
    pub(in crate::train) fn look(
        &self,
        proposals: &Proposals,
        regions: &[BoxYxyx],
    ) -> Result<Vec<[AnyTensor; 2]>> {
        let values: Vec<f32> = regions.iter().flat_map(|b| b.to_array()).collect();
        let mut shape = self.regions_shape.clone();
        let axis = shape.len() - 2;
        shape[axis] = regions.len();
        let boxes = AnyTensor::new(&shape, &values)?;
        let mut feeds = vec![(self.regions.as_str(), &boxes)];
        feeds.extend(self.given.iter().map(String::as_str).zip(&proposals.given));
        let fetches: Vec<&str> =
            self.layers.iter().flat_map(|l| [l.features.as_str(), l.logits.as_str()]).collect();
        let mut found = self.session.run(&feeds, &fetches, &[])?.into_iter();
        let pairs = std::iter::from_fn(|| Some([found.next()?, found.next()?])).collect::<Vec<_>>();
        for (layer, [features, logits]) in self.layers.iter().zip(&pairs) {
            if features.shape() != [regions.len(), layer.depth]
                || logits.shape().first() != Some(&regions.len())
            {
                return Err(not(
                    &layer.features,
                    format!("{features:?} for {} regions of {} numbers", regions.len(), layer.depth),
                ));
            }
        }
        Ok(pairs)
    }

    /// What the layer of masks reads of pixels of these boxes' masks, see [`MaskBranch::look`].
    pub(in crate::train) fn look_at_pixels(
        &self,
        branch: &MaskBranch,
        proposals: &Proposals,
        boxes: &[BoxYxyx],
        pixels: &[(usize, usize)],
    ) -> Result<AnyTensor> {
        branch.look(&self.session, &proposals.given_to_masks, boxes, pixels)
    }

    /// Fed its own proposals the network must answer as it does by itself, and as features and old weights do.
    fn check(&self, picture: &AnyTensor, parts: Parts<'_>) -> Result<()> {
        let proposals = self.propose_for(picture)?;
        let own: Vec<&str> = self.layers.iter().map(|l| l.logits.as_str()).collect();
        let own = self.session.run(&[(&self.feed.name, picture)], &own, &[])?;
        let fed = self.look(&proposals, &proposals.boxes)?;
        for (layer, (own, [features, logits])) in self.layers.iter().zip(own.iter().zip(&fed)) {
            check_logits(features, logits, &parts.values[layer.layer], layer.depth, &layer.logits)?;
            let mut both = own.f32()?.iter().zip(logits.f32()?);
            if own.len() != logits.len() || both.any(|(a, b)| differs(*a, *b)) {
                return Err(not(
                    &layer.logits,
                    "fed its own proposals, the network answers otherwise".into(),
                ));
            }
        }
        Ok(())
    }
}

/// The nearest to the layers of all tensors that could be the regions: [1, regions, 4] or [regions, 4], and fractions of
/// the picture. Whatever is done to proposals before is done to the regions that are fed, too.
pub(super) fn find_regions(
    candidates: &[String],
    shapes: &[String],
    run: impl Fn(&[&String]) -> Result<Vec<AnyTensor>>,
) -> Result<Option<(String, Vec<usize>)>> {
    if candidates.is_empty() {
        return Ok(None);
    }
    let found = run(&shapes.iter().collect::<Vec<_>>())?;
    let mut fitting = Vec::new();
    for (name, shape) in candidates.iter().zip(&found) {
        let shape: Vec<usize> = shape.i32()?.iter().map(|&side| side.max(0) as usize).collect();
        if matches!(shape[..], [1, regions, 4] | [regions, 4] if regions > 0) {
            fitting.push((name, shape));
        }
    }
    if fitting.is_empty() {
        return Ok(None);
    }
    let values = run(&fitting.iter().map(|(name, _)| *name).collect::<Vec<_>>())?;
    for ((name, shape), values) in fitting.into_iter().zip(values) {
        // Crops by matrix products scale the regions to the cells of the feature map first.
        if values.f32()?.iter().all(|v| (-0.01..=1.01).contains(v)) {
            return Ok(Some((name.clone(), shape)));
        }
    }
    Ok(None)
}

/// The one layer of a role; none where the model has none.
fn one<'m>(serving: &Serving<'_>, heads: &'m [Head], role: Role) -> Result<Option<(&'m Head, Role)>> {
    match heads {
        [] => Ok(None),
        [head] => Ok(Some((head, role))),
        [_, second, ..] => Err(not(
            &serving.view.node(second.scope, second.bias).name,
            format!("expected one layer of its kind, found {}", heads.len()),
        )),
    }
}
