//! How pictures come to a network.

use std::collections::HashMap;

use super::super::shape::{Geometry, Input};
use super::not;
use crate::error::Result;
use crate::pb;
use crate::runtime::pictures::Form;
use crate::runtime::{AnyTensor, GraphSession};

/// The tensor that takes pictures.
#[derive(Debug, Clone)]
pub(super) struct Feed {
    /// Its name.
    pub name: String,
    /// The form in which it takes them.
    pub form: Form,
}

impl Feed {
    /// A picture, `height · width · 3` bytes, as the input takes it.
    pub fn tensor(&self, rgb: &[u8], height: usize, width: usize) -> Result<AnyTensor> {
        self.form.tensor(rgb, height, width)
    }

    /// A picture with structure, for shapes and checks.
    pub fn probe(&self, (height, width): (usize, usize)) -> Result<AnyTensor> {
        let pattern = |i: usize| ((i / 3 % width * 5) ^ (i / 3 / width * 3) ^ (i % 3 * 80)) as u8;
        let rgb: Vec<u8> = (0..height * width * 3).map(pattern).collect();
        self.tensor(&rgb, height, width)
    }
}

/// The picture as the first convolution gets it, before its padding.
pub(super) fn resized_picture(graph: &pb::GraphDef, features: &[String]) -> Result<String> {
    let index: HashMap<&str, usize> =
        graph.node.iter().enumerate().map(|(i, n)| (n.name.as_str(), i)).collect();
    let inputs =
        |n: usize| graph.node[n].input.iter().filter_map(|i| index.get(i.split(':').next()?).copied());
    let convolution = |n: usize| matches!(&*graph.node[n].op, "Conv2D" | "DepthwiseConv2dNative");
    // The first convolution is the one that a walk towards the picture meets last.
    let mut seen = vec![false; graph.node.len()];
    let mut stack: Vec<usize> =
        features.iter().filter_map(|f| index.get(f.split(':').next()?).copied()).collect();
    let mut found = Vec::new();
    while let Some(node) = stack.pop() {
        if !std::mem::replace(&mut seen[node], true) {
            if convolution(node) {
                found.push(node);
            }
            stack.extend(inputs(node));
        }
    }
    let above = |start: usize| {
        let (mut seen, mut stack) = (vec![false; graph.node.len()], inputs(start).collect::<Vec<_>>());
        while let Some(node) = stack.pop() {
            if !std::mem::replace(&mut seen[node], true) {
                if convolution(node) {
                    return true;
                }
                stack.extend(inputs(node));
            }
        }
        false
    };
    let first = found
        .into_iter()
        .find(|&c| !above(c))
        .ok_or_else(|| not("the graph", "it has no convolution".into()))?;
    let mut tensor = graph.node[first].input.first().cloned().unwrap_or_default();
    while let Some(&n) = tensor.split(':').next().and_then(|name| index.get(name)) {
        match (&*graph.node[n].op, graph.node[n].input.first()) {
            ("Pad" | "PadV2" | "Identity", Some(before)) => tensor = before.clone(),
            _ => break,
        }
    }
    Ok(if tensor.contains(':') { tensor } else { format!("{tensor}:0") })
}

/// What a network does to pictures: of four shapes, what comes to its first convolution?
///
/// Shown a white picture twice as wide as high, a network that keeps the aspect has something else at the bottom than at
/// the top, or an input of that shape.
pub(super) fn geometry(session: &GraphSession, feed: &Feed, resized: &str) -> Result<Input> {
    let look = |height: usize, width: usize| -> Result<(Vec<usize>, bool)> {
        let white = feed.tensor(&vec![255; height * width * 3], height, width)?;
        let found = session.run(&[(&feed.name, &white)], &[resized], &[])?;
        let Some(tensor) = found.first() else { return Ok((vec![], true)) };
        let values = tensor.f32()?;
        Ok((tensor.shape(), values.iter().all(|&v| (v - values[0]).abs() < 1e-3) || uniform_channels(values)))
    };
    let (wide, uniform) = look(100, 200)?;
    let (tall, _) = look(200, 100)?;
    if let (&[1, height, width, 3], true) = (&wide[..], wide == tall) {
        let geometry = if uniform { Geometry::Squash } else { Geometry::KeepAspect };
        return Ok(Input { size: (height, width), geometry });
    }
    let ((square, _), (long, _)) = (look(100, 100)?, look(50, 1000)?);
    if let (&[1, a, b, 3], &[1, c, d, 3], &[1, least, also_least, 3], &[1, low, most, 3]) =
        (&wide[..], &tall[..], &square[..], &long[..])
    {
        let geometry = Geometry::Range { least, most };
        let expected = |h, w| super::super::render::content_size(geometry, (least, least), (h, w));
        let as_seen = (a, b) == expected(100, 200) && (c, d) == expected(200, 100) && least == also_least;
        if as_seen && (low, most) == expected(50, 1000) {
            return Ok(Input { size: (least, least), geometry });
        }
    }
    Err(not(
        resized,
        format!(
            "the network's input is {wide:?} for a wide picture and {tall:?} for a tall one; that is neither one size nor \
             one range of sizes"
        ),
    ))
}

/// Whether every pixel is the same, channel by channel.
fn uniform_channels(values: &[f32]) -> bool {
    let pixels = values.as_chunks::<3>().0;
    pixels.iter().all(|p| pixels.first().is_some_and(|f| p.iter().zip(f).all(|(a, b)| (a - b).abs() < 1e-3)))
}
