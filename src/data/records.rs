//! The frames of a TFRecord file.
//!
//! (tensorflow/core/lib/io/record_writer.h): length u64, masked CRC-32C of the length, the bytes, masked CRC-32C of the
//! bytes; all little-endian.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// True when a file starts with a record's frame.
pub fn is_tfrecord(start: &[u8]) -> bool {
    start.len() >= 12 && u32_at(start, 8) == masked_crc(&start[..8])
}

/// One record as it stands in a file.
pub fn frame(body: &[u8]) -> Vec<u8> {
    let mut out = (body.len() as u64).to_le_bytes().to_vec();
    out.extend(masked_crc(&out).to_le_bytes());
    out.extend(body);
    out.extend(masked_crc(body).to_le_bytes());
    out
}

/// Reads the records of a file in their order.
#[derive(Debug)]
pub struct Records {
    file: BufReader<File>,
    path: PathBuf,
    at: u64,
    length: u64,
    /// Records read so far.
    pub count: usize,
}

impl Records {
    /// Opens a file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let length = file.metadata().map_err(|e| Error::io(path, e))?.len();
        Ok(Self { file: BufReader::new(file), path: path.to_owned(), at: 0, length, count: 0 })
    }

    /// Goes to the frame that starts at `offset`.
    pub fn seek(&mut self, offset: u64) -> Result<()> {
        self.file.seek(SeekFrom::Start(offset)).map_err(|e| Error::io(&self.path, e))?;
        self.at = offset;
        Ok(())
    }

    /// The next record with the place of its frame; `None` at the end of the file.
    pub fn next_record(&mut self) -> Result<Option<(u64, bytes::Bytes)>> {
        let start = self.at;
        let left = self.length.saturating_sub(start);
        if left == 0 {
            return Ok(None);
        }
        let damaged = |reason: String| Error::Damaged {
            what: format!("{} at byte {start}", self.path.display()),
            reason: format!("{reason}; copy the file again, or check that it is an uncompressed TFRecord"),
        };
        if left < 16 {
            return Err(damaged(format!("{left} bytes are left, a record takes at least 16")));
        }
        let mut head = [0u8; 12];
        self.file.read_exact(&mut head).map_err(|e| Error::io(&self.path, e))?;
        if u32_at(&head, 8) != masked_crc(&head[..8]) {
            return Err(damaged("the checksum of a record's length is wrong".to_owned()));
        }
        let size =
            u64::from_le_bytes([head[0], head[1], head[2], head[3], head[4], head[5], head[6], head[7]]);
        if size > left - 16 {
            return Err(damaged(format!("a record of {size} bytes, but only {} are left", left - 16)));
        }
        let mut body = vec![0u8; size as usize + 4];
        self.file.read_exact(&mut body).map_err(|e| Error::io(&self.path, e))?;
        let crc = u32_at(&body, size as usize);
        body.truncate(size as usize);
        if crc != masked_crc(&body) {
            return Err(damaged("the checksum of a record is wrong".to_owned()));
        }
        self.at = start + size + 16;
        self.count += 1;
        Ok(Some((start, body.into())))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// CRC-32C (Castagnoli), turned by 15 bits and moved by a constant, so that checksums of checksums stay good.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_tensorflows() {
        // CRC-32C of "123456789" is 0xe3069283 (RFC 3720 tables); the mask is from tensorflow/core/lib/hash/crc32c.h.
        assert_eq!(masked_crc(b"123456789"), 0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }
}
