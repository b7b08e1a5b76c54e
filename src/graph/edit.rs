//! The one way in which a graph changes: an editor over a copy, checked before and after.

use std::collections::{BTreeSet, HashSet};

use super::check;
use super::view::MAIN;
use crate::error::{Error, Result};
use crate::pb;

/// An edit in progress. Node numbers are those of the view of the same graph; new nodes come behind them.
#[derive(Debug)]
pub struct Editor<'a> {
    before: &'a pb::MetaGraphDef,
    meta: pb::MetaGraphDef,
    changed: BTreeSet<(usize, usize)>,
    names: Vec<HashSet<String>>,
    old_counts: Vec<usize>,
}

/// What an edit did, by names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Nodes that were altered, as `function/node`.
    pub changed: Vec<String>,
    /// Nodes that were added, as `function/node`.
    pub added: Vec<String>,
}

impl<'a> Editor<'a> {
    /// Starts an edit. Errors: [`Error::BadGraph`] where the graph is broken already.
    pub fn new(meta: &'a pb::MetaGraphDef) -> Result<Self> {
        check::check(meta)?;
        let mut editor = Self {
            before: meta,
            meta: meta.clone(),
            changed: BTreeSet::new(),
            names: Vec::new(),
            old_counts: Vec::new(),
        };
        let scopes = 1 + editor
            .meta
            .graph_def
            .iter()
            .flat_map(|g| &g.library)
            .map(|l| l.function.len())
            .sum::<usize>();
        for scope in 0..scopes {
            let nodes = editor.nodes(scope);
            let (names, count) = (nodes.iter().map(|n| n.name.clone()).collect(), nodes.len());
            editor.names.push(names);
            editor.old_counts.push(count);
        }
        Ok(editor)
    }

    fn nodes(&mut self, scope: usize) -> &mut Vec<pb::NodeDef> {
        let graph = self.meta.graph_def.get_or_insert_default();
        if scope == MAIN {
            return &mut graph.node;
        }
        &mut graph.library.get_or_insert_default().function[scope - 1].node_def
    }

    /// The function of a scope, for edits of its signature and attributes.
    pub fn function(&mut self, scope: usize) -> Option<&mut pb::FunctionDef> {
        self.meta.graph_def.as_mut()?.library.as_mut()?.function.get_mut(scope.checked_sub(1)?)
    }

    /// Everything outside the graph: signatures, object graph.
    pub fn meta(&mut self) -> &mut pb::MetaGraphDef {
        &mut self.meta
    }

    /// A node to alter.
    pub fn node(&mut self, scope: usize, node: usize) -> &mut pb::NodeDef {
        self.changed.insert((scope, node));
        &mut self.nodes(scope)[node]
    }

    /// A node to look at, as edited so far.
    pub fn peek(&mut self, scope: usize, node: usize) -> &pb::NodeDef {
        &self.nodes(scope)[node]
    }

    /// Adds a node; its name must be new in its scope.
    pub fn add(&mut self, scope: usize, node: pb::NodeDef) -> Result<()> {
        if !self.names[scope].insert(node.name.clone()) {
            return Err(Error::BadGraph {
                scope: format!("scope {scope}"),
                reason: format!("name {} is taken", node.name),
            });
        }
        self.nodes(scope).push(node);
        Ok(())
    }

    /// A name that is not taken in the scope: `wanted`, or `wanted` with a number behind it.
    pub fn free_name(&self, scope: usize, wanted: &str) -> String {
        if !self.names[scope].contains(wanted) {
            return wanted.to_owned();
        }
        (1..)
            .map(|i| format!("{wanted}_{i}"))
            .find(|name| !self.names[scope].contains(name))
            .unwrap_or_default()
    }

    /// How a new node's first output is written in an input of its scope.
    pub fn first_output(scope: usize, name: &str) -> String {
        if scope == MAIN { name.to_owned() } else { format!("{name}:output:0") }
    }

    /// The nodes that were altered or added so far, as (scope, node).
    pub fn touched(&mut self) -> Vec<(usize, usize)> {
        let mut touched: Vec<_> = self.changed.iter().copied().collect();
        for scope in 0..self.names.len() {
            touched.extend((self.old_counts[scope]..self.nodes(scope).len()).map(|node| (scope, node)));
        }
        touched
    }

    /// Ends the edit. Errors: [`Error::BadGraph`] where it broke a rule or the interface.
    pub fn finish(mut self) -> Result<(pb::MetaGraphDef, Changes)> {
        check::check(&self.meta)?;
        check::same_interface(self.before, &self.meta)?;
        let mut changes = Changes::default();
        for (scope, node) in self.changed.clone() {
            let name = self.full_name(scope, node);
            changes.changed.push(name);
        }
        for scope in 0..self.names.len() {
            for node in self.old_counts[scope]..self.nodes(scope).len() {
                let name = self.full_name(scope, node);
                changes.added.push(name);
            }
        }
        Ok((self.meta, changes))
    }

    fn full_name(&mut self, scope: usize, node: usize) -> String {
        let function = self.function(scope).and_then(|f| f.signature.as_ref()).map(|s| s.name.clone());
        let name = &self.nodes(scope)[node].name;
        function.map_or_else(|| name.clone(), |f| format!("{f}/{name}"))
    }
}
