//! Which parts of a picture the network is shown, and where the picture's objects lie in them.
//!
//! Few pictures show an object at few sizes and places, and every anchor shape of an SSD head is a classifier of its
//! own. Windows around each object at sizes spread by a Halton sequence put positives on all of them.

use super::shape::Geometry;
use crate::data::BoxYxyx;
use crate::random::{SplitMix, halton};

/// Views of all pictures that the automatic count aims at.
const BUDGET: usize = 360;

/// Square root of (object area / view area): the smallest and the largest of an object view.
const OBJECT_SCALE: (f64, f64) = (0.12, 0.95);

/// Log of the largest change of a view's aspect, in fractions of the picture: the network sees objects squashed by the
/// picture's aspect, and must.
const ASPECT_JITTER: f64 = 0.35;

/// Irrational steps from picture to picture (powers of the inverse golden ratio's kin), one per Halton base.
const ROTATION: [(u64, f64); 4] =
    [(2, 0.618_033_988_7), (3, 0.754_877_666_2), (5, 0.569_840_291_0), (7, 0.819_172_513_4)];

/// Object views in the order in which they are taken: number, and whether its colours change. Number 3, mirrored, is
/// the best single companion of the whole picture.
const OBJECT_ORDER: [(u64, bool); 6] = [(3, true), (2, true), (4, true), (5, true), (0, false), (1, false)];

/// A change of colours: saturation about each pixel's mean, then contrast about the view's mean, then brightness.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Colour {
    /// Added to all values, of 255.
    pub brightness: f64,
    /// Factor of the distance from the view's mean colour.
    pub contrast: f64,
    /// Factor of the distance from grey.
    pub saturation: f64,
}

/// A rectangle of a picture as the network is shown it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct View {
    /// ymin, xmin, ymax, xmax as fractions of the picture; it may reach outside.
    pub window: [f64; 4],
    /// Whether it is mirrored left to right.
    pub flip: bool,
    /// A change of colours.
    pub colour: Option<Colour>,
}

impl View {
    /// The whole picture.
    pub const WHOLE: Self = Self { window: [0.0, 0.0, 1.0, 1.0], flip: false, colour: None };

    /// A box of the picture as a box of the view's input, clipped, and the part of its area that is left.
    ///
    /// `content` is the part of the input's height and width that the window fills (1, 1 when squashed).
    pub fn place(&self, bbox: &BoxYxyx, content: (f64, f64)) -> (BoxYxyx, f32) {
        let [y0, x0, y1, x1] = self.window;
        let (height, width) = (y1 - y0, x1 - x0);
        let [ymin, ymax] = [bbox.ymin, bbox.ymax].map(|y| (f64::from(y) - y0) / height);
        let [mut xmin, mut xmax] = [bbox.xmin, bbox.xmax].map(|x| (f64::from(x) - x0) / width);
        if self.flip {
            (xmin, xmax) = (1.0 - xmax, 1.0 - xmin);
        }
        let clip = |v: f64| v.clamp(0.0, 1.0);
        let (cy0, cx0, cy1, cx1) = (clip(ymin), clip(xmin), clip(ymax), clip(xmax));
        let visible = (cy1 - cy0) * (cx1 - cx0) / ((ymax - ymin) * (xmax - xmin)).max(1e-12);
        let (h, w) = content;
        (BoxYxyx::new((cy0 * h) as f32, (cx0 * w) as f32, (cy1 * h) as f32, (cx1 * w) as f32), visible as f32)
    }
}

/// Views per picture for so many pictures: eight for a few, two for many, about 360 in all between.
pub fn automatic_count(pictures: usize) -> usize {
    match pictures {
        0..=20 => 8,
        101.. => 2,
        _ => (BUDGET / pictures).clamp(3, 8),
    }
}

/// The views of one picture: whole, mirrored (from four views on), then around `objects` in turn.
///
/// `picture` is its number in the data; a picture without objects is shown whole and mirrored only. `count` is at
/// least one.
pub fn plan(picture: usize, objects: &[BoxYxyx], count: usize, geometry: Geometry, seed: u64) -> Vec<View> {
    let mut views = vec![View::WHOLE];
    if count >= 4 || (objects.is_empty() && count >= 2) {
        views.push(View { flip: true, ..View::WHOLE });
    }
    if objects.is_empty() {
        return views;
    }
    let later = (OBJECT_ORDER.len() as u64..).map(|number| (number, number % 2 == 0));
    for (number, coloured) in OBJECT_ORDER.into_iter().chain(later).take(count.saturating_sub(views.len())) {
        let mut view = object_view(picture as u64, objects, number, geometry, seed);
        view.colour = coloured.then(|| colour(picture as u64, number, seed));
        views.push(view);
    }
    views
}

