//! Operations that move, join or cut axes.

use std::collections::HashSet;

use super::super::axis::{ClassAxis, Fact, Span};
use super::super::extent::static_size;
use super::super::flow::{Flow, Pick};
use super::super::trace::{Element, static_rank};
use super::{At, Outcome, choices};
use crate::error::Result;
use crate::graph::tensor::{constant, int_attr, ints, ints_attr};
use crate::graph::{Source, Use};

/// The rule for a class axis at one of these operations; none where the operation is not among them.
pub fn apply(flow: &mut Flow<'_, '_>, at: At, axis: &ClassAxis) -> Result<Option<Outcome>> {
    let node = flow.view.node(at.scope, at.node);
    let outcome = match (&*node.op, at.input) {
        ("Reshape", 0) => reshape(flow, at, axis)?,
        ("Slice", 0) => slice(flow, at, axis)?,
        ("StridedSlice", 0) => strided_slice(flow, at, axis)?,
        ("Shape", 0) => {
            let span = Span { units: axis.outer.unwrap_or(1) * axis.inner, background: axis.background };
            if axis.outer.is_some() {
                let elements = vec![(axis.axis, span)];
                flow.learn(at.scope, at.out(0), Fact::Sizes { scalar: false, elements })?;
            }
            Outcome::Done
        }
        ("Squeeze", 0) => {
            let dims =
                ints_attr(node, "squeeze_dims").or_else(|| ints_attr(node, "axis")).unwrap_or_default();
            let removed: Vec<usize> = dims.iter().map(|&d| d.rem_euclid(axis.rank as i64) as usize).collect();
            if removed.is_empty() || removed.contains(&axis.axis) {
                return refuse(flow, at, "a squeeze that may remove the class axis");
            }
            let before = removed.iter().filter(|&&d| d < axis.axis).count();
            moved(flow, at, 0, axis, axis.rank - removed.len(), axis.axis - before)?
        }
        ("ExpandDims", 0) => {
            let Some(dim) = flow.constants(at.scope, at.edge(1)).and_then(|d| d.first().copied()) else {
                return refuse(flow, at, "a new axis at a place that is no constant");
            };
            let dim = dim.rem_euclid(axis.rank as i64 + 1) as usize;
            moved(flow, at, 0, axis, axis.rank + 1, axis.axis + usize::from(dim <= axis.axis))?
        }
        ("Transpose", 0) => {
            let order = flow.constants(at.scope, at.edge(1)).unwrap_or_default();
            let Some(place) = order.iter().position(|&p| p == axis.axis as i64) else {
                return refuse(flow, at, "a transposition by an order that is no constant");
            };
            // What lies behind the classes now is another product of sizes.
            let tail = order[place + 1..].iter().try_fold(1usize, |product, &axis| {
                let axis = usize::try_from(axis).ok()?;
                product.checked_mul(static_size(flow.view, &flow.found.facts, at.scope, at.source, axis)?)
            });
            flow.learn(at.scope, at.out(0), Fact::Axis(ClassAxis { axis: place, tail, ..*axis }))?;
            Outcome::Done
        }
        ("ConcatV2", input) => {
            let last = flow.view.scopes[at.scope].inputs[at.node].len() - 1;
            let along = flow.constants(at.scope, at.edge(last)).and_then(|a| a.first().copied());
            match along {
                Some(a) if input < last && a.rem_euclid(axis.rank as i64) as usize != axis.axis => {
                    flow.must_join(at.scope, at.node, 0..last);
                    let outer =
                        if a.rem_euclid(axis.rank as i64) as usize > axis.axis { None } else { axis.tail };
                    flow.learn(at.scope, at.out(0), Fact::Axis(ClassAxis { tail: outer, ..*axis }))?;
                    Outcome::Done
                }
                _ => return refuse(flow, at, "a concatenation along the class axis"),
            }
        }
        ("Pack", _) => {
            let place = int_attr(node, "axis").unwrap_or(0).rem_euclid(axis.rank as i64 + 1) as usize;
            flow.must_join(at.scope, at.node, 0..flow.view.scopes[at.scope].inputs[at.node].len());
            moved(flow, at, 0, axis, axis.rank + 1, axis.axis + usize::from(place <= axis.axis))?
        }
        ("Unpack", _) => {
            let along = int_attr(node, "axis").unwrap_or(0).rem_euclid(axis.rank as i64) as usize;
            let outputs = usize::try_from(int_attr(node, "num").unwrap_or(0)).unwrap_or(0);
            if along == axis.axis {
                let plain = (axis.outer, axis.inner, axis.background) == (Some(1), 1, false);
                if !plain || outputs != flow.growth.classes {
                    return refuse(flow, at, "taking an axis apart that holds more than the classes");
                }
                flow.found.unpacked.insert((at.scope, at.node));
                return Ok(Some(Outcome::Done));
            }
            for out in 0..outputs {
                moved(flow, at, out, axis, axis.rank - 1, axis.axis - usize::from(along < axis.axis))?;
            }
            Outcome::Done
        }
        ("Split", 1) => {
            let along = flow.constants(at.scope, at.edge(0)).and_then(|a| a.first().copied());
            let parts = usize::try_from(int_attr(node, "num_split").unwrap_or(0)).unwrap_or(0);
            let Some(along) = along else { return refuse(flow, at, "a split along an unknown axis") };
            let split = along.rem_euclid(axis.rank as i64) as usize == axis.axis;
            let outer = match axis.outer {
                // Groups are dealt out whole.
                Some(groups) if split && parts > 0 && groups.is_multiple_of(parts) => Some(groups / parts),
                outer if !split => outer,
                _ => return refuse(flow, at, "a split that parts the classes"),
            };
            let tail =
                if split || along.rem_euclid(axis.rank as i64) < axis.axis as i64 { axis.tail } else { None };
            for out in 0..parts {
                flow.learn(at.scope, at.out(out), Fact::Axis(ClassAxis { outer, tail, ..*axis }))?;
            }
            Outcome::Done
        }
        ("GatherV2", 0) => {
            let along = flow.constants(at.scope, at.edge(2)).and_then(|a| a.first().copied());
            if along.map(|a| a.rem_euclid(axis.rank as i64)) == Some(axis.axis as i64) {
                return choices::apply(flow, at, axis).map(Some);
            }
            let indices = flow.view.scopes[at.scope].inputs[at.node].get(1).copied();
            let rank = indices.and_then(|i| static_rank(flow.view, &flow.found.facts, at.scope, i));
            let (Some(along), Some(rank), 0) = (along, rank, flow.attr(at.scope, at.node, "batch_dims", 0))
            else {
                return refuse(flow, at, "a gather of unknown axis or rank");
            };
            let along = along.rem_euclid(axis.rank as i64) as usize;
            let shift = if along < axis.axis { rank.saturating_sub(1) } else { 0 };
            moved(flow, at, 0, axis, axis.rank + rank - 1, axis.axis + shift)?
        }
        ("Tile", 0) => match flow.constants(at.scope, at.edge(1)).and_then(|m| m.get(axis.axis).copied()) {
            Some(1) => moved(flow, at, 0, axis, axis.rank, axis.axis)?,
            _ => return refuse(flow, at, "a tiling of the class axis"),
        },
        ("Pad" | "PadV2", 0) => pad(flow, at, axis)?,
        _ => return Ok(None),
    };
    Ok(Some(outcome))
}

