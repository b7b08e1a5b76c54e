//! What a model may hold that is to be run: told from its bytes, before TensorFlow sees them.
//!
//! A graph can read and write files, start code and talk to the network; nothing in TensorFlow holds it back. What is admitted
//! is a list of operations that work on tensors alone (`ops`), and the saver's own where a saver has them (`saver`).

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::graph::{GraphView, check};
use crate::pb;
use crate::pb::attr_value::Value;
use crate::saved_model::{SavedModel, checkpoint_index};

mod ops;
mod saver;

/// More elements than this, in one tensor or in all constants together, are declared, not exported: a protobuf file holds half
/// of it in 32-bit numbers, and a few bytes of it can ask for all memory there is.
const MOST_ELEMENTS: i64 = 1 << 30;

/// Refuses to run a model that reaches beyond its pictures, unless it is trusted. Errors: [`Error::Unsafe`].
pub fn admit(model: &SavedModel, trust: bool) -> Result<()> {
    let mut found = findings(model.meta())?;
    found.extend(absurd_variables(model));
    if found.is_empty() {
        return Ok(());
    }
    if trust {
        tracing::warn!("run on trust: {}", found.join("; "));
        return Ok(());
    }
    Err(Error::Unsafe { path: model.source.path().to_owned(), found })
}

