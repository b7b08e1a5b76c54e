//! Rows of networks with two stages: which regions are shown to the second stage, what they should be, how much each counts.

use super::features::Seen;
use super::finder::{Finder, OfRegions};
use super::mask_rows::Masks;
use super::network::{PositionSensitive, Regions, TwoStage};
use super::shape::{Input, LayerSize};
use super::targets::Truth;
use super::task::{Frozen, Loss, Map, Task, ViewRows};
use crate::data::BoxYxyx;
use crate::error::Result;
use crate::head::locate::Role;
use crate::random::SplitMix;

/// The second stage's matcher of the OD API (`create_target_assigner('FasterRCNN', 'detection')`): no object is forced.
const MATCHED: f32 = 0.5;
/// Overlap with a crowd or a barely visible object from which on a region says nothing.
const UNSURE: f32 = 0.25;
/// Regions of a picture that the OD API samples, and how many of them may be positive (`second_stage_batch_size`,
/// `second_stage_balance_fraction`).
const SAMPLED: (f32, f32) = (64.0, 16.0);
/// Regions made from one object at most, its own box included.
const FROM_OBJECT: usize = 16;
/// How far the centre of a made region moves, in parts of the object's side, and the logarithm of how its sides change.
const JITTER: (f64, f64) = (0.2, 0.25);
/// The logarithm of a share of the softmax from which on the old model is sure of a class: a half, so that it is one at most.
const SURE: f32 = -std::f32::consts::LN_2;
/// `FasterRcnnBoxCoder` of the second stage: scales of y, x, height, width.
const SCALES: [f32; 4] = [10.0, 10.0, 5.0, 5.0];

/// What a region shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shows {
    /// The object of this number.
    Object(usize),
    /// None of the objects.
    Nothing,
    /// Perhaps one.
    Unknown,
}

/// What each region shows: the object that it overlaps most, if by half.
pub fn assign(regions: &[BoxYxyx], truths: &[Truth]) -> Vec<Shows> {
    let of = |region: &BoxYxyx| {
        // Proposals fill up with empty boxes; those of no area show nothing and count as nothing.
        if region.area() <= 0.0 {
            return Shows::Unknown;
        }
        let overlaps = || truths.iter().map(|truth| truth.bbox.iou(region)).enumerate();
        let best = overlaps()
            .filter(|&(t, _)| truths[t].shown())
            .max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
        match best {
            Some((t, overlap)) if overlap >= MATCHED => Shows::Object(t),
            _ if overlaps().any(|(t, overlap)| truths[t].unsure() && overlap > UNSURE) => Shows::Unknown,
            _ => Shows::Nothing,
        }
    };
    regions.iter().map(of).collect()
}

/// How much a positive and a negative count: the mean of the OD API's sampling of 64 regions, a quarter positive.
pub fn balance(shows: &[Shows]) -> (f32, f32) {
    let positives = shows.iter().filter(|s| matches!(s, Shows::Object(_))).count() as f32;
    let negatives = shows.iter().filter(|s| **s == Shows::Nothing).count() as f32;
    let (all, most) = SAMPLED;
    let taken = positives.min(most);
    (taken / positives.max(1.0), negatives.min(all - taken) / negatives.max(1.0))
}

/// Regions around the objects, their own boxes first; at most so many.
///
/// The first stage knows no new classes and may propose few regions of theirs (arXiv 2108.06753); a classifier needs more
/// than those.
pub fn around(truths: &[Truth], most: usize, seed: u64) -> Vec<BoxYxyx> {
    let shown: Vec<BoxYxyx> = truths.iter().filter(|t| t.shown()).map(|t| t.bbox).collect();
    let of_each = (most / shown.len().max(1)).min(FROM_OBJECT);
    let mut regions: Vec<BoxYxyx> = shown.iter().copied().take(most).collect();
    let (shift, stretch) = JITTER;
    for (number, object) in shown.iter().enumerate() {
        let mut random = SplitMix::new(seed, &[number as u64]);
        for _ in 1..of_each {
            let mut side = |low: f32, high: f32| {
                let length = f64::from(high - low);
                let middle = f64::from(low + high) / 2.0 + random.uniform(-shift, shift) * length;
                let length = length * random.uniform(-stretch, stretch).exp();
                [middle - length / 2.0, middle + length / 2.0].map(|v| (v as f32).clamp(0.0, 1.0))
            };
            let ([ymin, ymax], [xmin, xmax]) =
                (side(object.ymin, object.ymax), side(object.xmin, object.xmax));
            regions.push(BoxYxyx::new(ymin, xmin, ymax, xmax));
        }
    }
    regions
}