fn refuse<T>(flow: &Flow<'_, '_>, at: At, reason: &str) -> Result<T> {
    Err(flow.not(at.scope, at.out(0), format!("{reason} has no rule")))
}

fn later(flow: &Flow<'_, '_>, at: At, reason: &str) -> Result<Outcome> {
    Ok(Outcome::Later(flow.not(at.scope, at.out(0), format!("{reason} has no rule"))))
}

fn moved(
    flow: &mut Flow<'_, '_>,
    at: At,
    out: usize,
    axis: &ClassAxis,
    rank: usize,
    place: usize,
) -> Result<Outcome> {
    let tail = if place + 1 == rank { Some(1) } else { axis.tail };
    flow.learn(at.scope, at.out(out), Fact::Axis(ClassAxis { rank, axis: place, tail, ..*axis }))?;
    Ok(Outcome::Done)
}

/// Finds the axis of the new shape that holds the classes: the one whose row-major stride fits.
fn reshape(flow: &mut Flow<'_, '_>, at: At, axis: &ClassAxis) -> Result<Outcome> {
    let Some(sizes) = flow.elements(at.scope, at.edge(1)) else {
        return later(flow, at, "a reshape to a shape of unknown length");
    };
    let Some(tail) = axis.tail else {
        return refuse(flow, at, "a reshape of a class axis before axes of unknown size");
    };
    let stride = axis.inner * tail;
    let columns = axis.columns(flow.growth);
    let rank = sizes.len();
    let value = |e: &Element| match e {
        Element::Grows(span) => Some(span.value(flow.growth)),
        other => other.value(),
    };
    let mut behind = 1usize;
    for place in (0..rank).rev() {
        let size = value(&sizes[place]);
        // A size of one holds nothing, unless one is all the columns there are and the classes come last.
        let holds_classes = match size {
            Some(-1) => true,
            Some(s) => {
                let s = usize::try_from(s).unwrap_or(0);
                behind <= stride && stride < behind.saturating_mul(s)
                    || (columns == 1 && s == 1 && place + 1 == rank && stride == 1)
            }
            // The first axis takes what is left, whatever its size.
            None if place == 0 && behind <= stride => true,
            None => return later(flow, at, "a reshape whose sizes behind the classes are not constant"),
        };
        if !holds_classes {
            let s = size.and_then(|s| usize::try_from(s).ok()).unwrap_or(0);
            behind = behind.saturating_mul(s);
            continue;
        }
        if !stride.is_multiple_of(behind) {
            return refuse(flow, at, "a reshape that cuts through the columns of a class");
        }
        let inner = stride / behind;
        let outer = match size {
            Some(-1) => None,
            Some(s) => {
                let (s, unit) = (usize::try_from(s).unwrap_or(0), columns * inner);
                if s == 0 || s % unit != 0 {
                    return refuse(flow, at, "a reshape that splits the classes");
                }
                let span = Span { units: s / columns, background: axis.background };
                if matches!(sizes[place], Element::Known(_)) {
                    folded_shape(flow, at, axis)?;
                }
                flow.must_grow(at.scope, at.edge(1), place, span);
                Some(s / unit)
            }
            None => None,
        };
        let tail = Some(behind);
        let fact = ClassAxis { rank, axis: place, outer, inner, tail, background: axis.background };
        flow.learn(at.scope, at.out(0), Fact::Axis(fact))?;
        return Ok(Outcome::Done);
    }
    refuse(flow, at, "a reshape in which the classes are not found again")
}

