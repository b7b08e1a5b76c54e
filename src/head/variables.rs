//! Which variable is which: handle in the main graph, key in the checkpoint, node of the object graph.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::graph::tensor::{constant, shape_attr, type_attr};
use crate::graph::{GraphView, MAIN, Source};
use crate::pb;

/// Suffix of a checkpoint key that the object graph makes (tensorflow/python/checkpoint/trackable_view.py).
const VALUE_SUFFIX: &str = "/.ATTRIBUTES/VARIABLE_VALUE";

/// A resource variable of a TF2 export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Number of its VarHandleOp in the main graph.
    pub handle: usize,
    /// Its key in `variables/`.
    pub key: String,
    /// Its type.
    pub dtype: pb::DataType,
    /// Its shape as the handle declares it.
    pub shape: Vec<i64>,
    /// Number of its node in the object graph, where there is one.
    pub object: Option<usize>,
}

/// All variables of a model.
#[derive(Debug, Default)]
pub struct Variables {
    /// In the order of the restore function.
    pub all: Vec<Variable>,
    /// The keys of the checkpoint that belong to no variable (the object graph's bytes, counters), with their types.
    pub others: Vec<(String, pb::DataType)>,
    by_handle: HashMap<usize, usize>,
    by_object: HashMap<usize, usize>,
}

impl Variables {
    /// All keys of the checkpoint, with their types.
    pub fn entries(&self) -> Vec<(String, pb::DataType)> {
        let variables = self.all.iter().map(|v| (v.key.clone(), v.dtype));
        variables.chain(self.others.iter().cloned()).collect()
    }

    /// Follows the model's own restore function: key → RestoreV2 → AssignVariableOp → argument → VarHandleOp.
    pub fn new(view: &GraphView<'_>, meta: &pb::MetaGraphDef) -> Result<Self> {
        let mut variables = Self::default();
        let Some(saver) = meta.saver_def.as_ref().filter(|s| !s.restore_op_name.is_empty()) else {
            return Ok(variables);
        };
        let main = &view.scopes[MAIN];
        let restore = main.find(&saver.restore_op_name).ok_or_else(|| {
            not(&saver.restore_op_name, "the saver names this restore operation, which the graph lacks")
        })?;
        let Some(callee) = view.callee(MAIN, restore) else {
            // A TF1 saver restores reference variables in the main graph; exporter.py freezes them instead.
            return Ok(variables);
        };
        let body = &view.scopes[callee];
        let mut found = HashMap::new();
        for (n, node) in body.nodes.iter().enumerate() {
            if node.op != "AssignVariableOp" {
                continue;
            }
            let (handle, value) = (body.inputs[n].first(), body.inputs[n].get(1));
            let (Some(&handle), Some(&value)) = (handle, value) else { continue };
            let (_, handle) = view.origin(callee, handle);
            let (_, value) = view.origin(callee, value);
            if let (Source::Node { node: handle, .. }, Source::Node { node: restored, out }) = (handle, value)
                && body.nodes[restored].op == "RestoreV2"
            {
                found.insert((restored, out), handle);
            }
        }
        let paths = meta.object_graph_def.as_ref().map(|g| ObjectPaths { graph: g });
        for (n, node) in body.nodes.iter().enumerate().filter(|(_, node)| node.op == "RestoreV2") {
            let keys = keys(view, callee, n).ok_or_else(|| {
                not(
                    &view.describe(callee, Source::Node { node: n, out: 0 }),
                    "its tensor names are not a constant",
                )
            })?;
            let dtypes = node.attr.get("dtypes").and_then(|a| match &a.value {
                Some(pb::attr_value::Value::List(list)) => Some(&list.r#type),
                _ => None,
            });
            for (out, key) in keys.into_iter().enumerate() {
                let dtype = dtypes
                    .and_then(|d| d.get(out))
                    .and_then(|&d| pb::DataType::try_from(d).ok())
                    .ok_or_else(|| not(&node.name, "a restored tensor has no type"))?;
                let handle = found
                    .get(&(n, out))
                    .copied()
                    .filter(|&h| main.nodes.get(h).is_some_and(|h| h.op == "VarHandleOp"));
                let Some(handle) = handle else {
                    variables.others.push((key, dtype));
                    continue;
                };
                let object = paths.as_ref().and_then(|p| p.find(key.strip_suffix(VALUE_SUFFIX)?));
                let shape = shape_attr(&main.nodes[handle], "shape").unwrap_or_default();
                let dtype = type_attr(&main.nodes[handle], "dtype").unwrap_or(dtype);
                variables.by_handle.insert(handle, variables.all.len());
                if let Some(object) = object {
                    variables.by_object.insert(object, variables.all.len());
                }
                variables.all.push(Variable { handle, key, dtype, shape, object });
            }
        }
        Ok(variables)
    }

    /// The variable whose handle is this node of the main graph.
    pub fn of_handle(&self, node: usize) -> Option<usize> {
        self.by_handle.get(&node).copied()
    }

    /// The variable that is this node of the object graph.
    pub fn of_object(&self, node: usize) -> Option<usize> {
        self.by_object.get(&node).copied()
    }
}

/// What the object graph passes to the trailing arguments of each concrete function (scope → argument → variable).
pub fn bound_arguments(
    view: &GraphView<'_>,
    meta: &pb::MetaGraphDef,
    variables: &Variables,
) -> HashMap<(usize, usize), usize> {
    let mut bound = HashMap::new();
    for (name, concrete) in meta.object_graph_def.iter().flat_map(|g| &g.concrete_functions) {
        let Some(scope) = view.function(name) else { continue };
        let count =
            view.scopes[scope].function.and_then(|f| f.signature.as_ref()).map_or(0, |s| s.input_arg.len());
        let Some(first) = count.checked_sub(concrete.bound_inputs.len()) else { continue };
        for (i, &object) in concrete.bound_inputs.iter().enumerate() {
            if let Some(variable) = usize::try_from(object).ok().and_then(|o| variables.of_object(o)) {
                bound.insert((scope, first + i), variable);
            }
        }
    }
    bound
}

fn keys(view: &GraphView<'_>, scope: usize, restore: usize) -> Option<Vec<String>> {
    let &source = view.scopes[scope].inputs[restore].get(1)?;
    let (scope, Source::Node { node, .. }) = view.origin(scope, source) else { return None };
    let tensor = constant(view.node(scope, node))?;
    tensor.string_val.iter().map(|s| String::from_utf8(s.to_vec()).ok()).collect()
}

struct ObjectPaths<'a> {
    graph: &'a pb::SavedObjectGraph,
}

impl ObjectPaths<'_> {
    /// Follows a checkpoint path such as `model/_box_predictor/kernel` from the root object.
    fn find(&self, path: &str) -> Option<usize> {
        let mut node = 0;
        for part in path.split('/') {
            // Names of children escape their own slashes (trackable_utils.escape_local_name).
            let name = part.replace(".S", "/").replace("..", ".");
            let object = self.graph.nodes.get(node)?;
            let child = object.children.iter().find(|c| c.local_name == part || c.local_name == name)?;
            node = usize::try_from(child.node_id).ok()?;
        }
        let object = self.graph.nodes.get(node)?;
        matches!(object.kind, Some(pb::saved_object::Kind::Variable(_))).then_some(node)
    }
}

fn not(tensor: &str, reason: &str) -> Error {
    Error::NotUnderstood { tensor: tensor.to_owned(), reason: reason.to_owned() }
}
