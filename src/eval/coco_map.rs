//! COCO's measures of boxes and masks: average precision and recall over overlaps 0.50:0.05:0.95.
//!
//! After `COCOeval.accumulate` and `summarize` of pycocotools (cocoapi, BSD-2-Clause); equal to it within 1e-6.
//! Where pycocotools gives -1, because a class has no objects to find, there is `None` here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::matching::{AreaRange, Matched, Pairs, Scored, Truth};
use crate::data::Rle;

/// Objects and detections of one picture.
#[derive(Debug, Clone, Default)]
pub struct EvalImage {
    /// The labelled objects.
    pub truths: Vec<Truth>,
    /// The detections, of any classes, in any order.
    pub detections: Vec<Scored>,
    /// The masks of both, where there are any.
    pub masks: Option<EvalMasks>,
}

/// Masks of one picture, all of its size: one for each object and each detection.
#[derive(Debug, Clone, Default)]
pub struct EvalMasks {
    /// Masks of the objects.
    pub truths: Vec<Rle>,
    /// Masks of the detections.
    pub detections: Vec<Rle>,
}

/// What overlaps are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Box,
    Mask,
}

/// Measures of one class, or means over classes; all in [0, 1]. Sizes are areas: small below 32², medium from 32² to
/// 96², large above 96² pixels.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClassMetrics {
    /// Objects that count (not crowds, not ignored).
    pub objects: usize,
    /// Average precision, mean over overlaps 0.50 to 0.95, 100 detections a picture.
    pub ap: Option<f64>,
    /// Average precision at overlap 0.50.
    pub ap50: Option<f64>,
    /// Average precision at overlap 0.75.
    pub ap75: Option<f64>,
    /// `ap` of small objects.
    pub ap_small: Option<f64>,
    /// `ap` of medium objects.
    pub ap_medium: Option<f64>,
    /// `ap` of large objects.
    pub ap_large: Option<f64>,
    /// Recall, mean over overlaps, with one detection a picture.
    pub ar1: Option<f64>,
    /// Recall with 10 detections a picture.
    pub ar10: Option<f64>,
    /// Recall with 100 detections a picture.
    pub ar100: Option<f64>,
    /// `ar100` of small objects.
    pub ar_small: Option<f64>,
    /// `ar100` of medium objects.
    pub ar_medium: Option<f64>,
    /// `ar100` of large objects.
    pub ar_large: Option<f64>,
}

/// Measures per class.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Metrics {
    /// By the class's name; every class asked for is there.
    pub per_class: BTreeMap<String, ClassMetrics>,
}

const AREAS: [AreaRange; 4] = [(0.0, 1e10), (0.0, 1024.0), (1024.0, 9216.0), (9216.0, 1e10)];
const LIMITS: [usize; 3] = [1, 10, 100];
const RECALLS: usize = 101;

/// Measures the boxes of `classes` (id and name) on pictures; objects and detections of other classes are left aside.
/// Detections whose score or box is not finite are left aside too.
pub fn evaluate(images: &[EvalImage], classes: &BTreeMap<u32, String>) -> Metrics {
    measure(images, classes, Shape::Box)
}

/// The same for masks; pictures without masks count as empty ones.
pub fn evaluate_masks(images: &[EvalImage], classes: &BTreeMap<u32, String>) -> Metrics {
    measure(images, classes, Shape::Mask)
}

fn measure(images: &[EvalImage], classes: &BTreeMap<u32, String>, shape: Shape) -> Metrics {
    let per_class =
        classes.iter().map(|(id, name)| (name.clone(), evaluate_class(images, *id, shape))).collect();
    Metrics { per_class }
}

impl Metrics {
    /// Means over the classes that `chosen` names: of each measure over the classes that have it, as pycocotools does.
    pub fn mean(&self, chosen: impl Fn(&str) -> bool) -> ClassMetrics {
        let picked: Vec<&ClassMetrics> =
            self.per_class.iter().filter(|(name, _)| chosen(name)).map(|(_, metrics)| metrics).collect();
        let mean = |field: fn(&ClassMetrics) -> Option<f64>| {
            let values: Vec<f64> = picked.iter().filter_map(|metrics| field(metrics)).collect();
            average(&values)
        };
        ClassMetrics {
            objects: picked.iter().map(|metrics| metrics.objects).sum(),
            ap: mean(|m| m.ap),
            ap50: mean(|m| m.ap50),
            ap75: mean(|m| m.ap75),
            ap_small: mean(|m| m.ap_small),
            ap_medium: mean(|m| m.ap_medium),
            ap_large: mean(|m| m.ap_large),
            ar1: mean(|m| m.ar1),
            ar10: mean(|m| m.ar10),
            ar100: mean(|m| m.ar100),
            ar_small: mean(|m| m.ar_small),
            ar_medium: mean(|m| m.ar_medium),
            ar_large: mean(|m| m.ar_large),
        }
    }
}

