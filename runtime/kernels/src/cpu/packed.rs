//! Weights as the kernels read them: panels of sixteen rows (output features), one row per lane.
//!
//! A panel's blocks follow each other along `in_features`, so a panel is one stream. Quantised types keep their exact
//! values: Q4_0 and Q4_1 stay nibbles, Q8_0 stays bytes (stored with 128 added, as unsigned), scales stay f16. Rows
//! beyond the matrix are zero.

use half::f16;

use super::lanes::{ByteGroups, LANES};
use crate::load::zeroes;
use crate::{DType, PrepareError, WeightSpec};

/// 32 x 16 nibbles without a minimum (Q4_0). Byte `4 * lane + i` of group `g` holds element `4 * g + i` in its low
/// nibble and element `4 * g + i + 16` in its high one.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(super) struct Int4Block {
    /// f16 by lane.
    pub scales: [u16; LANES],
    /// Four groups.
    pub nibbles: [ByteGroups; 4],
}

/// 32 x 16 nibbles with a minimum (Q4_1); nibbles as in [`Int4Block`].
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Int4MinBlock {
    /// f16 by lane.
    pub scales: [u16; LANES],
    /// f16 by lane.
    pub minima: [u16; LANES],
    /// Four groups.
    pub nibbles: [ByteGroups; 4],
}

/// 32 x 16 bytes, 128 added to each (Q8_0). Byte `4 * lane + i` of group `g` holds element `4 * g + i`.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(super) struct Int8Block {
    /// f16 by lane.
    pub scales: [u16; LANES],
    /// Eight groups.
    pub bytes: [ByteGroups; 8],
}

impl Default for Int4Block {
    fn default() -> Self {
        Self { scales: [0; LANES], nibbles: [[0; 64]; 4] }
    }
}

impl Default for Int4MinBlock {
    fn default() -> Self {
        Self { scales: [0; LANES], minima: [0; LANES], nibbles: [[0; 64]; 4] }
    }
}

impl Default for Int8Block {
    fn default() -> Self {
        Self { scales: [0; LANES], bytes: [[0; 64]; 8] }
    }
}

/// One column of sixteen f16.
#[derive(Clone, Copy, Default)]
pub(super) struct F16Column(pub [u16; LANES]);

/// One column of sixteen bf16.
#[derive(Clone, Copy, Default)]
pub(super) struct BF16Column(pub [u16; LANES]);

/// One column of sixteen f32.
#[derive(Clone, Copy, Default)]
pub(super) struct F32Column(pub [f32; LANES]);

/// The blocks of a matrix, panel after panel.
pub(super) enum Panels {
    /// Q4_0.
    Int4(Vec<Int4Block>),
    /// Q4_1.
    Int4Min(Vec<Int4MinBlock>),
    /// Q8_0.
    Int8(Vec<Int8Block>),
    /// F16.
    F16(Vec<F16Column>),
    /// BF16.
    BF16(Vec<BF16Column>),
    /// F32.
    F32(Vec<F32Column>),
}

/// A matrix `[num_rows, row_len]` in panels.
pub(super) struct PackedMatrix {
    /// Output features.
    pub num_rows: usize,
    /// Input features.
    pub row_len: usize,
    /// As stored.
    dtype: DType,
    /// The blocks.
    pub panels: Panels,
}

impl PackedMatrix {
    /// Room for a matrix that is stored as `dtype`; its rows come by [`Self::place_rows`].
    ///
    /// # Errors
    /// [`PrepareError::Memory`], or [`PrepareError::Unsupported`] for a type without a panel.
    pub fn new(spec: &WeightSpec, dtype: DType) -> Result<Self, PrepareError> {
        let (num_rows, row_len) = (spec.num_rows(), spec.row_len());
        let per_row = row_len / dtype.block_elements();
        let blocks = num_rows.div_ceil(LANES).checked_mul(per_row);
        const WHAT: &str = "a packed weight";
        let panels = match dtype {
            DType::Q4_0 => Panels::Int4(zeroes(blocks, WHAT)?),
            DType::Q4_1 => Panels::Int4Min(zeroes(blocks, WHAT)?),
            DType::Q8_0 => Panels::Int8(zeroes(blocks, WHAT)?),
            DType::F16 => Panels::F16(zeroes(blocks, WHAT)?),
            DType::BF16 => Panels::BF16(zeroes(blocks, WHAT)?),
            DType::F32 => Panels::F32(zeroes(blocks, WHAT)?),
            _ => {
                let what = format!("{} stored as {dtype}", spec.name);
                return Err(PrepareError::Unsupported { backend: "cpu", what });
            }
        };
        Ok(Self { num_rows, row_len, dtype, panels })
    }

    /// Repacks whole rows as stored, from `first_row` on.
    pub fn place_rows(&mut self, first_row: usize, bytes: &[u8]) {
        let stored = StoredRows { first_row, row_len: self.row_len, dtype: self.dtype, bytes };
        match &mut self.panels {
            Panels::Int4(blocks) => place(blocks, &stored, |block, lane, bytes| {
                block.scales[lane] = u16_at(bytes, 0);
                place_nibbles(&mut block.nibbles, lane, &bytes[2..]);
            }),
            Panels::Int4Min(blocks) => place(blocks, &stored, |block, lane, bytes| {
                block.scales[lane] = u16_at(bytes, 0);
                block.minima[lane] = u16_at(bytes, 2);
                place_nibbles(&mut block.nibbles, lane, &bytes[4..]);
            }),
            Panels::Int8(blocks) => place(blocks, &stored, |block, lane, bytes| {
                block.scales[lane] = u16_at(bytes, 0);
                for (group, bytes) in block.bytes.iter_mut().zip(bytes[2..].as_chunks::<4>().0) {
                    group[4 * lane..4 * lane + 4].copy_from_slice(&bytes.map(|byte| byte ^ 128));
                }
            }),
            Panels::F16(columns) => {
                place(columns, &stored, |column, lane, bytes| column.0[lane] = u16_at(bytes, 0));
            }
            Panels::BF16(columns) => {
                place(columns, &stored, |column, lane, bytes| column.0[lane] = u16_at(bytes, 0));
            }
            Panels::F32(columns) => place(columns, &stored, |column, lane, bytes| {
                column.0[lane] = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }),
        }
    }

