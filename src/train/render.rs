//! Pixels of a view, taken straight from the picture.

use super::shape::Geometry;
use super::views::{Colour, View};
use crate::data::Picture;

/// Value where a view reaches outside the picture: the middle, which most preprocessors map to zero.
const OUTSIDE: f32 = 127.0;

/// Height and width in pixels that a picture of this size fills of the network's input (OD API, `resize_to_range`).
pub fn content_size(geometry: Geometry, input: (usize, usize), picture: (usize, usize)) -> (usize, usize) {
    let (height, width) = (picture.0.max(1) as f64, picture.1.max(1) as f64);
    match geometry {
        Geometry::Squash => input,
        Geometry::KeepAspect => {
            let scale = (input.0 as f64 / height).min(input.1 as f64 / width);
            let side = |length: f64, most: usize| ((length * scale).round() as usize).clamp(1, most.max(1));
            (side(height, input.0), side(width, input.1))
        }
        Geometry::Range { least, most } => {
            let at = |scale: f64| [height, width].map(|side| ((side * scale).round() as usize).max(1));
            let mut sides = at(least as f64 / height.min(width));
            if sides[0].max(sides[1]) > most {
                sides = at(most as f64 / height.max(width));
            }
            (sides[0], sides[1])
        }
    }
}

/// Height and width in pixels of what is rendered of a picture of this size.
pub fn canvas(geometry: Geometry, input: (usize, usize), picture: (usize, usize)) -> (usize, usize) {
    match geometry {
        Geometry::Squash | Geometry::KeepAspect => input,
        Geometry::Range { .. } => content_size(geometry, input, picture),
    }
}

/// A view at the size of the network's input ([`canvas`]), `height · width · 3` bytes.
///
/// Two-tap bilinear without half-pixel centres and without smoothing, as `ResizeBilinear` of an exported model does it
/// (`resize_bilinear_op.cc`, `LegacyScaler`): what the class layer learns from must be what it will be served.
pub fn render(picture: &Picture, view: &View, input: (usize, usize), geometry: Geometry) -> Vec<u8> {
    let (height, width) = (picture.height as usize, picture.width as usize);
    let (rows, columns) = content_size(geometry, input, (height, width));
    let [y0, x0, y1, x1] = view.window;
    let down = taps(y0, y1, height, rows);
    let mut across = taps(x0, x1, width, columns);
    if view.flip {
        across.reverse();
    }
    let mut content = Vec::with_capacity(rows * columns * 3);
    for row in &down {
        resample_row(picture, row.as_ref(), &across, &mut content);
    }
    if let Some(colour) = view.colour {
        recolour(&mut content, colour);
    }
    let whole = canvas(geometry, input, (height, width));
    let mut out = vec![0u8; whole.0 * whole.1 * 3];
    for (to, from) in out.chunks_exact_mut(whole.1.max(1) * 3).zip(content.chunks_exact(columns * 3)) {
        for (to, from) in to.iter_mut().zip(from) {
            // The cast saturates.
            *to = (from + 0.5) as u8;
        }
    }
    out
}

/// Where an output pixel comes from along one axis: two neighbours and the share of the second.
struct Tap {
    first: usize,
    second: usize,
    share: f32,
}

/// The taps of an axis; `None` outside the picture.
fn taps(start: f64, end: f64, size: usize, count: usize) -> Vec<Option<Tap>> {
    let last = size.saturating_sub(1);
    let tap = |index: usize| {
        let at = start * size as f64 + index as f64 * (end - start) * size as f64 / count as f64;
        (at > -1.0 && at < size as f64).then(|| {
            let floor = at.floor();
            let first = if floor < 0.0 { 0 } else { (floor as usize).min(last) };
            let second = ((floor + 1.0).max(0.0) as usize).min(last);
            Tap { first, second, share: (at - floor) as f32 }
        })
    };
    (0..count).map(tap).collect()
}