/// `numpy.linspace(0.5, 0.95, 10)`.
fn thresholds() -> [f64; 10] {
    let step = (0.95 - 0.5) / 9.0;
    let mut out = [0.95; 10];
    for (index, value) in out.iter_mut().take(9).enumerate() {
        *value = 0.5 + index as f64 * step;
    }
    out
}

fn evaluate_class(images: &[EvalImage], class: u32, shape: Shape) -> ClassMetrics {
    let thresholds = thresholds();
    let pairs: Vec<Pairs<'_>> = images.iter().filter_map(|image| pairs(image, class, shape)).collect();
    let by_area = AREAS.map(|range| {
        let matched: Vec<Matched> = pairs.iter().map(|pair| pair.evaluate(range, &thresholds)).collect();
        LIMITS.map(|limit| Curve::of(&matched, limit, thresholds.len()))
    });
    let [all, small, medium, large] = &by_area;
    ClassMetrics {
        objects: all[2].as_ref().map_or(0, |curve| curve.positives),
        ap: mean_of(&all[2], |c| &c.precision),
        ap50: all[2].as_ref().map(|c| c.precision[0]),
        ap75: all[2].as_ref().map(|c| c.precision[5]),
        ap_small: mean_of(&small[2], |c| &c.precision),
        ap_medium: mean_of(&medium[2], |c| &c.precision),
        ap_large: mean_of(&large[2], |c| &c.precision),
        ar1: mean_of(&all[0], |c| &c.recall),
        ar10: mean_of(&all[1], |c| &c.recall),
        ar100: mean_of(&all[2], |c| &c.recall),
        ar_small: mean_of(&small[2], |c| &c.recall),
        ar_medium: mean_of(&medium[2], |c| &c.recall),
        ar_large: mean_of(&large[2], |c| &c.recall),
    }
}

/// The objects and detections of a class in one picture; `None` where there are neither.
fn pairs(image: &EvalImage, class: u32, shape: Shape) -> Option<Pairs<'_>> {
    const MOST: usize = LIMITS[LIMITS.len() - 1];
    let of_class = |t: &&Truth| t.class == class;
    let usable =
        |d: &&Scored| d.class == class && d.score.is_finite() && d.bbox.iter().all(|v| v.is_finite());
    if shape == Shape::Box {
        let truths: Vec<&Truth> = image.truths.iter().filter(of_class).collect();
        let detections: Vec<&Scored> = image.detections.iter().filter(usable).collect();
        return (!truths.is_empty() || !detections.is_empty()).then(|| Pairs::new(truths, detections, MOST));
    }
    let masks = image.masks.as_ref()?;
    let truths: Vec<_> = image.truths.iter().zip(&masks.truths).filter(|(t, _)| of_class(t)).collect();
    let detections: Vec<_> =
        image.detections.iter().zip(&masks.detections).filter(|(d, _)| usable(d)).collect();
    (!truths.is_empty() || !detections.is_empty()).then(|| Pairs::of_masks(truths, detections, MOST))
}

/// Precision (averaged over 101 recalls) and greatest recall, at each threshold.
struct Curve {
    positives: usize,
    precision: Vec<f64>,
    recall: Vec<f64>,
}

impl Curve {
    /// `None` when there is nothing to find.
    fn of(images: &[Matched], limit: usize, thresholds: usize) -> Option<Self> {
        let positives = images.iter().map(|image| image.positives).sum();
        if positives == 0 {
            return None;
        }
        let ranked = ranked(images, limit);
        let (precision, recall) = (0..thresholds)
            .map(|t| {
                let counted = ranked
                    .iter()
                    .filter(|(_, image, d)| !images[*image].ignored[t][*d])
                    .map(|(_, image, d)| images[*image].found[t][*d]);
                precision_recall(counted, positives)
            })
            .unzip();
        Some(Self { positives, precision, recall })
    }
}

/// Interpolated average precision and final recall of a ranked list of hits and misses. Detections that count neither
/// way only repeat a point of the curve, so that they may be absent.
fn precision_recall(ranked: impl Iterator<Item = bool>, positives: usize) -> (f64, f64) {
    let curve = points(ranked, positives);
    let mut sum = 0.0;
    for step in 0..RECALLS {
        let wanted = step as f64 * 0.01;
        let at = curve.partition_point(|(recall, _)| *recall < wanted);
        sum += curve.get(at).map_or(0.0, |(_, precision)| *precision);
    }
    (sum / RECALLS as f64, curve.last().map_or(0.0, |(recall, _)| *recall))
}

/// Recall and interpolated precision after each of a ranked list of hits and misses.
fn points(ranked: impl Iterator<Item = bool>, positives: usize) -> Vec<(f64, f64)> {
    let (mut hits, mut misses) = (0.0f64, 0.0f64);
    let mut curve: Vec<(f64, f64)> = Vec::new();
    for hit in ranked {
        if hit {
            hits += 1.0;
        } else {
            misses += 1.0;
        }
        curve.push((hits / positives as f64, hits / (hits + misses + f64::EPSILON)));
    }
    for index in (1..curve.len()).rev() {
        curve[index - 1].1 = curve[index - 1].1.max(curve[index].1);
    }
    curve
}

