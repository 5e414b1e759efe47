//! From stored rows to the codes and scales of a family.

use half::f16;
use kindling_kernels::DType;
use kindling_kernels::dequantise::SuperBlockScales;

use super::{COLUMNS, Family};

/// One row: a code for each column, and the bytes of its scales, tile by tile.
#[derive(Debug, Default)]
pub(crate) struct RowCodes {
    /// As the family has them, in the low bits.
    pub codes: Vec<u16>,
    /// The family's bytes for each 64 columns.
    pub scales: Vec<u8>,
    /// What the row is multiplied with beside all that: a power of two that keeps scales within F16.
    pub factor: f32,
    /// Scales of whole numbers as they come: of each 32 with a minimum, or of each 16.
    pairs: Vec<[f32; 2]>,
}

impl RowCodes {
    /// Reads a row as stored.
    pub(crate) fn read(&mut self, dtype: DType, stored: &[u8]) {
        self.codes.clear();
        self.scales.clear();
        self.pairs.clear();
        self.factor = 1.0;
        let blocks = stored.chunks_exact(dtype.block_bytes());
        match dtype {
            DType::F32 | DType::F16 => unreachable!("these stay as they are"),
            DType::BF16 => self.codes.extend(blocks.map(|bits| u16::from_le_bytes([bits[0], bits[1]]))),
            DType::F8E4M3 => self.codes.extend(stored.iter().map(|code| u16::from(*code))),
            DType::F8E4M3Block128 => blocks.for_each(|block| self.fp8_block(block)),
            DType::NVFP4 => blocks.for_each(|block| self.e2m1_block(block)),
            DType::MXFP4 => blocks.for_each(|block| self.e2m1_block(block)),
            DType::Q8_0 => blocks.for_each(|block| {
                self.pairs.push([f16_at(block, 0), 0.0]);
                self.codes.extend(block[2..].iter().map(|code| u16::from(*code)));
            }),
            DType::Q4_0 => blocks.for_each(|block| {
                let scale = f16_at(block, 0);
                self.nibbles(&block[2..], [scale, -8.0 * scale]);
            }),
            DType::Q4_1 => blocks.for_each(|block| self.nibbles(&block[4..], [f16_at(block, 0), f16_at(block, 2)])),
            DType::Q5_0 => blocks.for_each(|block| {
                let scale = f16_at(block, 0);
                self.five_bits(&block[2..], [scale, -16.0 * scale]);
            }),
            DType::Q5_1 => blocks.for_each(|block| self.five_bits(&block[4..], [f16_at(block, 0), f16_at(block, 2)])),
            DType::Q4_K | DType::Q5_K => blocks.for_each(|block| self.super_block(block)),
            DType::Q6_K => blocks.for_each(|block| self.six_bits(block)),
        }
        self.finish_scales(dtype);
    }

    /// Whether the family's flag is set: another form of scales.
    pub(crate) const fn flags(dtype: DType) -> u32 {
        matches!(dtype, DType::Q6_K | DType::F8E4M3Block128) as u32
    }

    fn fp8_block(&mut self, block: &[u8]) {
        // 128 columns are two tiles.
        self.scales.extend_from_slice(&block[..4]);
        self.scales.extend_from_slice(&block[..4]);
        self.codes.extend(block[4..].iter().map(|code| u16::from(*code)));
    }

    fn e2m1_block(&mut self, block: &[u8]) {
        self.scales.push(block[0]);
        self.codes.extend(block[1..].iter().flat_map(|both| [both & 15, both >> 4]).map(u16::from));
    }

    /// 32 of them, the first half in the low nibbles.
    fn nibbles(&mut self, nibbles: &[u8], pair: [f32; 2]) {
        self.pairs.push(pair);
        self.codes.extend(nibbles.iter().map(|both| u16::from(both & 15)));
        self.codes.extend(nibbles.iter().map(|both| u16::from(both >> 4)));
    }

    /// The same with a word of fifth bits before them.
    fn five_bits(&mut self, bytes: &[u8], pair: [f32; 2]) {
        let fifth = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let first = self.codes.len();
        self.nibbles(&bytes[4..], pair);
        for (index, code) in self.codes[first..].iter_mut().enumerate() {
            *code |= ((fifth >> index & 1) as u16) << 4;
        }
    }

    /// Q4_K and Q5_K.
    fn super_block(&mut self, block: &[u8]) {
        let scales = SuperBlockScales::new(block);
        let (fifth, nibbles) = if block.len() == DType::Q5_K.block_bytes() {
            (&block[16..48], &block[48..])
        } else {
            (&[][..], &block[16..])
        };
        for group in 0..8 {
            let (scale, minimum) = scales.scale_and_minimum(group);
            self.pairs.push([scale, -minimum]);
            for index in 0..32 {
                let nibble = nibbles[group / 2 * 32 + index] >> (4 * (group % 2)) & 15;
                let upper = fifth.get(index).map_or(0, |bits| (bits >> group & 1) << 4);
                self.codes.push(u16::from(nibble | upper));
            }
        }
    }

    /// Q6_K: a scale for each 16.
    fn six_bits(&mut self, block: &[u8]) {
        let scale_of_scales = f16_at(block, 208);
        for index in 0..256 {
            let (half, place) = (index / 128, index % 128);
            let (quarter, l) = (place / 32, place % 32);
            let nibble = block[64 * half + 32 * (quarter % 2) + l] >> (4 * (quarter / 2)) & 15;
            let upper = block[128 + 32 * half + l] >> (2 * quarter) & 3;
            self.codes.push(u16::from((nibble | upper << 4).wrapping_sub(32)));
            if index % 16 == 0 {
                self.pairs.push([scale_of_scales * f32::from(block[192 + index / 16] as i8), 0.0]);
            }
        }
    }

    /// Scales of whole numbers become F16. Those of K quants are products that have more bits and a wider range than that:
    /// a power of two for the row brings the largest near 2^10.
    fn finish_scales(&mut self, dtype: DType) {
        if dtype.block_elements() == 256 {
            let largest = self.pairs.iter().flatten().fold(0.0f32, |largest, value| largest.max(value.abs()));
            if largest.is_normal() {
                self.factor = 2f32.powi(largest.log2().floor() as i32 - 10);
            }
        }
        let f16_bytes = |value: f32| f16::from_f32(value / self.factor).to_le_bytes();
        for [scale, minimum] in &self.pairs {
            self.scales.extend(f16_bytes(*scale));
            if Self::flags(dtype) == 0 {
                self.scales.extend(f16_bytes(*minimum));
            }
        }
        debug_assert!(
            Family::of(dtype).is_some_and(|family| {
                let per_tile = family.row_scale_bytes();
                self.scales.len() <= self.codes.len().div_ceil(COLUMNS) * per_tile
            }),
            "{dtype}: {} bytes of scales for {} columns",
            self.scales.len(),
            self.codes.len()
        );
    }
}

fn f16_at(block: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32()
}
