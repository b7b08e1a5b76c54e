//! The best of all positions and classes: a flattened heatmap is ranked, and row, column and class are computed from the
//! indices (object_detection/meta_architectures/center_net_meta_arch.py, top_k_feature_map_locations and
//! row_col_channel_indices_from_flattened_indices).

use super::super::axis::{ClassAxis, Fact, IndexPart, Span};
use super::super::flow::Flow;
use super::super::trace::Element;
use super::{At, Outcome};
use crate::error::Result;

/// A class axis is ranked, or read at some positions; none where the operation does neither.
pub fn apply_axis(flow: &mut Flow<'_, '_>, at: At, axis: &ClassAxis) -> Result<Option<Outcome>> {
    match (&*flow.view.node(at.scope, at.node).op, at.input) {
        ("TopKV2", 0) => {
            let flat = axis.axis + 1 == axis.rank && axis.inner == 1 && axis.outer != Some(1);
            if !flat || axis.background {
                return Err(flow.not(
                    at.scope,
                    at.out(0),
                    "expected a ranking of all positions and classes, without background".into(),
                ));
            }
            flow.found.ranked.insert(at.scope);
            flow.learn(at.scope, at.out(1), Fact::Index(IndexPart::Whole))?;
        }
        ("GatherNd", 0) => {
            let indexed = flow.last_size(at.scope, at.edge(1)).and_then(|m| usize::try_from(m).ok());
            let rank = flow.rank(at.scope, at.edge(1));
            // The indexed axes lead; the classes must not be among them.
            let (Some(indexed), Some(rank)) = (indexed.filter(|&m| m <= axis.axis), rank) else {
                return Err(flow.not(
                    at.scope,
                    at.out(0),
                    "a gather of the class axis, or by indices of unknown shape, has no rule".into(),
                ));
            };
            let moved = ClassAxis {
                rank: rank - 1 + axis.rank - indexed,
                axis: rank - 1 + axis.axis - indexed,
                ..*axis
            };
            flow.learn(at.scope, at.out(0), Fact::Axis(moved))?;
        }
        _ => return Ok(None),
    }
    Ok(Some(Outcome::Done))
}

/// What is computed from an index. Only the number of classes may change, and only where it stands for that.
pub fn apply(flow: &mut Flow<'_, '_>, at: At, part: IndexPart) -> Result<Outcome> {
    let op = &*flow.view.node(at.scope, at.node).op;
    let learn = |flow: &mut Flow<'_, '_>, part| flow.learn(at.scope, at.out(0), Fact::Index(part));
    match (op, at.input, part) {
        ("Cast", 0, _) => learn(flow, part)?,
        ("FloorDiv" | "Div" | "TruncateDiv", 0, IndexPart::Whole) => {
            count_of_classes(flow, at)?;
            learn(flow, IndexPart::Position)?;
        }
        ("FloorMod" | "Mod" | "TruncateMod", 0, IndexPart::Whole) => count_of_classes(flow, at)?,
        ("Sub", 0, IndexPart::Whole) => {
            let first = flow.view.scopes[at.scope].inputs[at.node].get(1).copied();
            let first = first.and_then(|s| flow.found.facts.get(&(at.scope, s)));
            if first != Some(&Fact::Index(IndexPart::First)) {
                return Ok(Outcome::Later(flow.not(
                    at.scope,
                    at.out(0),
                    "something else than position times classes is taken from an index of a heatmap".into(),
                )));
            }
        }
        ("Sub", 1, IndexPart::First) => {}
        ("Mul", _, IndexPart::Position) => {
            count_of_classes(flow, at)?;
            learn(flow, IndexPart::First)?;
        }
        // Row and column are computed from the position, and boxes are read there: nothing of that depends on classes.
        (_, _, IndexPart::Position) => {}
        _ => {
            return Err(flow.not(
                at.scope,
                at.out(0),
                format!("an index of a heatmap with classes reaches operation {op}, which has no rule"),
            ));
        }
    }
    Ok(Outcome::Done)
}

/// The other operand is the number of classes.
fn count_of_classes(flow: &mut Flow<'_, '_>, at: At) -> Result<()> {
    let span = Span { units: 1, background: false };
    match flow.elements(at.scope, at.edge(1 - at.input.min(1))).as_deref() {
        Some([Element::Grows(s)]) if *s == span => Ok(()),
        Some(&[Element::Constant { scope, node, element, value, edge: Some(edge) }])
            if value == span.value(flow.growth) =>
        {
            flow.change_constant(scope, node, edge, element, span);
            Ok(())
        }
        _ => Err(flow.not(
            at.scope,
            at.out(0),
            format!("expected the number of classes, {}, as its other operand", span.value(flow.growth)),
        )),
    }
}
