//! What a model may hold that is to be run: told from its bytes, before TensorFlow sees them.
//!
//! A graph can read and write files, start code and talk to the network; nothing in TensorFlow holds it back. No list can
//! make an unknown model safe: this one refuses what no detector needs.

use std::collections::{BTreeSet, HashSet};

use crate::error::{Error, Result};
use crate::graph::{GraphView, MAIN, check, ops as calls};
use crate::pb;
use crate::pb::attr_value::Value;
use crate::saved_model::SavedModel;

mod ops;

/// A constant larger than this is declared, not exported: a few bytes of the file can ask for all memory there is.
const MOST_ELEMENTS: i64 = 1 << 30;

/// Refuses to run a model that reaches beyond its pictures, unless it is trusted. Errors: [`Error::Unsafe`].
pub fn admit(model: &SavedModel, trust: bool) -> Result<()> {
    let found = findings(model.meta())?;
    if found.is_empty() {
        return Ok(());
    }
    if trust {
        tracing::warn!("run on trust: {}", found.join("; "));
        return Ok(());
    }
    Err(Error::Unsafe { path: model.source.path().to_owned(), found })
}

/// What speaks against running a model, each as `what (function/node)`, sorted: operations that touch files, processes or
/// the network, where the saver's own are not meant; functions that call each other without end; constants of absurd
/// size; assets outside the model's folder.
pub fn findings(meta: &pb::MetaGraphDef) -> Result<Vec<String>> {
    let empty = pb::GraphDef::default();
    let view = GraphView::new(meta.graph_def.as_ref().unwrap_or(&empty))?;
    let saver = saver_scopes(&view, meta);
    let mut found = BTreeSet::new();
    for (s, scope) in view.scopes.iter().enumerate() {
        for node in scope.nodes {
            let place = || match scope.name {
                "" => node.name.clone(),
                function => format!("{function}/{}", node.name),
            };
            let outside_saver = ops::SAVER.contains(&&*node.op) && !saver.contains(&s);
            if ops::reaches_out(&node.op) || outside_saver || prints_to_file(node) {
                found.insert(format!("{} ({})", node.op, place()));
            }
            if let Some(Value::Tensor(tensor)) = node.attr.get("value").and_then(|v| v.value.as_ref())
                && elements(tensor).is_none_or(|n| n > MOST_ELEMENTS)
            {
                found.insert(format!("a constant of absurd size ({})", place()));
            }
        }
    }
    if let Err(Error::BadGraph { scope, reason }) = check::acyclic(&view) {
        found.insert(format!("{reason} ({scope})"));
    }
    for asset in &meta.asset_file_def {
        let name = &asset.filename;
        if name.contains("..") || name.starts_with(['/', '\\']) || name.contains(':') {
            found.insert(format!("an asset outside the model's folder ({name})"));
        }
    }
    Ok(found.into_iter().collect())
}

/// Operations that run when the model is loaded, before any request. They are among what [`findings`] looks at.
pub fn runs_at_load(meta: &pb::MetaGraphDef) -> Vec<String> {
    let signature = meta.signature_def.get("__saved_model_init_op");
    let named = signature.into_iter().flat_map(|s| s.outputs.values().filter_map(check::tensor_name));
    let collections = ["saved_model_main_op", "legacy_init_op"].into_iter();
    let listed = collections.filter_map(|name| meta.collection_def.get(name)?.kind.as_ref());
    let listed = listed.flat_map(|kind| match kind {
        pb::collection_def::Kind::NodeList(list) => list.value.clone(),
        _ => Vec::new(),
    });
    named.map(str::to_owned).chain(listed).collect()
}

/// PrintV2 can append to any file; to the standard streams it is harmless.
fn prints_to_file(node: &pb::NodeDef) -> bool {
    let stream = node.attr.get("output_stream").and_then(|v| v.value.as_ref());
    node.op == "PrintV2" && matches!(stream, Some(Value::S(name)) if name.starts_with(b"file:"))
}

/// The elements that a tensor declares; none where no number can hold them.
fn elements(tensor: &pb::TensorProto) -> Option<i64> {
    let dims = tensor.tensor_shape.iter().flat_map(|shape| &shape.dim);
    dims.map(|dim| dim.size).try_fold(1i64, |n, side| if side < 0 { None } else { n.checked_mul(side) })
}

