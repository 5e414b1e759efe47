//! Reads safetensors files, single or in shards with an index: BF16, F16 and F32.
//!
//! Written for hostile files like [`crate::gguf`], and read in the same way. The `safetensors` crate is not used:
//! it takes a whole mapped buffer and accepts element types that no backend here has.
//!
//! # Source
//! The format's description in the README of <https://github.com/huggingface/safetensors>.

mod header;
mod shards;

use std::collections::HashMap;
use std::ops::Range;

use kindling_kernels::{TensorDesc, WeightError, WeightSource};

pub use header::{SafetensorsError, SafetensorsTensor, read_header};
pub use shards::{ShardError, open_file, open_index};

use crate::read_at::{ReadAt, row_offset};

/// Tensors of one checkpoint, in one file or several.
pub struct SafetensorsWeights {
    files: Vec<Box<dyn ReadAt>>,
    /// By name: the file, and the place in it.
    tensors: HashMap<String, (usize, SafetensorsTensor)>,
}

impl SafetensorsWeights {
    /// Names of all tensors, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }
}

impl WeightSource for SafetensorsWeights {
    fn describe(&self, name: &str) -> Option<TensorDesc> {
        self.tensors.get(name).map(|(_, tensor)| tensor.desc.clone())
    }

    fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [u8]) -> Result<(), WeightError> {
        let (file, tensor) = self.tensors.get(name).ok_or_else(|| WeightError::Missing { name: name.to_owned() })?;
        let failed = |source| WeightError::Read { name: name.to_owned(), source };
        let offset = row_offset(&tensor.desc, &rows, out.len()).map_err(failed)?;
        self.files[*file].read_exact_at(out, tensor.offset + offset).map_err(failed)
    }
}

#[cfg(test)]
mod tests;
