//! Weights as the kernels read them: panels of sixteen rows (output features), one row per lane.
//!
//! A panel's blocks follow each other along `in_features`, so a panel is one stream. Stored types keep their exact
//! values: nibbles stay nibbles, bytes stay bytes, scales stay what they are. Rows beyond a matrix are zero. Stacked
//! matrices (experts) are one after another, each in panels of its own.

mod affine;
mod columns;
mod e2m1;
mod super_blocks;

use super::lanes::LANES;
use crate::load::WeightHead;
use crate::resident::Extent;
use crate::room::{Room, ZeroBytes};
use crate::{DType, PrepareError};
pub(super) use affine::{Int4Block, Int4MinBlock, Int5Block, Int5MinBlock, Int8Block};
pub(super) use columns::{BF16Column, E4M3Block, E4M3Column, F16Column, F32Column};
pub(super) use e2m1::{DOUBLED, DOUBLED_OFFSET, Mxfp4Block, Nvfp4Block};
pub(super) use super_blocks::{GroupScales, PARTS, Super4Block, Super5Block, Super6Block};

/// One step of a panel along `in_features`.
pub(super) trait Block: ZeroBytes {
    /// Elements of each lane; the last block of a row may have fewer, the others are zero.
    const ELEMENTS: usize;
    /// What the kernels' sums have to be multiplied with.
    const FACTOR: f32 = 1.0;

    /// Takes the stored bytes of one lane.
    fn place(&mut self, lane: usize, stored: &[u8]);

    /// The stored values of one lane, at most `ELEMENTS`.
    fn values_into(&self, lane: usize, values: &mut [f32]);
}

/// The panels of a weight, by family.
pub(super) enum Panels {
    /// Q4_0.
    Int4(Vec<Int4Block>),
    /// Q4_1.
    Int4Min(Vec<Int4MinBlock>),
    /// Q5_0.
    Int5(Vec<Int5Block>),
    /// Q5_1.
    Int5Min(Vec<Int5MinBlock>),
    /// Q4_K.
    Super4(Vec<Super4Block>),
    /// Q5_K.
    Super5(Vec<Super5Block>),
    /// Q6_K.
    Super6(Vec<Super6Block>),
    /// Q8_0.
    Int8(Vec<Int8Block>),
    /// NVFP4.
    Nvfp4(Vec<Nvfp4Block>),
    /// MXFP4.
    Mxfp4(Vec<Mxfp4Block>),
    /// F8_E4M3.
    E4M3(Vec<E4M3Column>),
    /// F8_E4M3 with a scale for each 128.
    E4M3Block(Vec<E4M3Block>),
    /// F16.
    F16(Vec<F16Column>),
    /// BF16.
    BF16(Vec<BF16Column>),
    /// F32.
    F32(Vec<F32Column>),
}

/// `body` with the blocks of whichever family it is.
macro_rules! with_blocks {
    ($panels:expr, $blocks:ident => $body:expr) => {
        match $panels {
            $crate::cpu::packed::Panels::Int4($blocks) => $body,
            $crate::cpu::packed::Panels::Int4Min($blocks) => $body,
            $crate::cpu::packed::Panels::Int5($blocks) => $body,
            $crate::cpu::packed::Panels::Int5Min($blocks) => $body,
            $crate::cpu::packed::Panels::Super4($blocks) => $body,
            $crate::cpu::packed::Panels::Super5($blocks) => $body,
            $crate::cpu::packed::Panels::Super6($blocks) => $body,
            $crate::cpu::packed::Panels::Int8($blocks) => $body,
            $crate::cpu::packed::Panels::E4M3Block($blocks) => $body,
            $crate::cpu::packed::Panels::Nvfp4($blocks) => $body,
            $crate::cpu::packed::Panels::Mxfp4($blocks) => $body,
            $crate::cpu::packed::Panels::E4M3($blocks) => $body,
            $crate::cpu::packed::Panels::F16($blocks) => $body,
            $crate::cpu::packed::Panels::BF16($blocks) => $body,
            $crate::cpu::packed::Panels::F32($blocks) => $body,
        }
    };
}
pub(super) use with_blocks;

/// One matrix `[num_rows, row_len]` in panels, or several of the same shape.
pub(super) struct PackedMatrix {
    /// Output features, of each matrix.
    pub num_rows: usize,
    /// Input features.
    pub row_len: usize,
    /// As stored.
    dtype: DType,
    /// What the sums of each panel's rows are multiplied with, where anything is.
    row_factors: Option<Vec<[f32; LANES]>>,
    /// The blocks.
    pub panels: Panels,
}

