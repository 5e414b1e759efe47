//! The element types that safetensors files name.

use kindling_kernels::DType;

/// How the elements of a stored tensor are written. Only some of them can be weights; the others are known by name, so
/// that a refusal can say what the tensor is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element {
    /// `F32`, `F16`, `BF16` or `F8_E4M3`.
    Float(DType),
    /// `U8`: packed values, or exponents.
    U8,
    /// `F8_E8M0`: exponents.
    F8E8M0,
    /// One that no weight here is made of, with its size in bytes.
    Other(&'static str, usize),
}

impl Element {
    /// The type of this name, if the format has one.
    pub fn from_name(name: &str) -> Option<Self> {
        const OTHERS: [(&str, usize); 10] = [
            ("BOOL", 1),
            ("I8", 1),
            ("F8_E5M2", 1),
            ("I16", 2),
            ("U16", 2),
            ("I32", 4),
            ("U32", 4),
            ("F64", 8),
            ("I64", 8),
            ("U64", 8),
        ];
        match name {
            "F32" => Some(Self::Float(DType::F32)),
            "F16" => Some(Self::Float(DType::F16)),
            "BF16" => Some(Self::Float(DType::BF16)),
            "F8_E4M3" => Some(Self::Float(DType::F8E4M3)),
            "U8" => Some(Self::U8),
            "F8_E8M0" => Some(Self::F8E8M0),
            _ => OTHERS.iter().find(|(other, _)| *other == name).map(|(name, bytes)| Self::Other(name, *bytes)),
        }
    }

    /// Size of one element.
    pub fn num_bytes(self) -> usize {
        match self {
            Self::Float(dtype) => dtype.block_bytes(),
            Self::U8 | Self::F8E8M0 => 1,
            Self::Other(_, bytes) => bytes,
        }
    }

    /// As files spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float(dtype) => dtype.name(),
            Self::U8 => "U8",
            Self::F8E8M0 => "F8_E8M0",
            Self::Other(name, _) => name,
        }
    }
}
