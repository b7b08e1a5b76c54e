//! Features of the kept cells, in memory up to a limit and on disk beyond it.
//!
//! Rows come once, view by view, and are read as often as the solver needs, in the same order and in the same chunks
//! wherever they lie: the limit changes nothing in the result.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::shards::{Keep, Shards};
use crate::error::{Error, Result};
use crate::runtime::AnyTensor;

/// At the end of a view a chunk is closed from this size on, bytes: large enough for TensorFlow's overhead not to show, small
/// enough for several to be worked on at once.
const CHUNK_BYTES: usize = 4 << 20;
/// At this size it is closed within a view.
const MOST_BYTES: usize = 32 << 20;

/// Limit of the memory for features when none is given, bytes.
pub const DEFAULT_LIMIT: u64 = 2 << 30;

/// Where features are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheOptions {
    /// Folder for what does not fit into memory; the system's for temporary files without it.
    pub dir: Option<PathBuf>,
    /// Most bytes held in memory.
    pub limit: u64,
    /// Where features outlive a run that is killed.
    pub keep: Option<Keep>,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self { dir: None, limit: DEFAULT_LIMIT, keep: None }
    }
}

/// Rows of several layers. Each row has parts of fixed widths, for example features, targets and weights.
#[derive(Debug)]
pub struct FeatureCache {
    layers: Vec<Rows>,
    options: CacheOptions,
    in_memory: u64,
    spilled: u64,
    // Without a name from the start, so that nothing stays behind however the process ends.
    file: Mutex<Option<File>>,
    shards: Option<Shards>,
    /// For each view the rows of each layer up to its end.
    view_ends: Vec<Vec<usize>>,
}

#[derive(Debug)]
struct Rows {
    widths: Vec<usize>,
    open: Vec<Vec<f32>>,
    open_rows: usize,
    chunks: Vec<Chunk>,
}

#[derive(Debug)]
struct Chunk {
    rows: usize,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Memory(Vec<AnyTensor>),
    File(u64),
}

impl FeatureCache {
    /// An empty cache; for each layer the widths of the parts of its rows.
    pub fn new(widths: Vec<Vec<usize>>, options: CacheOptions) -> Self {
        let rows = |widths: Vec<usize>| {
            let open = widths.iter().map(|_| Vec::new()).collect();
            Rows { widths, open, open_rows: 0, chunks: Vec::new() }
        };
        let layers = widths.into_iter().map(rows).collect();
        Self {
            layers,
            options,
            in_memory: 0,
            spilled: 0,
            file: Mutex::new(None),
            shards: None,
            view_ends: Vec::new(),
        }
    }

    /// Takes over the views that a killed run with the same key had finished: how many, with the counts after the last.
    /// From then on views are kept for the next run. Nothing happens where the options do not ask for it.
    pub fn resume(&mut self) -> Result<(usize, Vec<u64>)> {
        let Some(keep) = &self.options.keep else { return Ok((0, Vec::new())) };
        let Some(mut shards) = Shards::open(keep)? else {
            tracing::warn!("another run is using the features in {}: these are not kept", keep.dir.display());
            return Ok((0, Vec::new()));
        };
        let sums: Vec<usize> = self.layers.iter().map(|rows| rows.widths.iter().sum()).collect();
        let (mut views, mut counts) = (0, Vec::new());
        while let Some(kept) = shards.next_shard(&sums) {
            for view in kept {
                for (layer, values) in &view.rows {
                    self.push_row(*layer, values)?;
                }
                if view.ended {
                    self.finish_view()?;
                }
                self.end_view()?;
                views += 1;
                counts = view.counts;
            }
        }
        self.shards = Some(shards);
        Ok((views, counts))
    }

    /// Ends a view, for the next run with counts that a resumed run needs.
    pub fn view_done(&mut self, counts: impl FnOnce() -> Vec<u64>) -> Result<()> {
        self.end_view()?;
        self.shards.as_mut().map_or(Ok(()), |shards| shards.view_done(counts()))
    }

    fn end_view(&mut self) -> Result<()> {
        let rows = |rows: &Rows| rows.open_rows + rows.chunks.iter().map(|chunk| chunk.rows).sum::<usize>();
        self.view_ends.push(self.layers.iter().map(rows).collect());
        self.close_full()
    }

    /// Closes the chunks that are large enough.
    pub fn close_full(&mut self) -> Result<()> {
        let full = |layer: &usize| self.layers[*layer].open_bytes() >= CHUNK_BYTES;
        let full: Vec<usize> = (0..self.layers.len()).filter(full).collect();
        full.into_iter().try_for_each(|layer| self.close(layer))
    }

    /// An empty cache for rows of these layers, which keeps to what is left of this one's limit.
    pub fn beside(&self, layers: Range<usize>) -> Self {
        let widths = self.layers.get(layers).unwrap_or_default();
        let limit = self.options.limit.saturating_sub(self.in_memory);
        let options = CacheOptions { dir: self.options.dir.clone(), limit, keep: None };
        Self::new(widths.iter().map(|rows| rows.widths.clone()).collect(), options)
    }

