//! A forward reader over the head of a file that never allocates more than the file can justify.

use super::GgufError;
use crate::read_at::ReadAt;

/// Small reads are served from a window of this size; the head of a file is mostly 8-byte lengths.
const WINDOW_BYTES: usize = 64 * 1024;

/// All text in the head together. The largest known vocabularies with their merges stay below 16 MiB.
const MAX_TEXT_BYTES: u64 = 64 * 1024 * 1024;

/// Reads little-endian values one after another.
pub(super) struct Cursor<'a> {
    source: &'a dyn ReadAt,
    offset: u64,
    window: Vec<u8>,
    window_start: u64,
    text_bytes: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(source: &'a dyn ReadAt) -> Self {
        Self { source, offset: 0, window: Vec::new(), window_start: 0, text_bytes: 0 }
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn num_bytes(&self) -> u64 {
        self.source.num_bytes()
    }

    fn remaining(&self) -> u64 {
        self.num_bytes().saturating_sub(self.offset)
    }

    /// Refuses a count of things that cannot fit into the rest of the file.
    pub(super) fn plausible(&self, what: &str, count: u64, min_bytes_each: u64) -> Result<(), GgufError> {
        let limit = self.remaining() / min_bytes_each;
        self.at_most(what, count, limit)
    }

    pub(super) fn at_most(&self, what: &str, found: u64, limit: u64) -> Result<(), GgufError> {
        if found > limit {
            return Err(GgufError::TooLarge { what: what.to_owned(), offset: self.offset, found, limit });
        }
        Ok(())
    }

    /// Fills `out`; `what` names the part for errors.
    pub(super) fn fill(&mut self, what: &str, out: &mut [u8]) -> Result<(), GgufError> {
        let needed = out.len() as u64;
        if needed > self.remaining() {
            return Err(GgufError::Truncated {
                what: what.to_owned(),
                needed,
                offset: self.offset,
                num_bytes: self.num_bytes(),
            });
        }
        let read = |offset| move |source| GgufError::Read { what: what.to_owned(), offset, source };
        if out.len() > WINDOW_BYTES {
            self.source.read_exact_at(out, self.offset).map_err(read(self.offset))?;
        } else {
            let mut start = (self.offset - self.window_start.min(self.offset)) as usize;
            if self.offset < self.window_start || start + out.len() > self.window.len() {
                let length = self.remaining().min(WINDOW_BYTES as u64) as usize;
                self.window.resize(length, 0);
                self.window_start = self.offset;
                start = 0;
                let result = self.source.read_exact_at(&mut self.window, self.offset);
                result.inspect_err(|_| self.window.clear()).map_err(read(self.offset))?;
            }
            out.copy_from_slice(&self.window[start..start + out.len()]);
        }
        self.offset += needed;
        Ok(())
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufError> {
        let mut out = [0; N];
        self.fill(what, &mut out)?;
        Ok(out)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A length and that many bytes of UTF-8, of at most `limit` bytes.
    pub(super) fn string(&mut self, what: &str, limit: u64) -> Result<String, GgufError> {
        let length = self.u64(what)?;
        self.plausible_length(what, length)?;
        self.at_most(&format!("the length of {what}"), length, limit)?;
        self.text_bytes += length;
        self.at_most("the sum of all text", self.text_bytes, MAX_TEXT_BYTES)?;
        let offset = self.offset;
        let mut bytes = vec![0; length as usize];
        self.fill(what, &mut bytes)?;
        String::from_utf8(bytes).map_err(|_| GgufError::Utf8 { what: what.to_owned(), offset })
    }

    fn plausible_length(&self, what: &str, length: u64) -> Result<(), GgufError> {
        if length > self.remaining() {
            return Err(GgufError::Truncated {
                what: what.to_owned(),
                needed: length,
                offset: self.offset,
                num_bytes: self.num_bytes(),
            });
        }
        Ok(())
    }
}