/// A size computed from a constant that is the shape of the reshaped tensor, folded when the model was traced: that
/// constant grows as its Shape would have.
fn folded_shape(flow: &mut Flow<'_, '_>, at: At, axis: &ClassAxis) -> Result<()> {
    let (view, scope) = (flow.view, at.scope);
    let here = &view.scopes[scope];
    let Some(size) = axis.size(flow.growth) else { return Ok(()) };
    let (mut seen, mut stack) = (HashSet::new(), here.inputs[at.node].get(1..2).unwrap_or_default().to_vec());
    while let Some(source) = stack.pop() {
        let Source::Node { node, .. } = source else { continue };
        if !seen.insert(node) {
            continue;
        }
        match &*here.nodes[node].op {
            "Const" => {
                let shape = constant(&here.nodes[node]).and_then(ints).unwrap_or_default();
                if shape.len() == axis.rank && shape[axis.axis] == size as i64 {
                    let units = axis.outer.unwrap_or(1) * axis.inner;
                    let span = Span { units, background: axis.background };
                    for &edge in here.consumers(source) {
                        flow.change_constant(scope, node, edge, axis.axis, span);
                    }
                    let elements = vec![(axis.axis, span)];
                    flow.learn(scope, source, Fact::Sizes { scalar: false, elements })?;
                }
            }
            "StridedSlice" => stack.extend(here.inputs[node].first()),
            "Prod" | "Pack" | "ConcatV2" | "Cast" | "Mul" => stack.extend(&here.inputs[node]),
            _ => {}
        }
    }
    Ok(())
}

/// One class, all but the background, or a cut along other axes.
fn slice(flow: &mut Flow<'_, '_>, at: At, axis: &ClassAxis) -> Result<Outcome> {
    let begin = flow.elements(at.scope, at.edge(1)).and_then(|e| e.get(axis.axis)?.value());
    let size = flow.elements(at.scope, at.edge(2)).and_then(|e| e.get(axis.axis).cloned());
    let (Some(begin), Some(size)) = (begin, size) else {
        return later(flow, at, "a slice whose begin or size on the class axis is unknown");
    };
    if axis.outer != Some(1) || axis.inner != 1 {
        return refuse(flow, at, "a slice of an axis that holds more than the classes");
    }
    let columns = axis.columns(flow.growth) as i64;
    let begin_to_end = size.value() == Some(columns - begin);
    // With one column in all, a size of one is both; without background it can only be the class.
    if size.value() == Some(1) && (columns != 1 || !axis.background) && !(begin_to_end && axis.background) {
        let class =
            usize::try_from(begin - i64::from(axis.background)).ok().filter(|&c| c < flow.growth.classes);
        let Some(class) = class else { return refuse(flow, at, "a slice of the background or of no class") };
        let pick = Pick { scope: at.scope, node: at.node, scores: at.source, class, element: axis.axis };
        if !flow.found.picks.contains(&pick) {
            flow.found.picks.push(pick);
        }
        return Ok(Outcome::Done);
    }
    let background = match begin {
        0 => axis.background,
        1 if axis.background => false,
        _ => return refuse(flow, at, "a slice that begins among the classes"),
    };
    let rest = Span { units: 1, background };
    flow.must_grow(at.scope, at.edge(2), axis.axis, rest);
    flow.learn(at.scope, at.out(0), Fact::Axis(ClassAxis { background, ..*axis }))?;
    Ok(Outcome::Done)
}

