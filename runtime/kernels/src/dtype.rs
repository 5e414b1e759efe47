//! Element types of weights as they lie in files.

use std::fmt;

/// Element type of a stored tensor. Quantised types come in blocks along the innermost dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(non_camel_case_types, reason = "Q4_K is how the field writes it")]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    BF16,
    /// 32 elements: f16 scale, 32 x i8. 34 bytes.
    Q8_0,
    /// 32 elements: f16 scale, 16 bytes of nibbles, value = (nibble - 8) * scale. 18 bytes.
    Q4_0,
    /// 32 elements: f16 scale, f16 minimum, 16 bytes of nibbles, value = nibble * scale + minimum. 20 bytes.
    Q4_1,
    /// 32 elements: f16 scale, 32 fifth bits, 16 bytes of nibbles, value = (five bits - 16) * scale. 22 bytes.
    Q5_0,
    /// 32 elements: f16 scale, f16 minimum, 32 fifth bits, 16 bytes of nibbles, value = five bits * scale + minimum.
    /// 24 bytes.
    Q5_1,
    /// 256 elements: f16 scale of scales, f16 scale of minima, eight pairs of six-bit scale and minimum, nibbles.
    /// 144 bytes.
    Q4_K,
    /// As [`DType::Q4_K`], with a fifth bit for each element. 176 bytes.
    Q5_K,
    /// 256 elements: nibbles, pairs of upper bits, sixteen i8 scales, f16 scale of scales;
    /// value = (six bits - 32) * scales. 210 bytes.
    Q6_K,
    /// OCP 8-bit float: sign, 4 bits of exponent, 3 of mantissa; no infinities.
    F8E4M3,
    /// 128 elements of one row: f32 scale, 128 x E4M3. 132 bytes. How checkpoints with a scale for each square of
    /// 128 x 128 (`weight_scale_inv`) are given.
    F8E4M3Block128,
    /// 16 elements: E4M3 scale, 8 bytes of E2M1 nibbles; byte `j` holds element `2j` in its low nibble and `2j + 1` in
    /// its high one. 9 bytes. A checkpoint's global scale is the tensor's [`TensorScale`](crate::TensorScale).
    NVFP4,
    /// 32 elements: E8M0 scale, 16 bytes of E2M1 nibbles, paired as in [`DType::NVFP4`]. 17 bytes.
    MXFP4,
}

impl DType {
    /// Elements in one block; 1 for plain types.
    pub const fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::F8E4M3 => 1,
            Self::NVFP4 => 16,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::MXFP4 => 32,
            Self::F8E4M3Block128 => 128,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
            Self::F8E4M3 => 1,
            Self::F8E4M3Block128 => 132,
            Self::NVFP4 => 9,
            Self::MXFP4 => 17,
        }
    }

    /// Bytes of `num_elements` elements, or `None` if they are no whole number of blocks or the count overflows.
    ///
    /// ```
    /// use kindling_kernels::DType;
    /// assert_eq!(DType::Q4_1.bytes_for(64), Some(40));
    /// assert_eq!(DType::Q4_1.bytes_for(33), None);
    /// ```
    pub fn bytes_for(self, num_elements: usize) -> Option<usize> {
        if !num_elements.is_multiple_of(self.block_elements()) {
            return None;
        }
        (num_elements / self.block_elements()).checked_mul(self.block_bytes())
    }

    /// The field's name for it, as in `Q4_1`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E4M3Block128 => "F8_E4M3_BLOCK128",
            Self::NVFP4 => "NVFP4",
            Self::MXFP4 => "MXFP4",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
