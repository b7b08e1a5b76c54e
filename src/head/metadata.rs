//! What a model says about its shapes outside the data flow: signatures, variables, the object graph. Shape notes are in
//! `notes.rs`.

use super::axis::{ClassAxis, Fact, Growth};
use super::flow::ClassFlow;
use super::variables::Variables;
use crate::error::{Error, Result};
use crate::graph::check::{main_tensor, tensor_name};
use crate::graph::tensor::shape_within_mut;
use crate::graph::{Editor, GraphView, MAIN, Source};
use crate::pb;
use crate::pb::attr_value::Value;
use crate::pb::structured_value::Kind;

/// Brings every declared shape in line with the grown class axis.
pub fn update(
    view: &GraphView<'_>,
    editor: &mut Editor<'_>,
    variables: &Variables,
    flow: &ClassFlow,
    growth: Growth,
) -> Result<()> {
    attributes(editor, flow);
    handles(editor, variables, flow, growth);
    signatures(view, editor, flow, growth);
    object_graph(view, editor, variables, flow, growth)
}

fn attributes(editor: &mut Editor<'_>, flow: &ClassFlow) {
    for edit in &flow.attributes {
        let node = editor.node(edit.scope, edit.node);
        let attribute = node.attr.get_mut(&edit.attribute);
        let shape = attribute.and_then(|attribute| shape_within_mut(attribute, edit.entry));
        if let Some(dim) = shape.and_then(|shape| shape.dim.get_mut(edit.axis)) {
            dim.size = edit.size;
        }
    }
}

/// Variables: the handle's shape and the notes on function arguments that carry it.
fn handles(editor: &mut Editor<'_>, variables: &Variables, flow: &ClassFlow, growth: Growth) {
    for (&(scope, source), fact) in &flow.facts {
        let Fact::Variable(axis) = fact else { continue };
        match source {
            Source::Node { node, .. } if scope == MAIN && variables.of_handle(node).is_some() => {
                if let Some(Value::Shape(shape)) =
                    editor.node(scope, node).attr.get_mut("shape").and_then(|a| a.value.as_mut())
                {
                    grow_shape(shape, axis, growth);
                }
            }
            Source::Arg(arg) => {
                let signature = editor.function(scope).and_then(|f| f.signature.as_mut());
                for data in signature
                    .and_then(|s| s.input_arg.get_mut(arg))
                    .iter_mut()
                    .flat_map(|a| &mut a.handle_data)
                {
                    if let Some(shape) = &mut data.shape {
                        grow_shape(shape, axis, growth);
                    }
                }
            }
            Source::Node { .. } => {}
        }
    }
}

fn signatures(view: &GraphView<'_>, editor: &mut Editor<'_>, flow: &ClassFlow, growth: Growth) {
    for info in editor.meta().signature_def.values_mut().flat_map(|s| s.outputs.values_mut()) {
        let source = tensor_name(info).and_then(|name| main_tensor(view, name));
        let fact = source.and_then(|s| flow.facts.get(&(MAIN, s)));
        if let (Some(Fact::Axis(axis)), Some(shape)) = (fact, &mut info.tensor_shape) {
            grow_shape(shape, axis, growth);
        }
    }
}

fn object_graph(
    view: &GraphView<'_>,
    editor: &mut Editor<'_>,
    variables: &Variables,
    flow: &ClassFlow,
    growth: Growth,
) -> Result<()> {
    let Some(objects) = editor.meta().object_graph_def.as_mut() else { return Ok(()) };
    for variable in &variables.all {
        let handle = Source::Node { node: variable.handle, out: 0 };
        let Some(Fact::Variable(axis)) = flow.facts.get(&(MAIN, handle)) else { continue };
        let object = variable.object.and_then(|o| objects.nodes.get_mut(o));
        let Some(pb::saved_object::Kind::Variable(saved)) = object.and_then(|o| o.kind.as_mut()) else {
            return Err(Error::NotUnderstood {
                tensor: variable.key.clone(),
                reason: "this class variable was not found in the object graph".into(),
            });
        };
        if let Some(shape) = &mut saved.shape {
            grow_shape(shape, axis, growth);
        }
    }
    for (name, concrete) in &mut objects.concrete_functions {
        let Some(scope) = view.function(name) else { continue };
        let results = view.scopes[scope].results.iter().map(|&r| flow.facts.get(&(scope, r)));
        let results: Vec<Option<&Fact>> = results.collect();
        if let Some(specs) = &mut concrete.output_signature {
            grow_specs(name, specs, &results, growth)?;
        }
        let arguments: Vec<Option<&Fact>> = (0..view.scopes[scope]
            .function
            .and_then(|f| f.signature.as_ref())
            .map_or(0, |s| s.input_arg.len()))
            .map(|arg| flow.facts.get(&(scope, Source::Arg(arg))))
            .collect();
        let own = arguments.len().saturating_sub(concrete.bound_inputs.len());
        if let Some(specs) = &mut concrete.canonicalized_input_signature {
            grow_specs(name, specs, &arguments[..own], growth)?;
        }
    }
    Ok(())
}

/// Grows the TensorSpecs of a function's results. Leaves come in the order of `tf.nest.flatten`, that of the results.
fn grow_specs(
    name: &str,
    specs: &mut pb::StructuredValue,
    facts: &[Option<&Fact>],
    growth: Growth,
) -> Result<()> {
    if !facts.iter().any(|f| matches!(f, Some(Fact::Axis(_)))) {
        return Ok(());
    }
    let mut leaves = Vec::new();
    collect(specs, &mut leaves);
    if leaves.len() != facts.len() {
        return Err(Error::NotUnderstood {
            tensor: name.to_owned(),
            reason: format!(
                "the object graph describes {} tensors of this function, which has {}",
                leaves.len(),
                facts.len()
            ),
        });
    }
    for (leaf, fact) in leaves.into_iter().zip(facts) {
        if let Some(Fact::Axis(axis)) = fact {
            grow_shape(leaf, axis, growth);
        }
    }
    Ok(())
}

fn collect<'a>(value: &'a mut pb::StructuredValue, leaves: &mut Vec<&'a mut pb::TensorShapeProto>) {
    match value.kind.as_mut() {
        Some(Kind::TensorSpecValue(spec)) => leaves.push(spec.shape.get_or_insert_default()),
        Some(Kind::BoundedTensorSpecValue(spec)) => leaves.push(spec.shape.get_or_insert_default()),
        Some(Kind::ListValue(list)) => list.values.iter_mut().for_each(|v| collect(v, leaves)),
        Some(Kind::TupleValue(tuple)) => tuple.values.iter_mut().for_each(|v| collect(v, leaves)),
        Some(Kind::DictValue(dict)) => dict.fields.values_mut().for_each(|v| collect(v, leaves)),
        Some(Kind::NamedTupleValue(tuple)) => {
            tuple.values.iter_mut().filter_map(|p| p.value.as_mut()).for_each(|v| collect(v, leaves));
        }
        _ => {}
    }
}

/// Only the size that is the old one changes; unknown sizes stay unknown.
fn grow_shape(shape: &mut pb::TensorShapeProto, axis: &ClassAxis, growth: Growth) {
    let (Some(old), Some(new)) = (axis.size(growth), axis.grown_size(growth)) else { return };
    if shape.dim.len() == axis.rank
        && let Some(dim) = shape.dim.get_mut(axis.axis).filter(|d| d.size == old as i64)
    {
        dim.size = new as i64;
    }
}
