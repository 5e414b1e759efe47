//! The tensor table of a GGUF file, checked against the size of the file.

use std::collections::HashSet;

use kindling_kernels::{DType, TensorDesc, TensorScale};

use super::cursor::Cursor;
use super::ggml_type::{self, GgmlType};
use super::{GgufError, Metadata};
use crate::stored::StoredTensor;

/// Name length, one dimension, type, offset: the smallest entry there can be.
pub(super) const MIN_INFO_BYTES: u64 = 8 + 4 + 8 + 4 + 8;

/// Tensors in one file; the largest mixture-of-experts models have a few thousand.
const MAX_TENSORS: u64 = 1 << 20;
/// Longer names are not written by anything known; the format's own limit is 64.
const MAX_NAME_BYTES: u64 = 512;
const MAX_DIMENSIONS: u32 = 4;
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 20;

/// A tensor's description and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufTensor {
    /// Name, type, shape (outermost first, the reverse of the file's order) and size.
    pub desc: TensorDesc,
    /// From the start of the file, in bytes.
    pub offset: u64,
}

pub(super) fn read(
    cursor: &mut Cursor<'_>,
    num_tensors: u64,
    metadata: &Metadata,
) -> Result<Vec<GgufTensor>, GgufError> {
    cursor.at_most("the number of tensors", num_tensors, MAX_TENSORS)?;
    let alignment = alignment(metadata)?;
    let mut names = HashSet::new();
    let mut tensors = Vec::new();
    for index in 0..num_tensors {
        let tensor = read_info(cursor, index)?;
        if !names.insert(tensor.desc.name.clone()) {
            return Err(refused(&tensor.desc.name, "the name appears twice".to_owned()));
        }
        tensors.push(tensor);
    }
    // Offsets count from the first aligned byte after the table.
    let data_start = cursor.offset().next_multiple_of(alignment);
    for tensor in &mut tensors {
        place(tensor, data_start, alignment, cursor.num_bytes())?;
    }
    check_overlaps(&tensors)?;
    Ok(tensors)
}

fn refused(name: &str, problem: String) -> GgufError {
    GgufError::Tensor { name: name.to_owned(), problem }
}

fn alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    let key = "general.alignment";
    let alignment = metadata.unsigned(key)?.unwrap_or(DEFAULT_ALIGNMENT);
    if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
        let problem = format!("is {alignment}, not a power of two up to {MAX_ALIGNMENT}");
        return Err(GgufError::Key { key: key.to_owned(), problem });
    }
    Ok(alignment)
}

/// Names, types and sizes of all tensors, those included that cannot be read here; their places are not looked at.
pub(super) fn read_stored(cursor: &mut Cursor<'_>, num_tensors: u64) -> Result<Vec<StoredTensor>, GgufError> {
    cursor.at_most("the number of tensors", num_tensors, MAX_TENSORS)?;
    let mut tensors = Vec::new();
    for index in 0..num_tensors {
        let Entry { name, shape, kind, .. } = read_entry(cursor, index)?;
        let (kind, block_elements, block_bytes) = match ggml_type::from_number(kind) {
            GgmlType::Supported(dtype) => (dtype.name(), dtype.block_elements() as u64, dtype.block_bytes() as u64),
            GgmlType::Unsupported(kind, elements, bytes) => (kind, elements, bytes),
            // Says by what it cannot be.
            GgmlType::Removed(_) | GgmlType::Unknown => {
                return Err(dtype(&name, kind)
                    .err()
                    .unwrap_or_else(|| refused(&name, format!("the element type {kind} does not exist"))));
            }
        };
        let elements = shape.iter().try_fold(1u64, |product, length| product.checked_mul(*length as u64));
        let num_bytes = elements
            .filter(|elements| elements.is_multiple_of(block_elements))
            .and_then(|elements| (elements / block_elements).checked_mul(block_bytes));
        let sizes = elements.zip(num_bytes).filter(|(_, num_bytes)| *num_bytes <= cursor.num_bytes());
        let (elements, num_bytes) = sizes.ok_or_else(|| {
            let file_bytes = cursor.num_bytes();
            refused(&name, format!("shape {shape:?} is not possible for {kind} in a file of {file_bytes} bytes"))
        })?;
        tensors.push(StoredTensor { name, kind: kind.to_owned(), elements, num_bytes });
    }
    Ok(tensors)
}

/// A tensor as the table has it; shape with the outermost dimension first.
struct Entry {
    name: String,
    shape: Vec<usize>,
    kind: u32,
    offset: u64,
}

