//! Which element of a matrix each lane of a warp holds, for the matrix instructions that the kernels use, and what those
//! compute. Pure: this is what the kernels are written against, and what a device is checked with.
//!
//! A is `M x K` by rows, B is `K x N` by columns, C and D are `M x N`. A lane is one of 32; its quad is `lane / 4`.

/// Lanes of a warp.
pub const LANES: usize = 32;
/// Rows of A and D.
pub const M: usize = 16;
/// Columns of B and D.
pub const N: usize = 8;

/// A form of operands: how many elements a register of 32 bits holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operands {
    /// 16 x 8 x 16: two to a register.
    Bf16,
    /// 16 x 8 x 64: eight E2M1 to a register, one UE4M3 scale for every 16.
    Nvfp4,
}

impl Operands {
    /// Elements of a register.
    pub const fn per_register(self) -> usize {
        match self {
            Self::Bf16 => 2,
            Self::Nvfp4 => 8,
        }
    }

    /// Inner size.
    pub const fn k(self) -> usize {
        8 * self.per_register()
    }

    /// Row and column of A of an element of one of a lane's four registers.
    pub const fn a(self, lane: usize, register: usize, element: usize) -> (usize, usize) {
        let per = self.per_register();
        (lane / 4 + 8 * (register % 2), (lane % 4) * per + element + 4 * per * (register / 2))
    }

    /// Row and column of B of an element of one of a lane's two registers.
    pub const fn b(self, lane: usize, register: usize, element: usize) -> (usize, usize) {
        let per = self.per_register();
        ((lane % 4) * per + element + 4 * per * register, lane / 4)
    }
}

/// Row and column of C and D of one of a lane's four registers.
pub const fn d(lane: usize, register: usize) -> (usize, usize) {
    (lane / 4 + 8 * (register / 2), (lane % 4) * 2 + register % 2)
}

/// The row of A whose four scales a lane gives, the one of the first 16 of K in the lowest byte; lanes 2 and 3 of a quad
/// are not read.
pub const fn row_of_a_scales(lane: usize) -> Option<usize> {
    match lane % 4 {
        0 => Some(lane / 4),
        1 => Some(lane / 4 + 8),
        _ => None,
    }
}

/// The column of B whose four scales a lane gives; only lane 0 of a quad is read.
pub const fn column_of_b_scales(lane: usize) -> Option<usize> {
    if lane.is_multiple_of(4) { Some(lane / 4) } else { None }
}

/// What every lane holds before the instruction.
#[derive(Debug, Clone, PartialEq)]
pub struct Warp {
    /// Four registers of each lane.
    pub a: Vec<[u32; 4]>,
    /// Two.
    pub b: Vec<[u32; 2]>,
    /// Four.
    pub c: Vec<[f32; 4]>,
    /// Four scales in one register; nothing for BF16.
    pub a_scales: Vec<u32>,
    /// The same.
    pub b_scales: Vec<u32>,
}

/// What every lane holds after it: computed from the definition, element by element.
pub fn emulate(operands: Operands, warp: &Warp) -> Vec<[f32; 4]> {
    let k = operands.k();
    let (mut a, mut b) = (vec![vec![0.0; k]; M], vec![vec![0.0; N]; k]);
    let bits = 32 / operands.per_register();
    let element = |register: u32, index: usize| (register >> (bits * index)) & (u32::MAX >> (32 - bits));
    for lane in 0..LANES {
        for index in 0..operands.per_register() {
            for register in 0..4 {
                let (row, column) = operands.a(lane, register, index);
                a[row][column] = value(operands, element(warp.a[lane][register], index));
            }
            for register in 0..2 {
                let (row, column) = operands.b(lane, register, index);
                b[row][column] = value(operands, element(warp.b[lane][register], index));
            }
        }
    }
    if operands == Operands::Nvfp4 {
        scale(&mut a, &mut b, warp);
    }
    let cell = |lane: usize, register: usize| {
        let (row, column) = d(lane, register);
        let sum: f64 = (0..k).map(|inner| a[row][inner] * b[inner][column]).sum();
        (sum + f64::from(warp.c[lane][register])) as f32
    };
    (0..LANES).map(|lane| [0, 1, 2, 3].map(|register| cell(lane, register))).collect()
}

fn scale(a: &mut [Vec<f64>], b: &mut [Vec<f64>], warp: &Warp) {
    let of_block = |scales: u32, column: usize| ue4m3((scales >> (8 * (column / 16))) as u8);
    for lane in 0..LANES {
        if let Some(row) = row_of_a_scales(lane) {
            a[row].iter_mut().enumerate().for_each(|(column, value)| *value *= of_block(warp.a_scales[lane], column));
        }
        if let Some(column) = column_of_b_scales(lane) {
            b.iter_mut().enumerate().for_each(|(row, values)| values[column] *= of_block(warp.b_scales[lane], row));
        }
    }
}

fn value(operands: Operands, bits: u32) -> f64 {
    match operands {
        Operands::Bf16 => f64::from(f32::from_bits(bits << 16)),
        Operands::Nvfp4 => e2m1(bits),
    }
}

/// The value of an E2M1 code.
pub fn e2m1(code: u32) -> f64 {
    const MAGNITUDES: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let magnitude = MAGNITUDES[(code & 7) as usize];
    if code & 8 == 0 { magnitude } else { -magnitude }
}

/// The value of an UE4M3 code: E4M3 without its sign.
pub fn ue4m3(code: u8) -> f64 {
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f64::from(code & 7));
    match exponent {
        0 => fraction / 8.0 * 2.0_f64.powi(-6),
        _ => (1.0 + fraction / 8.0) * 2.0_f64.powi(exponent - 7),
    }
}

#[cfg(test)]
mod tests;
