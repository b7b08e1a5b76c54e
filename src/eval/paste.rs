//! The mask of a box as a mask of the picture.
//!
//! `reframe_box_masks_to_image_masks` of the OD API's `utils/ops.py`, that is `tf.image.crop_and_resize` (bilinear, in
//! float32 as its CPU kernel computes, 0 outside) with the picture's corners seen from the box; inside where the value is
//! above one half, as the OD API's exporters have it.

use crate::data::{BoxYxyx, Rle};

/// A sampled place of one axis: the two neighbours and how far it is from the first.
type Sample = Option<(usize, usize, f32)>;

/// Where each of `to` pixels of the picture lies among the `from` rows or columns of the mask.
fn samples(low: f32, high: f32, from: usize, to: u32) -> Vec<Sample> {
    let size = (high - low).max(1e-4);
    let (first, last) = ((0.0 - low) / size, (1.0 - low) / size);
    let end = from.saturating_sub(1) as f32;
    let step = if to > 1 { (last - first) * end / (to - 1) as f32 } else { 0.0 };
    let place = |at: u32| {
        let place = if to > 1 { first * end + at as f32 * step } else { 0.5 * (first + last) * end };
        // Written so that a number that is not finite is outside.
        (place >= 0.0 && place <= end)
            .then(|| (place.floor() as usize, place.ceil() as usize, place - place.floor()))
    };
    (0..to).map(place).collect()
}

/// The pixels of a picture `height` x `width` that a box's mask (`mask_height` rows of `mask_width` values) covers.
pub fn paste(
    mask: &[f32],
    (mask_height, mask_width): (usize, usize),
    bbox: BoxYxyx,
    height: u32,
    width: u32,
) -> Rle {
    let rows = samples(bbox.ymin, bbox.ymax, mask_height, height);
    let columns = samples(bbox.xmin, bbox.xmax, mask_width, width);
    let at = |y: usize, x: usize| mask.get(y * mask_width + x).copied().unwrap_or(0.0);
    Rle::from_pixels(height, width, |y, x| {
        let (Some((top, bottom, down)), Some((left, right, along))) = (rows[y as usize], columns[x as usize])
        else {
            return false;
        };
        let upper = at(top, left) + (at(top, right) - at(top, left)) * along;
        let lower = at(bottom, left) + (at(bottom, right) - at(bottom, left)) * along;
        upper + (lower - upper) * down > 0.5
    })
}