fn strided_slice(flow: &mut Flow<'_, '_>, at: At, axis: &ClassAxis) -> Result<Outcome> {
    let [begin, end, strides] = [1, 2, 3].map(|i| flow.constants(at.scope, at.edge(i)));
    let (Some(begin), Some(end), Some(strides)) = (begin, end, strides) else {
        return refuse(flow, at, "a strided slice by numbers that are no constants");
    };
    let mask = |key| flow.attr(at.scope, at.node, key, 0);
    let (begin_mask, end_mask, shrink) = (mask("begin_mask"), mask("end_mask"), mask("shrink_axis_mask"));
    let (ellipsis, new_axis) = (mask("ellipsis_mask"), mask("new_axis_mask"));
    let bit = |mask: i64, i: usize| i < 63 && mask >> i & 1 == 1;
    let (mut input_axis, mut output_axis) = (0usize, 0usize);
    let mut found = None;
    for i in 0..begin.len() {
        if bit(ellipsis, i) {
            let named = begin.len() - 1 - (0..begin.len()).filter(|&j| bit(new_axis, j)).count();
            let skipped = axis.rank.saturating_sub(named);
            if (input_axis..input_axis + skipped).contains(&axis.axis) {
                found = Some((output_axis + axis.axis - input_axis, None));
            }
            input_axis += skipped;
            output_axis += skipped;
            continue;
        }
        if bit(new_axis, i) {
            output_axis += 1;
            continue;
        }
        if input_axis == axis.axis {
            found = Some((output_axis, Some(i)));
        }
        input_axis += 1;
        output_axis += usize::from(!bit(shrink, i));
    }
    let place = match found {
        Some((_, Some(i))) if bit(shrink, i) => return refuse(flow, at, "a strided slice of one class"),
        Some(found) => found,
        // Axes that are not named are kept.
        None => (output_axis + axis.axis - input_axis, None),
    };
    let rank = output_axis + axis.rank.saturating_sub(input_axis);
    let background = match place.1 {
        None => axis.background,
        Some(i) => {
            let first = if bit(begin_mask, i) { 0 } else { begin[i] };
            let whole = bit(end_mask, i) && strides.get(i) == Some(&1) && end.len() == begin.len();
            match (first, whole) {
                (0, true) => axis.background,
                (1, true) if axis.background && axis.outer == Some(1) && axis.inner == 1 => false,
                _ => return refuse(flow, at, "a strided slice that cuts the class axis"),
            }
        }
    };
    let tail = if place.0 + 1 == rank { Some(1) } else { axis.tail };
    flow.learn(
        at.scope,
        at.out(0),
        Fact::Axis(ClassAxis { rank, axis: place.0, tail, background, ..*axis }),
    )?;
    Ok(Outcome::Done)
}

/// Padding leaves the class axis alone: the padding there is zero, or the difference of the size and itself.
fn pad(flow: &mut Flow<'_, '_>, at: At, axis: &ClassAxis) -> Result<Outcome> {
    let view = flow.view;
    let here = &view.scopes[at.scope];
    let Some(&paddings) = here.inputs[at.node].get(1) else {
        return refuse(flow, at, "a padding without amounts");
    };
    // A size less itself is recorded as a size of no units.
    let zero = |e: &Element| e.value() == Some(0) || matches!(e, Element::Grows(Span { units: 0, .. }));
    let amounts = match paddings {
        Source::Node { node, .. }
            if here.nodes[node].op == "Pack" && int_attr(&here.nodes[node], "axis") == Some(1) =>
        {
            (0..here.inputs[node].len())
                .map(|input| flow.elements(at.scope, Use { node, input })?.get(axis.axis).cloned())
                .collect::<Option<Vec<_>>>()
        }
        _ => flow
            .elements(at.scope, at.edge(1))
            .and_then(|all| Some(vec![all.get(2 * axis.axis)?.clone(), all.get(2 * axis.axis + 1)?.clone()])),
    };
    match amounts {
        Some(amounts) if amounts.iter().all(zero) => {
            flow.learn(at.scope, at.out(0), Fact::Axis(*axis))?;
            Ok(Outcome::Done)
        }
        _ => later(flow, at, "a padding of the class axis that is not plainly zero"),
    }
}
