//! The kept rows of layers that are fitted together, and which of them are open.

use std::ops::Range;
use std::sync::Arc;

use super::cache::FeatureCache;
use super::held_out::HeldOut;
use crate::error::{Error, Result};
use crate::runtime::AnyTensor;

/// The kept rows that come from pictures with incomplete labels, by layer.
#[derive(Debug, Clone, Default)]
pub struct OpenRows {
    layers: Vec<OpenLayer>,
}

/// Open rows of one layer.
#[derive(Debug, Clone, Default)]
pub struct OpenLayer {
    /// Rows kept so far, open or not.
    rows: usize,
    /// Numbers of open rows, and the classes that are not fully labelled there.
    pub(super) open: Vec<(usize, Arc<[usize]>)>,
}

impl OpenRows {
    /// For so many layers of a cache.
    pub fn new(layers: usize) -> Self {
        Self { layers: vec![OpenLayer::default(); layers] }
    }

    /// Notes that a row was kept; `classes` are those that its picture does not fully label.
    pub fn push(&mut self, layer: usize, classes: &Arc<[usize]>) {
        if let Some(layer) = self.layers.get_mut(layer) {
            if !classes.is_empty() {
                layer.open.push((layer.rows, Arc::clone(classes)));
            }
            layer.rows += 1;
        }
    }
}

/// Some layers of a cache, numbered from 0.
#[derive(Debug, Clone, Copy)]
pub struct KeptRows<'a> {
    cache: &'a FeatureCache,
    first: usize,
    open: &'a [OpenLayer],
    unseen: Option<&'a HeldOut<'a>>,
}

impl<'a> KeptRows<'a> {
    /// These layers of a cache. Errors: [`Error::Data`] where `open` was not told of all of them.
    pub fn new(cache: &'a FeatureCache, open: &'a OpenRows, layers: Range<usize>) -> Result<Self> {
        let first = layers.start;
        let open = open.layers.get(layers.clone()).filter(|_| layers.end <= cache.layers());
        let open = open.ok_or_else(|| Error::Data(format!("no rows were kept for layers {layers:?}")))?;
        Ok(Self { cache, first, open, unseen: None })
    }

    /// The same rows, with what they come from, so that some pictures can be held out and looked at.
    pub fn held_out_by(self, held_out: &'a HeldOut<'a>) -> Self {
        Self { unseen: Some(held_out), ..self }
    }

    /// What the rows come from, where that is known.
    pub(super) fn unseen(&self) -> Option<&'a HeldOut<'a>> {
        self.unseen
    }

    /// For each view the number of a layer's rows up to its end.
    pub(super) fn view_ends(&self, layer: usize) -> impl Iterator<Item = usize> + use<'a> {
        self.cache.view_ends(self.first + layer)
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.open.len()
    }

    /// Number of rows of a layer.
    pub fn rows(&self, layer: usize) -> usize {
        self.cache.rows(self.first + layer)
    }

    /// Number of chunks of a layer.
    pub fn chunks(&self, layer: usize) -> usize {
        self.cache.chunks(self.first + layer)
    }

    /// Hands the parts of a chunk to a reader, see [`FeatureCache::read`].
    pub fn read<T>(
        &self,
        layer: usize,
        chunk: usize,
        reader: impl FnOnce(&[AnyTensor]) -> Result<T>,
    ) -> Result<Option<T>> {
        self.cache.read(self.first + layer, chunk, reader)
    }

    /// An empty cache for some of these rows, see [`FeatureCache::beside`].
    pub(super) fn beside(&self) -> FeatureCache {
        self.cache.beside(self.first..self.first + self.layers())
    }

    /// Whether some rows come from pictures with incomplete labels.
    pub fn any_open(&self) -> bool {
        self.open.iter().any(|layer| !layer.open.is_empty())
    }

    /// The open rows of each layer.
    pub(super) fn open(&self) -> &'a [OpenLayer] {
        self.open
    }
}
