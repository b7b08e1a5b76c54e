//! Integers that hold a size of the class axis, and what is computed from them.

use super::super::axis::{ClassAxis, Fact, Span};
use super::super::flow::Flow;
use super::super::trace::Element;
use super::{At, Outcome};
use crate::error::Result;

/// The rule for sizes at an operation.
pub fn apply(flow: &mut Flow<'_, '_>, at: At, scalar: bool, elements: &[(usize, Span)]) -> Result<Outcome> {
    // A size less itself is zero before and after.
    if elements.iter().all(|(_, span)| span.units == 0) {
        return Ok(Outcome::Done);
    }
    let node = flow.view.node(at.scope, at.node);
    match (&*node.op, at.input) {
        ("Cast", 0) => {
            flow.learn(at.scope, at.out(0), Fact::Sizes { scalar, elements: elements.to_vec() })?
        }
        ("StridedSlice", 0) => return cut(flow, at, elements),
        ("Unpack", 0) => {
            for &(i, span) in elements {
                flow.learn(at.scope, at.out(i), Fact::Sizes { scalar: true, elements: vec![(0, span)] })?;
            }
        }
        ("Pack" | "ConcatV2", _) => {
            let place = flow.attr(at.scope, at.node, "axis", 0);
            let inputs = flow.view.scopes[at.scope].inputs[at.node].len();
            if node.op == "Pack" && (place != 0 || !scalar) {
                // Rows of a matrix, such as paddings, are traced by what reads them.
                return Ok(Outcome::Done);
            }
            let mut joined = Vec::new();
            let mut offset = 0;
            for input in 0..inputs - usize::from(node.op == "ConcatV2") {
                let Some(part) = flow.elements(at.scope, at.edge(input)) else {
                    return Ok(Outcome::Later(flow.not(
                        at.scope,
                        at.out(0),
                        "sizes joined with a vector of unknown length".into(),
                    )));
                };
                for (i, element) in part.iter().enumerate() {
                    if let Element::Grows(span) = element {
                        joined.push((offset + i, *span));
                    }
                }
                offset += part.len();
            }
            flow.learn(at.scope, at.out(0), Fact::Sizes { scalar: false, elements: joined })?;
        }
        // Times a number it is a size of more units; times anything else it follows at run time.
        ("Mul", _) => {
            let other = flow.elements(at.scope, at.edge(1 - at.input.min(1)));
            let number = other.filter(|e| e.len() == 1).and_then(|e| usize::try_from(e[0].value()?).ok());
            if let (&[(0, span)], Some(number)) = (elements, number) {
                let span = Span { units: span.units * number, ..span };
                flow.learn(at.scope, at.out(0), Fact::Sizes { scalar: true, elements: vec![(0, span)] })?;
            }
        }
        ("Prod", 0) => {
            let others = flow.elements(at.scope, at.edge(0)).and_then(|all| {
                let fixed = all.iter().filter(|e| !matches!(e, Element::Grows(_)));
                fixed.map(|e| usize::try_from(e.value()?).ok()).product::<Option<usize>>()
            });
            if let (&[(_, span)], Some(others)) = (elements, others) {
                let span = Span { units: span.units * others, ..span };
                flow.learn(at.scope, at.out(0), Fact::Sizes { scalar: true, elements: vec![(0, span)] })?;
            }
        }
        ("Sub", _) => {
            let Some(span) = same(flow, at, elements)? else { return differs(flow, at) };
            let zero = Span { units: 0, background: span.background };
            flow.learn(at.scope, at.out(0), Fact::Sizes { scalar: true, elements: vec![(0, zero)] })?;
        }
        ("Equal" | "NotEqual" | "Greater" | "GreaterEqual" | "Less" | "LessEqual", _) => {
            if same(flow, at, elements)?.is_none() {
                return differs(flow, at);
            }
        }
        // Read by the rule of the data they shape; data without a class axis must not get a growing size.
        ("Reshape", 1) => flow.must_join(at.scope, at.node, [0]),
        ("Slice", 2) => flow.must_join(at.scope, at.node, [0]),
        ("Select" | "SelectV2", 1 | 2) => {}
        ("Fill", 0) => {
            let Some(dims) = flow.elements(at.scope, at.edge(0)) else {
                return Ok(Outcome::Later(flow.not(
                    at.scope,
                    at.out(0),
                    "a filled tensor of unknown rank".into(),
                )));
            };
            for &(axis, span) in elements {
                let tail =
                    dims.get(axis + 1..).unwrap_or_default().iter().try_fold(1usize, |product, e| {
                        product.checked_mul(usize::try_from(e.value()?).ok()?)
                    });
                let fact = ClassAxis {
                    rank: dims.len(),
                    axis,
                    outer: Some(span.units),
                    inner: 1,
                    tail,
                    background: span.background,
                };
                flow.learn(at.scope, at.out(0), Fact::Axis(fact))?;
            }
        }
        ("Assert" | "Print" | "PrintV2" | "NoOp", _) => {}
        (op, _) => {
            return Err(flow.not(
                at.scope,
                at.out(0),
                format!("a size of the class axis reaches operation {op}, which has no rule"),
            ));
        }
    }
    Ok(Outcome::Done)
}