/// View `number` around an object; odd ones are mirrored. `objects` is not empty and its boxes have area.
pub fn object_view(picture: u64, objects: &[BoxYxyx], number: u64, geometry: Geometry, seed: u64) -> View {
    let Some(object) = objects.get(number as usize % objects.len().max(1)) else {
        return View::WHOLE;
    };
    // Larger seeds would leave no digits for the fraction below.
    let seed = seed & 0xffff_ffff;
    let index = number + 1 + seed * 1000;
    // Cranley and Patterson's rotation: each picture gets the same spread from another start.
    let offset = (picture.wrapping_mul(7919).wrapping_add(seed * 31)) as f64;
    let [scale, aspect, down, across] =
        ROTATION.map(|(base, step)| (halton(index, base) + (offset * step) % 1.0) % 1.0);
    let [ymax, xmax] = [object.ymax, object.xmax].map(f64::from);
    let height = (ymax - f64::from(object.ymin)).max(1e-6);
    let width = (xmax - f64::from(object.xmin)).max(1e-6);
    let (smallest, largest) = OBJECT_SCALE;
    let side = (height * width).sqrt() / (smallest * (largest / smallest).powf(scale));
    let (tall, wide) = match geometry {
        Geometry::Squash => {
            let jitter = (ASPECT_JITTER * (2.0 * aspect - 1.0)).exp();
            ((side * jitter).max(height), (side / jitter).max(width))
        }
        Geometry::KeepAspect | Geometry::Range { .. } => {
            (side.max(height).max(width), side.max(height).max(width))
        }
    };
    let y0 = ymax - tall + (tall - height) * down;
    let x0 = xmax - wide + (wide - width) * across;
    View { window: [y0, x0, y0 + tall, x0 + wide], flip: number % 2 == 1, colour: None }
}

fn colour(picture: u64, number: u64, seed: u64) -> Colour {
    let mut random = SplitMix::new(seed, &[picture, number]);
    Colour {
        brightness: random.uniform(-25.0, 25.0),
        contrast: random.uniform(0.8, 1.25),
        saturation: random.uniform(0.75, 1.3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUCK: BoxYxyx = BoxYxyx::new(0.4, 0.3, 0.6, 0.7);

    #[test]
    fn as_many_views_as_pictures_allow() {
        assert_eq!([1, 20, 45, 60, 100, 101, 5000].map(automatic_count), [8, 8, 8, 6, 3, 2, 2]);
    }

    #[test]
    fn whole_first_then_around_objects() {
        for count in 1..12 {
            let views = plan(3, &[DUCK], count, Geometry::Squash, 0);
            assert_eq!(views.len(), count);
            assert_eq!(views[0], View::WHOLE);
            for view in &views {
                let (_, visible) = view.place(&DUCK, (1.0, 1.0));
                assert!((visible - 1.0).abs() < 1e-5, "an object view holds its object: {visible}");
            }
            assert_eq!(views, plan(3, &[DUCK], count, Geometry::Squash, 0));
        }
        assert!(plan(0, &[DUCK], 2, Geometry::Squash, 0)[1].flip);
        assert_ne!(plan(0, &[DUCK], 3, Geometry::Squash, 1), plan(0, &[DUCK], 3, Geometry::Squash, 2));
        assert_eq!(plan(0, &[], 9, Geometry::Squash, 0).len(), 2);
        assert_eq!(plan(0, &[DUCK], 0, Geometry::Squash, u64::MAX).len(), 1);
    }

    #[test]
    fn windows_keep_the_pictures_aspect_where_the_network_does() {
        for number in 0..20 {
            let [y0, x0, y1, x1] = object_view(1, &[DUCK], number, Geometry::KeepAspect, 0).window;
            assert!(((y1 - y0) - (x1 - x0)).abs() < 1e-9);
        }
    }

    #[test]
    fn boxes_follow_window_mirror_and_padding() {
        let view = View { window: [0.5, 0.0, 1.0, 0.5], flip: true, colour: None };
        let (b, visible) = view.place(&DUCK, (1.0, 0.5));
        let [ymin, xmin, ymax, xmax] = b.to_array();
        assert!((ymin - 0.0).abs() < 1e-6 && (ymax - 0.2).abs() < 1e-6, "{b:?}");
        assert!((xmin - 0.0).abs() < 1e-6 && (xmax - 0.2).abs() < 1e-6, "{b:?}");
        assert!((visible - 0.25).abs() < 1e-5, "{visible}");
    }
}