/// The precision-recall curve of a class's boxes at overlap 0.50: recall and interpolated precision after each detection,
/// from recall 0 on; `None` when there is nothing to find.
pub fn precision_recall_curve(images: &[EvalImage], class: u32) -> Option<Vec<(f64, f64)>> {
    let pairs = images.iter().filter_map(|image| pairs(image, class, Shape::Box));
    let matched: Vec<Matched> = pairs.map(|pair| pair.evaluate(AREAS[0], &thresholds()[..1])).collect();
    let positives = matched.iter().map(|image| image.positives).sum();
    if positives == 0 {
        return None;
    }
    let ranked = ranked(&matched, LIMITS[LIMITS.len() - 1]);
    let counted = ranked.iter().filter(|(_, image, d)| !matched[*image].ignored[0][*d]);
    let mut curve = points(counted.map(|(_, image, d)| matched[*image].found[0][*d]), positives);
    let first = curve.first().map_or(0.0, |(_, precision)| *precision);
    curve.insert(0, (0.0, first));
    Some(curve)
}

/// Score, picture and place of all detections, the best first.
fn ranked(images: &[Matched], limit: usize) -> Vec<(f64, usize, usize)> {
    let mut ranked: Vec<(f64, usize, usize)> = images
        .iter()
        .enumerate()
        .flat_map(|(image, m)| m.scores.iter().take(limit).enumerate().map(move |(d, s)| (*s, image, d)))
        .collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    ranked
}

fn mean_of(curve: &Option<Curve>, field: fn(&Curve) -> &[f64]) -> Option<f64> {
    curve.as_ref().and_then(|curve| average(field(curve)))
}

fn average(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perfect_detector_has_one() {
        let truth =
            Truth { class: 1, bbox: [0.0, 0.0, 50.0, 50.0], area: 2500.0, crowd: false, ignore: false };
        let found = Scored { class: 1, bbox: truth.bbox, score: 0.9 };
        let images = [EvalImage { truths: vec![truth], detections: vec![found], masks: None }];
        let classes = BTreeMap::from([(1, "a".to_owned()), (2, "b".to_owned())]);
        let metrics = evaluate(&images, &classes);
        let a = &metrics.per_class["a"];
        assert!((a.ap.unwrap() - 1.0).abs() < 1e-9 && a.ap_small.is_none() && a.ar_medium == Some(1.0));
        assert_eq!(metrics.per_class["b"], ClassMetrics::default());
        assert_eq!(metrics.mean(|_| true), *a);
    }

    #[test]
    fn the_curve_ends_at_the_recall_reached() {
        let truth = |x: f64| Truth {
            class: 1,
            bbox: [x, 0.0, 50.0, 50.0],
            area: 2500.0,
            crowd: false,
            ignore: false,
        };
        let found = |x: f64, score| Scored { class: 1, bbox: [x, 0.0, 50.0, 50.0], score };
        let detections = vec![found(0.0, 0.9), found(500.0, 0.8), found(100.0, 0.7), found(600.0, 0.1)];
        let truths = vec![truth(0.0), truth(100.0), truth(200.0)];
        let image = EvalImage { truths, detections, masks: None };
        let curve = precision_recall_curve(std::slice::from_ref(&image), 1).unwrap();
        let (recalls, precisions): (Vec<f64>, Vec<f64>) = curve.into_iter().unzip();
        let third = 1.0 / 3.0;
        assert_eq!(recalls, [0.0, third, third, 2.0 * third, 2.0 * third]);
        let expected = [1.0, 1.0, 2.0 * third, 2.0 * third, 0.5];
        assert!(precisions.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{precisions:?}");
        assert_eq!(precision_recall_curve(&[image], 2), None);
    }

    #[test]
    fn ignored_objects_count_neither_way() {
        let easy =
            Truth { class: 1, bbox: [0.0, 0.0, 50.0, 50.0], area: 2500.0, crowd: false, ignore: false };
        let hard = Truth { bbox: [100.0, 0.0, 50.0, 50.0], ignore: true, ..easy };
        let on = |t: Truth, score| Scored { class: 1, bbox: t.bbox, score };
        let classes = BTreeMap::from([(1, "a".to_owned())]);
        for detections in [vec![on(easy, 0.5)], vec![on(hard, 0.9), on(easy, 0.5)]] {
            let metrics =
                evaluate(&[EvalImage { truths: vec![easy, hard], detections, masks: None }], &classes);
            assert!((metrics.per_class["a"].ap.unwrap() - 1.0).abs() < 1e-9);
            assert_eq!(metrics.per_class["a"].objects, 1);
        }
    }
}
