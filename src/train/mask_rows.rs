//! Rows for columns of masks: pixels of regions that show an object whose mask is known.
//!
//! What is minimised is the OD API's loss, the cross entropy of sigmoids averaged over a region's pixels
//! (faster_rcnn_meta_arch.py, `_loss_box_classifier`), over the columns of the regions' own classes.

use super::features::Seen;
use super::network::{MaskBranch, Proposals, TwoStage};
use super::outlines::Outlines;
use super::rois::{Shows, around, assign};
use super::targets::Truth;
use super::task::ViewRows;
use crate::data::BoxYxyx;
use crate::error::Result;
use crate::random::SplitMix;

/// Regions of one object at most, its own box included, and of all objects of a view.
const REGIONS: (usize, usize) = (4, 12);
/// Features of a view's pixels at most, bytes, and pixels.
const OF_VIEW: (usize, usize) = (1 << 20, 1024);
/// What the mask of an object weighs, in pixels that say something of their own, over all views of its picture: neighbours
/// and views repeat each other.
const WORTH: f32 = 16.0;

/// Whether masks are learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Masks<'a> {
    /// The model has none, or all classes share them.
    None,
    /// They are.
    Learned,
    /// Why they are not: new columns are the mean of the old ones.
    Mean(&'a str),
}

/// A region and the object that it shows.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Shown {
    region: BoxYxyx,
    truth: usize,
}

/// The objects' own boxes and some around them, as detections lie.
fn regions(truths: &[Truth], outlines: &Outlines, view: usize) -> Vec<Shown> {
    let mut known: Vec<usize> =
        (0..truths.len()).filter(|&truth| truths[truth].shown() && outlines.has(truth)).collect();
    let (of_object, of_view) = REGIONS;
    if known.len() > of_view {
        // Another part of a crowded picture in each view.
        let first = view * of_view % known.len();
        known.rotate_left(first);
        known.truncate(of_view);
    }
    let subset: Vec<Truth> = known.iter().map(|&truth| truths[truth]).collect();
    let made = around(&subset, (subset.len() * of_object).min(of_view), view as u64);
    let shows = assign(&made, &subset);
    let shown = |(&region, shows): (&BoxYxyx, &Shows)| match *shows {
        Shows::Object(number) => Some(Shown { region, truth: known[number] }),
        _ => None,
    };
    made.iter().zip(&shows).filter_map(shown).collect()
}

/// `count` of so many pixels, one from each of as many stretches of equal length.
fn sample(pixels: usize, count: usize, random: &mut SplitMix) -> Vec<usize> {
    let stretch = pixels as f64 / count.max(1) as f64;
    let one =
        |number: usize| (((number as f64 + random.uniform(0.0, 1.0)) * stretch) as usize).min(pixels - 1);
    if count >= pixels { (0..pixels).collect() } else { (0..count).map(one).collect() }
}

