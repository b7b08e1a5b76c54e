//! Reading `variables.index`: which variables a checkpoint holds, with their types and shapes, without TensorFlow.
//!
//! The file is a sorted string table as in LevelDB: blocks of sorted keys with shared prefixes, an index block that
//! locates them, a footer that locates the index block. The first key is empty and holds the header.

use std::path::Path;

use prost::Message;

use crate::error::{Error, Result};
use crate::pb::{BundleEntryProto, BundleHeaderProto, bundle_header_proto::Endianness};

/// Two block handles of up to 20 bytes each, then the magic number.
const FOOTER: usize = 48;
const MAGIC: u64 = 0xdb47_7524_8b80_fb57;
/// After each block: how it is compressed (1 byte) and its checksum.
const TRAILER: usize = 5;
/// An index of a detector has about 100 kB; this is far above, and far below what would hurt.
const MAX_FILE: u64 = 256 << 20;
/// All keys, spelled in full.
const MAX_KEYS: usize = 64 << 20;

/// The entries of an index file, sorted by key. Nothing about the data files is checked.
pub fn read_index(path: &Path) -> Result<Vec<(String, BundleEntryProto)>> {
    let size = std::fs::metadata(path).map_err(|error| Error::io(path, error))?.len();
    if size > MAX_FILE {
        return Err(damaged(path, format!("{size} bytes are more than any checkpoint index has")));
    }
    let bytes = std::fs::read(path).map_err(|error| Error::io(path, error))?;
    parse_index(&bytes).map_err(|reason| damaged(path, reason))
}

fn damaged(path: &Path, reason: String) -> Error {
    Error::Damaged { what: path.display().to_string(), reason }
}

/// A reason for which a piece of the table cannot be read.
type Parsed<T> = std::result::Result<T, String>;

/// Reads the entries out of the bytes of an index file.
fn parse_index(file: &[u8]) -> Parsed<Vec<(String, BundleEntryProto)>> {
    let footer = file.len().checked_sub(FOOTER).and_then(|start| file.get(start..));
    let footer = footer.ok_or_else(|| format!("{} bytes, fewer than a footer has", file.len()))?;
    let (handles, magic) = footer.split_at(FOOTER - 8);
    if magic != MAGIC.to_le_bytes() {
        return Err("its last 8 bytes are not those of a table file".to_owned());
    }
    let mut handles = Cursor(handles);
    // Nothing of use is in the first, but damage to it is damage to the file.
    let (offset, length) = handles.handle()?;
    block(file, offset, length)?;
    let (offset, length) = handles.handle()?;

    let mut entries = Vec::new();
    let mut header = None;
    let mut last_key = None;
    // Blocks do not overlap, and keys of a detector's variables have some hundred bytes: both hold an index to its own size.
    let (mut blocks, mut keys) = (0, 0);
    for (_, value) in block_entries(block(file, offset, length)?, &mut keys)? {
        let (offset, length) = Cursor(value).handle()?;
        blocks += length.saturating_add(TRAILER as u64);
        if blocks > file.len() as u64 {
            return Err("its blocks have more bytes than the file".to_owned());
        }
        for (key, value) in block_entries(block(file, offset, length)?, &mut keys)? {
            if last_key.as_ref().is_some_and(|last| *last >= key) {
                return Err(format!("key {:?} is not in order", String::from_utf8_lossy(&key)));
            }
            if key.is_empty() {
                header = Some(BundleHeaderProto::decode(value).map_err(|error| format!("header: {error}"))?);
            } else {
                entries.push(entry(&key, value)?);
            }
            last_key = Some(key);
        }
    }
    let header = header.ok_or("it has no header entry")?;
    if header.endianness() != Endianness::Little {
        return Err("its tensors are big-endian, written on another kind of machine".to_owned());
    }
    Ok(entries)
}

fn entry(key: &[u8], value: &[u8]) -> Parsed<(String, BundleEntryProto)> {
    // The slices of a partitioned variable are entries of their own, under keys in a binary code.
    let key = std::str::from_utf8(key).map_err(|_| "it holds a partitioned variable".to_owned())?;
    let entry = BundleEntryProto::decode(value).map_err(|error| format!("entry {key}: {error}"))?;
    if !entry.slices.is_empty() {
        return Err(format!("{key} is a partitioned variable, saved in {} slices", entry.slices.len()));
    }
    Ok((key.to_owned(), entry))
}

