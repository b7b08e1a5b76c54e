//! Are the classes' copies alike, and which of their constants count the classes?

use std::collections::BTreeMap;

use super::super::flow::Pick;
use super::node_of;
use super::region::{Instance, Region};
use crate::error::Result;
use crate::graph::Source;
use crate::graph::tensor::{constant, floats, ints};
use crate::pb;

/// Elements of constants that hold the class's number: (node of the template, element) → value for class 0.
pub(super) type Indices = BTreeMap<(usize, usize), f64>;

impl Region<'_, '_> {
    /// Compares the classes' instances and finds the constants that count them.
    pub(super) fn class_indices(&self, template: &Instance, picks: &[Pick]) -> Result<Indices> {
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
                // Each class reads its own output of what is taken apart.
                let own = m == n && self.unpacked.contains(&m) && (i, j) == (template.class, class);
                if own || (a == b && !self.unpacked.contains(&m)) || self.same_constant(m, n) {
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
}

fn numbers(tensor: &pb::TensorProto) -> Option<Vec<f64>> {
    ints(tensor)
        .map(|v| v.into_iter().map(|x| x as f64).collect())
        .or_else(|| floats(tensor).map(|v| v.into_iter().map(f64::from).collect()))
}