    /// For each view that was ended the number of rows of a layer up to its end.
    pub fn view_ends(&self, layer: usize) -> impl Iterator<Item = usize> + '_ {
        self.view_ends.iter().filter_map(move |ends| ends.get(layer).copied())
    }

    /// Keeps the last views: all features are there.
    pub fn features_done(&mut self) -> Result<()> {
        self.shards.as_mut().map_or(Ok(()), Shards::finish)
    }

    /// Adds a row to a layer, its parts one behind the other.
    pub fn push_row(&mut self, layer: usize, row: &[f32]) -> Result<()> {
        let widths = self.layers.get(layer).map_or(&[][..], |rows| &rows.widths);
        let mut rest = row;
        let mut parts: Vec<&[f32]> = widths.iter().filter_map(|&width| rest.split_off(..width)).collect();
        // Refused with the others of another shape.
        parts.extend((!rest.is_empty()).then_some(rest));
        self.push(layer, &parts)
    }

    /// Adds a row to a layer.
    pub fn push(&mut self, layer: usize, parts: &[&[f32]]) -> Result<()> {
        let Some(rows) = self.layers.get_mut(layer) else {
            return Err(Error::Data(format!("there is no layer {layer} to keep features of")));
        };
        if !parts.iter().map(|part| part.len()).eq(rows.widths.iter().copied()) {
            return Err(Error::Data(format!(
                "a row of layer {layer} does not have parts of {:?} numbers",
                rows.widths
            )));
        }
        for (open, part) in rows.open.iter_mut().zip(parts) {
            open.extend_from_slice(part);
        }
        rows.open_rows += 1;
        if let Some(shards) = &mut self.shards {
            shards.row(layer, parts);
        }
        if rows.open_bytes() >= MOST_BYTES {
            self.close(layer)?;
        }
        Ok(())
    }

    /// Ends the chunks that are open, in all layers.
    pub fn finish(&mut self) -> Result<()> {
        (0..self.layers.len()).try_for_each(|layer| self.close(layer))
    }

    /// Ends a chunk in every layer, empty ones too: the same chunk number then means the same views in all layers.
    pub fn finish_view(&mut self) -> Result<()> {
        if let Some(shards) = &mut self.shards {
            shards.ended();
        }
        let most = self.layers.iter().map(|rows| rows.chunks.len()).max().unwrap_or(0);
        self.finish()?;
        for rows in &mut self.layers {
            if rows.chunks.len() > most + 1 {
                return Err(Error::Data("one view has more features than fit into a chunk".into()));
            }
            while rows.chunks.len() <= most {
                rows.chunks.push(Chunk { rows: 0, place: Place::Memory(Vec::new()) });
            }
        }
        Ok(())
    }

    fn close(&mut self, layer: usize) -> Result<()> {
        let rows = &mut self.layers[layer];
        if rows.open_rows == 0 {
            return Ok(());
        }
        let count = std::mem::take(&mut rows.open_rows);
        let parts: Vec<Vec<f32>> = rows.open.iter_mut().map(std::mem::take).collect();
        let bytes = (count * rows.row_bytes()) as u64;
        let place = if self.in_memory + bytes <= self.options.limit {
            self.in_memory += bytes;
            let tensors =
                parts.iter().zip(&rows.widths).map(|(part, &width)| AnyTensor::new(&[count, width], part));
            Place::Memory(tensors.collect::<Result<_>>()?)
        } else {
            let at = self.spilled;
            self.spilled += bytes;
            spill(&self.file, self.options.dir.as_deref(), at, &parts)?;
            Place::File(at)
        };
        self.layers[layer].chunks.push(Chunk { rows: count, place });
        Ok(())
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Number of closed chunks of a layer.
    pub fn chunks(&self, layer: usize) -> usize {
        self.layers.get(layer).map_or(0, |rows| rows.chunks.len())
    }

    /// Number of rows of a layer in closed chunks.
    pub fn rows(&self, layer: usize) -> usize {
        self.layers.get(layer).map_or(0, |rows| rows.chunks.iter().map(|chunk| chunk.rows).sum())
    }

    /// Bytes in memory and on disk.
    pub fn bytes(&self) -> (u64, u64) {
        (self.in_memory, self.spilled)
    }

    /// Hands the parts of a chunk, each float32 [rows, width], to a reader; `None` for an empty chunk.
    pub fn read<T>(
        &self,
        layer: usize,
        chunk: usize,
        reader: impl FnOnce(&[AnyTensor]) -> Result<T>,
    ) -> Result<Option<T>> {
        let Some((rows, chunk)) = self.layers.get(layer).and_then(|r| Some((r, r.chunks.get(chunk)?))) else {
            return Err(Error::Data(format!("features of layer {layer}, chunk {chunk}, were never kept")));
        };
        match &chunk.place {
            _ if chunk.rows == 0 => Ok(None),
            Place::Memory(tensors) => reader(tensors).map(Some),
            Place::File(at) => {
                let tensors = unspill(&self.file, *at, chunk.rows, &rows.widths)?;
                reader(&tensors).map(Some)
            }
        }
    }
}

