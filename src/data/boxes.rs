//! Boxes in the OD API's order and units.

use serde::{Deserialize, Serialize};

/// A box `ymin, xmin, ymax, xmax`, each a fraction of the picture's height or width (0 is top or left, 1 bottom or right).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BoxYxyx {
    /// Top edge, fraction of the height.
    pub ymin: f32,
    /// Left edge, fraction of the width.
    pub xmin: f32,
    /// Bottom edge, fraction of the height.
    pub ymax: f32,
    /// Right edge, fraction of the width.
    pub xmax: f32,
}

impl BoxYxyx {
    /// A box from the OD API's order of corners.
    pub const fn new(ymin: f32, xmin: f32, ymax: f32, xmax: f32) -> Self {
        Self { ymin, xmin, ymax, xmax }
    }

    /// A box from pixel corners of a picture `width` x `height` pixels; computed in f64, as the OD API's converters do.
    pub fn from_pixels(xmin: f64, ymin: f64, xmax: f64, ymax: f64, width: u32, height: u32) -> Self {
        let (w, h) = (f64::from(width), f64::from(height));
        Self::new((ymin / h) as f32, (xmin / w) as f32, (ymax / h) as f32, (xmax / w) as f32)
    }

    /// Height, 0 for a box whose edges are crossed.
    pub fn height(&self) -> f32 {
        (self.ymax - self.ymin).max(0.0)
    }

    /// Width, 0 for a box whose edges are crossed.
    pub fn width(&self) -> f32 {
        (self.xmax - self.xmin).max(0.0)
    }

    /// Area as a fraction of the picture.
    pub fn area(&self) -> f32 {
        self.height() * self.width()
    }

    /// True when all four numbers are finite.
    pub fn is_finite(&self) -> bool {
        self.to_array().iter().all(|v| v.is_finite())
    }

    /// The common part of two boxes, of zero size when they are apart.
    pub fn intersection(&self, other: &Self) -> Self {
        let (ymin, xmin) = (self.ymin.max(other.ymin), self.xmin.max(other.xmin));
        let (ymax, xmax) = (self.ymax.min(other.ymax), self.xmax.min(other.xmax));
        Self::new(ymin, xmin, ymax.max(ymin), xmax.max(xmin))
    }

    /// Intersection over union, in [0, 1]; 0 when both are empty.
    pub fn iou(&self, other: &Self) -> f32 {
        let common = self.intersection(other).area();
        let union = self.area() + other.area() - common;
        if union > 0.0 { common / union } else { 0.0 }
    }

    /// Intersection over the area of `self`: COCO's measure of a detection inside a crowd region.
    pub fn intersection_over_first(&self, other: &Self) -> f32 {
        let own = self.area();
        if own > 0.0 { self.intersection(other).area() / own } else { 0.0 }
    }

    /// The part inside the picture.
    #[must_use]
    pub fn clip(&self) -> Self {
        Self::new(
            self.ymin.clamp(0.0, 1.0),
            self.xmin.clamp(0.0, 1.0),
            self.ymax.clamp(0.0, 1.0),
            self.xmax.clamp(0.0, 1.0),
        )
    }

    /// `[ymin, xmin, ymax, xmax]`.
    pub fn to_array(self) -> [f32; 4] {
        [self.ymin, self.xmin, self.ymax, self.xmax]
    }

    /// `[xmin, ymin, xmax, ymax]` in pixels of a picture `width` x `height`.
    pub fn to_pixels(self, width: u32, height: u32) -> [f32; 4] {
        let (w, h) = (width as f32, height as f32);
        [self.xmin * w, self.ymin * h, self.xmax * w, self.ymax * h]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps() {
        let a = BoxYxyx::new(0.0, 0.0, 0.5, 0.5);
        let b = BoxYxyx::new(0.25, 0.25, 0.75, 0.75);
        assert!((a.iou(&b) - 0.0625 / 0.4375).abs() < 1e-6);
        assert!((a.intersection_over_first(&b) - 0.25).abs() < 1e-6);
        let apart = BoxYxyx::new(0.8, 0.8, 0.9, 0.9);
        assert_eq!(a.iou(&apart), 0.0);
        let empty = BoxYxyx::new(0.1, 0.1, 0.1, 0.1);
        assert_eq!(empty.iou(&empty), 0.0);
        assert_eq!(empty.intersection_over_first(&a), 0.0);
    }

    #[test]
    fn clips_and_converts() {
        let b = BoxYxyx::from_pixels(-10.0, 5.0, 50.0, 120.0, 100, 100);
        assert_eq!(b.clip(), BoxYxyx::new(0.05, 0.0, 1.0, 0.5));
        assert_eq!(b.clip().to_pixels(200, 100), [0.0, 5.0, 100.0, 100.0]);
    }
}