/// The encoding of an object's box about a region's (box_coders/faster_rcnn_box_coder.py).
pub fn encode(object: &BoxYxyx, region: &BoxYxyx) -> [f32; 4] {
    const LEAST: f32 = 1e-8;
    let along = |object: [f32; 2], region: [f32; 2]| {
        let (length, own) = ((object[1] - object[0]).max(LEAST), (region[1] - region[0]).max(LEAST));
        (((object[0] + object[1]) - (region[0] + region[1])) / 2.0 / own, (length / own).ln())
    };
    let (y, h) = along([object.ymin, object.ymax], [region.ymin, region.ymax]);
    let (x, w) = along([object.xmin, object.xmax], [region.xmin, region.xmax]);
    [y * SCALES[0], x * SCALES[1], h * SCALES[2], w * SCALES[3]]
}

/// What a region that shows no labelled object is, by the column of the softmax: the old class that the model is sure of, else
/// the background, which stands first.
fn likely(old: &[f32]) -> usize {
    let most = old.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    most.filter(|(_, z)| **z - log_sum(old) > SURE).map_or(0, |(column, _)| column)
}

/// The logarithm of the sum of exponentials.
pub(super) fn log_sum(logits: &[f32]) -> f32 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&z| f64::from(z - most).exp()).sum();
    most + sum.ln() as f32
}

/// Numbers of the regions that are kept, in order: those that show something, and at most so many of those that do not, drawn
/// at random as the OD API does. The second number says how many regions without an object each kept one stands for.
pub fn choose(shows: &[Shows], negatives: usize, seed: u64) -> (Vec<usize>, f32) {
    let mut empty: Vec<usize> = (0..shows.len()).filter(|&at| shows[at] == Shows::Nothing).collect();
    let all = empty.len();
    if all > negatives {
        SplitMix::new(seed, &[]).shuffle(&mut empty);
        empty.truncate(negatives);
    }
    let stands_for = all as f32 / empty.len().max(1) as f32;
    let mut kept = empty;
    kept.extend((0..shows.len()).filter(|&at| matches!(shows[at], Shows::Object(_))));
    kept.sort_unstable();
    (kept, stands_for)
}

/// What is fitted: the layers of scores and boxes, then those of masks.
fn tasks(network: &impl Regions, background: bool) -> Vec<Task> {
    let layers = network.layers().into_iter().map(|l| (l.role, l.layer, l.depth, l.bins));
    let masks = network.masks().iter().map(|&(layer, depth)| (Role::Masks, layer, depth, 1));
    let task = |(role, layer, depth, bins): (Role, usize, usize, usize)| {
        let (loss, anchors) = match role {
            Role::Scores => (Loss::Softmax, 1),
            Role::Boxes => (Loss::Squares, 4),
            Role::Masks => (Loss::Sigmoid, 1),
        };
        let background = background && role == Role::Scores;
        Task { role, loss, layers: vec![layer], sizes: vec![LayerSize { depth, anchors }], background, bins }
    };
    layers.chain(masks).map(task).collect()
}

/// A region has one match, whatever numbers its layers give.
fn maps(tasks: &[Task]) -> Vec<Map> {
    tasks.iter().flat_map(|task| &task.layers).map(|&layer| Map { layer, anchors: 1 }).collect()
}

