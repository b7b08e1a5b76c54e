//! Where the classes meet, and what belongs to each before that.

use std::collections::{BTreeSet, HashSet, VecDeque};

use super::super::flow::Pick;
use super::{node_of, not};
use crate::error::{Error, Result};
use crate::graph::{GraphView, Source};

/// Which class's slice reaches a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Nobody,
    One(usize),
    Several,
}

/// Where the classes meet.
#[derive(Debug)]
pub(super) struct Region<'v, 'a> {
    pub(super) view: &'v GraphView<'a>,
    pub(super) scope: usize,
    pub(super) classes: usize,
    owners: Vec<Owner>,
    /// Nodes that join input c of every class c.
    pub(super) joins: Vec<usize>,
    /// Ends of chains: the node of the last class, and which of its inputs is that class's own.
    pub(super) chains: Vec<(usize, usize)>,
    /// Nodes of the scope that have one output for each class.
    pub(super) unpacked: BTreeSet<usize>,
}

/// The nodes of one class.
pub(super) struct Instance {
    pub(super) class: usize,
    pub(super) members: HashSet<usize>,
}
impl<'v, 'a> Region<'v, 'a> {
    pub(super) fn new(
        view: &'v GraphView<'a>,
        scope: usize,
        picks: &[Pick],
        unpacked: &BTreeSet<(usize, usize)>,
    ) -> Result<Self> {
        let here = &view.scopes[scope];
        let mut region = Self {
            view,
            scope,
            classes: picks.len(),
            owners: vec![Owner::Nobody; here.nodes.len()],
            joins: Vec::new(),
            chains: Vec::new(),
            unpacked: unpacked.iter().filter(|(s, _)| *s == scope).map(|&(_, node)| node).collect(),
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
    pub(super) fn instance(&self, class: usize) -> Instance {
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
        // Constants and shapes that only this class reads; a node joins once all its readers have. Where there is one class,
        // its readers are all there are. What it reads from arrays stays: an array clears what was read once.
        let of_array =
            |n: usize| here.nodes[n].op.starts_with("TensorArray") || here.nodes[n].op == "TensorListGetItem";
        loop {
            let feeders: BTreeSet<usize> = members
                .iter()
                .flat_map(|&m| here.inputs[m].iter().copied().filter_map(node_of))
                .filter(|n| self.owners[*n] == Owner::Nobody && !members.contains(n) && !results.contains(n))
                .filter(|&n| !of_array(n))
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
    pub(super) fn roots(&self, class: usize) -> Vec<Source> {
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

    pub(super) fn not(&self, node: usize, reason: String) -> Error {
        not(self.view, self.scope, node, reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::MAIN;
    use crate::graph::nodes::{integers, node};
    use crate::pb;

    #[test]
    fn the_one_class_shares_what_it_reads_from_arrays() {
        let plain = |name: &str, op: &str, inputs: &[&str]| node(name, op, inputs).build();
        let graph = pb::GraphDef {
            node: vec![
                plain("array", "TensorArrayV3", &[]),
                plain("zero", "Placeholder", &[]),
                plain("boxes", "TensorArrayReadV3", &["array", "zero", "array:1"]),
                plain("scores", "TensorArrayReadV3", &["array", "zero", "array:1"]),
                integers("begin", &[2], &[0, 0]),
                integers("size", &[2], &[-1, 1]),
                plain("pick", "Slice", &["scores", "begin", "size"]),
                plain("corners", "Squeeze", &["boxes"]),
                plain("chosen", "NonMaxSuppressionV3", &["corners", "pick"]),
                plain("kept_scores", "GatherV2", &["pick", "chosen", "axis"]),
                plain("axis", "Placeholder", &[]),
                plain("joined", "Identity", &["kept_scores"]),
                plain("sorted", "TopKV2", &["joined"]),
                plain("best", "GatherV2", &["joined", "sorted:1", "axis"]),
            ],
            ..Default::default()
        };
        let view = GraphView::new(&graph).unwrap();
        let number = |name: &str| view.scopes[MAIN].find(name).unwrap();
        let scores = Source::Node { node: number("scores"), out: 0 };
        let pick = Pick { scope: MAIN, node: number("pick"), class: 0, scores, element: 1 };
        let region = Region::new(&view, MAIN, &[pick], &BTreeSet::new()).unwrap();
        let members = region.instance(0).members;
        for (name, copied) in
            [("chosen", true), ("begin", true), ("corners", true), ("boxes", false), ("scores", false)]
        {
            assert_eq!(members.contains(&number(name)), copied, "{name}");
        }
    }
}