impl Rows {
    fn open_bytes(&self) -> usize {
        self.open_rows * self.row_bytes()
    }

    fn row_bytes(&self) -> usize {
        self.widths.iter().sum::<usize>() * size_of::<f32>()
    }
}

fn failed(dir: Option<&Path>) -> impl Fn(std::io::Error) -> Error {
    let dir = dir.map_or_else(std::env::temp_dir, Path::to_path_buf);
    move |source| Error::io(&dir, source)
}

fn poisoned() -> Error {
    Error::Data("the features on disk cannot be read after an earlier failure".into())
}

fn spill(file: &Mutex<Option<File>>, dir: Option<&Path>, at: u64, parts: &[Vec<f32>]) -> Result<()> {
    let failed = failed(dir);
    let mut held = file.lock().map_err(|_| poisoned())?;
    if held.is_none() {
        let made = dir.map_or_else(tempfile::tempfile, tempfile::tempfile_in);
        *held = Some(made.map_err(&failed)?);
    }
    let Some(file) = held.as_mut() else { return Err(poisoned()) };
    file.seek(SeekFrom::Start(at)).map_err(&failed)?;
    for part in parts {
        let bytes: Vec<u8> = part.iter().flat_map(|value| value.to_le_bytes()).collect();
        file.write_all(&bytes).map_err(&failed)?;
    }
    Ok(())
}

fn unspill(file: &Mutex<Option<File>>, at: u64, rows: usize, widths: &[usize]) -> Result<Vec<AnyTensor>> {
    let failed = failed(None);
    let mut held = file.lock().map_err(|_| poisoned())?;
    let Some(file) = held.as_mut() else { return Err(poisoned()) };
    file.seek(SeekFrom::Start(at)).map_err(&failed)?;
    let mut tensors = Vec::with_capacity(widths.len());
    for &width in widths {
        let mut bytes = vec![0u8; rows * width * size_of::<f32>()];
        file.read_exact(&mut bytes).map_err(&failed)?;
        let (values, _) = bytes.as_chunks::<4>();
        let values: Vec<f32> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        tensors.push(AnyTensor::new(&[rows, width], &values)?);
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::testing;

    fn filled(limit: u64) -> FeatureCache {
        let mut cache =
            FeatureCache::new(vec![vec![3, 1], vec![2, 1]], CacheOptions { dir: None, limit, keep: None });
        for row in 0..10 {
            let v = row as f32;
            cache.push(0, &[&[v, v + 0.5, -v], &[v]]).unwrap();
            if row % 3 == 2 {
                cache.push(1, &[&[v, v], &[1.0]]).unwrap();
            }
            cache.finish_view().unwrap();
        }
        cache
    }

    #[test]
    fn the_limit_changes_nothing_but_the_place() {
        if testing::library().is_none() {
            return;
        }
        let (memory, disk) = (filled(1 << 20), filled(50));
        assert_eq!(memory.bytes(), (10 * 16 + 3 * 12, 0));
        assert_eq!(disk.bytes().0 + disk.bytes().1, memory.bytes().0);
        assert!(disk.bytes().0 <= 50);
        for layer in 0..2 {
            assert_eq!(memory.chunks(layer), 10);
            assert_eq!(memory.rows(layer), disk.rows(layer));
            for chunk in 0..10 {
                let all = |tensors: &[AnyTensor]| {
                    tensors.iter().map(|t| Ok((t.shape(), t.f32()?.to_vec()))).collect::<Result<Vec<_>>>()
                };
                let (a, b) = (memory.read(layer, chunk, all).unwrap(), disk.read(layer, chunk, all).unwrap());
                assert_eq!(a, b);
                assert_eq!(a.is_some(), layer == 0 || chunk % 3 == 2);
            }
        }
        assert!(memory.read(0, 10, |_| Ok(())).is_err());
    }

    #[test]
    fn rows_of_another_shape_are_refused() {
        let mut cache = FeatureCache::new(vec![vec![3, 1]], CacheOptions::default());
        assert!(cache.push(0, &[&[1.0], &[1.0]]).is_err());
        assert!(cache.push(1, &[&[1.0; 3], &[1.0]]).is_err());
        assert!(cache.push(0, &[&[1.0; 3]]).is_err());
        for row in [&[1.0; 3][..], &[1.0; 5]] {
            assert!(cache.push_row(0, row).is_err());
        }
        assert!(cache.push_row(1, &[]).is_err());
        cache.push_row(0, &[1.0; 4]).unwrap();
    }
}
