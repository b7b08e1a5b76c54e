//! Multi-class non-max suppression is unrolled: one copy of a subgraph per class. New classes need copies of their own.
//!
//! The copy of a class is what only its slice of the scores reaches, up to the places where all classes meet
//! (object_detection/core/post_processing.py, multiclass_non_max_suppression). Those places are a concatenation over
//! the classes, or a chain that adds one number per class.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use super::axis::Growth;
use super::flow::Pick;
use crate::error::{Error, Result};
use crate::graph::tensor::{attr, constant, floats, int_scalar, ints, with_ints};
use crate::graph::{Editor, GraphView, Source};
use crate::pb;
use crate::pb::attr_value::Value;

/// Marks the nodes of a grafted class; its number follows.
const SUFFIX: &str = "_tfgraft_";

/// Gives every new class its copy of the per-class subgraph of one scope. `picks` are that scope's, sorted by class.
///
/// Must run after all other edits of the scope, whose results the copies share.
pub fn unroll(
    view: &GraphView<'_>,
    editor: &mut Editor,
    scope: usize,
    picks: &[Pick],
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
    let region = Region::new(view, scope, picks)?;
    let template = region.instance(growth.classes - 1);
    let indices = region.class_indices(&template, picks)?;
    region.copy(editor, &template, &indices, picks, growth)
}

/// Which class's slice reaches a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Nobody,
    One(usize),
    Several,
}

/// Where the classes meet.
#[derive(Debug)]
struct Region<'v, 'a> {
    view: &'v GraphView<'a>,
    scope: usize,
    classes: usize,
    owners: Vec<Owner>,
    /// Nodes that join input c of every class c.
    joins: Vec<usize>,
    /// Ends of chains: the node of the last class, and which of its inputs is that class's own.
    chains: Vec<(usize, usize)>,
}

/// The nodes of one class.
struct Instance {
    class: usize,
    members: HashSet<usize>,
}

/// Elements of constants that hold the class's number: (node of the template, element) → value for class 0.
type Indices = BTreeMap<(usize, usize), f64>;

impl<'v, 'a> Region<'v, 'a> {
    fn new(view: &'v GraphView<'a>, scope: usize, picks: &[Pick]) -> Result<Self> {
        let here = &view.scopes[scope];
        let mut region = Self {
            view,
            scope,
            classes: picks.len(),
            owners: vec![Owner::Nobody; here.nodes.len()],
            joins: Vec::new(),
            chains: Vec::new(),
        };
        if picks.len() == 1 {
            region.joins = region.joins_of_one(picks[0].node)?;
        }
        let stop: HashSet<usize> = region.joins.iter().copied().collect();
        let mut queue: VecDeque<usize> = VecDeque::new();
        for pick in picks {
            region.owners[pick.node] = Owner::One(pick.class);
            queue.push_back(pick.node);
        }
        while let Some(node) = queue.pop_front() {
            for edge in here.node_consumers(node) {
                if stop.contains(&edge.node) {
                    continue;
                }
                let owner = match (region.owners[edge.node], region.owners[node]) {
                    (Owner::Nobody, owner) => owner,
                    (known, owner) if known == owner => continue,
                    (Owner::Several, _) => continue,
                    _ => Owner::Several,
                };
                region.owners[edge.node] = owner;
                queue.push_back(edge.node);
            }
        }
        if picks.len() > 1 {
            region.find_meetings()?;
            region.find_constant_joins()?;
        }
        region.claim_constants();
        if picks.len() > 1 {
            return Ok(region);
        }
        let sorts = |n: &usize| region.owners[*n] != Owner::Nobody && here.nodes[*n].op == "TopKV2";
        match (0..here.nodes.len()).find(sorts) {
            Some(node) => Err(region.not(
                node,
                "the one class's scores reach the sorting by a way that is not understood".into(),
            )),
            None => Ok(region),
        }
    }

