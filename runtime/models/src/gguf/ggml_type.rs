//! The numbers that GGUF files give to element types.
//!
//! # Source
//! `enum ggml_type` in `include/ggml.h`, and the blocks in `src/ggml-common.h`, of <https://github.com/ggml-org/ggml>.

use kindling_kernels::DType;

/// What is known of a type number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GgmlType {
    /// Can be read.
    Supported(DType),
    /// Exists, but not here; with the elements of a block and its bytes.
    Unsupported(&'static str, u64, u64),
    /// Existed once; files with it are not written any more.
    Removed(&'static str),
    /// No such number.
    Unknown,
}

/// Looks a type number up.
pub(super) fn from_number(number: u32) -> GgmlType {
    use GgmlType::{Removed, Supported, Unknown, Unsupported};
    match number {
        0 => Supported(DType::F32),
        1 => Supported(DType::F16),
        2 => Supported(DType::Q4_0),
        3 => Supported(DType::Q4_1),
        4 => Removed("Q4_2"),
        5 => Removed("Q4_3"),
        6 => Supported(DType::Q5_0),
        7 => Supported(DType::Q5_1),
        8 => Supported(DType::Q8_0),
        9 => Unsupported("Q8_1", 32, 36),
        10 => Unsupported("Q2_K", 256, 84),
        11 => Unsupported("Q3_K", 256, 110),
        12 => Supported(DType::Q4_K),
        13 => Supported(DType::Q5_K),
        14 => Supported(DType::Q6_K),
        15 => Unsupported("Q8_K", 256, 292),
        16 => Unsupported("IQ2_XXS", 256, 66),
        17 => Unsupported("IQ2_XS", 256, 74),
        18 => Unsupported("IQ3_XXS", 256, 98),
        19 => Unsupported("IQ1_S", 256, 50),
        20 => Unsupported("IQ4_NL", 32, 18),
        21 => Unsupported("IQ3_S", 256, 110),
        22 => Unsupported("IQ2_S", 256, 82),
        23 => Unsupported("IQ4_XS", 256, 136),
        24 => Unsupported("I8", 1, 1),
        25 => Unsupported("I16", 1, 2),
        26 => Unsupported("I32", 1, 4),
        27 => Unsupported("I64", 1, 8),
        28 => Unsupported("F64", 1, 8),
        29 => Unsupported("IQ1_M", 256, 56),
        30 => Supported(DType::BF16),
        31 => Removed("Q4_0_4_4"),
        32 => Removed("Q4_0_4_8"),
        33 => Removed("Q4_0_8_8"),
        34 => Unsupported("TQ1_0", 256, 54),
        35 => Unsupported("TQ2_0", 256, 66),
        36 => Removed("IQ4_NL_4_4"),
        37 => Removed("IQ4_NL_4_8"),
        38 => Removed("IQ4_NL_8_8"),
        39 => Supported(DType::MXFP4),
        40 => Supported(DType::NVFP4),
        _ => Unknown,
    }
}
