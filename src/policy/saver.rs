//! Reading and writing checkpoints: the business of the saver, and of nobody else.
//!
//! A loader runs the restore operation that `saver_def` names, so that what is called "restoring" runs unasked.

use std::collections::HashSet;

use super::{ops, runs_at_load};
use crate::graph::{GraphView, MAIN, Source, check, ops as calls};
use crate::pb;

/// How many tensors a file's name may be followed back through; those of a saver pass five or six.
const MOST_STEPS: usize = 1000;

/// Nodes by scope and number.
pub type Nodes = HashSet<(usize, usize)>;

/// Nodes that read or write a checkpoint and may: what writes is reached from the save operation, and from nothing that runs to
/// serve or to load; what reads is reached from the restore operation, and takes the name that the loader gives.
pub fn meant(view: &GraphView<'_>, meta: &pb::MetaGraphDef) -> Nodes {
    let Some(saver) = &meta.saver_def else { return Nodes::new() };
    let main = &view.scopes[MAIN];
    let node = |tensor: &str| main.find(tensor.split(':').next().unwrap_or_default().trim_start_matches('^'));
    let outputs = meta.signature_def.values().flat_map(|s| s.outputs.values().filter_map(check::tensor_name));
    let mut serving: Vec<usize> = outputs.filter_map(node).collect();
    serving.extend(runs_at_load(meta).iter().filter_map(|name| node(name)));
    let restoring = behind(view, node(&saver.restore_op_name));
    let saving = behind(view, node(&saver.save_tensor_name));
    let serving = behind(view, serving);
    let filename = node(&saver.filename_tensor_name);
    let op = |&(scope, node): &(usize, usize)| view.node(scope, node).op.as_str();
    let writes = |place: &(usize, usize)| {
        ops::WRITES.contains(&op(place)) && !serving.contains(place) && !restoring.contains(place)
    };
    let reads = |&(scope, node): &(usize, usize)| {
        ops::READS.contains(&op(&(scope, node)))
            && !serving.contains(&(scope, node))
            && view.scopes[scope].inputs[node]
                .first()
                .is_some_and(|&name| named_by(view, filename, scope, name))
    };
    saving.iter().filter(|p| writes(p)).chain(restoring.iter().filter(|p| reads(p))).copied().collect()
}

/// All that runs when these nodes of the main graph are: what they wait for and read, and whole functions that are called.
fn behind(view: &GraphView<'_>, nodes: impl IntoIterator<Item = usize>) -> Nodes {
    let mut found = Nodes::new();
    let mut open: Vec<(usize, usize)> = nodes.into_iter().map(|node| (MAIN, node)).collect();
    let mut entered = HashSet::new();
    while let Some((scope, node)) = open.pop() {
        if !found.insert((scope, node)) {
            continue;
        }
        let here = &view.scopes[scope];
        open.extend(here.controls[node].iter().map(|&before| (scope, before)));
        open.extend(here.inputs[node].iter().filter_map(|input| match input {
            Source::Node { node, .. } => Some((scope, *node)),
            Source::Arg(_) => None,
        }));
        let called = calls::called(&here.nodes[node]).map(|(_, function)| function);
        for callee in called.chain([here.nodes[node].op.as_str()]).filter_map(|name| view.function(name)) {
            if entered.insert(callee) {
                open.extend((0..view.scopes[callee].nodes.len()).map(|n| (callee, n)));
            }
        }
    }
    found
}

/// Whether a file's name is, or begins with, what the loader puts into the saver's tensor, whoever calls.
fn named_by(view: &GraphView<'_>, filename: Option<usize>, scope: usize, name: Source) -> bool {
    let mut open = vec![(scope, name)];
    let mut seen = HashSet::new();
    while let Some((scope, source)) = open.pop() {
        if seen.len() > MOST_STEPS {
            return false;
        }
        if !seen.insert((scope, source)) {
            continue;
        }
        match source {
            Source::Node { node, .. } => {
                let here = &view.scopes[scope];
                let inputs = &here.inputs[node];
                match here.nodes[node].op.as_str() {
                    _ if scope == MAIN && Some(node) == filename => {}
                    "Identity" | "ShardedFilename" | "StringJoin" if !inputs.is_empty() => {
                        open.push((scope, inputs[0]))
                    }
                    _ => return false,
                }
            }
            Source::Arg(arg) => {
                let callers = view.callers(scope);
                if callers.is_empty() {
                    return false;
                }
                for &(caller, node) in callers {
                    match (view.callee(caller, node), view.scopes[caller].inputs[node].get(arg)) {
                        (Some(callee), Some(&passed)) if callee == scope => open.push((caller, passed)),
                        _ => return false,
                    }
                }
            }
        }
    }
    true
}