    /// With one class there is no concatenation to see: `tf.concat` of one tensor is an Identity. The joined fields are
    /// those that the sort by score gathers (box_list_ops.sort_by_field).
    fn joins_of_one(&self, pick: usize) -> Result<Vec<usize>> {
        let here = &self.view.scopes[self.scope];
        let (mut seen, mut queue) = (HashSet::from([pick]), VecDeque::from([pick]));
        let mut sort = None;
        while let Some(node) = queue.pop_front() {
            if here.nodes[node].op == "TopKV2" {
                sort = Some(node);
                break;
            }
            for edge in here.node_consumers(node) {
                if seen.insert(edge.node) {
                    queue.push_back(edge.node);
                }
            }
        }
        let sort =
            sort.ok_or_else(|| self.not(pick, "no sorting of the selected boxes by score was found".into()))?;
        let mut joins = BTreeSet::new();
        for edge in here.consumers(Source::Node { node: sort, out: 1 }) {
            if here.nodes[edge.node].op == "GatherV2" && edge.input == 1 {
                match here.inputs[edge.node].first() {
                    Some(&Source::Node { node, .. }) if here.nodes[node].op == "Identity" => {
                        joins.insert(node);
                    }
                    _ => {
                        return Err(self.not(
                            edge.node,
                            "expected an Identity where the classes' boxes would be joined".into(),
                        ));
                    }
                }
            }
        }
        if joins.is_empty() {
            return Err(self.not(sort, "nothing is sorted by these scores".into()));
        }
        Ok(joins.into_iter().collect())
    }

    fn owner(&self, source: Source) -> Owner {
        match source {
            Source::Node { node, .. } => self.owners[node],
            Source::Arg(_) => Owner::Nobody,
        }
    }

    fn find_meetings(&mut self) -> Result<()> {
        let here = &self.view.scopes[self.scope];
        let last = self.classes - 1;
        for (n, node) in here.nodes.iter().enumerate() {
            if self.owners[n] != Owner::Several {
                continue;
            }
            let owners: Vec<Owner> = here.inputs[n].iter().map(|&s| self.owner(s)).collect();
            if !owners.iter().any(|o| matches!(o, Owner::One(_))) {
                continue;
            }
            let in_order = owners.len() == self.classes + 1
                && owners[..self.classes].iter().enumerate().all(|(c, o)| *o == Owner::One(c));
            if node.op == "ConcatV2" && in_order {
                self.joins.push(n);
                continue;
            }
            // A running sum: the previous link and this class's number.
            let own = owners.iter().position(|o| matches!(o, Owner::One(c) if *c > 0));
            match (&*node.op, own, &owners[..]) {
                ("AddV2" | "Add", Some(own), [_, _]) => {
                    let previous = owners[1 - own];
                    let links = match owners[own] {
                        Owner::One(1) => previous == Owner::One(0),
                        _ => previous == Owner::Several,
                    };
                    if !links {
                        return Err(
                            self.not(n, "a sum over classes that does not go from class to class".into())
                        );
                    }
                    if owners[own] == Owner::One(last) {
                        self.chains.push((n, own));
                    }
                }
                _ => {
                    return Err(self.not(
                        n,
                        format!(
                            "some classes meet here, expected a concatenation of all {} or a running sum",
                            self.classes
                        ),
                    ));
                }
            }
        }
        if self.joins.is_empty() {
            return Err(self.not(0, "no place was found where the classes' boxes are joined".into()));
        }
        // A sum that nobody reads need not grow.
        let read = |n: usize| {
            !here.node_consumers(n).is_empty()
                || here.results.iter().any(|r| matches!(r, Source::Node { node, .. } if *node == n))
        };
        self.chains.retain(|&(n, _)| read(n));
        Ok(())
    }

    /// Fields that do not depend on the scores, such as the class of a selected box, are joined too: whatever is sorted
    /// by the same order as a joined field is a joined field.
    fn find_constant_joins(&mut self) -> Result<()> {
        let here = &self.view.scopes[self.scope];
        let gathers = |source: Source, input: usize| {
            let uses = here.consumers(source).iter().filter(move |e| e.input == input);
            uses.map(|e| e.node).filter(|&n| here.nodes[n].op == "GatherV2")
        };
        let orders: BTreeSet<Source> = self
            .joins
            .iter()
            .flat_map(|&join| gathers(Source::Node { node: join, out: 0 }, 0))
            .filter_map(|gather| here.inputs[gather].get(1).copied())
            .collect();
        for gather in orders.into_iter().flat_map(|order| gathers(order, 1)).collect::<BTreeSet<_>>() {
            let Some(field) = here.inputs[gather].first().copied().and_then(node_of) else { continue };
            if self.joins.contains(&field) {
                continue;
            }
            if here.nodes[field].op != "ConcatV2" || here.inputs[field].len() != self.classes + 1 {
                return Err(self.not(
                    field,
                    format!("it is sorted like a field of all {} classes, but joins none", self.classes),
                ));
            }
            self.joins.push(field);
        }
        Ok(())
    }

