//! What the mask of a region should be: the object's mask as the region cuts it.
//!
//! The OD API crops the labelled mask to each region with `CropAndResize` at the size of the model's masks
//! (faster_rcnn_meta_arch.py, `_loss_box_classifier`): bilinear, the region's corners on the outermost samples, 0 outside of
//! the picture. The numbers between 0 and 1 at an outline are targets as they are.

use std::sync::Arc;

use super::views::View;
use crate::data::{BoxYxyx, LabelledImage, Object, Rle};

/// The pixels that an object covers, ready for single questions.
#[derive(Debug, Clone)]
pub struct Outline {
    height: u32,
    width: u32,
    /// Numbers of pixels, down the columns, at which runs end; background first.
    ends: Vec<u32>,
}

impl Outline {
    /// Of an object's mask in its picture; none where it has none that fits.
    pub fn of(object: &Object, image: &LabelledImage) -> Option<Self> {
        object.mask.as_ref()?.rasterise(image.height, image.width).map(|mask| Self::new(&mask))
    }

    fn new(mask: &Rle) -> Self {
        let (height, width) = mask.size();
        let sum = |sum: &mut u32, run: &u32| {
            *sum = sum.saturating_add(*run);
            Some(*sum)
        };
        Self { height, width, ends: mask.counts().iter().scan(0, sum).collect() }
    }

    /// 1 where the pixel is covered, else 0.
    fn at(&self, row: u32, column: u32) -> f32 {
        let pixel = column * self.height + row;
        let run = self.ends.partition_point(|&end| end <= pixel);
        if run % 2 == 1 && run < self.ends.len() { 1.0 } else { 0.0 }
    }

    /// Between four pixels; `y` and `x` are fractions of the picture. Outside of it 0.
    fn sample(&self, y: f64, x: f64) -> f32 {
        let along = |at: f64, size: u32| {
            let place = at * f64::from(size.saturating_sub(1));
            // Written so that a number that is not finite is outside.
            (size > 0 && place >= 0.0 && place <= f64::from(size - 1))
                .then(|| (place.floor() as u32, place.ceil() as u32, (place - place.floor()) as f32))
        };
        let (Some((top, bottom, down)), Some((left, right, across))) =
            (along(y, self.height), along(x, self.width))
        else {
            return 0.0;
        };
        let upper = self.at(top, left) + (self.at(top, right) - self.at(top, left)) * across;
        let lower = self.at(bottom, left) + (self.at(bottom, right) - self.at(bottom, left)) * across;
        upper + (lower - upper) * down
    }
}

/// The outlines of the objects of a view.
#[derive(Debug, Clone)]
pub struct Outlines {
    /// By number of the view's truths; none for those without a mask.
    pub of: Vec<Option<Arc<Outline>>>,
    /// How the view lies in its picture.
    pub view: View,
    /// The part of the network's input, in height and width, that the view fills.
    pub content: (f64, f64),
}

impl Default for Outlines {
    fn default() -> Self {
        Self { of: Vec::new(), view: View::WHOLE, content: (1.0, 1.0) }
    }
}

impl Outlines {
    /// Whether a truth has a mask.
    pub fn has(&self, truth: usize) -> bool {
        self.of.get(truth).is_some_and(Option::is_some)
    }

    /// The target of one pixel, [0, 1]: of a mask of `rows` x `columns` for a region, in fractions of the network's input.
    /// None where the truth has no mask.
    pub fn target(
        &self,
        truth: usize,
        region: &BoxYxyx,
        (row, column): (usize, usize),
        (rows, columns): (usize, usize),
    ) -> Option<f32> {
        let outline = self.of.get(truth)?.as_ref()?;
        // One sample alone lies in the middle (crop_and_resize_op.cc).
        let part = |at: usize, of: usize| if of > 1 { at as f64 / (of - 1) as f64 } else { 0.5 };
        let along = |low: f32, high: f32, part: f64| f64::from(low) + f64::from(high - low) * part;
        let y = along(region.ymin, region.ymax, part(row, rows)) / self.content.0;
        let mut x = along(region.xmin, region.xmax, part(column, columns)) / self.content.1;
        if self.view.flip {
            x = 1.0 - x;
        }
        let [y0, x0, y1, x1] = self.view.window;
        Some(outline.sample(y0 + y * (y1 - y0), x0 + x * (x1 - x0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture of 11 rows and 21 columns whose left upper quarter is covered, rows 0..=5 and columns 0..=10.
    fn outlines(view: View, content: (f64, f64)) -> Outlines {
        let mask = Rle::from_pixels(11, 21, |row, column| row <= 5 && column <= 10);
        Outlines { of: vec![Some(Arc::new(Outline::new(&mask))), None], view, content }
    }

    fn targets(outlines: &Outlines, region: [f32; 4], size: (usize, usize)) -> Vec<f32> {
        let [ymin, xmin, ymax, xmax] = region;
        let region = BoxYxyx::new(ymin, xmin, ymax, xmax);
        let cells = (0..size.0).flat_map(|row| (0..size.1).map(move |column| (row, column)));
        cells.map(|cell| outlines.target(0, &region, cell, size).unwrap()).collect()
    }

    #[test]
    fn corners_of_a_region_lie_on_the_outermost_samples() {
        let whole = outlines(View::WHOLE, (1.0, 1.0));
        assert_eq!(targets(&whole, [0.0, 0.0, 1.0, 1.0], (2, 2)), [1.0, 0.0, 0.0, 0.0]);
        // Samples at rows 5, 5.25, 5.5, 5.75 and 6.
        let edge = targets(&whole, [0.5, 0.1, 0.6, 0.1], (5, 1));
        assert!(edge.iter().zip([1.0, 0.75, 0.5, 0.25, 0.0]).all(|(a, b)| (a - b).abs() < 1e-4), "{edge:?}");
        assert_eq!(targets(&whole, [0.0, 0.0, 1.0, 0.2], (1, 1)), [1.0], "one sample is in the middle");
        assert_eq!(targets(&whole, [-0.4, -0.4, 0.4, 0.4], (2, 2)), [0.0, 0.0, 0.0, 1.0], "outside is none");
        assert_eq!(targets(&whole, [f32::NAN, 0.0, 0.4, 0.4], (1, 1)), [0.0]);
        assert!(!whole.has(1) && !whole.has(2) && whole.has(0));
        assert!(whole.target(1, &BoxYxyx::new(0.0, 0.0, 1.0, 1.0), (0, 0), (1, 1)).is_none());
    }

    #[test]
    fn views_are_undone() {
        // The right half of the picture's upper half, mirrored, in the left half of the input.
        let view = View { window: [0.0, 0.5, 0.5, 1.0], flip: true, colour: None };
        let seen = outlines(view, (1.0, 0.5));
        assert_eq!(targets(&seen, [0.0, 0.0, 1.0, 0.5], (2, 2)), [0.0, 1.0, 0.0, 1.0]);
        let grown = View { window: [-1.0, -1.0, 1.0, 1.0], flip: false, colour: None };
        assert_eq!(targets(&outlines(grown, (1.0, 1.0)), [0.4, 0.4, 0.6, 0.6], (2, 2)), [0.0, 0.0, 0.0, 1.0]);
    }
}