/// Shows a view to the network and adds rows of its regions.
fn rows_of(network: &impl Regions, seen: &Seen, classes: usize, rows: &mut ViewRows<'_>) -> Result<()> {
    let (height, width) = seen.size;
    let proposals = network.propose(&seen.rgb, height, width)?;
    // The last proposals make room: the least likely ones, or none at all.
    let mut regions = proposals.boxes.clone();
    let made = around(&seen.truths, regions.len() / 2, seen.number as u64);
    regions.truncate(regions.len() - made.len());
    regions.extend(made);
    let mut shows = assign(&regions, &seen.truths);
    let (positive, mut negative) = balance(&shows);
    if let Some(fewer) = network.fewer() {
        let (kept, stands_for) = choose(&shows, fewer, seen.number as u64);
        negative *= stands_for;
        regions = kept.iter().map(|&at| regions[at]).collect();
        shows = kept.iter().map(|&at| shows[at]).collect();
    }
    if regions.is_empty() {
        return Ok(());
    }
    let of_picture = seen.of_picture.max(1) as f32;
    let found = network.look(&proposals, &regions)?;
    let z = &found.logits;
    let columns = z.len() / regions.len();
    for (task, layer) in network.layers().iter().enumerate() {
        let x = found.features(task)?;
        for (at, (region, shows)) in regions.iter().zip(&shows).enumerate() {
            let object = match *shows {
                Shows::Unknown => continue,
                Shows::Nothing => None,
                Shows::Object(t) => Some(&seen.truths[t]),
            };
            let x = &x[at * layer.depth..(at + 1) * layer.depth];
            let weight = if object.is_some() { positive } else { negative } / of_picture;
            let new = object.and_then(|object| Some((object, rows.new_class(object.class)?)));
            if let Some((_, class)) = new {
                rows.positive(task, class);
            }
            match (layer.role, new) {
                (Role::Scores, _) => {
                    let mut y = vec![0.0; classes];
                    if let Some(y) = new.and_then(|(_, class)| y.get_mut(class)) {
                        *y = 1.0;
                    }
                    let old = &z[at * columns..(at + 1) * columns];
                    let label = object.map_or_else(|| likely(old), |object| object.class);
                    let numbers = [[weight], [log_sum(old)], [label as f32]];
                    let parts: [&[f32]; 5] = [x, &y, &numbers[0], &numbers[1], &numbers[2]];
                    let parts = if rows.first_new > 0 { &parts[..] } else { &parts[..4] };
                    rows.row((task, 0), parts)?;
                }
                (_, Some((object, class))) => {
                    let (mut y, mut v) = (vec![0.0; 4 * classes], vec![0.0; 4 * classes]);
                    for (part, value) in encode(&object.bbox, region).into_iter().enumerate() {
                        let column = part * classes + class;
                        (y[column], v[column]) = (value, weight);
                    }
                    rows.row((task, 0), &[x, &y, &v])?;
                }
                (_, None) => {}
            }
        }
    }
    network.rows_of_pixels(&proposals, seen, classes, rows)
}

macro_rules! frozen {
    ($($network:ty),*) => {$(
        impl Frozen for $network {
            fn finder(&self) -> Option<Box<dyn Finder + '_>> {
                Some(Box::new(OfRegions(self)))
            }

            fn input(&self) -> Input {
                Regions::input(self)
            }

            fn tasks(&self, background: bool) -> Result<Vec<Task>> {
                Ok(tasks(self, background))
            }

            fn maps(&self, tasks: &[Task]) -> Vec<Map> {
                maps(tasks)
            }

            fn masks(&self) -> Masks<'_> {
                self.mask_fit()
            }

            fn rows_of(&self, seen: &Seen, classes: usize, rows: &mut ViewRows<'_>) -> Result<()> {
                rows_of(self, seen, classes, rows)
            }
        }
    )*};
}