/// The functions that saver_def's operations call. A TF1 saver lives in the main graph, as `save/…`.
fn saver_scopes(view: &GraphView<'_>, meta: &pb::MetaGraphDef) -> HashSet<usize> {
    let Some(saver) = &meta.saver_def else { return HashSet::new() };
    let mut scopes = HashSet::new();
    for name in
        [&saver.restore_op_name, saver.save_tensor_name.split(':').next().unwrap_or_default()] as [&str; 2]
    {
        let Some(node) = view.scopes[MAIN].find(name) else { continue };
        let mut open = vec![(MAIN, node)];
        if view.callee(MAIN, node).is_none() {
            scopes.insert(MAIN);
        }
        while let Some((scope, node)) = open.pop() {
            for (_, function) in calls::called(view.node(scope, node)) {
                if let Some(callee) = view.function(function).filter(|c| scopes.insert(*c)) {
                    open.extend((0..view.scopes[callee].nodes.len()).map(|n| (callee, n)));
                }
            }
        }
    }
    scopes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, op: &str) -> pb::NodeDef {
        pb::NodeDef { name: name.into(), op: op.into(), ..Default::default() }
    }

    fn function(name: &str, nodes: Vec<pb::NodeDef>) -> pb::FunctionDef {
        let signature = pb::OpDef { name: name.into(), ..Default::default() };
        pb::FunctionDef { signature: Some(signature), node_def: nodes, ..Default::default() }
    }

    fn model(nodes: Vec<pb::NodeDef>, functions: Vec<pb::FunctionDef>) -> pb::MetaGraphDef {
        let library = pb::FunctionDefLibrary { function: functions, ..Default::default() };
        let graph = pb::GraphDef { node: nodes, library: Some(library), ..Default::default() };
        pb::MetaGraphDef { graph_def: Some(graph), ..Default::default() }
    }

    fn call(name: &str, function: &str) -> pb::NodeDef {
        let value = Value::Func(pb::NameAttrList { name: function.into(), ..Default::default() });
        let mut node = node(name, "PartitionedCall");
        node.attr.insert("f".into(), pb::AttrValue { value: Some(value) });
        node
    }

    #[test]
    fn what_reaches_out_is_found_wherever_it_hides() {
        for op in [
            "ReadFile",
            "WriteFile",
            "EagerPyFunc",
            "RpcCall",
            "DebugIdentityV3",
            "TFRecordDatasetV2",
            "_Send",
        ] {
            let main = model(vec![node("a", op)], vec![]);
            assert_eq!(findings(&main).unwrap(), [format!("{op} (a)")]);
            let nested = model(
                vec![call("c", "outer")],
                vec![function("outer", vec![call("d", "inner")]), function("inner", vec![node("b", op)])],
            );
            assert_eq!(findings(&nested).unwrap(), [format!("{op} (inner/b)")]);
        }
        for op in ["Conv2D", "DecodeJpeg", "ReverseV2", "DecodeCSV", "ScalarSummary", "Merge"] {
            assert!(findings(&model(vec![node("a", op)], vec![])).unwrap().is_empty(), "{op}");
        }
    }

    #[test]
    fn saving_is_the_savers_business() {
        let mut saving = model(
            vec![call("save", "saver"), call("other", "thief")],
            vec![function("saver", vec![node("s", "SaveV2")]), function("thief", vec![node("s", "SaveV2")])],
        );
        saving.saver_def = Some(pb::SaverDef { save_tensor_name: "save:0".into(), ..Default::default() });
        assert_eq!(findings(&saving).unwrap(), ["SaveV2 (thief/s)"]);
    }

    #[test]
    fn cycles_bombs_and_climbing_assets_are_found() {
        let cyclic = model(
            vec![call("c", "a")],
            vec![function("a", vec![call("d", "b")]), function("b", vec![call("e", "a")])],
        );
        assert_eq!(findings(&cyclic).unwrap().len(), 1, "{:?}", findings(&cyclic));

        let sized = |sizes: &[i64]| {
            let dim = sizes.iter().map(|&size| pb::tensor_shape_proto::Dim { size, ..Default::default() });
            let shape = pb::TensorShapeProto { dim: dim.collect(), ..Default::default() };
            let tensor =
                pb::TensorProto { tensor_shape: Some(shape), float_val: vec![1.0], ..Default::default() };
            let mut constant = node("k", "Const");
            constant.attr.insert("value".into(), pb::AttrValue { value: Some(Value::Tensor(tensor)) });
            findings(&model(vec![constant], vec![])).unwrap()
        };
        assert!(sized(&[1000, 1000]).is_empty() && sized(&[]).is_empty() && sized(&[0]).is_empty());
        for bomb in [&[1 << 20, 1 << 20][..], &[i64::MAX, 3], &[-1]] {
            assert_eq!(sized(bomb), ["a constant of absurd size (k)"], "{bomb:?}");
        }

        let mut assets = model(vec![], vec![]);
        for name in ["vocabulary.txt", "../../etc/passwd", "/etc/passwd", "gs://bucket/x"] {
            assets.asset_file_def.push(pb::AssetFileDef { filename: name.into(), ..Default::default() });
        }
        assert_eq!(findings(&assets).unwrap().len(), 3);
    }
}
