//! How matrices lie in the GPU's memory: one layout for every kernel and every device, written once when a model is loaded.
//!
//! A tile is 16 rows (output features) by 64 columns, and contiguous; the tiles of 16 rows follow each other. Each lane of a
//! warp has its own 16 bytes of a tile, some families several times: what it gives to a matrix instruction, so that one load
//! of 128 bits is a fragment. With `g = lane / 4` and `t = lane % 4` a lane has of rows `g` and `g + 8` the columns `8 t` to
//! `8 t + 7` and `32 + 8 t` to `32 + 8 t + 7`. In four bits that is exactly the fragment of m16n8k64; in BF16 it is four of
//! m16n8k16 whose columns are permuted, which no sum minds if activations are permuted alike. Rows and columns beyond a
//! matrix are zero. Stacked matrices (experts) are one after another, each in tiles of its own.

mod codes;

use kindling_kernels::DType;

pub(crate) use codes::RowCodes;

/// Rows of a tile.
pub(crate) const ROWS: usize = 16;
/// Columns of a tile.
pub(crate) const COLUMNS: usize = 64;

/// What a kernel has to know to read codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// As stored.
    Bf16,
    /// E4M3, with or without a scale for the 64 columns of a row.
    Fp8,
    /// Four bits, with scale and minimum of each 32 in F16.
    Int4,
    /// Eight bits and a sign, with scale and minimum of each 32, or a scale for each 16, in F16.
    Int8,
    /// E2M1 with a scale in E4M3 for each 16.
    Nvfp4,
    /// E2M1 with a power of two for each 32.
    Mxfp4,
}

impl Family {
    /// Where a stored type goes; `None` are types that stay as they are, row by row.
    pub(crate) fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 | DType::F16 => None,
            DType::BF16 => Some(Self::Bf16),
            DType::F8E4M3 | DType::F8E4M3Block128 => Some(Self::Fp8),
            DType::Q4_0 | DType::Q4_1 | DType::Q4_K => Some(Self::Int4),
            DType::Q8_0 | DType::Q5_0 | DType::Q5_1 | DType::Q5_K | DType::Q6_K => Some(Self::Int8),
            DType::NVFP4 => Some(Self::Nvfp4),
            DType::MXFP4 => Some(Self::Mxfp4),
        }
    }

    /// As in the names of kernels.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Fp8 => "fp8",
            Self::Int4 => "int4",
            Self::Int8 => "int8",
            Self::Nvfp4 => "nvfp4",
            Self::Mxfp4 => "mxfp4",
        }
    }

    /// Bits of a code.
    const fn bits(self) -> usize {
        match self {
            Self::Bf16 => 16,
            Self::Fp8 | Self::Int8 => 8,
            Self::Int4 | Self::Nvfp4 | Self::Mxfp4 => 4,
        }
    }

    /// Bytes of a tile's codes.
    pub(crate) const fn code_bytes(self) -> usize {
        ROWS * COLUMNS * self.bits() / 8
    }

    /// Bytes of the scales of one row of a tile.
    const fn row_scale_bytes(self) -> usize {
        match self {
            Self::Bf16 => 0,
            Self::Fp8 | Self::Nvfp4 => 4,
            Self::Int4 | Self::Int8 => 8,
            Self::Mxfp4 => 2,
        }
    }

    /// Bytes of a tile's scales.
    pub(crate) const fn scale_bytes(self) -> usize {
        ROWS * self.row_scale_bytes()
    }

    /// Byte of a tile, and bit in it, at which an element's code begins.
    pub(crate) const fn place(self, row: usize, column: usize) -> (usize, usize) {
        // A lane's place in the list of its columns, and that of one of the four steps.
        let lane = row % 8 * 4 + column % 32 / 8;
        let place = column / 32 * 8 + column % 8;
        let (step, high) = (place / 4, row / 8);
        match self.bits() {
            // A step's registers: row g and row g + 8 for its first two columns, then for the other two.
            16 => (step * 512 + lane * 16 + (place % 4 / 2 * 2 + high) * 4 + place % 2 * 2, 0),
            8 => (step / 2 * 512 + lane * 16 + step % 2 * 8 + place % 4 / 2 * 4 + high * 2 + place % 2, 0),
            // Registers: row g and row g + 8 for the first eight columns, then for the others.
            _ => (lane * 16 + (column / 32 * 2 + high) * 4 + column % 8 / 2, column % 2 * 4),
        }
    }
}

