//! Drawing of detections: frames in the class's colour, labels on filled ground.
//!
//! The font is DejaVu Sans Bold (Bitstream Vera licence), from the crate `dejavu`.

use ab_glyph::{Font, FontRef, Glyph, GlyphId, PxScale, ScaleFont, point};

use crate::data::{BoxYxyx, Picture};
use crate::error::{Error, Result};

/// Smallest text height in pixels that is still legible.
const SMALLEST: f32 = 11.0;

/// One thing to draw.
#[derive(Debug, Clone)]
pub struct Caption {
    /// Where, as fractions of the picture.
    pub bbox: BoxYxyx,
    /// Id of the class, which chooses the colour.
    pub class_id: u32,
    /// What to write, for example `dog 0.87`; empty for a frame alone.
    pub text: String,
}

/// The colour of a class: hues a golden angle apart, so that neighbouring ids differ.
pub fn color_of(class_id: u32) -> [u8; 3] {
    let hue = f64::from(class_id) * 137.507_764 % 360.0;
    // Alternating brightness tells classes apart whose hues come near each other.
    let value = if class_id.is_multiple_of(2) { 0.95 } else { 0.82 };
    let channel = |offset: f64| {
        let k = (offset + hue / 60.0) % 6.0;
        let level = value - value * 0.85 * k.min(4.0 - k).clamp(0.0, 1.0);
        (level * 255.0).round() as u8
    };
    [channel(5.0), channel(3.0), channel(1.0)]
}

/// Draws frames, then labels; give the best detection first, and its label lies on top.
pub fn draw(picture: &mut Picture, captions: &[Caption]) -> Result<()> {
    let font = FontRef::try_from_slice(dejavu::sans::bold()).map_err(|_| Error::Damaged {
        what: "the built-in font".to_owned(),
        reason: "not a font".to_owned(),
    })?;
    let side = picture.width.max(picture.height) as f32;
    let frame = ((side / 400.0).round() as i64).clamp(3, 12);
    for caption in captions.iter().rev() {
        draw_frame(picture, caption.bbox, color_of(caption.class_id), frame);
    }
    let mut labels: Vec<Label> = Vec::new();
    for caption in captions.iter().filter(|caption| !caption.text.is_empty()) {
        let label = place_label(picture, &font, caption, (side / 64.0).clamp(13.0, 64.0), frame, &labels);
        labels.push(label);
    }
    for label in labels.into_iter().rev() {
        paint_label(picture, &font, label);
    }
    Ok(())
}

/// A frame whose outer edge is the box's, clipped to the picture.
fn draw_frame(picture: &mut Picture, bbox: BoxYxyx, color: [u8; 3], frame: i64) {
    let [x0, y0, x1, y1] = corners(picture, bbox);
    fill(picture, [x0, y0, x1, y0 + frame], color);
    fill(picture, [x0, y1 - frame, x1, y1], color);
    fill(picture, [x0, y0, x0 + frame, y1], color);
    fill(picture, [x1 - frame, y0, x1, y1], color);
}

struct Label {
    /// `[x0, y0, x1, y1]`, pixels, the last ones exclusive.
    ground: [i64; 4],
    /// From the ground's corner to the text.
    pad: i64,
    glyphs: Vec<Glyph>,
    color: [u8; 3],
}

/// Lays out a label that fits the picture's width and finds it a place that covers those placed before the least.
fn place_label(
    picture: &Picture,
    font: &FontRef<'_>,
    caption: &Caption,
    size: f32,
    frame: i64,
    placed: &[Label],
) -> Label {
    let (width, height) = (i64::from(picture.width), i64::from(picture.height));
    let [x0, y0, x1, y1] = corners(picture, caption.bbox);
    // On a small thing a big label would cover the neighbours.
    let small = ((y1 - y0).max(x1 - x0) as f32) < 4.0 * size;
    let mut size = if small { (size * 0.75).max(SMALLEST) } else { size };
    let margin = |size: f32| (size * 0.25).ceil() as i64;
    let mut text = caption.text.clone();
    let mut line = layout(font, &text, size);
    while size > SMALLEST && line.width + 2 * margin(size) > width {
        size = (size * 0.9).max(SMALLEST);
        line = layout(font, &text, size);
    }
    while line.width + 2 * margin(size) > width && text.chars().count() > 1 {
        text.pop();
        line = layout(font, &format!("{}…", text.trim_end()), size);
    }
    let pad = margin(size);
    let (w, h) = (line.width + 2 * pad, line.height + pad);
    // The usual place first: above the frame at its left.
    let candidates = [
        (x0, y0 - h),
        (x1 - w, y0 - h),
        (x0, y1),
        (x1 - w, y1),
        (x0 + frame, y0 + frame),
        (x1 - frame - w, y0 + frame),
        (x0 + frame, y1 - frame - h),
        (x1 - frame - w, y1 - frame - h),
    ];
    let grounds = candidates.map(|(x, y)| {
        let (x, y) = (x.min(width - w).max(0), y.min(height - h).max(0));
        [x, y, x + w, y + h]
    });
    let cost = |ground: &[i64; 4]| -> i64 { placed.iter().map(|label| common(ground, &label.ground)).sum() };
    let ground = grounds.into_iter().min_by_key(cost).unwrap_or(grounds[0]);
    Label { ground, pad, glyphs: line.glyphs, color: color_of(caption.class_id) }
}