fn resample_row(picture: &Picture, row: Option<&Tap>, across: &[Option<Tap>], out: &mut Vec<f32>) {
    let stride = picture.width as usize * 3;
    let line = |number: usize| picture.rgb.get(number * stride..(number + 1) * stride);
    let lines = row.and_then(|tap| Some((line(tap.first)?, line(tap.second)?, tap.share)));
    for tap in across {
        let (Some((upper, lower, down)), Some(tap)) = (lines, tap) else {
            out.extend([OUTSIDE; 3]);
            continue;
        };
        for channel in 0..3 {
            let (left, right) = (tap.first * 3 + channel, tap.second * 3 + channel);
            let blend = |line: &[u8]| {
                let (left, right) = (f32::from(line[left]), f32::from(line[right]));
                left + (right - left) * tap.share
            };
            let (above, below) = (blend(upper), blend(lower));
            out.push(above + (below - above) * down);
        }
    }
}

/// Changes colours in place; values are of 255.
fn recolour(rgb: &mut [f32], colour: Colour) {
    let Colour { brightness, contrast, saturation } = colour;
    let pixels = (rgb.len() / 3).max(1) as f64;
    let mut mean = [0.0f64; 3];
    for pixel in rgb.chunks_exact(3) {
        for (sum, value) in mean.iter_mut().zip(pixel) {
            *sum += f64::from(*value) / pixels;
        }
    }
    for pixel in rgb.chunks_exact_mut(3) {
        let grey = pixel.iter().map(|v| f64::from(*v)).sum::<f64>() / 3.0;
        for (value, mean) in pixel.iter_mut().zip(mean) {
            let saturated = grey + (f64::from(*value) - grey) * saturation;
            *value = ((saturated - mean) * contrast + mean + brightness).clamp(0.0, 255.0) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_sizes_are_those_of_the_api() {
        let geometry = Geometry::Range { least: 600, most: 1024 };
        for (picture, size) in [
            ((480, 640), (600, 800)),
            ((640, 480), (800, 600)),
            ((100, 300), (341, 1024)),
            ((600, 1024), (600, 1024)),
            ((50, 50), (600, 600)),
        ] {
            assert_eq!(content_size(geometry, (600, 600), picture), size);
        }
        let small = Geometry::Range { least: 2, most: 9 };
        assert_eq!(render(&ramp(6, 4), &View::WHOLE, (2, 2), small).len(), 2 * 3 * 3);
    }

    fn ramp(width: u32, height: u32) -> Picture {
        let rgb =
            (0..height).flat_map(|y| (0..width).flat_map(move |x| [x as u8 * 10, y as u8 * 10, 7])).collect();
        Picture { width, height, rgb }
    }

    #[test]
    fn whole_pictures_are_taken_at_multiples_of_the_scale() {
        let out = render(&ramp(6, 4), &View::WHOLE, (8, 3), Geometry::Squash);
        let red: Vec<u8> = out[..9].iter().step_by(3).copied().collect();
        assert_eq!(red, [0, 20, 40], "no half-pixel centres");
        let green: Vec<u8> = out.chunks(9).map(|row| row[1]).collect();
        assert_eq!(green, [0, 5, 10, 15, 20, 25, 30, 30], "the last row repeats");
        let mirrored = render(&ramp(6, 4), &View { flip: true, ..View::WHOLE }, (8, 3), Geometry::Squash);
        assert_eq!(mirrored[..9].iter().step_by(3).copied().collect::<Vec<u8>>(), [40, 20, 0]);
    }

    /// `ResizeBilinear` as exported models have it, on float32 [1, height, width, 3].
    fn resized_by_tensorflow(picture: &Picture, size: (usize, usize)) -> Option<Vec<f32>> {
        use crate::graph::tensor::{attr, shape_proto};
        use crate::pb::{self, DataType, attr_value::Value};
        use crate::runtime::{AnyTensor, GraphSession, SessionConfig};
        use prost::Message;
        crate::runtime::testing::library()?;
        let node = |name: &str, op: &str, inputs: &[&str], attributes: Vec<(&str, Value)>| pb::NodeDef {
            name: name.into(),
            op: op.into(),
            input: inputs.iter().map(|&input| input.into()).collect(),
            attr: attributes.into_iter().map(|(name, value)| (name.to_owned(), attr(value))).collect(),
            ..Default::default()
        };
        let (float, int) = (Value::Type(DataType::DtFloat.into()), Value::Type(DataType::DtInt32.into()));
        let sides = pb::TensorProto {
            dtype: DataType::DtInt32.into(),
            tensor_shape: Some(shape_proto(&[2])),
            int_val: vec![size.0 as i32, size.1 as i32],
            ..Default::default()
        };
        let nodes = vec![
            node("x", "Placeholder", &[], vec![("dtype", float.clone())]),
            node("size", "Const", &[], vec![("dtype", int), ("value", Value::Tensor(Box::new(sides)))]),
            node("y", "ResizeBilinear", &["x", "size"], vec![("T", float)]),
        ];
        let graph = pb::GraphDef { node: nodes, ..Default::default() }.encode_to_vec();
        let session = GraphSession::new(&graph, &SessionConfig::default()).unwrap();
        let values: Vec<f32> = picture.rgb.iter().map(|v| f32::from(*v)).collect();
        let x = AnyTensor::new(&[1, picture.height as usize, picture.width as usize, 3], &values).unwrap();
        Some(session.run(&[("x", &x)], &["y:0"], &[]).unwrap()[0].f32().unwrap().to_vec())
    }

    #[test]
    fn whole_pictures_are_resized_as_tensorflow_does() {
        for (width, height) in [(97, 61), (640, 480), (20, 33)] {
            let rgb = (0..u64::from(width * height * 3)).map(|i| (i * 7919 % 253) as u8).collect();
            let picture = Picture { width, height, rgb };
            let Some(expected) = resized_by_tensorflow(&picture, (48, 60)) else {
                eprintln!("skipped: no TensorFlow library");
                return;
            };
            let got = render(&picture, &View::WHOLE, (48, 60), Geometry::Squash);
            assert_eq!(got.len(), expected.len());
            let furthest =
                got.iter().zip(&expected).map(|(a, b)| (f32::from(*a) - b).abs()).fold(0.0, f32::max);
            assert!(furthest < 0.51, "{furthest}");
        }
    }

    #[test]
    fn outside_is_grey_and_padding_black() {
        let view = View { window: [-1.0, 0.0, 1.0, 2.0], flip: false, colour: None };
        let out = render(&ramp(4, 4), &view, (4, 4), Geometry::Squash);
        assert_eq!(out[..3], [127; 3]);
        assert_eq!(out[(3 * 4 + 3) * 3..], [127; 3]);
        assert_eq!(out[2 * 4 * 3..][..3], [0, 0, 7]);
        assert_eq!(content_size(Geometry::KeepAspect, (100, 100), (50, 200)), (25, 100));
        let out = render(&ramp(8, 4), &View::WHOLE, (4, 4), Geometry::KeepAspect);
        assert_eq!(out[2 * 4 * 3..], [0; 24]);
        assert_ne!(out[..24], [0; 24]);
    }

    #[test]
    fn colours_that_do_not_change_change_nothing() {
        let same = Colour { brightness: 0.0, contrast: 1.0, saturation: 1.0 };
        let view = View { colour: Some(same), ..View::WHOLE };
        let (a, b) = (ramp(5, 5), (5, 5));
        assert_eq!(render(&a, &view, b, Geometry::Squash), render(&a, &View::WHOLE, b, Geometry::Squash));
        let bright = View { colour: Some(Colour { brightness: 25.0, ..same }), ..View::WHOLE };
        assert_eq!(render(&a, &bright, b, Geometry::Squash)[2], 32);
    }

    #[test]
    fn odd_windows_do_not_panic() {
        for window in [[5.0, 5.0, 6.0, 6.0], [0.5, 0.5, 0.5, 0.5], [-1e9, 0.0, 1e9, 1.0], [f64::NAN; 4]] {
            let view = View { window, flip: false, colour: None };
            assert_eq!(render(&ramp(3, 3), &view, (2, 2), Geometry::Squash).len(), 12);
        }
    }
}
