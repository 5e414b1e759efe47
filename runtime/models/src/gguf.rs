//! Reads GGUF files, versions 2 and 3, little-endian: metadata, tensor table, tensor bytes.
//!
//! Written for hostile files: every count, length, offset and alignment is checked against the size of the file
//! before anything is allocated for it, and every refusal says what and where. Called by [`crate::open`]; knows
//! nothing of architectures or tokenizers.
//!
//! # Source
//! The format's description, `docs/gguf.md` of <https://github.com/ggml-org/ggml>.

mod cursor;
mod error;
mod ggml_type;
mod metadata;
mod regroup;
mod tensors;
mod weights;

pub use error::GgufError;
pub use metadata::{Array, Metadata, Value};
pub use tensors::GgufTensor;
pub use weights::GgufWeights;

use crate::read_at::ReadAt;
use crate::stored::StoredTensor;
use cursor::Cursor;

const MAGIC: [u8; 4] = *b"GGUF";

/// The parsed head of a file: everything but the tensors' bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufHeader {
    /// 2 or 3.
    pub version: u32,
    /// Key-value pairs.
    pub metadata: Metadata,
    /// In the order of the file.
    pub tensors: Vec<GgufTensor>,
}

impl GgufHeader {
    /// Reads and checks the head of a file.
    ///
    /// ```
    /// use kindling_models::gguf::GgufHeader;
    /// let mut file = b"GGUF".to_vec();
    /// file.extend(3u32.to_le_bytes()); // version
    /// file.extend(0u64.to_le_bytes()); // tensors
    /// file.extend(1u64.to_le_bytes()); // metadata pairs
    /// file.extend(1u64.to_le_bytes()); // length of the key
    /// file.extend(b"k");
    /// file.extend(4u32.to_le_bytes()); // type: u32
    /// file.extend(7u32.to_le_bytes());
    /// let header = GgufHeader::read(&file)?;
    /// assert_eq!(header.metadata.unsigned("k")?, Some(7));
    /// # Ok::<(), kindling_models::gguf::GgufError>(())
    /// ```
    ///
    /// # Errors
    /// [`GgufError`] naming the part that is wrong and its byte offset.
    pub fn read(source: &dyn ReadAt) -> Result<Self, GgufError> {
        let mut cursor = Cursor::new(source);
        let (version, num_tensors, metadata) = Self::begin(&mut cursor)?;
        let tensors = tensors::read(&mut cursor, num_tensors, &metadata)?;
        Ok(Self { version, metadata, tensors })
    }

    /// Reads the head of a file whose tensors may be of types that are not supported: what they are, not where.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_stored(source: &dyn ReadAt) -> Result<(Metadata, Vec<StoredTensor>), GgufError> {
        let mut cursor = Cursor::new(source);
        let (_, num_tensors, metadata) = Self::begin(&mut cursor)?;
        let tensors = tensors::read_stored(&mut cursor, num_tensors)?;
        Ok((metadata, tensors))
    }

    /// Up to the table of tensors: version, their number, metadata.
    fn begin(cursor: &mut Cursor<'_>) -> Result<(u32, u64, Metadata), GgufError> {
        let magic = cursor.array::<4>("the magic")?;
        if magic != MAGIC {
            return Err(GgufError::Magic { found: magic });
        }
        let version = cursor.u32("the version")?;
        check_version(version)?;
        let num_tensors = cursor.u64("the number of tensors")?;
        let num_pairs = cursor.u64("the number of metadata pairs")?;
        cursor.plausible("the number of metadata pairs", num_pairs, metadata::MIN_PAIR_BYTES)?;
        cursor.plausible("the number of tensors", num_tensors, tensors::MIN_INFO_BYTES)?;
        Ok((version, num_tensors, Metadata::read(cursor, num_pairs)?))
    }
}

fn check_version(version: u32) -> Result<(), GgufError> {
    match version {
        2 | 3 => Ok(()),
        _ if matches!(version.swap_bytes(), 1..=3) => Err(GgufError::BigEndian),
        _ => Err(GgufError::Version { version }),
    }
}

#[cfg(test)]
pub(crate) mod synthetic;
#[cfg(test)]
mod tests;