/// The tiles of 16 rows.
#[derive(Debug, Default)]
pub(crate) struct TileRow {
    /// `[chunks][code_bytes]`.
    pub codes: Vec<u8>,
    /// `[chunks][scale_bytes]`.
    pub scales: Vec<u8>,
}

impl TileRow {
    /// All zero, for rows of this length.
    pub(crate) fn clear(&mut self, family: Family, row_len: usize) {
        let chunks = row_len.div_ceil(COLUMNS);
        self.codes.clear();
        self.codes.resize(chunks * family.code_bytes(), 0);
        self.scales.clear();
        self.scales.resize(chunks * family.scale_bytes(), 0);
    }

    /// Writes one of the sixteen.
    pub(crate) fn place(&mut self, family: Family, row: usize, codes: &RowCodes) {
        for (chunk, values) in codes.codes.chunks(COLUMNS).enumerate() {
            let tile = &mut self.codes[chunk * family.code_bytes()..][..family.code_bytes()];
            for (column, code) in values.iter().enumerate() {
                let (byte, bit) = family.place(row, column);
                if family == Family::Bf16 {
                    tile[byte..byte + 2].copy_from_slice(&code.to_le_bytes());
                } else {
                    tile[byte] |= (*code as u8) << bit;
                }
            }
        }
        let width = family.row_scale_bytes();
        for (chunk, scales) in codes.scales.chunks(width.max(1)).enumerate() {
            let at = chunk * family.scale_bytes() + row * width;
            self.scales[at..at + scales.len()].copy_from_slice(scales);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::fragments::Operands;

    const FAMILIES: [Family; 6] = [Family::Bf16, Family::Fp8, Family::Int4, Family::Int8, Family::Nvfp4, Family::Mxfp4];

    #[test]
    fn every_element_has_its_own_place() {
        for family in FAMILIES {
            let mut seen = BTreeSet::new();
            for row in 0..ROWS {
                for column in 0..COLUMNS {
                    let (byte, bit) = family.place(row, column);
                    assert!(byte * 8 + bit + family.bits() <= family.code_bytes() * 8, "{family:?}");
                    assert!(seen.insert((byte, bit)), "{family:?}: {row} {column}");
                }
            }
        }
    }

    #[test]
    fn four_bits_lie_as_the_fp4_instruction_wants_them() {
        for lane in 0..32 {
            for register in 0..4 {
                for element in 0..8 {
                    let (row, column) = Operands::Nvfp4.a(lane, register, element);
                    let expected = (lane * 16 + register * 4 + element / 2, element % 2 * 4);
                    assert_eq!(Family::Nvfp4.place(row, column), expected);
                }
            }
        }
    }

    /// What a lane gives to a step of BF16 is of its own rows, and the columns of A and B agree: which column an element of A
    /// stands for does not depend on its row, and that of B's element at the same place along the inner side is the same.
    #[test]
    fn sixteen_and_eight_bits_are_steps_of_the_bf16_instruction() {
        let column_of = |lane: usize, step: usize, index: usize| {
            let (t, place) = (lane % 4, 4 * step + index);
            if place < 8 { 8 * t + place } else { 32 + 8 * t + place - 8 }
        };
        for lane in 0..32 {
            for step in 0..4 {
                for register in 0..4 {
                    for element in 0..2 {
                        let (row, _) = Operands::Bf16.a(lane, register, element);
                        let column = column_of(lane, step, register / 2 * 2 + element);
                        let wide = (step * 512 + lane * 16 + register * 4 + element * 2, 0);
                        assert_eq!(Family::Bf16.place(row, column), wide);
                        let narrow = step / 2 * 512 + lane * 16 + step % 2 * 8 + register / 2 * 4;
                        assert_eq!(Family::Int8.place(row, column), (narrow + register % 2 * 2 + element, 0));
                    }
                }
            }
        }
    }
}
