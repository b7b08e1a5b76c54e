//! Where the elements of an integer vector come from: constants to edit, sizes that grow by themselves, or neither.

use std::cell::Cell;
use std::collections::HashMap;

use super::axis::{ClassAxis, Fact, Span};
use crate::graph::tensor::{constant, int_attr, ints, shape};
use crate::graph::{GraphView, Source, Use};

/// One element of an integer tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Element {
    /// An element of a constant, with the edge through which the constant is read.
    Constant {
        /// Scope of the Const node.
        scope: usize,
        /// Its number.
        node: usize,
        /// Element of the constant.
        element: usize,
        /// Its value.
        value: i64,
        /// The data input that reads it; none where the result of a function is the constant itself.
        edge: Option<Use>,
    },
    /// A number computed from constants that are no sizes of the class axis.
    Known(i64),
    /// A size that grows by itself.
    Grows(Span),
    /// One of two elements, chosen at run time.
    Either(Box<Element>, Box<Element>),
    /// A number that does not depend on the classes as far as the flow has seen.
    Other,
}

impl Element {
    /// The value, where the element is a constant.
    pub fn value(&self) -> Option<i64> {
        match self {
            Self::Constant { value, .. } | Self::Known(value) => Some(*value),
            _ => None,
        }
    }
}

/// Facts by scope and tensor.
pub type Facts = HashMap<(usize, Source), Fact>;

/// The elements of the integer vector (or scalar) that input `edge.input` of node `edge.node` reads; none where not
/// even their number is known.
pub fn elements(view: &GraphView<'_>, facts: &Facts, scope: usize, edge: Use) -> Option<Vec<Element>> {
    Tracer::new(view, facts).elements(scope, edge)
}

/// The size of a tensor's last axis, where constants tell it.
pub fn last_size(view: &GraphView<'_>, facts: &Facts, scope: usize, edge: Use) -> Option<i64> {
    Tracer::new(view, facts).last_size(scope, edge)
}

/// The number of axes of a tensor, where it can be told without shape inference.
pub fn static_rank(view: &GraphView<'_>, facts: &Facts, scope: usize, source: Source) -> Option<usize> {
    Tracer::new(view, facts).rank(scope, source)
}

/// What one question may cost, in nodes visited and elements read; a graph that branches at every node would cost 2ⁿ.
const MOST_WORK: usize = 1 << 14;
/// How far back one question may go; every step is one on the stack.
const MOST_DEPTH: usize = 60;

/// One question, and what it has cost so far.
struct Tracer<'t, 'a> {
    view: &'t GraphView<'a>,
    facts: &'t Facts,
    work: Cell<usize>,
    depth: Cell<usize>,
}

impl<'t, 'a> Tracer<'t, 'a> {
    fn new(view: &'t GraphView<'a>, facts: &'t Facts) -> Self {
        Self { view, facts, work: Cell::new(0), depth: Cell::new(0) }
    }

    /// Goes one step further back, unless that is too far.
    fn step<T>(&self, further: impl FnOnce() -> Option<T>) -> Option<T> {
        self.work.set(self.work.get() + 1);
        if self.depth.get() >= MOST_DEPTH || self.work.get() > MOST_WORK {
            return None;
        }
        self.depth.set(self.depth.get() + 1);
        let found = further();
        self.depth.set(self.depth.get() - 1);
        found
    }

    fn elements(&self, scope: usize, edge: Use) -> Option<Vec<Element>> {
        self.step(|| self.trace(scope, edge))
    }

    fn last_size(&self, scope: usize, edge: Use) -> Option<i64> {
        self.step(|| self.trace_last_size(scope, edge))
    }

    fn rank(&self, scope: usize, source: Source) -> Option<usize> {
        self.step(|| self.trace_rank(scope, source))
    }