fn read_entry(cursor: &mut Cursor<'_>, index: u64) -> Result<Entry, GgufError> {
    let name = cursor.string(&format!("the name of tensor {index}"), MAX_NAME_BYTES)?;
    let what = format!("the entry of tensor {name}");
    let num_dimensions = cursor.u32(&what)?;
    if !(1..=MAX_DIMENSIONS).contains(&num_dimensions) {
        return Err(refused(&name, format!("it has {num_dimensions} dimensions, 1 to {MAX_DIMENSIONS} are possible")));
    }
    let mut shape = Vec::new();
    for _ in 0..num_dimensions {
        let length = cursor.u64(&what)?;
        let length = usize::try_from(length).ok().filter(|length| *length > 0);
        shape.push(length.ok_or_else(|| refused(&name, "a dimension is 0 or beyond the address space".to_owned()))?);
    }
    let (kind, offset) = (cursor.u32(&what)?, cursor.u64(&what)?);
    // The file names the innermost dimension first.
    shape.reverse();
    Ok(Entry { name, shape, kind, offset })
}

fn read_info(cursor: &mut Cursor<'_>, index: u64) -> Result<GgufTensor, GgufError> {
    let Entry { name, shape, kind, offset } = read_entry(cursor, index)?;
    let dtype = dtype(&name, kind)?;
    let num_bytes = num_bytes(dtype, shape.last().copied().unwrap_or(1), &shape);
    let num_bytes = num_bytes.ok_or_else(|| refused(&name, format!("shape {shape:?} is not possible for {dtype}")))?;
    Ok(GgufTensor { desc: TensorDesc { name, dtype, shape, num_bytes, scale: TensorScale::One }, offset })
}

fn dtype(name: &str, number: u32) -> Result<DType, GgufError> {
    let supported = "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K, MXFP4 and NVFP4 are supported";
    match ggml_type::from_number(number) {
        GgmlType::Supported(dtype) => Ok(dtype),
        GgmlType::Unsupported(kind, ..) => Err(refused(name, format!("it is stored as {kind}; {supported}"))),
        GgmlType::Removed(kind) => {
            Err(refused(name, format!("it is stored as {kind}, which the format has given up; {supported}")))
        }
        GgmlType::Unknown => Err(refused(name, format!("the element type {number} does not exist"))),
    }
}

/// `None` if the rows are no whole number of blocks, or a product overflows.
fn num_bytes(dtype: DType, row_elements: usize, shape: &[usize]) -> Option<usize> {
    // Files keep four blocks of NVFP4 together.
    let together = if dtype == DType::NVFP4 { 64 } else { dtype.block_elements() };
    if !row_elements.is_multiple_of(together) {
        return None;
    }
    let num_elements = shape.iter().try_fold(1usize, |product, length| product.checked_mul(*length))?;
    dtype.bytes_for(num_elements)
}

/// Turns the offset within the data into one within the file, and checks both ends.
fn place(tensor: &mut GgufTensor, data_start: u64, alignment: u64, file_bytes: u64) -> Result<(), GgufError> {
    let name = &tensor.desc.name;
    let relative = tensor.offset;
    if !relative.is_multiple_of(alignment) {
        return Err(refused(name, format!("its offset {relative} is not a multiple of the alignment {alignment}")));
    }
    let start = data_start.checked_add(relative);
    let end = start.and_then(|start| start.checked_add(tensor.desc.num_bytes as u64));
    match (start, end) {
        (Some(start), Some(end)) if end <= file_bytes => {
            tensor.offset = start;
            Ok(())
        }
        _ => Err(refused(
            name,
            format!(
                "its {} bytes at offset {relative} of the data (which start at byte {data_start}) end beyond the \
                 file's {file_bytes} bytes",
                tensor.desc.num_bytes
            ),
        )),
    }
}

fn check_overlaps(tensors: &[GgufTensor]) -> Result<(), GgufError> {
    let mut by_offset: Vec<&GgufTensor> = tensors.iter().collect();
    by_offset.sort_by_key(|tensor| tensor.offset);
    for pair in by_offset.windows(2) {
        let (first, second) = (pair[0], pair[1]);
        let end = first.offset + first.desc.num_bytes as u64;
        if end > second.offset {
            let problem = format!(
                "it starts at byte {}, inside tensor {} which ends at byte {end}",
                second.offset, first.desc.name
            );
            return Err(refused(&second.desc.name, problem));
        }
    }
    Ok(())
}