    /// What a join reads for a class and nothing else reads belongs to that class.
    fn claim_constants(&mut self) {
        let here = &self.view.scopes[self.scope];
        for join in self.joins.clone() {
            for class in 0..self.classes {
                let Some(node) = here.inputs[join].get(class).copied().and_then(node_of) else { continue };
                let private = here.node_consumers(node).iter().all(|e| e.node == join);
                if self.owners[node] == Owner::Nobody && private {
                    self.owners[node] = Owner::One(class);
                }
            }
        }
    }

    /// The nodes of a class that its joined tensors need: those that its slice reaches, and those that feed only them.
    fn instance(&self, class: usize) -> Instance {
        let here = &self.view.scopes[self.scope];
        let mine = |n: usize| self.owners[n] == Owner::One(class);
        let mut members: HashSet<usize> = HashSet::new();
        let mut stack: Vec<usize> =
            self.roots(class).into_iter().filter_map(node_of).filter(|&n| mine(n)).collect();
        while let Some(node) = stack.pop() {
            if members.insert(node) {
                stack.extend(here.inputs[node].iter().copied().filter_map(node_of).filter(|&n| mine(n)));
            }
        }
        let owned: HashSet<usize> = (0..here.nodes.len()).filter(|&n| mine(n)).collect();
        let results: HashSet<usize> = here.results.iter().copied().filter_map(node_of).collect();
        // Constants and shapes that only this class reads; a node joins once all its readers have.
        loop {
            let feeders: BTreeSet<usize> = members
                .iter()
                .flat_map(|&m| here.inputs[m].iter().copied().filter_map(node_of))
                .filter(|n| self.owners[*n] == Owner::Nobody && !members.contains(n) && !results.contains(n))
                .filter(|&n| {
                    here.node_consumers(n)
                        .iter()
                        .all(|e| members.contains(&e.node) || owned.contains(&e.node))
                })
                .collect();
            if feeders.is_empty() {
                return Instance { class, members };
            }
            members.extend(feeders);
        }
    }

    /// What the joins and chains read of a class.
    fn roots(&self, class: usize) -> Vec<Source> {
        let here = &self.view.scopes[self.scope];
        let mut roots: Vec<Source> =
            self.joins.iter().filter_map(|&j| here.inputs[j].get(class).copied()).collect();
        for &(end, own) in &self.chains {
            roots.extend(self.link(end, own, class).and_then(|(n, own)| here.inputs[n].get(own).copied()));
        }
        roots
    }

    /// The link of a chain that adds a class's number.
    fn link(&self, end: usize, own: usize, class: usize) -> Option<(usize, usize)> {
        let here = &self.view.scopes[self.scope];
        let mut node = end;
        for _ in class..self.classes - 1 {
            node = node_of(*here.inputs[node].get(1 - own)?)?;
        }
        Some((node, own))
    }

    /// Compares the classes' instances and finds the constants that count them.
    fn class_indices(&self, template: &Instance, picks: &[Pick]) -> Result<Indices> {
        if self.classes == 1 {
            return self.indices_of_one(picks);
        }
        let mut indices: Option<Indices> = None;
        for (class, pick) in picks.iter().enumerate().take(self.classes - 1) {
            let pairs = self.pair(template, class)?;
            let found = self.compare(&pairs, class)?;
            match &indices {
                None => indices = Some(found),
                Some(known) if known.keys().eq(found.keys()) => {}
                Some(_) => {
                    return Err(self.not(pick.node, "the classes' copies count differently".into()));
                }
            }
        }
        indices.ok_or_else(|| self.not(picks[0].node, "no class index was found".into()))
    }