    /// Panels of sixteen rows.
    pub fn num_panels(&self) -> usize {
        self.num_rows.div_ceil(LANES)
    }

    /// Whether activations are quantised to int8 for it.
    pub fn is_int(&self) -> bool {
        matches!(self.panels, Panels::Int4(_) | Panels::Int4Min(_) | Panels::Int8(_))
    }

    /// Size in memory.
    pub fn num_bytes(&self) -> usize {
        match &self.panels {
            Panels::Int4(blocks) => size_of_val(blocks.as_slice()),
            Panels::Int4Min(blocks) => size_of_val(blocks.as_slice()),
            Panels::Int8(blocks) => size_of_val(blocks.as_slice()),
            Panels::F16(columns) => size_of_val(columns.as_slice()),
            Panels::BF16(columns) => size_of_val(columns.as_slice()),
            Panels::F32(columns) => size_of_val(columns.as_slice()),
        }
    }

    /// Dequantises one row into `out`, `[row_len]`: the same values as the stored ones.
    pub fn row_into(&self, row: usize, out: &mut [f32]) {
        let (panel, lane) = (row / LANES, row % LANES);
        match &self.panels {
            Panels::Int4(blocks) => {
                for (values, block) in blocks_of(out, blocks, panel) {
                    let scale = to_f32(block.scales[lane]);
                    nibbles_into(&block.nibbles, lane, values, |nibble| (nibble - 8.0) * scale);
                }
            }
            Panels::Int4Min(blocks) => {
                for (values, block) in blocks_of(out, blocks, panel) {
                    let (scale, minimum) = (to_f32(block.scales[lane]), to_f32(block.minima[lane]));
                    nibbles_into(&block.nibbles, lane, values, |nibble| nibble * scale + minimum);
                }
            }
            Panels::Int8(blocks) => {
                for (values, block) in blocks_of(out, blocks, panel) {
                    let scale = to_f32(block.scales[lane]);
                    for (i, value) in values.iter_mut().enumerate() {
                        *value = (f32::from(block.bytes[i / 4][4 * lane + i % 4]) - 128.0) * scale;
                    }
                }
            }
            Panels::F16(columns) => column_into(out, columns, panel, |column| to_f32(column.0[lane])),
            Panels::BF16(columns) => {
                column_into(out, columns, panel, |column| half::bf16::from_bits(column.0[lane]).to_f32());
            }
            Panels::F32(columns) => column_into(out, columns, panel, |column| column.0[lane]),
        }
    }
}

/// Some rows as stored.
struct StoredRows<'a> {
    first_row: usize,
    row_len: usize,
    dtype: DType,
    bytes: &'a [u8],
}

/// Fills panels of `B` by calling `place(block, lane, bytes)` with every stored block.
fn place<B>(blocks: &mut [B], stored: &StoredRows<'_>, place: impl Fn(&mut B, usize, &[u8])) {
    let StoredRows { first_row, row_len, dtype, bytes } = *stored;
    let blocks_per_row = row_len / dtype.block_elements();
    let row_bytes = blocks_per_row * dtype.block_bytes();
    if row_bytes == 0 {
        return;
    }
    for (index, bytes) in bytes.chunks_exact(row_bytes).enumerate() {
        let row = first_row + index;
        let panel = &mut blocks[row / LANES * blocks_per_row..(row / LANES + 1) * blocks_per_row];
        for (block, bytes) in panel.iter_mut().zip(bytes.chunks_exact(dtype.block_bytes())) {
            place(block, row % LANES, bytes);
        }
    }
}

fn place_nibbles(groups: &mut [ByteGroups; 4], lane: usize, bytes: &[u8]) {
    for (group, bytes) in groups.iter_mut().zip(bytes.as_chunks::<4>().0) {
        group[4 * lane..4 * lane + 4].copy_from_slice(bytes);
    }
}

fn nibbles_into(groups: &[ByteGroups; 4], lane: usize, values: &mut [f32; 32], value: impl Fn(f32) -> f32) {
    for i in 0..16 {
        let byte = groups[i / 4][4 * lane + i % 4];
        values[i] = value(f32::from(byte & 15));
        values[i + 16] = value(f32::from(byte >> 4));
    }
}

fn blocks_of<'a, B>(
    out: &'a mut [f32],
    blocks: &'a [B],
    panel: usize,
) -> impl Iterator<Item = (&'a mut [f32; 32], &'a B)> {
    let (values, _) = out.as_chunks_mut::<32>();
    let first = panel * values.len();
    values.iter_mut().zip(&blocks[first..])
}

fn column_into<C>(out: &mut [f32], columns: &[C], panel: usize, value: impl Fn(&C) -> f32) {
    let first = panel * out.len();
    for (out, column) in out.iter_mut().zip(&columns[first..]) {
        *out = value(column);
    }
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}

fn to_f32(bits: u16) -> f32 {
    f16::from_bits(bits).to_f32()
}