    fn trace(&self, scope: usize, edge: Use) -> Option<Vec<Element>> {
        let (view, facts) = (self.view, self.facts);
        let here = &view.scopes[scope];
        let source = *here.inputs[edge.node].get(edge.input)?;
        let Source::Node { node, .. } = source else { return None };
        let producer = &here.nodes[node];
        let input = |input: usize| Use { node, input };
        let recurse = |edge: Use| self.elements(scope, edge);
        let mut found = match &*producer.op {
            "Const" => {
                let values = ints(constant(producer)?)?;
                self.work.set(self.work.get() + values.len());
                let element =
                    |(element, value)| Element::Constant { scope, node, element, value, edge: Some(edge) };
                values.into_iter().enumerate().map(element).collect()
            }
            "Identity" | "Cast" | "StopGradient" | "Enter" | "ExpandDims" => recurse(input(0))?,
            "Pack" if int_attr(producer, "axis").unwrap_or(0) == 0 => {
                let mut all = Vec::new();
                for i in 0..here.inputs[node].len() {
                    let mut part = recurse(input(i)).unwrap_or_else(|| vec![Element::Other]);
                    // A pack of vectors is a matrix, whose rows are not this vector's elements.
                    if part.len() != 1 {
                        return None;
                    }
                    all.append(&mut part);
                }
                all
            }
            "ConcatV2" => {
                let mut all = Vec::new();
                for i in 0..here.inputs[node].len().checked_sub(1)? {
                    all.append(&mut recurse(input(i))?);
                }
                all
            }
            "Select" | "SelectV2" => {
                let (yes, no) = (recurse(input(1))?, recurse(input(2))?);
                if yes.len() != no.len() {
                    return None;
                }
                yes.into_iter().zip(no).map(|(a, b)| Element::Either(Box::new(a), Box::new(b))).collect()
            }
            "Fill" => {
                let count = recurse(input(0))?;
                let count = match &count[..] {
                    [] => 1,
                    [one] => usize::try_from(one.value()?).ok().filter(|&c| c < 64)?,
                    _ => return None,
                };
                vec![recurse(input(1))?.first()?.clone(); count]
            }
            "StridedSlice" => match (part(view, scope, node), recurse(input(0))) {
                (Some((first, last)), Some(all)) => {
                    let absolute = |index: i64| if index < 0 { index + all.len() as i64 } else { index };
                    let place = |index: i64| absolute(index).clamp(0, all.len() as i64) as usize;
                    let (first, last) = (place(first), last.map_or(all.len(), place));
                    all.get(first..last.max(first))?.to_vec()
                }
                _ if scalar_op(view, scope, node) => vec![Element::Other],
                _ => return None,
            },
            "Sub" | "AddV2" | "Add" | "Mul" if facts.get(&(scope, source)).is_none() => {
                let value = |i: usize| match &*recurse(input(i))? {
                    [one] => one.value(),
                    _ => None,
                };
                match (value(0), value(1)) {
                    (Some(a), Some(b)) => vec![Element::Known(match &*producer.op {
                        "Sub" => a.checked_sub(b)?,
                        "Mul" => a.checked_mul(b)?,
                        _ => a.checked_add(b)?,
                    })],
                    _ => vec![Element::Other],
                }
            }
            "Prod" if facts.get(&(scope, source)).is_none() => {
                let product = recurse(input(0))?.iter().try_fold(1i64, |p, e| p.checked_mul(e.value()?));
                vec![product.map_or(Element::Other, Element::Known)]
            }
            "Reshape" => recurse(input(0))?,
            "Shape" => {
                let &shaped = here.inputs[node].first()?;
                let mut sizes = vec![Element::Other; self.rank(scope, shaped)?];
                // The one axis behind the classes has the size of all that is behind them.
                if let Some(&Fact::Axis(ClassAxis { rank, axis, tail: Some(tail), .. })) =
                    facts.get(&(scope, shaped))
                    && axis + 2 == rank
                {
                    *sizes.last_mut()? = Element::Known(i64::try_from(tail).ok()?);
                }
                sizes
            }
            _ => match facts.get(&(scope, source)) {
                Some(Fact::Sizes { scalar: true, .. }) => vec![Element::Other],
                // A scalar made by arithmetic: one element of unknown value.
                _ if scalar_op(view, scope, node) => vec![Element::Other],
                _ => return None,
            },
        };
        if let Some(Fact::Sizes { elements, .. }) = facts.get(&(scope, source)) {
            for &(i, span) in elements {
                *found.get_mut(i)? = Element::Grows(span);
            }
        }
        Some(found)
    }