impl PackedMatrix {
    /// Room for a weight that is stored as `dtype`; its rows come by [`Self::place_rows`].
    ///
    /// # Errors
    /// [`PrepareError::Memory`].
    pub fn new(head: WeightHead<'_>, room: &Room) -> Result<Self, PrepareError> {
        let WeightHead { spec, dtype, row_scales } = head;
        let row_len = spec.row_len();
        let num_rows = spec.shape[spec.shape.len() - 2];
        let num_panels = (spec.num_rows() / num_rows.max(1)).checked_mul(num_rows.div_ceil(LANES));
        let panels = match dtype {
            DType::Q4_0 => Panels::Int4(blocks(num_panels, row_len, room)?),
            DType::Q4_1 => Panels::Int4Min(blocks(num_panels, row_len, room)?),
            DType::Q5_0 => Panels::Int5(blocks(num_panels, row_len, room)?),
            DType::Q5_1 => Panels::Int5Min(blocks(num_panels, row_len, room)?),
            DType::Q4_K => Panels::Super4(blocks(num_panels, row_len, room)?),
            DType::Q5_K => Panels::Super5(blocks(num_panels, row_len, room)?),
            DType::Q6_K => Panels::Super6(blocks(num_panels, row_len, room)?),
            DType::F8E4M3Block128 => Panels::E4M3Block(blocks(num_panels, row_len, room)?),
            DType::Q8_0 => Panels::Int8(blocks(num_panels, row_len, room)?),
            DType::NVFP4 => Panels::Nvfp4(blocks(num_panels, row_len, room)?),
            DType::MXFP4 => Panels::Mxfp4(blocks(num_panels, row_len, room)?),
            DType::F8E4M3 => Panels::E4M3(blocks(num_panels, row_len, room)?),
            DType::F16 => Panels::F16(blocks(num_panels, row_len, room)?),
            DType::BF16 => Panels::BF16(blocks(num_panels, row_len, room)?),
            DType::F32 => Panels::F32(blocks(num_panels, row_len, room)?),
        };
        let factor = with_blocks!(&panels, blocks => factor(blocks));
        let mut row_factors = None;
        if factor != 1.0 || row_scales.is_some() {
            let mut factors: Vec<[f32; LANES]> = room.zeroes(num_panels, "the scales of a packed weight")?;
            for row in (0..spec.num_rows()).take_while(|_| room.is_real()) {
                let (panel, lane) = place(num_rows, row);
                factors[panel][lane] = factor * row_scales.as_ref().map_or(1.0, |scales| scales[row]);
            }
            row_factors = Some(factors);
        }
        Ok(Self { num_rows, row_len, dtype, row_factors, panels })
    }

    /// Repacks whole rows as stored, from `first_row` on; rows are counted through all matrices.
    pub fn place_rows(&mut self, first_row: usize, stored: &[u8]) {
        let (num_rows, row) = (self.num_rows, (self.dtype, self.row_len));
        let place = |row| place(num_rows, first_row + row);
        with_blocks!(&mut self.panels, blocks => place_rows(blocks, row, stored, place));
    }

    /// Panels of sixteen rows, of each matrix.
    pub fn num_panels(&self) -> usize {
        self.num_rows.div_ceil(LANES)
    }

    /// Whether activations are quantised to int8 for it.
    pub fn is_int(&self) -> bool {
        let panels = &self.panels;
        !matches!(panels, Panels::E4M3(_) | Panels::E4M3Block(_) | Panels::F16(_) | Panels::BF16(_) | Panels::F32(_))
    }

    /// What the sums of a panel are multiplied with, where anything is.
    #[inline(always)]
    pub fn factors(&self, panel: usize) -> Option<&[f32; LANES]> {
        self.row_factors.as_ref().map(|factors| &factors[panel])
    }

    /// Where it lies.
    pub fn extents(&self) -> Vec<Extent> {
        let factors = self.row_factors.as_ref().map(|factors| Extent::of(factors));
        [with_blocks!(&self.panels, blocks => Extent::of(blocks))].into_iter().chain(factors).collect()
    }

    /// Dequantises one row into `out`, `[row_len]`: the same values as the stored ones.
    pub fn row_into(&self, row: usize, out: &mut [f32]) {
        let (panel, lane) = place(self.num_rows, row);
        with_blocks!(&self.panels, blocks => values_into(blocks, (panel, lane), out));
        if let Some(factors) = self.factors(panel) {
            // Exact: the family's own factor is a power of two.
            let scale = factors[lane] / with_blocks!(&self.panels, blocks => factor(blocks));
            out.iter_mut().for_each(|value| *value *= scale);
        }
    }
}

/// Panel and lane of a row of stacked matrices of `num_rows` each.
fn place(num_rows: usize, row: usize) -> (usize, usize) {
    let (matrix, row) = (row / num_rows, row % num_rows);
    (matrix * num_rows.div_ceil(LANES) + row / LANES, row % LANES)
}

fn blocks<B: Block>(num_panels: Option<usize>, row_len: usize, room: &Room) -> Result<Vec<B>, PrepareError> {
    room.zeroes(num_panels.and_then(|panels| panels.checked_mul(row_len.div_ceil(B::ELEMENTS))), "a packed weight")
}

fn factor<B: Block>(_: &[B]) -> f32 {
    B::FACTOR
}

/// Fills panels with rows as stored; `place` says panel and lane of each.
fn place_rows<B: Block>(
    blocks: &mut [B],
    (dtype, row_len): (DType, usize),
    stored: &[u8],
    place: impl Fn(usize) -> (usize, usize),
) {
    let bytes = |elements| dtype.bytes_for(elements).expect("rows and panels should be whole blocks");
    let (row_bytes, per_row) = (bytes(row_len), row_len.div_ceil(B::ELEMENTS));
    if row_bytes == 0 {
        return;
    }
    for (row, stored) in stored.chunks_exact(row_bytes).enumerate() {
        let (panel, lane) = place(row);
        let panel = &mut blocks[panel * per_row..(panel + 1) * per_row];
        for (block, stored) in panel.iter_mut().zip(stored.chunks(bytes(B::ELEMENTS))) {
            block.place(lane, stored);
        }
    }
}

fn values_into<B: Block>(blocks: &[B], (panel, lane): (usize, usize), out: &mut [f32]) {
    let first = panel * out.len().div_ceil(B::ELEMENTS);
    for (values, block) in out.chunks_mut(B::ELEMENTS).zip(&blocks[first..]) {
        block.values_into(lane, values);
    }
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}