    /// Walks the template and another class's copy side by side; they must be alike.
    fn pair(&self, template: &Instance, class: usize) -> Result<BTreeMap<usize, usize>> {
        let here = &self.view.scopes[self.scope];
        let other = self.instance(class);
        let mut pairs = BTreeMap::new();
        let mut stack: Vec<(Source, Source)> =
            self.roots(template.class).into_iter().zip(self.roots(class)).collect();
        while let Some((a, b)) = stack.pop() {
            let (Source::Node { node: m, out: i }, Source::Node { node: n, out: j }) = (a, b) else {
                if a == b {
                    continue;
                } else {
                    return Err(self.not(template.class, "arguments differ".into()));
                }
            };
            if !template.members.contains(&m) {
                if a == b || self.same_constant(m, n) {
                    continue;
                }
                return Err(self.not(
                    n,
                    format!("class {class} reads another tensor here than class {}", template.class),
                ));
            }
            match pairs.get(&m) {
                Some(&known) if known == n => continue,
                Some(_) => return Err(self.not(n, "the classes' copies are wired differently".into())),
                None => {}
            }
            let alike = i == j
                && other.members.contains(&n)
                && here.nodes[m].op == here.nodes[n].op
                && here.inputs[m].len() == here.inputs[n].len();
            if !alike {
                return Err(self.not(
                    n,
                    format!("differs from its counterpart {} of the last class", here.nodes[m].name),
                ));
            }
            pairs.insert(m, n);
            stack.extend(here.inputs[m].iter().copied().zip(here.inputs[n].iter().copied()));
        }
        Ok(pairs)
    }

    fn same_constant(&self, m: usize, n: usize) -> bool {
        let here = &self.view.scopes[self.scope];
        matches!((constant(&here.nodes[m]), constant(&here.nodes[n])), (Some(a), Some(b)) if a == b)
    }

    fn compare(&self, pairs: &BTreeMap<usize, usize>, class: usize) -> Result<Indices> {
        let here = &self.view.scopes[self.scope];
        let distance = (self.classes - 1 - class) as f64;
        let mut found = Indices::new();
        for (&m, &n) in pairs {
            let (Some(a), Some(b)) = (constant(&here.nodes[m]), constant(&here.nodes[n])) else { continue };
            if a == b {
                continue;
            }
            let (Some(a), Some(b)) = (numbers(a), numbers(b)) else {
                return Err(self.not(n, "a constant that differs between classes is no number".into()));
            };
            if a.len() != b.len() {
                return Err(self.not(n, "a constant has another size than in the last class".into()));
            }
            for (element, (a, b)) in a.iter().zip(&b).enumerate().filter(|(_, (a, b))| a != b) {
                if a - b != distance {
                    return Err(self.not(
                        n,
                        format!("a constant differs by {} between classes {distance} apart", a - b),
                    ));
                }
                found.insert((m, element), b - class as f64);
            }
        }
        Ok(found)
    }

    /// With one class nothing can be compared: the index is where the slice begins, and what is added to zeros to make
    /// the class of every selected box.
    fn indices_of_one(&self, picks: &[Pick]) -> Result<Indices> {
        let here = &self.view.scopes[self.scope];
        let pick = &picks[0];
        let begin = here.inputs[pick.node].get(1).copied().and_then(node_of);
        let begin = begin.ok_or_else(|| self.not(pick.node, "its begin is no constant".into()))?;
        let mut indices = Indices::from([((begin, pick.element), 0.0)]);
        let mut labels = Vec::new();
        for root in self.roots(0) {
            let Some(add) = node_of(root).filter(|&n| matches!(&*here.nodes[n].op, "AddV2" | "Add")) else {
                continue;
            };
            let &[zeros, index] = &here.inputs[add][..] else { continue };
            let is_zeros = node_of(zeros).is_some_and(|n| {
                here.nodes[n].op == "ZerosLike"
                    || constant(&here.nodes[n]).and_then(floats).is_some_and(|v| v.iter().all(|&x| x == 0.0))
            });
            let index = node_of(index)
                .filter(|&n| constant(&here.nodes[n]).and_then(numbers).as_deref() == Some(&[0.0]));
            if let (true, Some(index)) = (is_zeros, index) {
                labels.push(index);
            }
        }
        let &[label] = &labels[..] else {
            return Err(self.not(
                pick.node,
                format!("expected one place that labels the boxes of the class, found {}", labels.len()),
            ));
        };
        indices.insert((label, 0), 0.0);
        Ok(indices)
    }

