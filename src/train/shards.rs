//! Features that outlive a killed run: what each view left in the cache, written as it comes, read back by the next run.
//!
//! ```text
//! DIR/tfgraft-features-KEY/000007.shard    the views after those of 000006.shard
//! ```
//!
//! KEY names everything that features depend on. A shard holds its SHA-256 and appears by a rename, so that it is whole or
//! not there; one that is neither ends the reading, and its views are computed again. Rows come back in the order in
//! which they went in: a run that goes on ends with the bytes of one that was never stopped.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::export::lock;
use crate::saved_model::fingerprint::hex;

/// At the start of a shard; another layout gets another text.
const MAGIC: &[u8; 16] = b"tfgraft shard 1\n";
/// The checksum behind it.
const SUM: usize = 32;
/// A shard is closed at this size, bytes, or after so many views: what a kill can cost.
const MOST_BYTES: usize = 8 << 20;
const MOST_VIEWS: usize = 16;

/// Where shards are kept, and of what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keep {
    /// The folder that the user named.
    pub dir: PathBuf,
    /// Names everything that the features depend on; hexadecimal.
    pub key: String,
}

/// One view's rows and the counts after it.
#[derive(Debug, Default)]
struct View {
    rows: u32,
    ended: bool,
    bytes: Vec<u8>,
    counts: Vec<u64>,
}

/// The shards of one key, open for reading and writing.
#[derive(Debug)]
pub struct Shards {
    folder: PathBuf,
    number: usize,
    views: Vec<View>,
    open: View,
    // Another run with the same key must not write the same files.
    _lock: Option<File>,
}

/// What a view had left: rows, each with its layer, and counts.
#[derive(Debug)]
pub struct Kept {
    /// Layer and parts of each row, one behind the other.
    pub rows: Vec<(usize, Vec<f32>)>,
    /// Whether the cache was told that the view ended.
    pub ended: bool,
    /// Counts after this view.
    pub counts: Vec<u64>,
}

impl Keep {
    /// The folder of the key.
    fn folder(&self) -> PathBuf {
        self.dir.join(format!("tfgraft-features-{}", self.key.get(..24).unwrap_or(&self.key)))
    }

    /// Removes the shards of the key: their run has ended well.
    pub fn remove(&self) {
        let _ = fs::remove_dir_all(self.folder());
    }
}

impl Shards {
    /// Opens the folder of a key; `None` where another run is using it. Errors: [`Error::Io`].
    pub fn open(keep: &Keep) -> Result<Option<Self>> {
        let folder = keep.folder();
        let failed = |e| Error::io(&folder, e);
        fs::create_dir_all(&folder).map_err(failed)?;
        let lock = match lock(&folder) {
            Ok(lock) => Some(lock),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
            // A file system without locks.
            Err(_) => None,
        };
        // What a killed run was writing.
        for entry in fs::read_dir(&folder).map_err(failed)?.flatten() {
            if entry.path().extension().is_none_or(|ending| ending != "shard") {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(Some(Self { folder, number: 0, views: Vec::new(), open: View::default(), _lock: lock }))
    }

    /// The views of the next shard; `None` where it is missing or damaged, from where on shards are written.
    ///
    /// `widths` holds the numbers of a row of each layer.
    pub fn next_shard(&mut self, widths: &[usize]) -> Option<Vec<Kept>> {
        let bytes = fs::read(self.file()).ok()?;
        let (head, body) = bytes.split_at_checked(MAGIC.len() + SUM)?;
        let kept = (head.starts_with(MAGIC) && head[MAGIC.len()..] == Sha256::digest(body)[..])
            .then(|| parse(body, widths))
            .flatten()?;
        self.number += 1;
        Some(kept)
    }

    /// Adds a row to the open view.
    pub fn row(&mut self, layer: usize, parts: &[&[f32]]) {
        self.open.rows += 1;
        self.open.bytes.extend((layer as u32).to_le_bytes());
        self.open.bytes.extend(parts.iter().flat_map(|part| part.iter()).flat_map(|v| v.to_le_bytes()));
    }

    /// Notes that the cache was told that the view ended.
    pub fn ended(&mut self) {
        self.open.ended = true;
    }

    /// Ends the open view.
    pub fn view_done(&mut self, counts: Vec<u64>) -> Result<()> {
        self.views.push(View { counts, ..std::mem::take(&mut self.open) });
        let bytes: usize = self.views.iter().map(|view| view.bytes.len()).sum();
        if self.views.len() >= MOST_VIEWS || bytes >= MOST_BYTES { self.write() } else { Ok(()) }
    }

    /// Writes what has not been written.
    pub fn finish(&mut self) -> Result<()> {
        if self.views.is_empty() { Ok(()) } else { self.write() }
    }

    fn file(&self) -> PathBuf {
        self.folder.join(format!("{:06}.shard", self.number))
    }

    fn write(&mut self) -> Result<()> {
        let mut body = Vec::new();
        body.extend((self.views.len() as u32).to_le_bytes());
        for view in self.views.drain(..) {
            body.extend(view.rows.to_le_bytes());
            body.extend(view.bytes);
            body.extend(u32::from(view.ended).to_le_bytes());
            body.extend((view.counts.len() as u32).to_le_bytes());
            body.extend(view.counts.iter().flat_map(|n| n.to_le_bytes()));
        }
        let target = self.file();
        let made = target.with_extension("part");
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&made)?;
            file.write_all(MAGIC)?;
            file.write_all(&Sha256::digest(&body))?;
            file.write_all(&body)?;
            file.sync_all()?;
            fs::rename(&made, &target)
        };
        write().map_err(|e| {
            let _ = fs::remove_file(&made);
            Error::io(&target, e)
        })?;
        self.number += 1;
        Ok(())
    }
}