/// The contents of a block, without its trailer, its checksum checked.
fn block(file: &[u8], offset: u64, length: u64) -> Parsed<&[u8]> {
    let range = || {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        Some((
            file.get(start..end)?,
            file.get(start..end.checked_add(1)?)?,
            file.get(end..end.checked_add(TRAILER)?)?,
        ))
    };
    let (contents, summed, trailer) = range()
        .ok_or_else(|| format!("a block at byte {offset} of {length} bytes reaches beyond the end"))?;
    let [compression, checksum @ ..] = trailer else { return Err("a block without trailer".to_owned()) };
    if unmask(checksum) != Some(crc32c::crc32c(summed)) {
        return Err(format!("the block at byte {offset} has a wrong checksum"));
    }
    // TensorFlow writes checkpoint indices uncompressed.
    if *compression != 0 {
        return Err(format!(
            "the block at byte {offset} is compressed (kind {compression}), which is not read here"
        ));
    }
    Ok(contents)
}

/// Checksums are stored changed, so that the checksum of a text with checksums in it is no trivial one.
fn unmask(stored: &[u8]) -> Option<u32> {
    let masked = u32::from_le_bytes(stored.try_into().ok()?);
    Some(masked.wrapping_sub(0xa282_ead8).rotate_left(15))
}

/// The keys and values of a block; `keys` counts the bytes of all keys, which share their beginnings in the file.
fn block_entries<'f>(block: &'f [u8], keys: &mut usize) -> Parsed<Vec<(Vec<u8>, &'f [u8])>> {
    // At the end: the positions at which keys are spelled in full, and how many those are. Reading in order needs
    // none of them.
    let (body, count) = block.split_last_chunk::<4>().ok_or("a block without end")?;
    let restarts = usize::try_from(u32::from_le_bytes(*count)).ok().and_then(|count| count.checked_mul(4));
    let end = restarts.and_then(|restarts| body.len().checked_sub(restarts));
    let mut cursor =
        Cursor(end.and_then(|end| body.get(..end)).ok_or("a block with more restarts than bytes")?);

    let mut entries = Vec::new();
    let mut last: Vec<u8> = Vec::new();
    while !cursor.0.is_empty() {
        let (shared, unshared, length) = (cursor.size()?, cursor.size()?, cursor.size()?);
        let mut key = last.get(..shared).ok_or("a key that shares more than the one before it has")?.to_vec();
        key.extend_from_slice(cursor.take(unshared)?);
        *keys += key.len();
        if *keys > MAX_KEYS {
            return Err(format!("its keys have more than {MAX_KEYS} bytes"));
        }
        entries.push((key.clone(), cursor.take(length)?));
        last = key;
    }
    Ok(entries)
}

