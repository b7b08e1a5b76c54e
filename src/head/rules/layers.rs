//! Convolutions, biases, element-wise operations and reductions.

use std::collections::BTreeSet;

use super::super::axis::{ClassAxis, Fact};
use super::super::flow::Flow;
use super::super::trace::{is_new_axis, packed_alone, static_rank};
use super::{At, Outcome};
use crate::error::Result;
use crate::graph::tensor::{bool_attr, ints_attr, str_attr};

/// The rule for a class axis at one of these operations; none where the operation is not among them.
pub fn apply(flow: &mut Flow<'_, '_>, at: At, axis: &ClassAxis) -> Result<Option<Outcome>> {
    let node = flow.view.node(at.scope, at.node);
    let op = &*node.op;
    match op {
        "Conv2D" => {
            if at.input != 1 || axis.axis != 3 || str_attr(node, "data_format").unwrap_or("NHWC") != "NHWC" {
                return Err(flow.not(
                    at.scope,
                    at.out(0),
                    "expected the classes in the output channels of an NHWC convolution".into(),
                ));
            }
            flow.learn(at.scope, at.out(0), Fact::Axis(ClassAxis { rank: 4, axis: 3, ..*axis }))?;
        }
        "MatMul" => {
            if at.input != 1 || axis.axis != 1 || bool_attr(node, "transpose_b") == Some(true) {
                return Err(flow.not(
                    at.scope,
                    at.out(0),
                    "expected the classes in the columns of a dense layer".into(),
                ));
            }
            flow.learn(at.scope, at.out(0), Fact::Axis(*axis))?;
        }
        "BiasAdd" => {
            flow.must_join(at.scope, at.node, [0, 1]);
            if at.input == 0 {
                if axis.axis + 1 != axis.rank {
                    return Err(flow.not(
                        at.scope,
                        at.out(0),
                        "expected the classes on the last axis".into(),
                    ));
                }
                flow.learn(at.scope, at.out(0), Fact::Axis(*axis))?;
            }
        }
        "Sigmoid" | "Relu" | "Relu6" | "Exp" | "Log" | "Neg" | "Square" | "Sqrt" | "Abs" | "Tanh"
        | "ZerosLike" | "OnesLike" | "Cast" | "LogicalNot" | "Round" | "Floor" => {
            flow.learn(at.scope, at.out(0), Fact::Axis(*axis))?;
        }
        "Softmax" | "LogSoftmax" => {
            if axis.axis + 1 != axis.rank || axis.outer != Some(1) || axis.inner != 1 {
                return Err(flow.not(
                    at.scope,
                    at.out(0),
                    "expected a softmax over one axis of classes only".into(),
                ));
            }
            flow.learn(at.scope, at.out(0), Fact::Axis(*axis))?;
        }
        "MaxPool" | "AvgPool" => {
            let alone = |key| ints_attr(node, key).and_then(|sizes| sizes.get(3).copied()) == Some(1);
            let plain = axis.axis == 3 && str_attr(node, "data_format").unwrap_or("NHWC") == "NHWC";
            if !(plain && alone("ksize") && alone("strides")) {
                return Err(flow.not(
                    at.scope,
                    at.out(0),
                    "expected each class to be pooled by itself".into(),
                ));
            }
            // The sizes of the other axes may change.
            flow.learn(at.scope, at.out(0), Fact::Axis(*axis))?;
        }
        // Crops of other heights and widths, the same channels.
        "CropAndResize" if at.input == 0 && axis.axis == 3 => {
            flow.learn(at.scope, at.out(0), Fact::Axis(*axis))?;
        }
        "FakeQuantWithMinMaxVars" | "FakeQuantWithMinMaxArgs" if at.input == 0 => {
            flow.learn(at.scope, at.out(0), Fact::Axis(*axis))?;
        }
        "Add" | "AddV2" | "Sub" | "Mul" | "RealDiv" | "Maximum" | "Minimum" | "Pow" | "Greater"
        | "GreaterEqual" | "Less" | "LessEqual" | "Equal" | "NotEqual" | "LogicalAnd" | "LogicalOr" => {
            // The other operand is one number, or one for all classes, or carries the classes too. With more axes than the
            // first it puts its own before them.
            let other = 1 - at.input.min(1);
            let mut before = 0;
            let single = flow.view.scopes[at.scope].inputs[at.node].get(other).is_some_and(|&s| {
                let (inner, packed) = packed_alone(flow.view, at.scope, s);
                let new_axis = is_new_axis(flow.view, at.scope, inner, axis);
                before = if new_axis { packed } else { 0 };
                new_axis || static_rank(flow.view, &flow.found.facts, at.scope, s) == Some(0)
            });
            if !single {
                flow.must_join(at.scope, at.node, [other]);
            }
            let wider = ClassAxis { rank: axis.rank + before, axis: axis.axis + before, ..*axis };
            flow.learn(at.scope, at.out(0), Fact::Axis(wider))?;
        }
        "ArgMax" | "ArgMin" if at.input == 0 => {
            let along = flow.constants(at.scope, at.edge(1)).and_then(|a| a.first().copied());
            if along.map(|a| a.rem_euclid(axis.rank as i64)) != Some(axis.axis as i64) {
                return Err(flow.not(
                    at.scope,
                    at.out(0),
                    "expected the best of all classes to be looked for".into(),
                ));
            }
        }
        "AddN" => {
            let inputs = flow.view.scopes[at.scope].inputs[at.node].len();
            flow.must_join(at.scope, at.node, 0..inputs);
            flow.learn(at.scope, at.out(0), Fact::Axis(*axis))?;
        }
        "Select" | "SelectV2" if at.input > 0 => {
            flow.must_join(at.scope, at.node, [1, 2]);
            flow.learn(at.scope, at.out(0), Fact::Axis(*axis))?;
        }
        "Sum" | "Max" | "Min" | "Mean" | "Prod" if at.input == 0 => {
            let Some(axes) = flow.constants(at.scope, at.edge(1)) else {
                return Err(flow.not(
                    at.scope,
                    at.out(0),
                    "a reduction over axes that are no constant".into(),
                ));
            };
            let axes: BTreeSet<usize> =
                axes.iter().map(|&a| a.rem_euclid(axis.rank as i64) as usize).collect();
            if !axes.contains(&axis.axis) {
                let kept = bool_attr(node, "keep_dims") == Some(true);
                let lost = |before: usize| if kept { 0 } else { axes.range(..before).count() };
                let (rank, place) = (axis.rank - lost(axis.rank), axis.axis - lost(axis.axis));
                // What is reduced behind the classes is no longer there.
                let tail = if axes.range(axis.axis..).next().is_none() { axis.tail } else { None };
                let tail = if place + 1 == rank { Some(1) } else { tail };
                flow.learn(at.scope, at.out(0), Fact::Axis(ClassAxis { rank, axis: place, tail, ..*axis }))?;
            }
        }
        _ => return Ok(None),
    }
    Ok(Some(Outcome::Done))
}