    fn copy(
        &self,
        editor: &mut Editor,
        template: &Instance,
        indices: &Indices,
        picks: &[Pick],
        growth: Growth,
    ) -> Result<()> {
        let here = &self.view.scopes[self.scope];
        let begin = here.inputs[picks[template.class].node].get(1).copied().and_then(node_of);
        if !begin.is_some_and(|b| template.members.contains(&b) && indices.keys().any(|(n, _)| *n == b)) {
            return Err(self.not(
                picks[template.class].node,
                "the constant that picks the class is shared with other classes".into(),
            ));
        }
        let mut members: Vec<usize> = template.members.iter().copied().collect();
        members.sort_unstable();
        let mut previous: Vec<String> =
            self.chains.iter().map(|&(end, _)| here.nodes[end].name.clone()).collect();
        let mut joined: Vec<Vec<String>> = vec![Vec::new(); self.joins.len()];
        for class in growth.classes..growth.classes + growth.added {
            let mut names: HashMap<&str, String> = HashMap::new();
            for &m in &members {
                let old = here.nodes[m].name.as_str();
                names.insert(old, editor.free_name(self.scope, &format!("{}{SUFFIX}{class}", stem(old))));
            }
            for &m in &members {
                let mut node = editor.peek(self.scope, m).clone();
                node.name = names[node.name.as_str()].clone();
                node.input.iter_mut().for_each(|i| *i = renamed(i, &names));
                node.attr.remove("_class");
                for (&(_, element), &first) in indices.range((m, 0)..=(m, usize::MAX)) {
                    set_number(&mut node, element, first + class as f64);
                }
                editor.add(self.scope, node)?;
            }
            for (chain, &(end, own)) in self.chains.iter().enumerate() {
                let mut node = editor.peek(self.scope, end).clone();
                let old = node.name.clone();
                node.name = editor.free_name(self.scope, &format!("{}{SUFFIX}{class}", stem(&old)));
                node.input[own] = renamed(&node.input[own], &names);
                node.input[1 - own] = with_node(&self.output_of(end), &previous[chain]);
                previous[chain] = node.name.clone();
                editor.add(self.scope, node)?;
            }
            for (join, &j) in self.joins.iter().enumerate() {
                let text = editor.peek(self.scope, j).input[template.class].clone();
                joined[join].push(renamed(&text, &names));
            }
        }
        for (&j, inputs) in self.joins.iter().zip(joined) {
            self.widen_join(editor, j, inputs, begin)?;
            self.grow_counts(editor, j, growth)?;
        }
        for (&(end, _), last) in self.chains.iter().zip(&previous) {
            self.redirect(editor, end, last);
        }
        Ok(())
    }

    fn widen_join(
        &self,
        editor: &mut Editor,
        join: usize,
        inputs: Vec<String>,
        begin: Option<usize>,
    ) -> Result<()> {
        let here = &self.view.scopes[self.scope];
        let count = self.classes + inputs.len();
        let axis = if self.classes == 1 {
            // The join was an Identity. In a loop a constant lives in the frame of its control inputs.
            let name = editor.free_name(self.scope, &format!("{}/axis", here.nodes[join].name));
            let controls = begin
                .map(|b| here.nodes[b].input.iter().filter(|i| i.starts_with('^')).cloned().collect())
                .unwrap_or_default();
            let dtype = attr(Value::Type(pb::DataType::DtInt32 as i32));
            let value = attr(Value::Tensor(int_scalar(0)));
            editor.add(
                self.scope,
                pb::NodeDef {
                    name: name.clone(),
                    op: "Const".into(),
                    input: controls,
                    attr: [("dtype".to_owned(), dtype), ("value".to_owned(), value)].into(),
                    ..Default::default()
                },
            )?;
            Some(Editor::first_output(self.scope, &name))
        } else {
            None
        };
        let node = editor.node(self.scope, join);
        let place = self.classes;
        node.input.splice(place..place, inputs);
        if let Some(axis) = axis {
            node.op = "ConcatV2".into();
            node.input.insert(count, axis);
            node.attr.insert("Tidx".into(), attr(Value::Type(pb::DataType::DtInt32 as i32)));
        }
        node.attr.insert("N".into(), attr(Value::I(count as i64)));
        Ok(())
    }

