//! Multi-class non-max suppression is unrolled: one copy of a subgraph per class. New classes need copies of their own.
//!
//! The copy of a class is what only its slice of the scores reaches, up to the places where all classes meet
//! (object_detection/core/post_processing.py, multiclass_non_max_suppression). Those places are a concatenation over
//! the classes, or a chain that adds one number per class.

mod compare;
mod copy;
mod region;

use std::collections::BTreeSet;

use region::Region;

use super::axis::Growth;
use super::flow::Pick;
use crate::error::{Error, Result};
use crate::graph::{Editor, GraphView, Source};

/// Gives every new class its copy of the per-class subgraph of one scope. `picks` are that scope's, sorted by class.
///
/// Nodes of `unpacked` have one output for each class. Must run after all other edits of the scope, whose results the
/// copies share.
pub fn unroll(
    view: &GraphView<'_>,
    editor: &mut Editor<'_>,
    scope: usize,
    picks: &[Pick],
    unpacked: &BTreeSet<(usize, usize)>,
    growth: Growth,
) -> Result<()> {
    let classes: Vec<usize> = picks.iter().map(|p| p.class).collect();
    if classes.iter().copied().ne(0..growth.classes) || picks.iter().any(|p| p.scores != picks[0].scores) {
        return Err(not(
            view,
            scope,
            picks[0].node,
            format!("expected one slice for each of {} classes", growth.classes),
        ));
    }
    let region = Region::new(view, scope, picks, unpacked)?;
    let template = region.instance(growth.classes - 1);
    let indices = region.class_indices(&template, picks)?;
    region.copy(editor, &template, &indices, picks, growth)
}

fn not(view: &GraphView<'_>, scope: usize, node: usize, reason: String) -> Error {
    Error::NotUnderstood { tensor: view.describe(scope, Source::Node { node, out: 0 }), reason }
}

fn node_of(source: Source) -> Option<usize> {
    match source {
        Source::Node { node, .. } => Some(node),
        Source::Arg(_) => None,
    }
}
