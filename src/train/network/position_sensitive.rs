//! Networks whose class layers are applied to the whole feature map and cut afterwards: R-FCN (arXiv 1605.06409).
//!
//! A view runs once, for its proposals and the feature maps that the layers read. What a layer sees of a region is computed
//! from the map by a graph of our own ([`Pool`]), as many regions as are wanted; see [`super::super::bins`] for why that is
//! enough. Whether it is what this model does is tried when it is opened, on regions of our own that are fed to it.

use super::super::bins::gathered;
use super::super::loss::Logits;
use super::super::shape::Input;
use super::cut::Flow;
use super::picture::{Feed, resized_picture};
use super::pool::{Bins, Pool, Pooled};
use super::regions::{Looked, Place, Proposals, RegionLayer, Regions, proposed, region_heads};
use super::{LOGIT_TOLERANCE, Parts, Serving, depth, ends, not, quick_session, session};
use crate::data::BoxYxyx;
use crate::error::Result;
use crate::graph::Source;
use crate::head::LayerValues;
use crate::head::locate::{Layer, Located, Role};
use crate::pb;
use crate::random::SplitMix;
use crate::runtime::{AnyTensor, Fed, GraphSession, SessionConfig};

/// Regions that show nothing and are kept of a view. The OD API samples 64 regions of a picture (`second_stage_batch_size`); a
/// row is as wide as all bins together, and all 300 of every view would not fit into memory.
const NEGATIVES: usize = 64;

/// The frozen part of a position-sensitive model in a session.
#[derive(Debug)]
pub struct PositionSensitive {
    session: GraphSession,
    feed: Feed,
    input: Input,
    /// The tensor of proposals.
    regions: String,
    /// The feature maps that layers read.
    maps: Vec<String>,
    /// How features are cut from them, with the number of the map.
    pools: Vec<(usize, Pool)>,
    /// The layers, scores first, and the number of the pool of each.
    layers: Vec<(RegionLayer, usize)>,
    /// The old columns of the scores, over all bins.
    scores: OldColumns,
}

/// A layer's old columns, as they act on the features of regions.
#[derive(Debug)]
pub(super) struct OldColumns {
    graph: Logits,
    /// [bins · depth, columns].
    kernel: AnyTensor,
    /// Zeros: biases count by the part of a bin that lies on the map.
    none: AnyTensor,
    /// [bins, columns].
    biases: Vec<f32>,
    bins: usize,
}

/// Whether a layer of a position-sensitive model is one whose columns can be trained: 1×1 scores or boxes in bins.
pub(super) fn is_trainable(layer: &Layer) -> bool {
    let in_bins = layer.axis.outer.is_some_and(|bins| bins > 0);
    layer.role != Role::Masks && in_bins && matches!(layer.kernel_shape[..], [1, 1, _, _])
}

/// Whether the scores of a two-stage model are cut from maps of scores.
pub(super) fn is_position_sensitive(located: &Located) -> bool {
    located.layers.iter().any(|layer| layer.role == Role::Scores && layer.kernel_shape.len() == 4)
}

