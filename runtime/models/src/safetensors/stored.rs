//! Where the parts of a weight lie, and how rows of it are put together.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use kindling_kernels::{DType, TensorDesc};

use crate::read_at::ReadAt;

/// Parts are read in pieces of about this size: what is held beside the caller's buffer.
const PIECE_BYTES: usize = 256 << 10;
/// Side of the squares that share a scale.
pub(super) const SQUARE: usize = 128;

/// The first byte of a stored tensor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub file: usize,
    pub offset: u64,
}

/// How a weight is stored.
#[derive(Debug, Clone)]
pub(super) enum Stored {
    /// As it is described.
    Plain(Place),
    /// NVFP4 or MXFP4: nibbles in one tensor, a byte of scale for each block in another.
    Blocks {
        /// Two elements a byte.
        nibbles: Place,
        /// One byte a block.
        scales: Place,
    },
    /// FP8 with a scale for each square of a matrix.
    Squares {
        /// One byte an element.
        codes: Place,
        /// Of all matrices, row-major.
        scales: Arc<[f32]>,
        /// Rows of one matrix.
        matrix_rows: usize,
    },
}

impl Stored {
    /// Reads rows that are there into a buffer of their size.
    pub fn read_rows(
        &self,
        files: &[Box<dyn ReadAt>],
        desc: &TensorDesc,
        rows: Range<usize>,
        out: &mut [u8],
    ) -> io::Result<()> {
        let row_bytes = desc.row_bytes();
        if out.is_empty() {
            return Ok(());
        }
        match self {
            Self::Plain(place) => read(files, *place, rows.start, row_bytes, out),
            Self::Blocks { nibbles, scales } => {
                let reader = |rows: Range<usize>, out: &mut [u8]| {
                    let per_row = row_bytes / desc.dtype.block_bytes();
                    let nibble_bytes = desc.dtype.block_elements() / 2;
                    let mut stored_nibbles = vec![0; rows.len() * per_row * nibble_bytes];
                    read(files, *nibbles, rows.start, per_row * nibble_bytes, &mut stored_nibbles)?;
                    let mut stored_scales = vec![0; rows.len() * per_row];
                    read(files, *scales, rows.start, per_row, &mut stored_scales)?;
                    join_blocks(desc.dtype, &stored_scales, &stored_nibbles, out)
                        .map_err(|block| nan_scale(rows.start + block / per_row))
                };
                in_pieces(rows, row_bytes, out, reader)
            }
            Self::Squares { codes, scales, matrix_rows } => {
                let row_len = desc.shape.last().copied().unwrap_or(1);
                let reader = |rows: Range<usize>, out: &mut [u8]| {
                    let mut stored = vec![0; rows.len() * row_len];
                    read(files, *codes, rows.start, row_len, &mut stored)?;
                    let per_row = row_len / SQUARE;
                    let blocks = out.chunks_exact_mut(4 + SQUARE).zip(stored.chunks_exact(SQUARE)).enumerate();
                    for (block, (out, stored)) in blocks {
                        let (row, column) = (rows.start + block / per_row, block % per_row);
                        let (matrix, row) = (row / matrix_rows, row % matrix_rows);
                        let square_row = matrix * matrix_rows.div_ceil(SQUARE) + row / SQUARE;
                        out[..4].copy_from_slice(&scales[square_row * per_row + column].to_le_bytes());
                        out[4..].copy_from_slice(stored);
                    }
                    Ok(())
                };
                in_pieces(rows, row_bytes, out, reader)
            }
        }
    }
}

/// Puts the blocks of [`DType`] together.
///
/// # Errors
/// The first block whose scale is not a number.
fn join_blocks(dtype: DType, scales: &[u8], nibbles: &[u8], out: &mut [u8]) -> Result<(), usize> {
    let blocks = out.chunks_exact_mut(dtype.block_bytes());
    let stored = scales.iter().zip(nibbles.chunks_exact(dtype.block_elements() / 2));
    for (index, (block, (scale, nibbles))) in blocks.zip(stored).enumerate() {
        if is_nan_scale(dtype, *scale) {
            return Err(index);
        }
        block[0] = *scale;
        block[1..].copy_from_slice(nibbles);
    }
    Ok(())
}

/// E4M3 has two codes that are no number, E8M0 one.
pub(crate) fn is_nan_scale(dtype: DType, scale: u8) -> bool {
    if dtype == DType::NVFP4 { scale & 0x7f == 0x7f } else { scale == 0xff }
}

/// What a block scale that is not a number is refused with.
pub(crate) fn nan_scale(row: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a block scale in row {row} is not a number"))
}

fn read(files: &[Box<dyn ReadAt>], place: Place, first_row: usize, row_bytes: usize, out: &mut [u8]) -> io::Result<()> {
    files[place.file].read_exact_at(out, place.offset + (first_row * row_bytes) as u64)
}

fn in_pieces(
    rows: Range<usize>,
    row_bytes: usize,
    out: &mut [u8],
    reader: impl Fn(Range<usize>, &mut [u8]) -> io::Result<()>,
) -> io::Result<()> {
    let piece_rows = (PIECE_BYTES / row_bytes).max(1);
    for (index, out) in out.chunks_mut(piece_rows * row_bytes).enumerate() {
        let first = rows.start + index * piece_rows;
        reader(first..rows.end.min(first + piece_rows), out)?;
    }
    Ok(())
}