fn parse(mut body: &[u8], widths: &[usize]) -> Option<Vec<Kept>> {
    let body = &mut body;
    let mut views = Vec::new();
    for _ in 0..number(body)? {
        let mut rows = Vec::new();
        for _ in 0..number(body)? {
            let layer = number(body)? as usize;
            let (values, rest) = body.split_at_checked(widths.get(layer)?.checked_mul(4)?)?;
            *body = rest;
            rows.push((layer, values.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()));
        }
        let ended = number(body)? != 0;
        let count = number(body)? as usize;
        let (counts, rest) = body.split_at_checked(count.checked_mul(8)?)?;
        *body = rest;
        views.push(Kept {
            rows,
            ended,
            counts: counts.as_chunks().0.iter().map(|&b| u64::from_le_bytes(b)).collect(),
        });
    }
    body.is_empty().then_some(views)
}

fn number(body: &mut &[u8]) -> Option<u32> {
    let (first, rest) = body.split_first_chunk::<4>()?;
    *body = rest;
    Some(u32::from_le_bytes(*first))
}

/// The key of everything that features depend on, each part by itself.
pub fn key(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hex(&hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(dir: &std::path::Path) -> Keep {
        Keep { dir: dir.to_owned(), key: key(&[b"model", b"data"]) }
    }

    fn fill(shards: &mut Shards, from: usize, to: usize) {
        for view in from..to {
            shards.row(0, &[&[view as f32, -0.0], &[f32::NAN]]);
            if view % 2 == 0 {
                shards.row(1, &[&[view as f32]]);
            }
            shards.view_done(vec![view as u64, 7]).unwrap();
        }
    }

    #[test]
    fn what_was_whole_comes_back_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let mut shards = Shards::open(&keep(dir.path())).unwrap().unwrap();
        assert!(Shards::open(&keep(dir.path())).unwrap().is_none(), "two runs use one folder");
        assert!(shards.next_shard(&[3, 1]).is_none());
        // Two whole shards; the rest is lost with the process.
        fill(&mut shards, 0, 2 * MOST_VIEWS + 5);
        drop(shards);
        let folder = keep(dir.path()).folder();
        fs::write(folder.join("000002.part"), "half").unwrap();

        let mut shards = Shards::open(&keep(dir.path())).unwrap().unwrap();
        assert!(!folder.join("000002.part").exists());
        let mut back = shards.next_shard(&[3, 1]).unwrap();
        back.extend(shards.next_shard(&[3, 1]).unwrap());
        assert!(shards.next_shard(&[3, 1]).is_none());
        assert_eq!(back.len(), 2 * MOST_VIEWS);
        let view = &back[20];
        assert_eq!((view.rows.len(), &view.counts[..]), (2, &[20, 7][..]));
        assert_eq!(view.rows[0].1[1].to_bits(), (-0.0f32).to_bits());
        fill(&mut shards, back.len(), back.len() + 3);
        shards.finish().unwrap();
        drop(shards);

        // A damaged shard ends the reading; so does one of other widths.
        let second = folder.join("000001.shard");
        let mut bytes = fs::read(&second).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&second, bytes).unwrap();
        let mut shards = Shards::open(&keep(dir.path())).unwrap().unwrap();
        assert!(shards.next_shard(&[3, 1]).is_some() && shards.next_shard(&[3, 1]).is_none());
        drop(shards);
        assert!(Shards::open(&keep(dir.path())).unwrap().unwrap().next_shard(&[3, 2]).is_none());
        keep(dir.path()).remove();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn keys_tell_parts_apart() {
        assert_ne!(key(&[b"ab", b"c"]), key(&[b"a", b"bc"]));
        assert_eq!(key(&[b"ab"]).len(), 64);
    }
}