impl PositionSensitive {
    /// Finds the regions and how the layers' maps are cut, and checks on the model's own and on other regions that features
    /// and old weights give the model's own logits.
    ///
    /// Errors: [`Error::NotUnderstood`](crate::error::Error::NotUnderstood) with the tensor where they do not.
    pub fn open(parts: Parts<'_>, config: &SessionConfig) -> Result<Self> {
        let empty = pb::GraphDef::default();
        let serving = Serving::new(parts, &empty)?;
        let body = serving.body;
        let heads = region_heads(&serving)?;
        let scope = || serving.view.scopes[body.scope].name;
        let (Some(logits), Some(boxes)) = (body.logits, body.boxes) else {
            return Err(not(scope(), "it has no logits or no boxes of regions".into()));
        };
        let mut targets: Vec<(usize, Source)> = heads.iter().flat_map(|(head, _)| ends(head)).collect();
        targets.extend([logits, boxes]);
        let (flat, fed) = serving.flatten(&targets)?;
        let Some((ends, [logits, boxes])) = flat.targets.split_last_chunk::<2>() else {
            return Err(not(scope(), "it has no logits and boxes".into()));
        };
        let resized = resized_picture(&flat.graph, &ends[..1])?;
        let flow = Flow::new(&flat.graph);
        let mut candidates = flow.narrows(logits)?;
        // Behind the layers' maps there are logits, which may look like boxes.
        let mut before = Vec::new();
        for tensor in candidates.drain(..) {
            if !flow.computed_from(&tensor, &ends[1])? {
                before.push(tensor);
            }
        }
        let place = Place::find(&serving, (&flat.graph, &fed), &before, (&resized, logits), config)?;
        let (mut maps, mut pools, mut layers) = (Vec::new(), Vec::<(usize, Pool)>::new(), Vec::new());
        let mut scores = None;
        let trial = Trial::new(&serving, (&flat.graph, &fed), &place, config)?;
        for ((head, role), ends) in heads.iter().zip(ends.chunks_exact(2)) {
            let [map, end] = [&ends[0], &ends[1]];
            let target = if *role == Role::Scores { logits } else { boxes };
            let layer = serving.layer(head)?;
            let axis = parts.understood.located.layers[layer].axis;
            let bins = axis.outer.unwrap_or(1);
            let depth = usize::try_from(depth(head)).unwrap_or(0);
            let old = OldColumns::new(&parts.values[layer], bins, depth, config)?;
            let samples = trial.samples(&flow, end, target)?;
            let within = flow.read_by("CropAndResize", end, target)?.is_empty();
            let mut pooled = flow.passed(end, target)?;
            pooled.push(target.clone());
            let pool = trial.pool((map, &pooled), (bins, samples, within), &old, config)?;
            let map = position_or_push(&mut maps, map);
            let known = pools.iter().position(|(of, p)| (*of, p.bins()) == (map, pool.bins()));
            let pool = known.unwrap_or_else(|| {
                pools.push((map, pool));
                pools.len() - 1
            });
            if *role == Role::Scores {
                scores = Some(old);
            }
            layers.push((RegionLayer { layer, role: *role, depth: bins * depth, bins }, pool));
        }
        let scores = scores.ok_or_else(|| not(scope(), "it has no layer of scores".into()))?;
        let session = session(&flat.graph, &fed, config)?;
        let (feed, input) = (serving.feed.clone(), place.input);
        Ok(Self { session, feed, input, regions: place.regions.clone(), maps, pools, layers, scores })
    }
}

fn position_or_push(names: &mut Vec<String>, name: &str) -> usize {
    names.iter().position(|known| known == name).unwrap_or_else(|| {
        names.push(name.to_owned());
        names.len() - 1
    })
}

impl OldColumns {
    /// From a layer's kernel [depth, bins, columns] and biases [bins, columns].
    pub fn new(values: &LayerValues, bins: usize, depth: usize, config: &SessionConfig) -> Result<Self> {
        let rows = gathered(values, bins)?;
        let wide = rows.biases.len();
        Ok(Self {
            graph: Logits::new(config)?,
            kernel: AnyTensor::new(&[bins * depth, wide], &rows.kernel)?,
            none: AnyTensor::new(&[wide], &vec![0.0f32; wide])?,
            biases: values.biases.iter().map(|b| b / bins as f32).collect(),
            bins,
        })
    }

    /// The model's own numbers for these regions, [regions · columns].
    pub fn logits(&self, pooled: &Pooled) -> Result<Vec<f32>> {
        let logits = self.graph.run(&pooled.rows, &self.kernel, &self.none)?;
        let mut logits = logits.f32()?.to_vec();
        let wide = self.none.len().max(1);
        for (logits, inside) in logits.chunks_exact_mut(wide).zip(pooled.inside.chunks_exact(self.bins)) {
            for (biases, part) in self.biases.chunks_exact(wide).zip(inside) {
                logits.iter_mut().zip(biases).for_each(|(logit, bias)| *logit += part * bias);
            }
        }
        Ok(logits)
    }
}