/// Bytes still to be read.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Parsed<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("an entry reaches beyond its block")?;
        self.0 = rest;
        Ok(taken)
    }

    /// A number in base 128, low digits first, the high bit saying that more follow.
    fn varint(&mut self) -> Parsed<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.take(1)?.first().ok_or("a number is cut short")?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number is longer than ten bytes".to_owned())
    }

    fn size(&mut self) -> Parsed<usize> {
        usize::try_from(self.varint()?).map_err(|_| "a length does not fit this machine".to_owned())
    }

    /// Where a block lies: its offset and its length.
    fn handle(&mut self) -> Parsed<(u64, u64)> {
        Ok((self.varint()?, self.varint()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::{DataType, TensorShapeProto, tensor_shape_proto::Dim};
    use proptest::prelude::*;

    fn varint(mut value: usize, out: &mut Vec<u8>) {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }

    /// Appends a block, keys sharing prefixes, and returns its handle.
    fn write_block(file: &mut Vec<u8>, entries: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let mut block = Vec::new();
        let mut last: &[u8] = &[];
        for (key, value) in entries {
            let shared = last.iter().zip(key).take_while(|(a, b)| a == b).count();
            varint(shared, &mut block);
            varint(key.len() - shared, &mut block);
            varint(value.len(), &mut block);
            block.extend_from_slice(&key[shared..]);
            block.extend_from_slice(value);
            last = key;
        }
        block.extend_from_slice(&[0, 0, 0, 0, 1, 0, 0, 0, 0]);
        let sum = crc32c::crc32c(&block).rotate_right(15).wrapping_add(0xa282_ead8);
        let mut handle = Vec::new();
        varint(file.len(), &mut handle);
        varint(block.len() - 1, &mut handle);
        file.extend_from_slice(&block);
        file.extend_from_slice(&sum.to_le_bytes());
        handle
    }

    fn write_index(keys: &[&str]) -> Vec<u8> {
        let entry = BundleEntryProto {
            dtype: DataType::DtFloat.into(),
            shape: Some(TensorShapeProto {
                dim: vec![Dim { size: 3, ..Dim::default() }],
                unknown_rank: false,
            }),
            size: 12,
            ..BundleEntryProto::default()
        };
        let mut entries =
            vec![(Vec::new(), BundleHeaderProto { num_shards: 1, ..Default::default() }.encode_to_vec())];
        entries.extend(keys.iter().map(|key| (key.as_bytes().to_vec(), entry.encode_to_vec())));
        let mut file = Vec::new();
        let index: Vec<_> = entries
            .chunks(2)
            .map(|chunk| (chunk.last().unwrap().0.clone(), write_block(&mut file, chunk)))
            .collect();
        let meta = write_block(&mut file, &[]);
        let index = write_block(&mut file, &index);
        let mut footer = [meta, index].concat();
        footer.resize(FOOTER - 8, 0);
        file.extend_from_slice(&footer);
        file.extend_from_slice(&MAGIC.to_le_bytes());
        file
    }

    #[test]
    fn reads_what_was_written() {
        let keys = ["conv/bias", "conv/kernel", "conv/kernel/slot", "dense"];
        let entries = parse_index(&write_index(&keys)).unwrap();
        assert_eq!(entries.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), keys);
        assert_eq!(entries[0].1.dtype(), DataType::DtFloat);
        assert_eq!(entries[0].1.shape.as_ref().unwrap().dim[0].size, 3);
    }

    #[test]
    fn every_truncation_and_every_changed_byte_is_noticed() {
        let file = write_index(&["a", "ab", "b"]);
        for length in 0..file.len() {
            assert!(parse_index(&file[..length]).is_err(), "{length}");
        }
        let footer = file.len() - FOOTER;
        for place in 0..footer {
            let mut changed = file.clone();
            changed[place] ^= 0x10;
            assert!(parse_index(&changed).is_err(), "{place}");
        }
    }

    #[test]
    fn order_and_header_are_required() {
        assert!(parse_index(&write_index(&["b", "a"])).unwrap_err().contains("order"));
        let mut file = write_index(&["a"]);
        file[3] ^= 1;
        assert!(parse_index(&file).unwrap_err().contains("checksum"));
    }

    #[test]
    fn keys_that_swell_and_blocks_read_again_and_again_are_refused() {
        // Each key shares all of the one before it: 240 kB that spell out to 72 MB.
        let keys: Vec<String> = (1..12_000).map(|i| "a".repeat(i)).collect();
        let file = write_index(&keys.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(parse_index(&file).unwrap_err().contains("keys have more"));
        // One block without entries, a thousand times: its checksum alone would cost a minute for some megabytes.
        let restarts = [vec![0; 4000], 1000u32.to_le_bytes().into(), vec![0]].concat();
        let sum = crc32c::crc32c(&restarts).rotate_right(15).wrapping_add(0xa282_ead8);
        let mut file = [restarts, sum.to_le_bytes().into()].concat();
        let mut one = vec![0];
        varint(4004, &mut one);
        let index: Vec<_> = (0..1000u32).map(|i| (i.to_be_bytes().to_vec(), one.clone())).collect();
        let index = write_block(&mut file, &index);
        let mut footer = [one, index].concat();
        footer.resize(FOOTER - 8, 0);
        file.extend_from_slice(&footer);
        file.extend_from_slice(&MAGIC.to_le_bytes());
        assert!(parse_index(&file).unwrap_err().contains("more bytes than the file"));
    }

    #[test]
    fn reads_a_real_index() {
        let Some(shared) = crate::runtime::testing::shared() else { return };
        let path = shared.join("models/ssd_mobilenet_v1_075_coco/tf2/saved_model/variables/variables.index");
        let entries = read_index(&path).unwrap();
        assert!(entries.len() > 100);
        let (key, graph) = &entries[0];
        assert_eq!((key.as_str(), graph.dtype()), ("_CHECKPOINTABLE_OBJECT_GRAPH", DataType::DtString));
        assert!(entries.iter().skip(1).all(|(key, _)| key.ends_with("/.ATTRIBUTES/VARIABLE_VALUE")));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse_index(&bytes);
            let _ = block_entries(&bytes, &mut 0);
        }

        #[test]
        fn no_bytes_before_a_footer_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
            handles in proptest::collection::vec(any::<u8>(), FOOTER - 8),
        ) {
            bytes.extend(handles);
            bytes.extend(MAGIC.to_le_bytes());
            let _ = parse_index(&bytes);
        }

        #[test]
        fn entries_of_any_shape_come_back(keys in proptest::collection::btree_set("[a-z/]{1,12}", 0..40)) {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let entries = parse_index(&write_index(&keys)).unwrap();
            prop_assert_eq!(entries.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), keys);
        }
    }
}
