//! Networks of two stages: proposals, and what the class layers see of any regions of the picture.
//!
//! A view runs in two steps. The first computes the feature map and the network's own proposals; the second is fed both,
//! the proposals with other regions among them, and computes what the layers of the second stage read. The feature map
//! is computed once.

use super::super::features::Seen;
use super::super::mask_rows::{self, Masks};
use super::super::shape::Input;
use super::super::task::ViewRows;
use super::cut::Flow;
use super::masks::MaskBranch;
use super::picture::{Feed, resized_picture};
use super::regions::{Looked, Place, Proposals, RegionLayer, Regions, proposed, region_heads};
use super::{Parts, Serving, check_logits, depth, differs, ends, not, session};
use crate::data::BoxYxyx;
use crate::error::Result;
use crate::graph::Source;
use crate::head::locate::Head;
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
    layers: Vec<StageLayer>,
    /// The layers of masks, and the numbers that they see of a pixel.
    masks: Vec<(usize, usize)>,
    /// How masks are learned, or why they are not; none where the model has no masks of each class's own.
    mask_branch: Option<std::result::Result<MaskBranch, String>>,
}

/// A class layer behind crops.
#[derive(Debug)]
struct StageLayer {
    of_region: RegionLayer,
    features: String,
    logits: String,
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
        let heads = region_heads(&serving)?;
        let mut targets: Vec<(usize, Source)> = heads.iter().flat_map(|(head, _)| ends(head)).collect();
        let own = targets.len();
        targets.extend(body.masks.iter().flat_map(ends));
        let (mut flat, fed) = serving.flatten(&targets).or_else(|_| serving.flatten(&targets[..own]))?;
        let resized = resized_picture(&flat.graph, &flat.targets[..1])?;
        let flow = Flow::new(&flat.graph);

        let candidates = flow.narrows(&flat.targets[0])?;
        let place =
            Place::find(&serving, (&flat.graph, &fed), &candidates, (&resized, &flat.targets[0]), config)?;
        let Place { input, probe, regions, shape: regions_shape } = place;
        let targets: Vec<&str> = flat.targets.iter().take(own).map(String::as_str).collect();
        let given = flow.given(&targets, &regions, &serving.feed.name)?;
        let mut layers = Vec::new();
        for ((head, role), ends) in heads.iter().zip(flat.targets.chunks_exact(2)) {
            let depth = usize::try_from(depth(head)).unwrap_or(0);
            layers.push(StageLayer {
                of_region: RegionLayer { layer: serving.layer(head)?, role: *role, depth, bins: 1 },
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
                Some(MaskBranch::find(&serving, (&mut flat.graph, &fed), head, [x, z], &probe, config))
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
        let session = session(&flat.graph, &fed, config)?;
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

    fn propose_for(&self, picture: &AnyTensor) -> Result<Proposals> {
        let of_masks = self.mask_branch.iter().flatten().flat_map(|branch| &branch.given);
        let names: Vec<&str> =
            std::iter::once(&self.regions).chain(&self.given).chain(of_masks).map(String::as_str).collect();
        let mut found = self.session.run(&[(&self.feed.name, picture)], &names, &[])?.into_iter();
        let boxes = found.next().map_or_else(|| Ok(Vec::new()), |boxes| proposed(&boxes, &self.regions))?;
        let given = found.by_ref().take(self.given.len()).collect();
        Ok(Proposals { boxes, given, given_to_masks: found.collect() })
    }

    /// Of each layer the features and logits of these regions, as many as were proposed.
    fn layer_by_layer(&self, proposals: &Proposals, regions: &[BoxYxyx]) -> Result<Vec<[AnyTensor; 2]>> {
        let boxes = Place::tensor(&self.regions_shape, regions)?;
        let mut feeds = vec![(self.regions.as_str(), &boxes)];
        feeds.extend(self.given.iter().map(String::as_str).zip(&proposals.given));
        let fetches: Vec<&str> =
            self.layers.iter().flat_map(|l| [l.features.as_str(), l.logits.as_str()]).collect();
        let mut found = self.session.run(&feeds, &fetches, &[])?.into_iter();
        let pairs = std::iter::from_fn(|| Some([found.next()?, found.next()?])).collect::<Vec<_>>();
        for (layer, [features, logits]) in self.layers.iter().zip(&pairs) {
            let depth = layer.of_region.depth;
            if features.shape() != [regions.len(), depth] || logits.shape().first() != Some(&regions.len()) {
                return Err(not(
                    &layer.features,
                    format!("{features:?} for {} regions of {depth} numbers", regions.len()),
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
        let fed = self.layer_by_layer(&proposals, &proposals.boxes)?;
        for (layer, (own, [features, logits])) in self.layers.iter().zip(own.iter().zip(&fed)) {
            let RegionLayer { layer: number, depth, .. } = layer.of_region;
            check_logits(features, logits, &parts.values[number], depth, &layer.logits)?;
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

impl Regions for TwoStage {
    fn input(&self) -> Input {
        self.input
    }

    fn layers(&self) -> Vec<RegionLayer> {
        self.layers.iter().map(|layer| layer.of_region).collect()
    }

    fn masks(&self) -> &[(usize, usize)] {
        &self.masks
    }

    fn mask_fit(&self) -> Masks<'_> {
        match &self.mask_branch {
            None => Masks::None,
            Some(Ok(_)) => Masks::Learned,
            Some(Err(reason)) => Masks::Mean(reason),
        }
    }

    fn rows_of_pixels(
        &self,
        proposals: &Proposals,
        seen: &Seen,
        classes: usize,
        rows: &mut ViewRows<'_>,
    ) -> Result<()> {
        let Some(Ok(branch)) = &self.mask_branch else { return Ok(()) };
        mask_rows::rows_of(self, branch, proposals, seen, (self.layers.len(), classes), rows)
    }

    fn propose(&self, rgb: &[u8], height: usize, width: usize) -> Result<Proposals> {
        self.propose_for(&self.feed.tensor(rgb, height, width)?)
    }

    /// As many regions as were proposed.
    fn look(&self, proposals: &Proposals, regions: &[BoxYxyx]) -> Result<Looked> {
        let found = self.layer_by_layer(proposals, regions)?;
        let logits = found.first().map_or(Ok(&[][..]), |[_, logits]| logits.f32())?.to_vec();
        let features: Vec<AnyTensor> = found.into_iter().map(|[features, _]| features).collect();
        let of_layer = (0..features.len()).collect();
        Ok(Looked { features, of_layer, logits })
    }
}