/// The model run on a picture, with its own regions and with ours.
struct Trial<'s> {
    session: GraphSession,
    feed: &'s str,
    place: &'s Place,
    /// The model's own proposals and as many of ours.
    regions: [Vec<BoxYxyx>; 2],
}

impl<'s> Trial<'s> {
    fn new(
        serving: &'s Serving<'_>,
        (graph, fed): (&pb::GraphDef, &Fed),
        place: &'s Place,
        config: &SessionConfig,
    ) -> Result<Self> {
        let session = quick_session(graph, fed, config)?;
        let feed = serving.feed.name.as_str();
        let own = session.run(&[(feed, &place.probe)], &[&place.regions], &[])?;
        let own = own.first().map_or_else(|| Ok(Vec::new()), |boxes| proposed(boxes, &place.regions))?;
        let mut random = SplitMix::new(0, &[]);
        let mut side = || {
            let length = random.uniform(0.1, 0.9);
            let low = random.uniform(0.0, 1.0 - length);
            [low, low + length].map(|v| v as f32)
        };
        let mut draw = || {
            let ([ymin, ymax], [xmin, xmax]) = (side(), side());
            BoxYxyx::new(ymin, xmin, ymax, xmax)
        };
        let ours = own.iter().map(|_| draw()).collect();
        Ok(Self { session, feed, place, regions: [own, ours] })
    }

    /// How many samples of each bin are averaged between a layer and its target: rows and columns.
    fn samples(&self, flow: &Flow<'_>, layer: &str, target: &str) -> Result<(usize, usize)> {
        let mut found: Option<(usize, usize)> = None;
        for averaged in flow.read_by("Mean", layer, target)? {
            let shape = self.session.static_shape(&averaged)?;
            let Some(&[_, Some(rows), Some(columns), _]) = shape.as_deref() else {
                return Err(not(
                    &averaged,
                    format!("crops of shape {shape:?} are averaged; expected a fixed height and width"),
                ));
            };
            if found.is_some_and(|known| known != (rows, columns)) {
                return Err(not(&averaged, "crops of several sizes are averaged".into()));
            }
            found = Some((rows, columns));
        }
        found
            .filter(|&(rows, columns)| rows > 0 && columns > 0)
            .ok_or_else(|| not(target, format!("no crops of {layer} are averaged on the way to it")))
    }

    /// The way of cutting by which features of `map` and old columns give the model's own numbers in one of `pooled`, for both
    /// kinds of regions.
    ///
    /// How many rows of how many bins there are is nowhere written in the graph; all ways to arrange them are tried, squarer
    /// ones first.
    fn pool(
        &self,
        (map, pooled): (&str, &[String]),
        (bins, samples, within): (usize, (usize, usize), bool),
        old: &OldColumns,
        config: &SessionConfig,
    ) -> Result<Pool> {
        let mut names: Vec<&str> = vec![map];
        names.extend(pooled.iter().map(String::as_str));
        let [own, ours] = &self.regions;
        let fed = Place::tensor(&self.place.shape, ours)?;
        let feeds = [(self.feed, &self.place.probe), (self.place.regions.as_str(), &fed)];
        let runs = [
            (own, self.session.run(&feeds[..1], &names, &[])?),
            (ours, self.session.run(&feeds, &names, &[])?),
        ];
        let mut nearest = (f32::INFINITY, map);
        for parts in arrangements(bins) {
            let pool = Pool::new(Bins { parts, samples, within }, config)?;
            let mut off = vec![0.0f32; pooled.len()];
            for (regions, found) in &runs {
                let [map, found @ ..] = &found[..] else { continue };
                let logits = old.logits(&pool.run(map, regions)?)?;
                for (off, found) in off.iter_mut().zip(found) {
                    *off = off.max(apart(&logits, found)?);
                }
            }
            for (off, name) in off.into_iter().zip(pooled) {
                if off < nearest.0 {
                    nearest = (off, name);
                }
            }
            if nearest.0 <= LOGIT_TOLERANCE {
                return Ok(pool);
            }
        }
        let (off, name) = nearest;
        Err(not(
            name,
            format!(
                "the means of {bins} bins of {} by {} samples and the layer's weights do not give its numbers; the nearest is \
                 {off} off",
                samples.0, samples.1
            ),
        ))
    }
}

