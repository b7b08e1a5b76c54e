//! What networks that judge regions have in common: proposals, and what their class layers see of any regions.

use super::super::features::Seen;
use super::super::mask_rows::Masks;
use super::super::shape::Input;
use super::super::task::ViewRows;
use super::cut::shape_of;
use super::picture::geometry;
use super::{Serving, boxes_of, not, quick_session};
use crate::data::BoxYxyx;
use crate::error::Result;
use crate::head::locate::{Head, Role};
use crate::pb;
use crate::runtime::{AnyTensor, Fed, SessionConfig};

/// The frozen part of a detector that proposes regions and judges them.
pub(in crate::train) trait Regions: Sync {
    /// The pictures it takes.
    fn input(&self) -> Input;

    /// The class layers of the second stage, scores first.
    fn layers(&self) -> Vec<RegionLayer>;

    /// The layers of masks: their numbers among the model's, and the numbers that they see of a pixel.
    fn masks(&self) -> &[(usize, usize)];

    /// Whether masks are learned.
    fn mask_fit(&self) -> Masks<'_> {
        Masks::None
    }

    /// The first step, on a picture of the network's input size.
    fn propose(&self, rgb: &[u8], height: usize, width: usize) -> Result<Proposals>;

    /// The second step: what the layers see of these regions.
    fn look(&self, proposals: &Proposals, regions: &[BoxYxyx]) -> Result<Looked>;

    /// Keeps rows of the pixels of masks, where those are learned.
    fn rows_of_pixels(&self, _: &Proposals, _: &Seen, _classes: usize, _: &mut ViewRows<'_>) -> Result<()> {
        Ok(())
    }

    /// How many regions that show nothing are worth keeping of a view, where any number of regions can be looked at; else all.
    fn fewer(&self) -> Option<usize> {
        None
    }
}

/// A class layer of regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::train) struct RegionLayer {
    /// Its number among the model's.
    pub layer: usize,
    /// What its columns are.
    pub role: Role,
    /// Numbers that it sees of a region, of all bins together.
    pub depth: usize,
    /// Parts of a region that have columns of their own.
    pub bins: usize,
}

/// What the first step makes of a view.
pub(in crate::train) struct Proposals {
    /// The network's proposals, best first, as fractions of its input. Where there are too few the rest are empty.
    pub boxes: Vec<BoxYxyx>,
    /// What else the second step needs of the picture.
    pub given: Vec<AnyTensor>,
    /// What the branch of masks needs of it.
    pub given_to_masks: Vec<AnyTensor>,
}

/// What the class layers see of some regions.
pub(in crate::train) struct Looked {
    /// Features, each [regions, depth]; layers that see the same share them.
    pub features: Vec<AnyTensor>,
    /// Which features each layer sees.
    pub of_layer: Vec<usize>,
    /// The old logits of the scores, regions · columns numbers.
    pub logits: Vec<f32>,
}

impl Looked {
    /// The features of a layer, [regions, depth].
    pub fn features(&self, layer: usize) -> Result<&[f32]> {
        let features = self.of_layer.get(layer).and_then(|&at| self.features.get(at));
        features.map_or(Ok(&[]), AnyTensor::f32)
    }
}

/// Where a flat graph takes regions.
pub(super) struct Place {
    /// The pictures it takes.
    pub input: Input,
    /// A picture of that size.
    pub probe: AnyTensor,
    /// The tensor of regions, as fractions of the picture.
    pub regions: String,
    /// Its shape: [1, regions, 4] or [regions, 4].
    pub shape: Vec<usize>,
}

impl Place {
    /// Finds the tensor of regions among candidates: the first of the right shape that holds fractions of the picture.
    /// Whatever is done to proposals before is done to the regions that are fed, too. `target` is what is computed from them.
    pub fn find(
        serving: &Serving<'_>,
        (graph, fed): (&pb::GraphDef, &Fed),
        candidates: &[String],
        (resized, target): (&str, &str),
        config: &SessionConfig,
    ) -> Result<Self> {
        let mut probing = graph.clone();
        let shapes: Vec<String> = candidates.iter().map(|tensor| shape_of(&mut probing, tensor)).collect();
        let quick = quick_session(&probing, fed, config)?;
        let input = geometry(&quick, &serving.feed, resized)?;
        let probe = serving.feed.probe(input.size)?;
        let run = |tensors: &[&String]| -> Result<Vec<AnyTensor>> {
            let fetches: Vec<&str> = tensors.iter().map(|tensor| tensor.as_str()).collect();
            quick.run(&[(&serving.feed.name, &probe)], &fetches, &[])
        };
        match first_fitting(candidates, &shapes, run)? {
            Some((regions, shape)) => Ok(Self { input, probe, regions, shape }),
            None => Err(not(
                target,
                "no one tensor of regions, as fractions of the picture, was found by which its crops are cut"
                    .into(),
            )),
        }
    }

    /// Regions as the tensor takes them.
    pub fn tensor(shape: &[usize], regions: &[BoxYxyx]) -> Result<AnyTensor> {
        let values: Vec<f32> = regions.iter().flat_map(|b| b.to_array()).collect();
        let mut shape = shape.to_vec();
        if let [.., number, _] = &mut shape[..] {
            *number = regions.len();
        }
        AnyTensor::new(&shape, &values)
    }
}

/// Proposals as boxes. Errors: [`Error::NotUnderstood`](crate::error::Error::NotUnderstood) where they are no fractions.
pub(super) fn proposed(tensor: &AnyTensor, name: &str) -> Result<Vec<BoxYxyx>> {
    let boxes = boxes_of(tensor)?;
    match boxes.iter().find(|b| !(b.is_finite() && b.to_array().iter().all(|v| v.abs() < 2.0))) {
        Some(bad) => Err(not(name, format!("a proposal is {bad:?}, expected fractions of the picture"))),
        None => Ok(boxes),
    }
}

/// The nearest to the layers of all tensors that could be regions: [1, regions, 4] or [regions, 4], and fractions of the picture.
pub(super) fn first_fitting(
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

/// The class layers of regions, that of the scores first.
pub(super) fn region_heads<'m>(serving: &Serving<'m>) -> Result<Vec<(&'m Head, Role)>> {
    let body = serving.body;
    let scores = one(serving, &body.heads, Role::Scores)?;
    Ok(scores.into_iter().chain(one(serving, &body.class_boxes, Role::Boxes)?).collect())
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