/// Adds rows of a view for `classes` new classes, as those of the fit of this number.
pub(super) fn rows_of(
    network: &TwoStage,
    branch: &MaskBranch,
    proposals: &Proposals,
    seen: &Seen,
    (fit, classes): (usize, usize),
    rows: &mut ViewRows<'_>,
) -> Result<()> {
    let shown = regions(&seen.truths, &seen.outlines, seen.number);
    let (bytes, most) = OF_VIEW;
    let most = (bytes / (branch.depth.max(1) * size_of::<f32>())).min(most);
    let (height, width) = branch.size;
    let of_region = (most / shown.len().max(1)).clamp(1, (height * width).max(1));
    let mut random = SplitMix::new(seen.number as u64, &[0]);
    for part in shown.chunks(branch.at_once().max(1)) {
        let boxes: Vec<BoxYxyx> = part.iter().map(|shown| shown.region).collect();
        let mut pixels = Vec::with_capacity(part.len() * of_region);
        for number in 0..part.len() {
            pixels
                .extend(sample(height * width, of_region, &mut random).iter().map(|&pixel| (number, pixel)));
        }
        let features = network.look_at_pixels(branch, proposals, &boxes, &pixels)?;
        for (x, &(number, pixel)) in features.f32()?.chunks_exact(branch.depth.max(1)).zip(&pixels) {
            let Shown { region, truth } = part[number];
            let place = (pixel / width, pixel % width);
            let class = rows.new_class(seen.truths[truth].class).filter(|&class| class < classes);
            let target = seen.outlines.target(truth, &region, place, branch.size);
            let Some((class, target)) = class.zip(target) else { continue };
            let same = shown.iter().filter(|other| other.truth == truth).count();
            let share = (same * of_region * seen.of_picture.max(1)) as f32;
            let (mut y, mut v) = (vec![0.0; classes], vec![0.0; classes]);
            (y[class], v[class]) = (target, WORTH / share);
            rows.row((fit, 0), &[x, &y, &v])?;
        }
    }
    for shown in &shown {
        if let Some(class) = rows.new_class(seen.truths[shown.truth].class) {
            rows.positive(fit, class);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::outlines::Outline;
    use super::*;
    use crate::data::{ImageSource, Incomplete, LabelledImage, Object, Segmentation};

    fn truth(left: f32) -> Truth {
        let bbox = BoxYxyx::new(0.2, left, 0.6, left + 0.2);
        Truth { class: 0, bbox, visible: 1.0, crowd: false }
    }

    fn outline() -> Option<Arc<Outline>> {
        let polygon = Segmentation::Polygons(vec![vec![1.0, 1.0, 5.0, 1.0, 5.0, 5.0]]);
        let object = Object {
            class: "a".into(),
            bbox: BoxYxyx::new(0.1, 0.1, 0.5, 0.5),
            crowd: false,
            difficult: false,
            area: 8.0,
            mask: Some(polygon),
        };
        let image = LabelledImage {
            source: ImageSource::File("a.png".into()),
            width: 10,
            height: 10,
            objects: vec![],
            incomplete: Incomplete::Nothing,
        };
        Outline::of(&object, &image).map(Arc::new)
    }

    #[test]
    fn regions_are_those_of_objects_with_masks() {
        let truths = [truth(0.1), truth(0.5), Truth { crowd: true, ..truth(0.7) }];
        let of = vec![None, outline(), outline()];
        let outlines = Outlines { of, ..Outlines::default() };
        let shown = regions(&truths, &outlines, 3);
        assert!(shown.len() > 1 && shown.len() <= REGIONS.0, "{shown:?}");
        assert!(shown.iter().all(|s| s.truth == 1 && s.region.iou(&truths[1].bbox) >= 0.5), "{shown:?}");
        assert_eq!(shown[0].region, truths[1].bbox);
        assert_eq!(regions(&truths, &Outlines::default(), 3), []);
    }

    #[test]
    fn a_crowded_picture_shows_other_objects_in_each_view() {
        let truths: Vec<Truth> = (0..40).map(|i| truth(0.02 * i as f32)).collect();
        let outlines = Outlines { of: vec![outline(); 40], ..Outlines::default() };
        let seen: Vec<usize> =
            (0..4).flat_map(|view| regions(&truths, &outlines, view)).map(|s| s.truth).collect();
        assert_eq!(seen.len(), 4 * REGIONS.1);
        assert_eq!(seen.iter().collect::<std::collections::BTreeSet<_>>().len(), 40);
    }

    #[test]
    fn sampled_pixels_are_spread() {
        let mut random = SplitMix::new(1, &[]);
        let sampled = sample(100, 10, &mut random);
        assert!(sampled.iter().enumerate().all(|(i, pixel)| pixel / 10 == i), "{sampled:?}");
        assert_eq!(sample(5, 9, &mut random), [0, 1, 2, 3, 4]);
        assert_eq!(sample(7, 7, &mut random).len(), 7);
    }
}
