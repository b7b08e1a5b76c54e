//! Which operations a model may hold.

use std::collections::{BTreeSet, HashSet};

use crate::error::Result;
use crate::graph::{GraphView, MAIN, ops};
use crate::pb;

/// Operations that read or write files, start code or talk to the network. Saving and restoring are looked at apart.
const UNSAFE: [&str; 24] = [
    "ReadFile",
    "WriteFile",
    "MatchingFiles",
    "WholeFileReader",
    "WholeFileReaderV2",
    "TFRecordReader",
    "TFRecordReaderV2",
    "TextLineReader",
    "TextLineReaderV2",
    "FixedLengthRecordReader",
    "FixedLengthRecordReaderV2",
    "PyFunc",
    "PyFuncStateless",
    "EagerPyFunc",
    "ImmutableConst",
    "LoadAndRemapMatrix",
    "SaveDataset",
    "LoadDataset",
    "DebugIdentity",
    "DebugIdentityV2",
    "RpcClient",
    "RpcCall",
    "CollectiveReduce",
    "PrintV2",
];

/// Operations of a checkpoint, which belong to the saver's functions only.
const SAVER: [&str; 5] = ["SaveV2", "RestoreV2", "MergeV2Checkpoints", "Save", "Restore"];

/// The unsafe operations of a model as `operation (function/node)`, sorted; the saver's own are not among them.
pub fn unsafe_operations(meta: &pb::MetaGraphDef) -> Result<Vec<String>> {
    let empty = pb::GraphDef::default();
    let view = GraphView::new(meta.graph_def.as_ref().unwrap_or(&empty))?;
    let saver = saver_scopes(&view, meta);
    let mut found = BTreeSet::new();
    for (s, scope) in view.scopes.iter().enumerate() {
        for node in scope.nodes {
            let outside_saver = SAVER.contains(&&*node.op) && !saver.contains(&s);
            if UNSAFE.contains(&&*node.op) || outside_saver {
                let place = if scope.name.is_empty() {
                    node.name.clone()
                } else {
                    format!("{}/{}", scope.name, node.name)
                };
                found.insert(format!("{} ({place})", node.op));
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// The functions that saver_def's operations call. A TF1 saver lives in the main graph, as `save/…`.
fn saver_scopes(view: &GraphView<'_>, meta: &pb::MetaGraphDef) -> HashSet<usize> {
    let Some(saver) = &meta.saver_def else { return HashSet::new() };
    let mut scopes = HashSet::new();
    for name in
        [&saver.restore_op_name, saver.save_tensor_name.split(':').next().unwrap_or_default()] as [&str; 2]
    {
        let Some(node) = view.scopes[MAIN].find(name) else { continue };
        let mut calls = vec![(MAIN, node)];
        if view.callee(MAIN, node).is_none() {
            scopes.insert(MAIN);
        }
        while let Some((scope, node)) = calls.pop() {
            for (_, function) in ops::called(view.node(scope, node)) {
                if let Some(callee) = view.function(function).filter(|c| scopes.insert(*c)) {
                    calls.extend((0..view.scopes[callee].nodes.len()).map(|n| (callee, n)));
                }
            }
        }
    }
    scopes
}
