//! A GGUF file as a source of weights.

use std::collections::HashMap;
use std::ops::Range;

use kindling_kernels::{TensorDesc, WeightError, WeightSource};

use super::GgufTensor;
use crate::read_at::{ReadAt, row_offset};

/// Tensors of one GGUF file, read on demand.
pub struct GgufWeights {
    source: Box<dyn ReadAt>,
    tensors: HashMap<String, GgufTensor>,
}

impl GgufWeights {
    /// Joins a checked tensor table with the file it came from.
    pub fn new(source: Box<dyn ReadAt>, tensors: Vec<GgufTensor>) -> Self {
        let tensors = tensors.into_iter().map(|tensor| (tensor.desc.name.clone(), tensor)).collect();
        Self { source, tensors }
    }
}

impl WeightSource for GgufWeights {
    fn describe(&self, name: &str) -> Option<TensorDesc> {
        self.tensors.get(name).map(|tensor| tensor.desc.clone())
    }

    fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [u8]) -> Result<(), WeightError> {
        let tensor = self.tensors.get(name).ok_or_else(|| WeightError::Missing { name: name.to_owned() })?;
        let failed = |source| WeightError::Read { name: name.to_owned(), source };
        let offset = row_offset(&tensor.desc, &rows, out.len()).map_err(failed)?;
        self.source.read_exact_at(out, tensor.offset + offset).map_err(failed)
    }
}
