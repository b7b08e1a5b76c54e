//! Where a flat graph can be fed with other regions of the picture: the one tensor of boxes that everything passes on its
//! way from non-max suppression to the features of regions.

use std::collections::{HashMap, HashSet, VecDeque};

use super::not;
use crate::error::Result;
use crate::graph::nodes::node;
use crate::graph::ops::called;
use crate::graph::tensor::type_attr;
use crate::pb::{self, DataType};

/// A tensor of a flat graph: node and output.
type Tensor = (usize, usize);

/// A flat graph as data flow.
pub(super) struct Flow<'g> {
    graph: &'g pb::GraphDef,
    index: HashMap<&'g str, usize>,
    inputs: Vec<Vec<Tensor>>,
    /// Whether a node suppresses: by itself, or in a function that it runs for each picture of a batch.
    suppresses: Vec<bool>,
}

impl<'g> Flow<'g> {
    pub fn new(graph: &'g pb::GraphDef) -> Self {
        let index: HashMap<&str, usize> =
            graph.node.iter().enumerate().map(|(i, n)| (n.name.as_str(), i)).collect();
        let resolve = |text: &String| {
            let (name, out) = text.split_once(':').unwrap_or((text, "0"));
            Some((*index.get(name)?, out.parse().ok()?))
        };
        let inputs = graph.node.iter().map(|n| n.input.iter().filter_map(resolve).collect()).collect();
        let one = |node: &pb::NodeDef| node.op.starts_with("NonMaxSuppression");
        let functions = graph.library.iter().flat_map(|library| &library.function);
        let suppressing: HashSet<&str> = functions
            .filter(|function| function.node_def.iter().any(one))
            .filter_map(|function| Some(function.signature.as_ref()?.name.as_str()))
            .collect();
        let within = |node: &pb::NodeDef| called(node).any(|(_, function)| suppressing.contains(function));
        let suppresses = graph.node.iter().map(|node| one(node) || within(node)).collect();
        Self { graph, index, inputs, suppresses }
    }

    fn tensor(&self, text: &str) -> Result<Tensor> {
        let (name, out) = text.split_once(':').unwrap_or((text, "0"));
        match (self.index.get(name), out.parse()) {
            (Some(&node), Ok(out)) => Ok((node, out)),
            _ => Err(not(text, "the flat graph lacks it".into())),
        }
    }

    fn name(&self, (node, out): Tensor) -> String {
        format!("{}:{out}", self.graph.node[node].name)
    }

    /// Nodes that a tensor is computed from, its own included; ways through `without` do not count.
    fn behind(&self, tensor: Tensor, without: Option<Tensor>) -> HashSet<usize> {
        let (mut seen, mut stack) = (HashSet::new(), vec![tensor]);
        while let Some(tensor) = stack.pop() {
            if Some(tensor) != without && seen.insert(tensor.0) {
                stack.extend(&self.inputs[tensor.0]);
            }
        }
        seen
    }

    /// Nodes among `within` that are computed from what `starts` says of their inputs.
    fn ahead(&self, within: &HashSet<usize>, starts: impl Fn(Tensor) -> bool) -> HashSet<usize> {
        let mut readers: HashMap<usize, Vec<usize>> = HashMap::new();
        let mut reached = HashSet::new();
        let mut queue = VecDeque::new();
        for &node in within {
            for &tensor in &self.inputs[node] {
                readers.entry(tensor.0).or_default().push(node);
                if starts(tensor) && reached.insert(node) {
                    queue.push_back(node);
                }
            }
        }
        while let Some(node) = queue.pop_front() {
            for &reader in readers.get(&node).into_iter().flatten() {
                if reached.insert(reader) {
                    queue.push_back(reader);
                }
            }
        }
        reached
    }

    /// The float32 tensors outside of loops that every way from a non-max suppression to `target` passes, nearest to the
    /// target first.
    pub fn narrows(&self, target: &str) -> Result<Vec<String>> {
        let target = self.tensor(target)?;
        let found = self.between(target, &|node| self.suppresses[node])?;
        found.ok_or_else(|| {
            not(&self.name(target), "no non-max suppression of proposals lies before it".into())
        })
    }

    /// The float32 tensors outside of loops that every way from `start` to `target` passes, nearest to the start first.
    pub fn passed(&self, start: &str, target: &str) -> Result<Vec<String>> {
        let (start, target) = (self.tensor(start)?, self.tensor(target)?);
        let mut found = self.between(target, &|node| node == start.0)?.ok_or_else(|| {
            not(&self.name(target), format!("it is not computed from {}", self.name(start)))
        })?;
        found.reverse();
        Ok(found)
    }

    /// Whether a tensor is computed from another, or from another output of the same operation.
    pub fn computed_from(&self, tensor: &str, other: &str) -> Result<bool> {
        let (tensor, other) = (self.tensor(tensor)?, self.tensor(other)?);
        Ok(self.behind(tensor, None).contains(&other.0))
    }