    /// Constants that hold how many boxes all classes have together: a count folded when the model was traced, compared
    /// with the true one before sorting (box_list_ops.sort_by_field).
    fn grow_counts(&self, editor: &mut Editor, join: usize, growth: Growth) -> Result<()> {
        let here = &self.view.scopes[self.scope];
        let readers = |node: usize, op: &'static str| {
            here.consumers(Source::Node { node, out: 0 })
                .iter()
                .map(|e| e.node)
                .filter(move |&n| here.nodes[n].op == op)
        };
        let firsts =
            readers(join, "Shape").flat_map(|shape| readers(shape, "StridedSlice")).filter(|&slice| {
                let begin = here.inputs[slice].get(1).copied().and_then(node_of);
                begin.and_then(|b| constant(&here.nodes[b])).and_then(ints).as_deref() == Some(&[0])
            });
        let compared: BTreeSet<usize> = firsts.flat_map(|first| readers(first, "Equal")).collect();
        for equal in compared {
            for count in here.inputs[equal].iter().copied().filter_map(node_of) {
                let Some(&[boxes]) = constant(&here.nodes[count]).and_then(ints).as_deref() else { continue };
                let others = here
                    .node_consumers(count)
                    .iter()
                    .any(|e| e.node != equal && here.nodes[e.node].op != "Assert");
                if others || boxes % growth.classes as i64 != 0 {
                    return Err(self.not(
                        count,
                        format!(
                            "expected a count of the boxes of all {} classes, found {boxes}",
                            growth.classes
                        ),
                    ));
                }
                let grown = boxes / growth.classes as i64 * (growth.classes + growth.added) as i64;
                set_number(editor.node(self.scope, count), 0, grown as f64);
            }
        }
        Ok(())
    }

    /// Lets the readers of a chain's old end read its new end.
    fn redirect(&self, editor: &mut Editor, end: usize, last: &str) {
        let here = &self.view.scopes[self.scope];
        let old = here.nodes[end].name.clone();
        let readers: BTreeSet<usize> = here.node_consumers(end).iter().map(|e| e.node).collect();
        let names = HashMap::from([(old.as_str(), last.to_owned())]);
        for reader in readers {
            editor.node(self.scope, reader).input.iter_mut().for_each(|i| *i = renamed(i, &names));
        }
        if let Some(function) = editor.function(self.scope) {
            function.ret.values_mut().for_each(|r| *r = renamed(r, &names));
        }
    }

    fn output_of(&self, node: usize) -> String {
        let here = &self.view.scopes[self.scope];
        let name = &here.nodes[node].name;
        if here.name.is_empty() { name.clone() } else { format!("{name}:z:0") }
    }

    fn not(&self, node: usize, reason: String) -> Error {
        not(self.view, self.scope, node, reason)
    }
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

/// A name without the mark of an earlier graft, so that names do not grow with every growth.
fn stem(name: &str) -> &str {
    match name.rsplit_once(SUFFIX) {
        Some((stem, number)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => stem,
        _ => name,
    }
}

/// An input text with its node renamed: `node`, `node:1`, `node:output:0`, `^node`.
fn renamed(text: &str, names: &HashMap<&str, String>) -> String {
    let (caret, body) = text.strip_prefix('^').map_or(("", text), |b| ("^", b));
    let name = body.split(':').next().unwrap_or(body);
    names.get(name).map_or_else(|| text.to_owned(), |new| format!("{caret}{new}{}", &body[name.len()..]))
}

/// An input text with another node in it.
fn with_node(text: &str, name: &str) -> String {
    text.split_once(':').map_or_else(|| name.to_owned(), |(_, rest)| format!("{name}:{rest}"))
}

fn numbers(tensor: &pb::TensorProto) -> Option<Vec<f64>> {
    ints(tensor)
        .map(|v| v.into_iter().map(|x| x as f64).collect())
        .or_else(|| floats(tensor).map(|v| v.into_iter().map(f64::from).collect()))
}

fn set_number(node: &mut pb::NodeDef, element: usize, value: f64) {
    let Some(Value::Tensor(tensor)) = node.attr.get_mut("value").and_then(|a| a.value.as_mut()) else {
        return;
    };
    if let Some(mut values) = ints(tensor) {
        if let Some(v) = values.get_mut(element) {
            *v = value as i64;
        }
        *tensor = with_ints(tensor, &values);
    } else if let Some(mut values) = floats(tensor) {
        if let Some(v) = values.get_mut(element) {
            *v = value as f32;
        }
        tensor.tensor_content = bytes::Bytes::new();
        tensor.float_val = values;
    }
}
