//! Grows a model's graph: protobuf in, protobuf out. Weights are placed by `columns.rs` and `export`.

use std::collections::{BTreeMap, BTreeSet};

use super::axis::{ClassAxis, Growth};
use super::flow::{self, ClassFlow, ConstantEdit};
use super::locate::{Kind, Located, Role, Root, locate};
use super::variables::{Variable, Variables};
use super::{metadata, notes, unroll};
use crate::error::{Error, Result};
use crate::graph::tensor::{attr, constant, ints, with_ints};
use crate::graph::{Changes, Editor, GraphView, Use};
use crate::pb;
use crate::pb::attr_value::Value;

/// A class layer whose weights must be widened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassLayer {
    /// Where the kernel lives.
    pub kernel: Weights,
    /// Where the biases live.
    pub biases: Weights,
    /// Kernel shape before growing, [height, width, depth, channels] or [depth, channels].
    pub kernel_shape: Vec<usize>,
    /// The class axis of the biases.
    pub axis: ClassAxis,
    /// What its columns are.
    pub role: Role,
}

/// Where weights live, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Weights {
    /// A Const node: its scope, number and name.
    Constant {
        /// Scope of the node.
        scope: usize,
        /// Its number.
        node: usize,
        /// Its name.
        name: String,
    },
    /// A variable.
    Variable(Variable),
}

impl Weights {
    /// The name to show: the node's, or the checkpoint key.
    pub fn name(&self) -> &str {
        match self {
            Self::Constant { name, .. } => name,
            Self::Variable(variable) => &variable.key,
        }
    }
}

/// A model understood: its head and variables.
#[derive(Debug)]
pub struct Understood {
    /// The class head.
    pub located: Located,
    /// The variables.
    pub variables: Variables,
    /// The class layers, each once.
    pub layers: Vec<ClassLayer>,
}

/// A grown graph; its class layers still hold the old weights.
#[derive(Debug)]
pub struct Grown {
    /// The new meta graph.
    pub meta: pb::MetaGraphDef,
    /// What changed in the graph.
    pub changes: Changes,
    /// Old and new class count.
    pub growth: Growth,
}

/// Finds the head and the layers of a model. Errors: [`Error::NotUnderstood`], [`Error::BadGraph`].
pub fn understand(meta: &pb::MetaGraphDef) -> Result<Understood> {
    let empty = pb::GraphDef::default();
    let view = GraphView::new(meta.graph_def.as_ref().unwrap_or(&empty))?;
    let variables = Variables::new(&view, meta)?;
    let located = locate(&view, meta, &variables)?;
    let weights = |root: Root| match root {
        Root::Constant { scope, node } => {
            Weights::Constant { scope, node, name: view.node(scope, node).name.clone() }
        }
        Root::Variable(v) => Weights::Variable(variables.all[v].clone()),
    };
    let layers = located
        .layers
        .iter()
        .map(|layer| ClassLayer {
            kernel: weights(layer.kernel),
            biases: weights(layer.biases),
            kernel_shape: layer.kernel_shape.clone(),
            axis: layer.axis,
            role: layer.role,
        })
        .collect();
    Ok(Understood { located, variables, layers })
}

/// Gives the graph room for `added` more classes. Errors: [`Error::NotUnderstood`] with the tensor, [`Error::BadGraph`].
pub fn grow(meta: &pb::MetaGraphDef, understood: &Understood, added: usize) -> Result<Grown> {
    let growth = Growth { classes: understood.located.classes, added };
    if added == 0 {
        return Err(Error::Usage("nothing to add: name at least one new class".into()));
    }
    let empty = pb::GraphDef::default();
    let graph = meta.graph_def.as_ref().unwrap_or(&empty);
    let view = GraphView::new(graph)?;
    let flow = flow::follow(&view, meta, &understood.variables, &understood.located, growth)?;
    let mut editor = Editor::new(meta)?;
    metadata::update(&view, &mut editor, &understood.variables, &flow, growth)?;
    for (&(scope, node), edit) in &flow.constants {
        change_constant(&view, &mut editor, scope, node, edit)?;
    }
    for &(scope, node) in &flow.unpacked {
        let count = attr(Value::I((growth.classes + growth.added) as i64));
        editor.node(scope, node).attr.insert("num".into(), count);
    }
    for scope in unrolled_scopes(&flow, understood)? {
        let picks: Vec<_> = flow.picks.iter().filter(|p| p.scope == scope).cloned().collect();
        unroll::unroll(&view, &mut editor, scope, &picks, &flow.unpacked, growth)?;
    }
    notes::forget(&mut editor, flow.facts.keys().copied())?;
    let (meta, changes) = editor.finish()?;
    Ok(Grown { meta, changes, growth })
}

/// Every copy of the body must have its per-class slices, or its ranking, and nothing else may.
fn unrolled_scopes(flow: &ClassFlow, understood: &Understood) -> Result<BTreeSet<usize>> {
    let picked: BTreeSet<usize> = flow.picks.iter().map(|p| p.scope).collect();
    let expected: BTreeSet<usize> = understood.located.bodies.iter().map(|b| b.scope).collect();
    let ranks = understood.located.kind == Kind::CenterPoints;
    let (found, other) = if ranks { (&flow.ranked, &picked) } else { (&picked, &flow.ranked) };
    if *found == expected && other.is_empty() {
        return Ok(picked);
    }
    Err(Error::NotUnderstood {
        tensor: "the class scores".into(),
        reason: format!(
            "they were followed into the post-processing of {} copies of the model, expected {}",
            found.len() + other.len(),
            expected.len()
        ),
    })
}

/// Changes a constant in place where all its readers want the same; otherwise each group of readers gets its own copy.
fn change_constant(
    view: &GraphView<'_>,
    editor: &mut Editor<'_>,
    scope: usize,
    node: usize,
    edit: &ConstantEdit,
) -> Result<()> {
    let here = &view.scopes[scope];
    let old = constant(&here.nodes[node]).and_then(|t| Some((t, ints(t)?)));
    let Some((old, values)) = old else {
        return Err(Error::NotUnderstood {
            tensor: here.nodes[node].name.clone(),
            reason: "expected an integer constant".into(),
        });
    };
    let mut groups: BTreeMap<&BTreeMap<usize, i64>, Vec<Use>> = BTreeMap::new();
    for (edge, elements) in &edit.by_edge {
        groups.entry(elements).or_default().push(*edge);
    }
    let readers = here.node_consumers(node);
    let only = groups.len() == 1 && readers.iter().all(|r| edit.by_edge.contains_key(r));
    for (elements, edges) in groups {
        let mut grown = values.clone();
        for (&element, &value) in elements {
            if let Some(v) = grown.get_mut(element) {
                *v = value;
            }
        }
        let value = attr(Value::Tensor(Box::new(with_ints(old, &grown))));
        if only {
            editor.node(scope, node).attr.insert("value".into(), value);
            continue;
        }
        let mut copy = editor.peek(scope, node).clone();
        copy.name = editor.free_name(scope, &format!("{}_tfgraft", copy.name));
        copy.attr.insert("value".into(), value);
        let text = Editor::first_output(scope, &copy.name);
        editor.add(scope, copy)?;
        for edge in edges {
            // Data inputs come first in a node's list, so their number is their place.
            editor.node(scope, edge.node).input[edge.input] = text.clone();
        }
    }
    Ok(())
}