frozen!(TwoStage, PositionSensitive);

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(class: usize, bbox: [f32; 4], visible: f32) -> Truth {
        let [ymin, xmin, ymax, xmax] = bbox;
        Truth { class, bbox: BoxYxyx::new(ymin, xmin, ymax, xmax), visible, crowd: false }
    }

    #[test]
    fn regions_show_what_they_overlap_by_half() {
        let whole = truth(0, [0.0, 0.0, 0.5, 0.5], 1.0);
        let other = truth(1, [0.0, 0.0, 0.5, 0.6], 1.0);
        let hidden = truth(0, [0.5, 0.5, 1.0, 1.0], 0.1);
        let region = |b: [f32; 4]| BoxYxyx::new(b[0], b[1], b[2], b[3]);
        for (name, bbox, truths, expected) in [
            ("the same", [0.0, 0.0, 0.5, 0.5], vec![whole, other], Shows::Object(0)),
            ("the nearer", [0.0, 0.0, 0.5, 0.58], vec![whole, other], Shows::Object(1)),
            ("exactly half", [0.0, 0.0, 0.5, 0.25], vec![whole], Shows::Object(0)),
            ("less", [0.0, 0.0, 0.5, 0.2], vec![whole], Shows::Nothing),
            ("barely visible", [0.5, 0.5, 1.0, 0.9], vec![hidden], Shows::Unknown),
            ("padding", [0.0, 0.0, 0.0, 0.0], vec![whole], Shows::Unknown),
            ("nothing there", [0.1, 0.1, 0.3, 0.3], vec![], Shows::Nothing),
        ] {
            assert_eq!(assign(&[region(bbox)], &truths), [expected], "{name}");
        }
    }

    #[test]
    fn weights_are_the_mean_of_the_sampler() {
        let shows = |positives: usize, negatives: usize| {
            let mut all = vec![Shows::Object(0); positives];
            all.extend(vec![Shows::Nothing; negatives]);
            all.push(Shows::Unknown);
            balance(&all)
        };
        assert_eq!(shows(0, 128), (0.0, 0.5));
        assert_eq!(shows(4, 120), (1.0, 0.5));
        assert_eq!(shows(32, 96), (0.5, 0.5));
        assert_eq!(shows(1, 10), (1.0, 1.0));
    }

    #[test]
    fn of_many_empty_regions_some_stand_for_all() {
        let shows: Vec<Shows> = (0..100)
            .map(|at| match at % 10 {
                0 => Shows::Object(at),
                1 => Shows::Unknown,
                _ => Shows::Nothing,
            })
            .collect();
        let (kept, stands_for) = choose(&shows, 20, 7);
        assert_eq!((kept.len(), stands_for), (30, 4.0));
        assert!(kept.is_sorted() && (0..100).step_by(10).all(|object| kept.contains(&object)));
        assert!(kept.iter().all(|&at| shows[at] != Shows::Unknown));
        assert_eq!(kept, choose(&shows, 20, 7).0);
        assert_ne!(kept, choose(&shows, 20, 8).0);
        let (all, alone) = choose(&shows, 1000, 7);
        assert_eq!((all.len(), alone), (90, 1.0));
        assert_eq!(choose(&[], 20, 7), (vec![], 0.0));
    }

    #[test]
    fn regions_around_objects_mostly_match_them() {
        let truths = [truth(0, [0.2, 0.2, 0.5, 0.6], 1.0), truth(0, [0.5, 0.5, 0.9, 0.9], 1.0)];
        let regions = around(&truths, 20, 3);
        assert_eq!(regions.len(), 20);
        assert_eq!(regions[..2], [truths[0].bbox, truths[1].bbox]);
        let matched = assign(&regions, &truths).iter().filter(|s| matches!(s, Shows::Object(_))).count();
        assert!(matched > 10, "{matched}");
        assert_eq!(regions, around(&truths, 20, 3));
        assert_ne!(regions, around(&truths, 20, 4));
        assert_eq!(around(&truths, 1, 3).len(), 1);
        assert!(around(&[], 10, 3).is_empty());
    }

    #[test]
    fn boxes_are_encoded_as_the_api_does() {
        let region = BoxYxyx::new(0.2, 0.2, 0.6, 0.4);
        let object = BoxYxyx::new(0.3, 0.2, 0.5, 0.6);
        let expected = [0.0, 5.0, 5.0 * 0.5f32.ln(), 5.0 * 2.0f32.ln()];
        let got = encode(&object, &region);
        assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{got:?}");
        assert_eq!(encode(&region, &region), [0.0; 4]);
    }

    #[test]
    fn sums_of_exponentials_do_not_overflow() {
        assert!((log_sum(&[1000.0, 1000.0]) - 1000.6931).abs() < 1e-3);
        assert!((log_sum(&[0.0, -1000.0])).abs() < 1e-6);
    }
}
