//! Reads safetensors files, single or in shards with an index: BF16, F16, F32, FP8, NVFP4 and MXFP4.
//!
//! Written for hostile files like [`crate::gguf`], and read in the same way. The `safetensors` crate is not used:
//! it takes a whole mapped buffer. A quantised weight is several stored tensors; `resolve` finds out which, by their
//! names and one weight at a time, because published checkpoints are mixed.
//!
//! # Source
//! The format's description in the README of <https://github.com/huggingface/safetensors>.

mod element;
mod header;
mod shards;

mod resolve;
mod stored;

mod declared;

use std::collections::HashMap;
use std::ops::Range;

use kindling_kernels::{TensorDesc, WeightError, WeightSource};

pub use declared::{DeclaredError, DeclaredQuantization};
pub use element::Element;
pub use header::{SafetensorsError, SafetensorsTensor, read_header};
pub use shards::{ShardError, open_file, open_index, open_source, shards};

use crate::read_at::{ReadAt, row_offset};
use stored::Stored;
pub(crate) use stored::nan_scale;

/// Tensors of one checkpoint, in one file or several.
pub struct SafetensorsWeights {
    files: Vec<Box<dyn ReadAt>>,
    weights: HashMap<String, Weight>,
    /// Scales of keys and values, which only some backends have a use for.
    cache_scales: HashMap<String, Weight>,
}

/// A weight that may be spread over several stored tensors.
struct Weight {
    desc: TensorDesc,
    stored: Stored,
}

impl SafetensorsWeights {
    /// Names of all weights, in no order; scales that belong to others are not among them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.weights.keys().map(String::as_str)
    }

    fn weight(&self, name: &str) -> Option<&Weight> {
        self.weights.get(name).or_else(|| self.cache_scales.get(name))
    }
}

impl WeightSource for SafetensorsWeights {
    fn describe(&self, name: &str) -> Option<TensorDesc> {
        self.weight(name).map(|weight| weight.desc.clone())
    }

    fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [u8]) -> Result<(), WeightError> {
        let weight = self.weight(name).ok_or_else(|| WeightError::Missing { name: name.to_owned() })?;
        let failed = |source| WeightError::Read { name: name.to_owned(), source };
        row_offset(&weight.desc, &rows, out.len()).map_err(failed)?;
        weight.stored.read_rows(&self.files, &weight.desc, rows, out).map_err(failed)
    }
}

#[cfg(test)]
mod tests;