    fn trace_last_size(&self, scope: usize, edge: Use) -> Option<i64> {
        let view = self.view;
        let here = &view.scopes[scope];
        let &source = here.inputs[edge.node].get(edge.input)?;
        let Source::Node { node, .. } = source else { return None };
        let input = |input: usize| Use { node, input };
        let producer = &here.nodes[node];
        match &*producer.op {
            "Identity" | "Cast" => self.last_size(scope, input(0)),
            "Reshape" => match self.elements(scope, input(1))?.last()?.value() {
                Some(size) => (size >= 0).then_some(size),
                None => self.last_of_shape(scope, input(1)),
            },
            "Transpose" => {
                let order = view.integers(scope, node, 1)?;
                match *order.last()? {
                    last if last + 1 == order.len() as i64 => self.last_size(scope, input(0)),
                    0 => self.packed(scope, *here.inputs[node].first()?),
                    _ => None,
                }
            }
            "Tile" => {
                let times = self.elements(scope, input(1))?.last()?.value()?;
                self.last_size(scope, input(0))?.checked_mul(times)
            }
            "ConcatV2" => {
                let count = here.inputs[node].len().checked_sub(1)?;
                let along = self.elements(scope, input(count))?.first()?.value()?;
                let rank = self.rank(scope, source);
                if along != -1 && Some(along) != rank.map(|rank| rank as i64 - 1) {
                    return None;
                }
                (0..count).try_fold(0i64, |sum, i| sum.checked_add(self.last_size(scope, input(i))?))
            }
            "Pack" => {
                let axis = int_attr(producer, "axis").unwrap_or(0);
                let rank = self.rank(scope, source).map(|rank| rank as i64 - 1);
                (axis == -1 || Some(axis) == rank).then_some(here.inputs[node].len() as i64)
            }
            "Const" => shape(constant(producer)?)?.last().map(|&size| size as i64),
            _ => None,
        }
    }

    /// The last element of a shape that was put together at run time: the size of the last axis of what it was taken from.
    fn last_of_shape(&self, scope: usize, edge: Use) -> Option<i64> {
        self.step(|| {
            let here = &self.view.scopes[scope];
            let &Source::Node { node, .. } = here.inputs[edge.node].get(edge.input)? else { return None };
            let before = match &*here.nodes[node].op {
                "Identity" | "Cast" => 0,
                "ConcatV2" => here.inputs[node].len().checked_sub(2)?,
                "StridedSlice" if matches!(part(self.view, scope, node), Some((_, None))) => 0,
                "Shape" => return self.last_size(scope, Use { node, input: 0 }),
                _ => return None,
            };
            // What holds no element at all would leave that of another part the last.
            let last = self.last_of_shape(scope, Use { node, input: before });
            last.filter(|_| self.elements(scope, edge).is_some_and(|all| !all.is_empty()))
        })
    }

    /// How many tensors were packed along a first axis.
    fn packed(&self, scope: usize, source: Source) -> Option<i64> {
        let Source::Node { node, .. } = source else { return None };
        let (pack, inputs) = (self.view.node(scope, node), &self.view.scopes[scope].inputs[node]);
        (pack.op == "Pack" && int_attr(pack, "axis").unwrap_or(0) == 0).then_some(inputs.len() as i64)
    }

    fn trace_rank(&self, scope: usize, source: Source) -> Option<usize> {
        let (view, facts) = (self.view, self.facts);
        if let Some(Fact::Axis(axis)) = facts.get(&(scope, source)) {
            return Some(axis.rank);
        }
        let (scope, source) = view.origin(scope, source);
        let Source::Node { node, .. } = source else { return None };
        let here = &view.scopes[scope];
        let of = |input: usize| self.rank(scope, *here.inputs[node].get(input)?);
        let producer = &here.nodes[node];
        match &*producer.op {
            "Const" => Some(shape(constant(producer)?)?.len()),
            "NonMaxSuppressionV3"
            | "NonMaxSuppressionV2"
            | "NonMaxSuppression"
            | "NonMaxSuppressionV4"
            | "NonMaxSuppressionV5"
            | "Range"
            | "Shape" => Some(1),
            "Cast" | "TopKV2" | "Sigmoid" | "ConcatV2" | "Minimum" | "Maximum" | "ZerosLike" | "Slice"
            | "Tile" | "Transpose" => of(0),
            "Select" | "SelectV2" => of(1),
            "Conv2D" => Some(4),
            "Fill" | "Reshape" => {
                let edge = Use { node, input: usize::from(producer.op == "Reshape") };
                let &dims = here.inputs[node].get(edge.input)?;
                match view.origin(scope, dims) {
                    (s, Source::Node { node, .. }) => match &*view.node(s, node).op {
                        "Const" => ints(constant(view.node(s, node))?).map(|v| v.len()),
                        "Pack" => Some(view.scopes[s].inputs[node].len()),
                        _ => self.elements(scope, edge).map(|e| e.len()),
                    },
                    _ => None,
                }
            }
            "Squeeze" => {
                let dims = crate::graph::tensor::ints_attr(producer, "squeeze_dims")?;
                (!dims.is_empty()).then(|| of(0)?.checked_sub(dims.len())).flatten()
            }
            "GatherV2" => Some(of(0)? + of(1)?.checked_sub(1)?),
            "Add" | "AddV2" | "Sub" | "Mul" | "FloorDiv" => Some(of(0)?.max(of(1)?)),
            "TensorListGetItem" | "TensorListStack" => {
                let stacked = producer.op == "TensorListStack";
                let element =
                    list_element_rank(view, scope, Use { node, input: if stacked { 1 } else { 2 } })?;
                Some(element + usize::from(stacked))
            }
            "ExpandDims" => Some(of(0)? + 1),
            "Pack" => Some(of(0)? + 1),
            "Unpack" => of(0)?.checked_sub(1),
            _ => None,
        }
    }
}