fn paint_label(picture: &mut Picture, font: &FontRef<'_>, label: Label) {
    let Label { ground, pad, glyphs, color } = label;
    fill(picture, ground, color);
    let bright = 0.299 * f32::from(color[0]) + 0.587 * f32::from(color[1]) + 0.114 * f32::from(color[2]);
    let ink = if bright > 140.0 { [0, 0, 0] } else { [255, 255, 255] };
    for glyph in glyphs {
        let Some(outline) = font.outline_glyph(glyph) else { continue };
        let bounds = outline.px_bounds();
        let (dx, dy) = (bounds.min.x as i64 + ground[0] + pad, bounds.min.y as i64 + ground[1] + pad / 2);
        outline.draw(|x, y, cover| blend(picture, dx + i64::from(x), dy + i64::from(y), ink, cover));
    }
}

/// Pixels that two rectangles share.
fn common(a: &[i64; 4], b: &[i64; 4]) -> i64 {
    let width = a[2].min(b[2]) - a[0].max(b[0]);
    let height = a[3].min(b[3]) - a[1].max(b[1]);
    width.max(0) * height.max(0)
}

struct Layout {
    glyphs: Vec<Glyph>,
    width: i64,
    height: i64,
}

fn layout(font: &FontRef<'_>, text: &str, size: f32) -> Layout {
    let scaled = font.as_scaled(PxScale::from(size));
    let mut glyphs = Vec::new();
    let mut x = 0.0f32;
    let mut last: Option<GlyphId> = None;
    for c in text.chars().filter(|c| !c.is_control()) {
        let id = scaled.glyph_id(c);
        if let Some(last) = last {
            x += scaled.kern(last, id);
        }
        glyphs.push(id.with_scale_and_position(PxScale::from(size), point(x, scaled.ascent())));
        x += scaled.h_advance(id);
        last = Some(id);
    }
    Layout { glyphs, width: x.ceil() as i64, height: scaled.height().ceil() as i64 }
}

/// `[x0, y0, x1, y1]` in whole pixels inside the picture, the last ones exclusive.
fn corners(picture: &Picture, bbox: BoxYxyx) -> [i64; 4] {
    let [x0, y0, x1, y1] = bbox.clip().to_pixels(picture.width, picture.height);
    [x0, y0, x1, y1].map(|v| if v.is_finite() { v.round() as i64 } else { 0 })
}

fn fill(picture: &mut Picture, [x0, y0, x1, y1]: [i64; 4], color: [u8; 3]) {
    let (width, height) = (i64::from(picture.width), i64::from(picture.height));
    let (x0, x1) = (x0.clamp(0, width), x1.clamp(0, width));
    for y in y0.clamp(0, height)..y1.clamp(0, height) {
        for x in x0..x1 {
            blend(picture, x, y, color, 1.0);
        }
    }
}

fn blend(picture: &mut Picture, x: i64, y: i64, color: [u8; 3], cover: f32) {
    let (width, height) = (i64::from(picture.width), i64::from(picture.height));
    if !(0..width).contains(&x) || !(0..height).contains(&y) {
        return;
    }
    let at = ((y * width + x) * 3) as usize;
    let Some(pixel) = picture.rgb.get_mut(at..at + 3) else { return };
    let cover = cover.clamp(0.0, 1.0);
    for (old, new) in pixel.iter_mut().zip(color) {
        *old = (f32::from(*old) * (1.0 - cover) + f32::from(new) * cover).round() as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blank(width: u32, height: u32) -> Picture {
        Picture { width, height, rgb: vec![7; (width * height * 3) as usize] }
    }

    #[test]
    fn draws_on_any_size() {
        for (width, height) in [(1, 1), (2, 300), (300, 2), (40, 40), (640, 480)] {
            for bbox in [
                BoxYxyx::new(0.0, 0.0, 1.0, 1.0),
                BoxYxyx::new(-5.0, -1.0, 0.5, 9.0),
                BoxYxyx::new(0.9, 0.9, 0.1, 0.1),
                BoxYxyx::new(f32::NAN, 0.0, 1.0, f32::INFINITY),
            ] {
                let mut picture = blank(width, height);
                let text = "a rather long name äöü 中 0.99".to_owned();
                draw(&mut picture, &[Caption { bbox, class_id: 91, text }]).unwrap();
                assert_eq!(picture.rgb.len(), (width * height * 3) as usize);
            }
        }
    }

    #[test]
    fn frame_is_three_pixels_in_the_colour_of_the_class() {
        let mut picture = blank(100, 100);
        let caption = Caption { bbox: BoxYxyx::new(0.1, 0.2, 0.9, 0.8), class_id: 5, text: String::new() };
        draw(&mut picture, &[caption]).unwrap();
        let at = |x: usize, y: usize| &picture.rgb[(y * 100 + x) * 3..][..3];
        assert_eq!(at(20, 50), color_of(5));
        assert_eq!(at(22, 50), color_of(5));
        assert_eq!(at(23, 50), [7, 7, 7]);
        assert_eq!(at(19, 50), [7, 7, 7]);
        assert_eq!(at(79, 89), color_of(5));
        assert_eq!(at(80, 89), [7, 7, 7]);
    }

    #[test]
    fn colours_of_neighbours_differ() {
        for id in 1..100 {
            let (a, b) = (color_of(id), color_of(id + 1));
            let difference: i32 = a.iter().zip(b).map(|(x, y)| (i32::from(*x) - i32::from(y)).abs()).sum();
            assert!(difference > 90, "{id} {a:?} {b:?}");
        }
    }
}