    /// What operations of a kind read between two tensors: their first inputs.
    pub fn read_by(&self, op: &str, start: &str, target: &str) -> Result<Vec<String>> {
        let (start, target) = (self.tensor(start)?, self.tensor(target)?);
        let ahead = self.ahead(&self.behind(target, None), |(node, _)| node == start.0);
        let mut nodes: Vec<usize> =
            ahead.into_iter().filter(|&node| self.graph.node[node].op == op).collect();
        nodes.sort_unstable();
        Ok(nodes.into_iter().filter_map(|node| Some(self.name(*self.inputs[node].first()?))).collect())
    }

    /// The float32 tensors outside of loops that every way from the nodes `starts` to `target` passes, nearest to the target
    /// first; none where no way leads there.
    fn between(&self, target: Tensor, starts: &dyn Fn(usize) -> bool) -> Result<Option<Vec<String>>> {
        let behind = self.behind(target, None);
        let region = self.ahead(&behind, |(node, _)| starts(node));
        // One way back; what all ways pass lies on it.
        let mut from: HashMap<usize, Tensor> = HashMap::new();
        let mut queue = VecDeque::from([target]);
        let mut seen = HashSet::from([target.0]);
        let mut end = None;
        while let Some(tensor) = queue.pop_front() {
            if starts(tensor.0) {
                end = Some(tensor);
                break;
            }
            for &before in &self.inputs[tensor.0] {
                let inside = region.contains(&before.0) || starts(before.0);
                if inside && seen.insert(before.0) {
                    from.insert(before.0, tensor);
                    queue.push_back(before);
                    // The way names each node by the output it left it through.
                    if starts(before.0) {
                        break;
                    }
                }
            }
        }
        let Some(end) = end else { return Ok(None) };
        let mut way = vec![end];
        while let Some(&next) = way.last().and_then(|last| from.get(&last.0)) {
            way.push(next);
        }
        way.reverse();
        let mut found = Vec::new();
        let mut loops = 0usize;
        for tensor in way {
            let producer = &self.graph.node[tensor.0];
            let keys: &[&str] = match &*producer.op {
                "TensorListStack" => &["element_dtype"],
                _ => &["T", "dtype", "Tparams"],
            };
            let dtype = keys.iter().find_map(|key| type_attr(producer, key));
            if loops == 0 && dtype == Some(DataType::DtFloat) && tensor != target && !starts(tensor.0) {
                let around = self.behind(target, Some(tensor));
                if !around.iter().any(|&node| starts(node)) {
                    found.push(self.name(tensor));
                }
            }
            match &*producer.op {
                "Exit" => loops += 1,
                "Enter" => loops = loops.saturating_sub(1),
                _ => {}
            }
        }
        Ok(Some(found))
    }

    /// What else must be given beside `boxes` to compute `targets` without the picture that `input` takes.
    pub fn given(&self, targets: &[&str], boxes: &str, input: &str) -> Result<Vec<String>> {
        let (boxes, input) = (self.tensor(boxes)?, self.tensor(input)?.0);
        let mut given = Vec::new();
        for target in targets {
            let target = self.tensor(target)?;
            let behind = self.behind(target, Some(boxes));
            let inside = self.ahead(&behind, |tensor| tensor == boxes);
            if !inside.contains(&target.0) {
                return Err(not(&self.name(target), format!("it is not computed from {}", self.name(boxes))));
            }
            let seen = self.ahead(&behind, |(node, _)| node == input);
            let mut inside: Vec<usize> = inside.into_iter().collect();
            inside.sort_unstable();
            let edges = inside.iter().flat_map(|&node| &self.inputs[node]);
            for &tensor in edges {
                let outside = tensor != boxes && inside.binary_search(&tensor.0).is_err();
                let of_picture = tensor.0 == input || seen.contains(&tensor.0);
                let name = self.name(tensor);
                if outside && of_picture && !given.contains(&name) {
                    given.push(name);
                }
            }
        }
        Ok(given)
    }
}

