//! Tensors that are the same for all classes and are repeated for each before they meet one with a class axis: the
//! proposals, against which every class's boxes are decoded; the zeros that stand for what lies beyond a map.

use std::collections::HashSet;

use super::axis::{ClassAxis, Fact, Span};
use super::flow::Flow;
use crate::error::Result;
use crate::graph::{Source, Use};

/// Looks behind a tensor that must have a class axis like `joined`, and has none, for the Tile or Fill that gives it one.
///
/// What is learned there is followed forward like any other fact: where it does not arrive with the very axis that it is
/// joined with, the model is refused.
pub(super) fn explain(
    flow: &mut Flow<'_, '_>,
    scope: usize,
    source: Source,
    joined: &ClassAxis,
) -> Result<()> {
    let here = &flow.view.scopes[scope];
    let (mut seen, mut stack) = (HashSet::new(), vec![source]);
    while let Some(source) = stack.pop() {
        let Source::Node { node, .. } = source else { continue };
        if !seen.insert(node) || flow.found.facts.contains_key(&(scope, source)) {
            continue;
        }
        match &*here.nodes[node].op {
            "Tile" => repeated(flow, scope, node, joined)?,
            "Fill" => filled(flow, scope, node, joined)?,
            "Reshape" | "Transpose" | "Unpack" | "Identity" | "Cast" | "ExpandDims" | "Squeeze" => {
                stack.extend(here.inputs[node].first());
            }
            "Add" | "AddV2" | "Sub" | "Mul" | "RealDiv" | "Exp" | "Pack" => stack.extend(&here.inputs[node]),
            _ => {}
        }
    }
    Ok(())
}

/// A Tile that repeats along one axis, as often as there are classes.
fn repeated(flow: &mut Flow<'_, '_>, scope: usize, tile: usize, joined: &ClassAxis) -> Result<()> {
    let times = Use { node: tile, input: 1 };
    let Some(multiples) = flow.constants(scope, times) else { return Ok(()) };
    let columns = joined.columns(flow.growth) as i64;
    let place = match multiples.iter().position(|&m| m != 1) {
        Some(place) if multiples[place] == columns && multiples[place + 1..].iter().all(|&m| m == 1) => place,
        // With one class nothing is repeated yet: the axis is the one that is made to be repeated along.
        None if columns == 1 => match new_axis(flow, scope, tile, multiples.len()) {
            Some(place) => place,
            None => return Ok(()),
        },
        _ => return Ok(()),
    };
    let rank = multiples.len();
    let tail = match rank - place {
        1 => Some(1),
        2 => flow.last_size(scope, Use { node: tile, input: 0 }).or_else(|| reshaped_last(flow, scope, tile)),
        _ => None,
    };
    let axis = ClassAxis {
        rank,
        axis: place,
        outer: Some(1),
        inner: 1,
        tail: tail.and_then(|t| usize::try_from(t).ok()),
        background: joined.background,
    };
    flow.must_grow(scope, times, place, Span { units: 1, background: joined.background });
    flow.learn(scope, Source::Node { node: tile, out: 0 }, Fact::Axis(axis))
}

/// A Fill that makes as many numbers along one axis as the tensor has that it is joined with.
fn filled(flow: &mut Flow<'_, '_>, scope: usize, fill: usize, joined: &ClassAxis) -> Result<()> {
    let dims = Use { node: fill, input: 0 };
    let sizes = flow.elements(scope, dims).unwrap_or_default();
    let size = joined.size(flow.growth).map(|size| size as i64);
    let (Some(found), true) = (sizes.get(joined.axis), sizes.len() == joined.rank) else { return Ok(()) };
    if size.is_none() || found.value() != size {
        return Ok(());
    }
    let units = joined.outer.unwrap_or(1) * joined.inner;
    flow.must_grow(scope, dims, joined.axis, Span { units, background: joined.background });
    flow.learn(scope, Source::Node { node: fill, out: 0 }, Fact::Axis(*joined))
}

/// Looks behind an Unpack into one tensor for each class that no class axis reaches: it takes a tensor apart that is filled
/// with the same for all classes (masks, where a model of boxes has none to suppress).
///
/// With one class such an Unpack cannot be told from others, and all new classes may read its only output.
pub(super) fn unpacked(flow: &mut Flow<'_, '_>, scope: usize, unpack: usize) -> Result<()> {
    let (view, classes) = (flow.view, flow.growth.classes);
    let first = |scope: usize, node: usize| view.scopes[scope].inputs[node].first().copied();
    if classes == 1 || flow.attr(scope, unpack, "num", 0) != classes as i64 {
        return Ok(());
    }
    let along = |flow: &Flow<'_, '_>, scope, node| usize::try_from(flow.attr(scope, node, "axis", 0)).ok();
    let Some(mut axis) = along(flow, scope, unpack) else { return Ok(()) };
    let mut at = first(scope, unpack).map(|source| (scope, source));
    for _ in 0..10 {
        let Some((scope, source)) = at else { return Ok(()) };
        let Source::Node { node, .. } = source else { return Ok(()) };
        if flow.found.facts.contains_key(&(scope, source)) {
            return Ok(());
        }
        at = first(scope, node).map(|input| (scope, input));
        match &*view.node(scope, node).op {
            "Reshape" | "Slice" | "Identity" => {}
            "Unpack" => match along(flow, scope, node) {
                Some(taken) => axis += usize::from(taken <= axis),
                None => return Ok(()),
            },
            // A loop over the pictures takes the first axis apart.
            "TensorListGetItem" => {
                axis += 1;
                at = first(scope, node).and_then(|list| view.list_of(scope, list));
            }
            "Fill" => {
                let dims = Use { node, input: 0 };
                let sizes = flow.elements(scope, dims).unwrap_or_default();
                if sizes.get(axis).and_then(|e| e.value()) != Some(classes as i64) {
                    return Ok(());
                }
                let behind = sizes[axis + 1..].iter();
                let tail = behind.map(|e| usize::try_from(e.value()?).ok()).product::<Option<usize>>();
                let rank = sizes.len();
                let fact = ClassAxis { rank, axis, outer: Some(1), inner: 1, tail, background: false };
                flow.must_grow(scope, dims, axis, Span { units: 1, background: false });
                return flow.learn(scope, source, Fact::Axis(fact));
            }
            _ => return Ok(()),
        }
    }
    Ok(())
}

/// The axis that an ExpandDims has just made.
fn new_axis(flow: &Flow<'_, '_>, scope: usize, tile: usize, rank: usize) -> Option<usize> {
    let here = &flow.view.scopes[scope];
    let &Source::Node { node, .. } = here.inputs[tile].first()? else { return None };
    let dim = *flow.constants(scope, Use { node, input: 1 })?.first()?;
    (here.nodes[node].op == "ExpandDims").then(|| dim.rem_euclid(rank as i64) as usize)
}

/// The last size of the shape into which a tensor is brought, rows being what is left: a tensor that is joined with
/// another, row by row, has rows of that size.
fn reshaped_last(flow: &Flow<'_, '_>, scope: usize, tile: usize) -> Option<i64> {
    let here = &flow.view.scopes[scope];
    let reshape =
        here.node_consumers(tile).iter().find(|e| here.nodes[e.node].op == "Reshape" && e.input == 0)?;
    match flow.constants(scope, Use { node: reshape.node, input: 1 })?[..] {
        [-1, last] if last > 0 => Some(last),
        _ => None,
    }
}
