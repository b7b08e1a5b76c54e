//! Sizes of feature maps that can be told without running or inferring anything.

use super::trace::{Facts, elements};
use crate::graph::tensor::{int_attr, ints_attr, str_attr};
use crate::graph::{GraphView, Source, Use};

/// The size of one axis of a tensor, where constants tell it: resizing and reshaping name it, layers that keep height and
/// width pass it on.
pub fn static_size(
    view: &GraphView<'_>,
    facts: &Facts,
    mut scope: usize,
    mut source: Source,
    axis: usize,
) -> Option<usize> {
    for _ in 0..200 {
        (scope, source) = view.origin(scope, source);
        let Source::Node { node, .. } = source else { return None };
        let here = &view.scopes[scope];
        let producer = &here.nodes[node];
        let spatial = matches!(axis, 1 | 2);
        match &*producer.op {
            "BiasAdd" | "Relu" | "Relu6" | "Sigmoid" | "Cast" | "FusedBatchNorm" | "FusedBatchNormV2"
            | "FusedBatchNormV3" => {}
            "Conv2D" | "DepthwiseConv2dNative" if spatial && keeps_size(producer) => {}
            "ResizeBilinear" | "ResizeNearestNeighbor" | "ResizeBicubic" if spatial => {
                return usize::try_from(*view.integers(scope, node, 1)?.get(axis - 1)?).ok();
            }
            "Pack" if axis == 0 && int_attr(producer, "axis").unwrap_or(0) == 0 => {
                return Some(here.inputs[node].len());
            }
            "Reshape" => {
                let sizes = elements(view, facts, scope, Use { node, input: 1 })?;
                return usize::try_from(sizes.get(axis)?.value()?).ok();
            }
            _ => return None,
        }
        source = *here.inputs[node].first()?;
    }
    None
}

/// Whether a convolution gives as many rows and columns as it gets.
fn keeps_size(convolution: &crate::pb::NodeDef) -> bool {
    str_attr(convolution, "padding") == Some("SAME")
        && str_attr(convolution, "data_format").unwrap_or("NHWC") == "NHWC"
        && ints_attr(convolution, "strides").is_some_and(|strides| strides.iter().all(|&s| s == 1))
}