fn cut(flow: &mut Flow<'_, '_>, at: At, elements: &[(usize, Span)]) -> Result<Outcome> {
    let [begin, end, strides] =
        [1, 2, 3].map(|i| flow.constants(at.scope, at.edge(i)).and_then(|v| v.first().copied()));
    let (Some(begin), Some(end), Some(1)) = (begin, end, strides) else {
        return Err(flow.not(
            at.scope,
            at.out(0),
            "a cut of sizes by numbers that are no constants has no rule".into(),
        ));
    };
    let mask = |key| flow.attr(at.scope, at.node, key, 0) & 1 == 1;
    let shrink = mask("shrink_axis_mask");
    let length = flow.elements(at.scope, at.edge(0)).map(|e| e.len() as i64);
    let absolute = |index: i64| if index < 0 { length.map(|l| l + index) } else { Some(index) };
    let first = if mask("begin_mask") { Some(0) } else { absolute(begin) };
    let last = if shrink {
        first.map(|f| f + 1)
    } else if mask("end_mask") {
        Some(i64::MAX)
    } else {
        absolute(end)
    };
    let (Some(first), Some(last)) = (first, last) else {
        return Ok(Outcome::Later(flow.not(
            at.scope,
            at.out(0),
            "a cut of sizes from the end of a vector of unknown length".into(),
        )));
    };
    let kept: Vec<(usize, Span)> = elements
        .iter()
        .filter(|(i, _)| (first..last).contains(&(*i as i64)))
        .map(|&(i, span)| (i - first as usize, span))
        .collect();
    if !kept.is_empty() {
        flow.learn(at.scope, at.out(0), Fact::Sizes { scalar: shrink, elements: kept })?;
    }
    Ok(Outcome::Done)
}

/// The size, if the other operand is the same size: by itself, or a constant that then grows with it.
fn same(flow: &mut Flow<'_, '_>, at: At, elements: &[(usize, Span)]) -> Result<Option<Span>> {
    let &[(0, span)] = elements else { return Ok(None) };
    let other = flow.elements(at.scope, at.edge(1 - at.input.min(1)));
    Ok(match other.as_deref() {
        Some([Element::Grows(s)]) if *s == span => Some(span),
        Some(&[Element::Constant { scope, node, element, value, edge: Some(edge) }])
            if value == span.value(flow.growth) =>
        {
            flow.change_constant(scope, node, edge, element, span);
            Some(span)
        }
        _ => None,
    })
}

fn differs(flow: &Flow<'_, '_>, at: At) -> Result<Outcome> {
    Ok(Outcome::Later(flow.not(
        at.scope,
        at.out(0),
        "a size of the class axis is compared with or taken from something that is not that size".into(),
    )))
}
