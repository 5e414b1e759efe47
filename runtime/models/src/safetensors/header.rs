//! The head of one safetensors file: 8 bytes of length, that much JSON, then the tensors' bytes without gaps.

use std::collections::HashSet;
use std::fmt;
use std::io;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::Element;
use crate::read_at::ReadAt;

/// The format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;
const LENGTH_BYTES: u64 = 8;
const MAX_DIMENSIONS: usize = 8;

/// A stored tensor and its place: maybe a weight, maybe a part of one.
#[derive(Debug, Clone, PartialEq)]
pub struct SafetensorsTensor {
    /// As the file calls it.
    pub name: String,
    /// How its elements are written.
    pub element: Element,
    /// Row-major, outermost first.
    pub shape: Vec<usize>,
    /// Stored size; always the product of `shape` times the element's size.
    pub num_bytes: usize,
    /// From the start of the file, in bytes.
    pub offset: u64,
}

/// Why a safetensors file is refused; names the tensor and the figures.
#[derive(Debug, thiserror::Error)]
pub enum SafetensorsError {
    /// Shorter than its head.
    #[error("the file ends inside {what}: {needed} bytes are needed, the file has {num_bytes}")]
    Truncated {
        /// Part being read.
        what: &'static str,
        /// Up to where, in bytes from the start.
        needed: u64,
        /// Size of the file.
        num_bytes: u64,
    },
    /// A head beyond the format's limit.
    #[error("the header is {found} bytes long, at most {MAX_HEADER_BYTES} are allowed")]
    HeaderTooLarge {
        /// As stored.
        found: u64,
    },
    /// Not JSON of the right shape.
    #[error("parse the header (bytes 8 to {end})")]
    Json {
        /// Where it ends.
        end: u64,
        /// Line and column.
        source: serde_json::Error,
    },
    /// A tensor whose entry is wrong or not supported.
    #[error("tensor {name}: {problem}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong, with the figures.
        problem: String,
    },
    /// Bytes after the last tensor that belong to none.
    #[error("the tensors end at byte {end}, the file has {num_bytes} bytes")]
    Trailing {
        /// End of the last tensor.
        end: u64,
        /// Size of the file.
        num_bytes: u64,
    },
    /// The system failed to read.
    #[error("read {what}")]
    Read {
        /// Part being read.
        what: &'static str,
        /// The failed read.
        source: io::Error,
    },
}

/// Reads and checks the head of a file; tensors come in the order of their bytes.
///
/// ```
/// use kindling_models::safetensors::read_header;
/// let json = br#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
/// let mut file = (json.len() as u64).to_le_bytes().to_vec();
/// file.extend(json);
/// file.extend([0; 8]);
/// let tensors = read_header(&file)?;
/// assert_eq!(tensors[0].shape, [2]);
/// assert_eq!(tensors[0].offset, 8 + json.len() as u64);
/// # Ok::<(), kindling_models::safetensors::SafetensorsError>(())
/// ```
///
/// # Errors
/// [`SafetensorsError`] naming the part or tensor that is wrong.
pub fn read_header(source: &dyn ReadAt) -> Result<Vec<SafetensorsTensor>, SafetensorsError> {
    let num_bytes = source.num_bytes();
    let truncated = |what, needed| Err(SafetensorsError::Truncated { what, needed, num_bytes });
    if num_bytes < LENGTH_BYTES {
        return truncated("the header's length", LENGTH_BYTES);
    }
    let mut length = [0; LENGTH_BYTES as usize];
    let read = |what| move |source| SafetensorsError::Read { what, source };
    source.read_exact_at(&mut length, 0).map_err(read("the header's length"))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES {
        return Err(SafetensorsError::HeaderTooLarge { found: length });
    }
    let data_start = LENGTH_BYTES + length;
    if data_start > num_bytes {
        return truncated("the header", data_start);
    }
    let mut json = vec![0; length as usize];
    source.read_exact_at(&mut json, LENGTH_BYTES).map_err(read("the header"))?;
    let entries: Entries =
        serde_json::from_slice(&json).map_err(|source| SafetensorsError::Json { end: data_start, source })?;
    place_all(entries.0, data_start, num_bytes)
}

/// One entry as stored.
#[derive(serde::Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// All entries in the order of the file, so that a name that is there twice can be told.
struct Entries(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}

fn refused(name: &str, problem: String) -> SafetensorsError {
    SafetensorsError::Tensor { name: name.to_owned(), problem }
}

fn place_all(
    mut entries: Vec<(String, Entry)>,
    data_start: u64,
    num_bytes: u64,
) -> Result<Vec<SafetensorsTensor>, SafetensorsError> {
    entries.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut names = HashSet::new();
    let mut tensors = Vec::with_capacity(entries.len());
    let mut previous_end = 0;
    for (name, entry) in entries {
        let [start, end] = entry.data_offsets;
        if start != previous_end {
            let kind = if start < previous_end { "overlaps another tensor" } else { "leaves a hole" };
            return Err(refused(
                &name,
                format!("its offset {start} {kind}: the bytes before it end at {previous_end}"),
            ));
        }
        let tensor = describe(&name, &entry, data_start)?;
        if start.checked_add(tensor.num_bytes as u64) != Some(end) {
            let SafetensorsTensor { element, shape, num_bytes, .. } = tensor;
            let sizes = format!("the {num_bytes} bytes of {} {shape:?}", element.name());
            return Err(refused(&name, format!("offsets {start} to {end} do not hold {sizes}")));
        }
        if data_start.checked_add(end).is_none_or(|end| end > num_bytes) {
            return Err(refused(&name, format!("it ends at byte {end} after byte {data_start} of {num_bytes}")));
        }
        if !names.insert(name.clone()) {
            return Err(refused(&name, "the name appears twice".to_owned()));
        }
        previous_end = end;
        tensors.push(tensor);
    }
    let end = data_start + previous_end;
    if end != num_bytes {
        return Err(SafetensorsError::Trailing { end, num_bytes });
    }
    Ok(tensors)
}

/// The offset may be beyond the file; the caller looks.
fn describe(name: &str, entry: &Entry, data_start: u64) -> Result<SafetensorsTensor, SafetensorsError> {
    let element = Element::from_name(&entry.dtype)
        .ok_or_else(|| refused(name, format!("it is stored as {}, which this reader does not know", entry.dtype)))?;
    if entry.shape.len() > MAX_DIMENSIONS {
        return Err(refused(name, format!("it has {} dimensions, at most {MAX_DIMENSIONS}", entry.shape.len())));
    }
    let impossible = || refused(name, format!("shape {:?} is not possible", entry.shape));
    let shape: Result<Vec<usize>, _> = entry.shape.iter().map(|length| usize::try_from(*length)).collect();
    let shape = shape.map_err(|_| impossible())?;
    let num_elements = shape.iter().try_fold(1usize, |product, length| product.checked_mul(*length));
    let num_bytes = num_elements.and_then(|count| count.checked_mul(element.num_bytes())).ok_or_else(impossible)?;
    let offset = data_start.saturating_add(entry.data_offsets[0]);
    Ok(SafetensorsTensor { name: name.to_owned(), element, shape, num_bytes, offset })
}