/// How far numbers are apart, those over 1 in parts of themselves; infinitely where there is another count of them.
fn apart(ours: &[f32], theirs: &AnyTensor) -> Result<f32> {
    let theirs = theirs.f32()?;
    if ours.len() != theirs.len() || ours.is_empty() {
        return Ok(f32::INFINITY);
    }
    let off = |(a, b): (&f32, &f32)| {
        let difference = (a - b).abs() / b.abs().max(1.0);
        if difference.is_nan() { f32::INFINITY } else { difference }
    };
    Ok(ours.iter().zip(theirs).map(off).fold(0.0, f32::max))
}

/// Rows and columns of so many bins, squarer arrangements first, of two that mirror each other the wider.
fn arrangements(bins: usize) -> Vec<(usize, usize)> {
    let mut all: Vec<(usize, usize)> =
        (1..=bins).filter(|rows| bins.is_multiple_of(*rows)).map(|rows| (rows, bins / rows)).collect();
    all.sort_by_key(|&(rows, columns)| (rows.abs_diff(columns), rows));
    all
}

impl Regions for PositionSensitive {
    fn input(&self) -> Input {
        self.input
    }

    fn layers(&self) -> Vec<RegionLayer> {
        self.layers.iter().map(|(layer, _)| *layer).collect()
    }

    fn masks(&self) -> &[(usize, usize)] {
        &[]
    }

    fn propose(&self, rgb: &[u8], height: usize, width: usize) -> Result<Proposals> {
        let picture = self.feed.tensor(rgb, height, width)?;
        let names: Vec<&str> = std::iter::once(&self.regions).chain(&self.maps).map(String::as_str).collect();
        let mut found = self.session.run(&[(&self.feed.name, &picture)], &names, &[])?.into_iter();
        let boxes = found.next().map_or_else(|| Ok(Vec::new()), |boxes| proposed(&boxes, &self.regions))?;
        Ok(Proposals { boxes, given: found.collect(), given_to_masks: Vec::new() })
    }

    fn look(&self, proposals: &Proposals, regions: &[BoxYxyx]) -> Result<Looked> {
        let mut pooled = Vec::new();
        for (map, pool) in &self.pools {
            let Some(given) = proposals.given.get(*map) else {
                return Err(not(&self.maps[*map], "a run gave fewer tensors than asked for".into()));
            };
            pooled.push(pool.run(given, regions)?);
        }
        let of_layer: Vec<usize> = self.layers.iter().map(|(_, pool)| *pool).collect();
        let logits = of_layer.first().and_then(|&pool| pooled.get(pool));
        let logits = logits.map_or_else(|| Ok(Vec::new()), |pooled| self.scores.logits(pooled))?;
        Ok(Looked { features: pooled.into_iter().map(|p| p.rows).collect(), of_layer, logits })
    }

    fn fewer(&self) -> Option<usize> {
        Some(NEGATIVES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_arranged_squarely_first() {
        assert_eq!(arrangements(9), [(3, 3), (1, 9), (9, 1)]);
        assert_eq!(arrangements(6), [(2, 3), (3, 2), (1, 6), (6, 1)]);
        assert_eq!(arrangements(1), [(1, 1)]);
        assert!(arrangements(0).is_empty());
    }
}
