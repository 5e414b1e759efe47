//! Panels of plain types: one column of sixteen weights after another.
#![allow(unsafe_code)]

use half::{bf16, f16};

use super::{Block, u16_at};
use crate::cpu::lanes::LANES;
use crate::dequantise::e4m3_to_f32;
use crate::room::ZeroBytes;

/// Sixteen f16.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct F16Column(pub [u16; LANES]);

/// Sixteen bf16.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct BF16Column(pub [u16; LANES]);

/// Sixteen f32.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct F32Column(pub [f32; LANES]);

/// Sixteen E4M3.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct E4M3Column(pub [u8; LANES]);

// SAFETY: plain numbers only.
unsafe impl ZeroBytes for F16Column {}
// SAFETY: plain numbers only.
unsafe impl ZeroBytes for BF16Column {}
// SAFETY: plain numbers only.
unsafe impl ZeroBytes for F32Column {}
// SAFETY: plain numbers only.
unsafe impl ZeroBytes for E4M3Column {}

/// 128 columns of E4M3 with one scale: 1.03 bytes per weight, as stored.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(in crate::cpu) struct E4M3Block {
    /// By lane.
    pub scales: [f32; LANES],
    /// Codes.
    pub columns: [E4M3Column; 128],
}

// SAFETY: plain numbers only.
unsafe impl ZeroBytes for E4M3Block {}

impl Block for E4M3Block {
    const ELEMENTS: usize = 128;
    /// The kernels read 256ths.
    const FACTOR: f32 = 256.0;

    fn place(&mut self, lane: usize, stored: &[u8]) {
        self.scales[lane] = f32::from_le_bytes([stored[0], stored[1], stored[2], stored[3]]);
        for (column, code) in self.columns.iter_mut().zip(&stored[4..]) {
            column.0[lane] = *code;
        }
    }

    fn values_into(&self, lane: usize, values: &mut [f32]) {
        for (value, column) in values.iter_mut().zip(&self.columns) {
            *value = e4m3_to_f32(column.0[lane]) * self.scales[lane];
        }
    }
}

impl Block for F16Column {
    const ELEMENTS: usize = 1;

    fn place(&mut self, lane: usize, stored: &[u8]) {
        self.0[lane] = u16_at(stored, 0);
    }

    fn values_into(&self, lane: usize, values: &mut [f32]) {
        values[0] = f16::from_bits(self.0[lane]).to_f32();
    }
}

impl Block for BF16Column {
    const ELEMENTS: usize = 1;

    fn place(&mut self, lane: usize, stored: &[u8]) {
        self.0[lane] = u16_at(stored, 0);
    }

    fn values_into(&self, lane: usize, values: &mut [f32]) {
        values[0] = bf16::from_bits(self.0[lane]).to_f32();
    }
}

impl Block for F32Column {
    const ELEMENTS: usize = 1;

    fn place(&mut self, lane: usize, stored: &[u8]) {
        self.0[lane] = f32::from_le_bytes([stored[0], stored[1], stored[2], stored[3]]);
    }

    fn values_into(&self, lane: usize, values: &mut [f32]) {
        values[0] = self.0[lane];
    }
}

impl Block for E4M3Column {
    const ELEMENTS: usize = 1;
    /// The kernels read 256ths.
    const FACTOR: f32 = 256.0;

    fn place(&mut self, lane: usize, stored: &[u8]) {
        self.0[lane] = stored[0];
    }

    fn values_into(&self, lane: usize, values: &mut [f32]) {
        values[0] = e4m3_to_f32(self.0[lane]);
    }
}
