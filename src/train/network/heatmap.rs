//! Networks that answer for each cell of a heatmap with one channel for each class.

use super::super::shape::{Input, Level};
use super::picture::{Feed, geometry, resized_picture};
use super::{Parts, Serving, check_logits, depth, ends, not, patches, reshape, session};
use crate::error::Result;
use crate::pb;
use crate::runtime::{AnyTensor, GraphSession, SessionConfig};

/// The frozen part of a CenterNet in a session.
#[derive(Debug)]
pub struct Heatmap {
    session: GraphSession,
    feed: Feed,
    input: Input,
    features: String,
    logits: String,
    pub(in crate::train) map: Level,
}

impl Heatmap {
    /// Builds the flat graph, runs it once to learn its shapes, and checks that features and old weights give the
    /// graph's own logits.
    ///
    /// Errors: [`Error::NotUnderstood`](crate::error::Error::NotUnderstood) with the tensor where features cannot be taken.
    pub fn open(parts: Parts<'_>, config: &SessionConfig) -> Result<Self> {
        let empty = pb::GraphDef::default();
        let serving = Serving::new(parts, &empty)?;
        let [head] = &serving.body.heads[..] else {
            let scope = serving.view.scopes[serving.body.scope].name;
            return Err(not(scope, format!("{} heatmaps, expected one", serving.body.heads.len())));
        };
        let (flat, fed) = serving.flatten(&ends(head))?;
        let [mut features, logits] = [flat.targets[0].clone(), flat.targets[1].clone()];
        let mut graph = flat.graph;
        patches(&serving.view, &mut graph, head, &mut features)?;
        let resized = resized_picture(&graph, std::slice::from_ref(&features))?;
        let rows = reshape(&mut graph, "tfgraft/cells", &features, &[-1, depth(head)]);
        let session = session(&graph, &fed, config)?;
        let feed = serving.feed.clone();
        let input = geometry(&session, &feed, &resized)?;
        let probe = feed.probe(input.size)?;
        let found = session.run(&[(&feed.name, &probe)], &[features.as_str(), logits.as_str()], &[])?;
        let [x, z] = <[AnyTensor; 2]>::try_from(found)
            .map_err(|_| not(&logits, "a run gave fewer tensors than asked for".into()))?;
        let shape = x.shape();
        let &[1, height, width, depth] = &shape[..] else {
            return Err(not(
                &features,
                format!("features of shape {shape:?}, expected [1, height, width, depth]"),
            ));
        };
        let layer = serving.layer(head)?;
        check_logits(&x, &z, &parts.values[layer], depth, &logits)?;
        let map = Level { height, width, anchors: 1, depth, layer, first_anchor: 0 };
        Ok(Self { session, feed, input, features: rows, logits, map })
    }

    /// The pictures it takes.
    pub fn input(&self) -> Input {
        self.input
    }

    /// Features [cells, depth] and old logits of a view.
    pub(in crate::train) fn run(&self, rgb: &[u8], height: usize, width: usize) -> Result<[AnyTensor; 2]> {
        let picture = self.feed.tensor(rgb, height, width)?;
        let fetches = [self.features.as_str(), self.logits.as_str()];
        let found = self.session.run(&[(&self.feed.name, &picture)], &fetches, &[])?;
        let [x, z] = <[AnyTensor; 2]>::try_from(found)
            .map_err(|_| not(&self.logits, "a run gave fewer tensors than asked for".into()))?;
        let expected = [self.map.cells(), self.map.depth];
        if x.shape() != expected {
            return Err(not(&self.features, format!("features {x:?}, expected {expected:?}")));
        }
        Ok([x, z])
    }
}