/// What a StridedSlice takes of a vector by constants: its first element and its end (none for all).
fn part(view: &GraphView<'_>, scope: usize, node: usize) -> Option<(i64, Option<i64>)> {
    let here = &view.scopes[scope];
    let number = |input: usize| match view.integers(scope, node, input)?[..] {
        [one] => Some(one),
        _ => None,
    };
    let mask = |key| int_attr(&here.nodes[node], key).unwrap_or(0);
    let (begin, end, stride) = (number(1)?, number(2)?, number(3)?);
    if stride != 1 || mask("ellipsis_mask") != 0 || mask("new_axis_mask") != 0 {
        return None;
    }
    let first = if mask("begin_mask") & 1 == 1 { 0 } else { begin };
    if mask("shrink_axis_mask") & 1 == 1 {
        return Some((first, (first != -1).then_some(first + 1)));
    }
    Some((first, (mask("end_mask") & 1 == 0).then_some(end)))
}

/// Whether a tensor has just been given the axis on which another one has its classes: it has one number for all.
pub fn is_new_axis(view: &GraphView<'_>, scope: usize, source: Source, axis: &ClassAxis) -> bool {
    let (scope, source) = view.origin(scope, source);
    let Source::Node { node, .. } = source else { return false };
    let dim = view.integers(scope, node, 1).and_then(|dims| dims.first().copied());
    view.node(scope, node).op == "ExpandDims"
        && dim.is_some_and(|d| d.rem_euclid(axis.rank as i64) == axis.axis as i64)
}

/// A tensor without the axes of size 1 that were put before its own by packing it alone, and how many those are.
pub fn packed_alone(view: &GraphView<'_>, scope: usize, source: Source) -> (Source, usize) {
    let (mut source, mut axes) = (source, 0);
    while let Source::Node { node, .. } = source {
        let here = &view.scopes[scope];
        let first = int_attr(&here.nodes[node], "axis").unwrap_or(0) == 0;
        match here.inputs[node][..] {
            [alone] if here.nodes[node].op == "Pack" && first && axes < 8 => {
                (source, axes) = (alone, axes + 1)
            }
            _ => break,
        }
    }
    (source, axes)
}

/// The number of axes of a list's elements, where the shape that an operation on it is told says so.
fn list_element_rank(view: &GraphView<'_>, scope: usize, edge: Use) -> Option<usize> {
    let sizes = view.integers(scope, edge.node, edge.input)?;
    // A scalar or single -1 stands for any shape.
    (sizes != [-1]).then_some(sizes.len())
}

/// Whether a node certainly makes one number: a StridedSlice that takes one element, or arithmetic on such.
fn scalar_op(view: &GraphView<'_>, scope: usize, node: usize) -> bool {
    let here = &view.scopes[scope];
    match &*here.nodes[node].op {
        "StridedSlice" => int_attr(&here.nodes[node], "shrink_axis_mask") == Some(1),
        "Sub" | "AddV2" | "Add" | "Mul" | "FloorDiv" | "Minimum" | "Maximum" => true,
        "TensorArrayReadV3" | "Unpack" | "Sum" => true,
        "TensorListGetItem" => list_element_rank(view, scope, Use { node, input: 2 }) == Some(0),
        _ => false,
    }
}
