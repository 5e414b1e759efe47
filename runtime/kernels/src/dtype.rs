//! Element types of weights as they lie in files.

use std::fmt;

/// Element type of a stored tensor. Quantised types come in blocks along the innermost dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    /// OCP 8-bit float: sign, 4 bits of exponent, 3 of mantissa; no infinities.
    F8E4M3,
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
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::MXFP4 => 32,
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
            Self::F8E4M3 => 1,
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
            Self::F8E4M3 => "F8_E4M3",
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