/// Adds the shape of a float32 tensor to a graph and names it.
pub(super) fn shape_of(graph: &mut pb::GraphDef, tensor: &str) -> String {
    let name = format!("{}/tfgraft_shape", tensor.replace(':', "_"));
    let shape = node(&name, "Shape", &[tensor]).dtype("T", DataType::DtFloat);
    graph.node.push(shape.dtype("out_type", DataType::DtInt32).build());
    format!("{name}:0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(nodes: &[(&str, &str, &[&str])]) -> pb::GraphDef {
        let node = |&(name, op, inputs): &(&str, &str, &[&str])| {
            node(name, op, inputs).dtype("T", DataType::DtFloat).build()
        };
        pb::GraphDef { node: nodes.iter().map(node).collect(), ..Default::default() }
    }

    #[test]
    fn boxes_are_where_all_ways_from_the_suppression_meet() {
        let graph = graph(&[
            ("picture", "Placeholder", &[]),
            ("map", "Conv2D", &["picture"]),
            ("scores", "Sigmoid", &["map"]),
            ("nms", "NonMaxSuppressionV3", &["scores"]),
            ("count", "Shape", &["nms"]),
            ("gather", "GatherV2", &["map", "nms"]),
            ("padded", "PadV2", &["gather", "count"]),
            ("loop/in", "Enter", &["padded"]),
            ("loop/body", "Mul", &["loop/in", "loop/in"]),
            ("loop/out", "Exit", &["loop/body"]),
            ("boxes", "Pack", &["loop/out"]),
            ("flat", "Reshape", &["boxes"]),
            ("number", "Shape", &["boxes"]),
            ("size", "Shape", &["map"]),
            ("crops", "CropAndResize", &["map", "flat", "number", "size"]),
            ("features", "Relu", &["crops"]),
        ]);
        let flow = Flow::new(&graph);
        assert_eq!(flow.narrows("features:0").unwrap(), ["crops:0", "boxes:0", "loop/out:0", "padded:0"]);
        let mut given = flow.given(&["features"], "boxes:0", "picture").unwrap();
        given.sort();
        assert_eq!(given, ["map:0", "size:0"]);
        assert!(flow.given(&["scores"], "boxes:0", "picture").is_err());
        assert!(flow.narrows("map:0").unwrap_err().to_string().contains("no non-max suppression"));
        assert!(flow.narrows("nothing:0").is_err());
    }

    #[test]
    fn a_loop_of_functions_suppresses_where_its_body_does() {
        let function = |name: &str, op: &str| pb::FunctionDef {
            signature: Some(pb::OpDef { name: name.into(), ..Default::default() }),
            node_def: vec![node::<&str>("n", op, &[]).build()],
            ..Default::default()
        };
        for (body, suppresses) in [("NonMaxSuppressionV5", true), ("Neg", false)] {
            let mut graph = graph(&[
                ("picture", "Placeholder", &[]),
                ("map", "Conv2D", &["picture"]),
                ("loop", "While", &["map"]),
                ("list", "TensorListSetItem", &["loop"]),
                ("boxes", "TensorListStack", &["list"]),
                ("crops", "CropAndResize", &["map", "boxes"]),
                ("features", "Relu", &["crops"]),
            ]);
            let named = pb::NameAttrList { name: "body".into(), ..Default::default() };
            let value = pb::AttrValue { value: Some(pb::attr_value::Value::Func(Box::new(named))) };
            graph.node[2].attr.insert("body".into(), value);
            // What is put into a list or taken from it has the type of its elements; the list itself has none.
            for list in &mut graph.node[3..5] {
                let dtype = list.attr.remove("T").unwrap_or_default();
                list.attr.insert("element_dtype".into(), dtype);
            }
            let functions = vec![function("body", body), function("other", "NonMaxSuppressionV5")];
            graph.library = Some(pb::FunctionDefLibrary { function: functions, ..Default::default() });
            let found = Flow::new(&graph).narrows("features:0");
            if suppresses {
                assert_eq!(found.unwrap(), ["crops:0", "boxes:0"]);
            } else {
                assert!(found.unwrap_err().to_string().contains("no non-max suppression"));
            }
        }
    }

    #[test]
    fn what_a_layer_becomes_is_followed_through_a_loop() {
        let graph = graph(&[
            ("picture", "Placeholder", &[]),
            ("boxes", "Placeholder", &[]),
            ("layer", "BiasAdd", &["picture"]),
            ("count", "Shape", &["layer"]),
            ("into", "Enter", &["layer"]),
            ("crop", "CropAndResize", &["into", "boxes"]),
            ("mean", "Mean", &["crop"]),
            ("array", "TensorArrayWriteV3", &["mean"]),
            ("out", "Exit", &["array"]),
            ("gathered", "Gather", &["out", "count"]),
            ("flat", "Reshape", &["gathered"]),
            ("target", "Softmax", &["flat"]),
        ]);
        let flow = Flow::new(&graph);
        assert_eq!(flow.passed("layer", "target").unwrap(), ["gathered:0", "flat:0"]);
        assert_eq!(flow.read_by("Mean", "layer", "target").unwrap(), ["crop:0"]);
        assert!(flow.read_by("Mean", "gathered", "target").unwrap().is_empty());
        assert!(flow.computed_from("target", "layer:0").unwrap());
        assert!(!flow.computed_from("boxes", "layer:0").unwrap());
        let refused = flow.passed("target", "layer").unwrap_err().to_string();
        assert!(refused.contains("layer:0") && refused.contains("not computed from"), "{refused}");
    }
}