/// What speaks against running a model, each as `what (function/node, and N more)`, sorted: operations that are not known to work on tensors
/// alone (those that touch files, processes or the network among them), where the saver's own are not meant; functions that
/// call each other without end; constants of absurd size; assets outside the model's folder.
pub fn findings(meta: &pb::MetaGraphDef) -> Result<Vec<String>> {
    let empty = pb::GraphDef::default();
    let view = GraphView::new(meta.graph_def.as_ref().unwrap_or(&empty))?;
    let of_saver = saver::meant(&view, meta);
    let mut found = BTreeSet::new();
    let mut reaching: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut all = 0i64;
    for (s, scope) in view.scopes.iter().enumerate() {
        for (n, node) in scope.nodes.iter().enumerate() {
            let place = || match scope.name {
                "" => node.name.clone(),
                function => format!("{function}/{}", node.name),
            };
            let known = ops::stays_inside(&node.op) || view.function(&node.op).is_some();
            if !(known || of_saver.contains(&(s, n))) || prints_to_file(node) {
                reaching.entry(&node.op).or_default().push(place());
            }
            for tensor in node.attr.values().flat_map(tensors) {
                let count = elements(tensor);
                all = all.saturating_add(count.unwrap_or(0));
                if count.is_none_or(|n| n > MOST_ELEMENTS) {
                    found.insert(format!("a constant of absurd size ({})", place()));
                }
            }
        }
    }
    for (op, places) in reaching {
        let more = if places.len() > 1 { format!(", and {} more", places.len() - 1) } else { String::new() };
        found.insert(format!("{op} ({}{more})", places[0]));
    }
    if all > MOST_ELEMENTS {
        found.insert(format!("constants of absurd size ({all} numbers in all)"));
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
    tensor.tensor_shape.as_ref().map_or(Some(1), count)
}

/// The elements of a shape; none where no number can hold them.
fn count(shape: &pb::TensorShapeProto) -> Option<i64> {
    let mut sizes = shape.dim.iter().map(|dim| dim.size);
    sizes.try_fold(1i64, |n, side| if side < 0 { None } else { n.checked_mul(side) })
}

/// The tensors that an attribute holds.
fn tensors(attr: &pb::AttrValue) -> Vec<&pb::TensorProto> {
    match &attr.value {
        Some(Value::Tensor(tensor)) => vec![tensor],
        Some(Value::List(list)) => list.tensor.iter().collect(),
        _ => Vec::new(),
    }
}

/// Variables whose checkpoint declares more than any has. An index that cannot be read is TensorFlow's to refuse.
fn absurd_variables(model: &SavedModel) -> Vec<String> {
    let index =
        model.variables_prefix().map(|prefix| checkpoint_index::read_index(&prefix.with_extension("index")));
    let entries = index.and_then(|index| index.ok()).unwrap_or_default();
    let absurd = entries.into_iter().filter(|(_, entry)| {
        entry.shape.as_ref().is_some_and(|shape| count(shape).is_none_or(|n| n > MOST_ELEMENTS))
    });
    absurd.map(|(key, _)| format!("a variable of absurd size ({key})")).collect()
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
        let value = Value::Func(Box::new(pb::NameAttrList { name: function.into(), ..Default::default() }));
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
            "DatasetToTFRecord",
            "RecordInput",
            "Skipgram",
            "DatasetFromGraph",
            "DeserializeIterator",
            "MlirPassthroughOp",
            "SomethingNew",
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

    fn reading(name: &str, op: &str, inputs: &[&str]) -> pb::NodeDef {
        pb::NodeDef { input: inputs.iter().map(|&i| i.into()).collect(), ..node(name, op) }
    }

    /// A model whose saver is as TensorFlow 2 writes it, before `change`.
    fn saved(change: impl FnOnce(&mut pb::MetaGraphDef)) -> Vec<String> {
        let taking = |name: &str, nodes| {
            let mut function = function(name, nodes);
            let argument = pb::op_def::ArgDef { name: "file_prefix".into(), ..Default::default() };
            function.signature.as_mut().unwrap().input_arg.push(argument);
            function
        };
        let with_input = |mut node: pb::NodeDef, inputs: &[&str]| {
            node.input = inputs.iter().map(|&i| i.into()).collect();
            node
        };
        let mut meta = model(
            vec![
                node("filename", "Placeholder"),
                with_input(call("save", "saving"), &["filename"]),
                with_input(call("restore", "restoring"), &["filename"]),
                call("serve", "serving"),
                node("elsewhere", "Const"),
            ],
            vec![
                taking(
                    "saving",
                    vec![
                        node("part", "Const"),
                        reading("join", "StringJoin", &["file_prefix", "part:output:0"]),
                        reading("shard", "ShardedFilename", &["join:output:0"]),
                        reading("write", "SaveV2", &["shard:filename:0"]),
                        reading(
                            "merge",
                            "MergeV2Checkpoints",
                            &["shard:filename:0", "file_prefix", "^write"],
                        ),
                    ],
                ),
                taking(
                    "restoring",
                    vec![node("other", "Const"), reading("read", "RestoreV2", &["file_prefix"])],
                ),
                function("serving", vec![node("work", "NoOp")]),
            ],
        );
        meta.saver_def = Some(pb::SaverDef {
            filename_tensor_name: "filename:0".into(),
            save_tensor_name: "save:0".into(),
            restore_op_name: "restore".into(),
            ..Default::default()
        });
        let encoding = Some(pb::tensor_info::Encoding::Name("serve:0".into()));
        let output = pb::TensorInfo { encoding, ..Default::default() };
        let signature = pb::SignatureDef { outputs: [("out".into(), output)].into(), ..Default::default() };
        meta.signature_def.insert("serving_default".into(), signature);
        change(&mut meta);
        findings(&meta).unwrap()
    }

    fn body<'a>(meta: &'a mut pb::MetaGraphDef, name: &str) -> &'a mut Vec<pb::NodeDef> {
        let functions = &mut meta.graph_def.as_mut().unwrap().library.as_mut().unwrap().function;
        &mut functions.iter_mut().find(|f| f.signature.as_ref().unwrap().name == name).unwrap().node_def
    }

    #[test]
    fn saving_and_restoring_are_the_savers_business() {
        assert_eq!(saved(|_| {}), [""; 0]);
        type Change = Box<dyn FnOnce(&mut pb::MetaGraphDef)>;
        let strays: [(&str, Change); 7] = [
            // Nobody calls it; or a name like any other does.
            (
                "SaveV2 (thief/s)",
                Box::new(|m| {
                    let library = m.graph_def.as_mut().unwrap().library.as_mut().unwrap();
                    library.function.push(function("thief", vec![node("s", "SaveV2")]));
                }),
            ),
            // Restoring runs at load: nothing may be written there.
            ("SaveV2 (restoring/s)", Box::new(|m| body(m, "restoring").push(node("s", "SaveV2")))),
            // What serves waits for the saver.
            (
                "SaveV2 (saving/write)",
                Box::new(|m| m.graph_def.as_mut().unwrap().node[3].input.push("^save".into())),
            ),
            ("RestoreV2 (serving/r)", Box::new(|m| body(m, "serving").push(node("r", "RestoreV2")))),
            // A file that the loader did not name, in the function, or passed to it.
            (
                "RestoreV2 (restoring/read)",
                Box::new(|m| body(m, "restoring")[1].input[0] = "other:output:0".into()),
            ),
            (
                "RestoreV2 (restoring/read)",
                Box::new(|m| m.graph_def.as_mut().unwrap().node[2].input[0] = "elsewhere".into()),
            ),
            // What runs at load by another name.
            (
                "SaveV2 (saving/write)",
                Box::new(|m| {
                    let list = pb::collection_def::NodeList { value: vec!["save".into()] };
                    let kind = Some(pb::collection_def::Kind::NodeList(list));
                    m.collection_def.insert("saved_model_main_op".into(), pb::CollectionDef { kind });
                }),
            ),
        ];
        for (expected, change) in strays {
            let found = saved(change);
            assert!(found.iter().any(|f| f == expected), "{expected}: {found:?}");
        }
    }

    #[test]
    fn cycles_bombs_and_climbing_assets_are_found() {
        let cyclic = model(
            vec![call("c", "a")],
            vec![function("a", vec![call("d", "b")]), function("b", vec![call("e", "a")])],
        );
        assert_eq!(findings(&cyclic).unwrap().len(), 1, "{:?}", findings(&cyclic));
        // As TensorFlow 1 called functions: the operation is the function's name.
        let cyclic = model(vec![node("c", "a")], vec![function("a", vec![node("d", "a")])]);
        assert_eq!(findings(&cyclic).unwrap().len(), 1, "{:?}", findings(&cyclic));

        let sized = |sizes: &[i64]| {
            let dim = sizes.iter().map(|&size| pb::tensor_shape_proto::Dim { size, ..Default::default() });
            let shape = pb::TensorShapeProto { dim: dim.collect(), ..Default::default() };
            let tensor =
                pb::TensorProto { tensor_shape: Some(shape), float_val: vec![1.0], ..Default::default() };
            let mut constant = node("k", "Const");
            constant
                .attr
                .insert("value".into(), pb::AttrValue { value: Some(Value::Tensor(Box::new(tensor))) });
            constant
        };
        let alone = |sizes: &[i64]| findings(&model(vec![sized(sizes)], vec![])).unwrap();
        assert!(alone(&[1000, 1000]).is_empty() && alone(&[]).is_empty() && alone(&[0]).is_empty());
        for bomb in [&[1 << 20, 1 << 20][..], &[i64::MAX, 3], &[-1]] {
            let found = alone(bomb);
            assert!(found.contains(&"a constant of absurd size (k)".into()), "{bomb:?}: {found:?}");
        }
        let many = (0..5).map(|i| pb::NodeDef { name: format!("k{i}"), ..sized(&[1 << 28]) }).collect();
        assert_eq!(findings(&model(many, vec![])).unwrap().len(), 1);

        let mut assets = model(vec![], vec![]);
        for name in ["vocabulary.txt", "../../etc/passwd", "/etc/passwd", "gs://bucket/x"] {
            assets.asset_file_def.push(pb::AssetFileDef { filename: name.into(), ..Default::default() });
        }
        assert_eq!(findings(&assets).unwrap().len(), 3);
    }
}
