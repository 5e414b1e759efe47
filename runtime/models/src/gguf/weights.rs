//! A GGUF file as a source of weights.

use std::collections::HashMap;
use std::ops::Range;

use kindling_kernels::{DType, TensorDesc, TensorScale, WeightError, WeightSource};

use super::regroup::regroup;
use super::{GgufError, GgufTensor};
use crate::read_at::{ReadAt, row_offset};
use crate::safetensors::nan_scale;

/// Tensors of one GGUF file, read on demand.
pub struct GgufWeights {
    source: Box<dyn ReadAt>,
    tensors: HashMap<String, GgufTensor>,
}

impl GgufWeights {
    /// Joins a checked tensor table with the file it came from. Scales of NVFP4 weights (`X.scale` beside `X.weight`)
    /// are read and become theirs; those of activations (`X.input_scale`) are left out.
    ///
    /// # Errors
    /// [`GgufError`] naming a scale that cannot be read or does not fit its weight.
    pub fn new(source: Box<dyn ReadAt>, tensors: Vec<GgufTensor>) -> Result<Self, GgufError> {
        let mut tensors: HashMap<_, _> = tensors.into_iter().map(|tensor| (tensor.desc.name.clone(), tensor)).collect();
        let is_nvfp4 = |tensor: &&GgufTensor| tensor.desc.dtype == DType::NVFP4;
        let names: Vec<String> = tensors.values().filter(is_nvfp4).map(|tensor| tensor.desc.name.clone()).collect();
        for name in names {
            let Some(base) = name.strip_suffix(".weight") else { continue };
            tensors.remove(&format!("{base}.input_scale"));
            let Some(scale) = tensors.remove(&format!("{base}.scale")) else { continue };
            let factors = read_scales(&*source, &scale)?;
            if let Some(weight) = tensors.get_mut(&name) {
                weight.desc.scale = spread(&scale.desc.name, factors, &weight.desc.shape)?;
            }
        }
        Ok(Self { source, tensors })
    }

    /// Names of all weights, in no order; scales that belong to others are not among them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }
}

fn refused(name: &str, problem: String) -> GgufError {
    GgufError::Tensor { name: name.to_owned(), problem }
}

fn read_scales(source: &dyn ReadAt, scale: &GgufTensor) -> Result<Vec<f32>, GgufError> {
    let GgufTensor { desc, offset } = scale;
    if desc.dtype != DType::F32 {
        return Err(refused(&desc.name, format!("scales are stored as {}, not as F32", desc.dtype)));
    }
    let mut bytes = vec![0; desc.num_bytes];
    let failed = |source| GgufError::Read { what: format!("tensor {}", desc.name), offset: *offset, source };
    source.read_exact_at(&mut bytes, *offset).map_err(failed)?;
    let factors: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    match factors.iter().position(|factor| !factor.is_finite()) {
        Some(index) => Err(refused(&desc.name, format!("scale {index} is {}", factors[index]))),
        None => Ok(factors),
    }
}

/// One factor for all, or one for each of stacked matrices.
fn spread(name: &str, factors: Vec<f32>, shape: &[usize]) -> Result<TensorScale, GgufError> {
    match (factors.as_slice(), shape) {
        ([factor], _) => Ok(TensorScale::Tensor(*factor)),
        (factors, [matrices, rows, _]) if factors.len() == *matrices => {
            Ok(TensorScale::Rows(factors.iter().flat_map(|factor| std::iter::repeat_n(*factor, *rows)).collect()))
        }
        (factors, shape) => {
            Err(refused(name, format!("{} scales do not fit a weight of shape {shape:?}", factors.len())))
        }
    }
}

impl WeightSource for GgufWeights {
    fn describe(&self, name: &str) -> Option<TensorDesc> {
        self.tensors.get(name).map(|tensor| tensor.desc.clone())
    }

    fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [u8]) -> Result<(), WeightError> {
        let GgufTensor { desc, offset } =
            self.tensors.get(name).ok_or_else(|| WeightError::Missing { name: name.to_owned() })?;
        let failed = |source| WeightError::Read { name: name.to_owned(), source };
        let within = row_offset(desc, &rows, out.len()).map_err(failed)?;
        self.source.read_exact_at(out, offset + within).map_err(failed)?;
        regroup(desc.dtype, out).map_err(|group| {
            let group_bytes = if desc.dtype == DType::NVFP4 { 36 } else { desc.dtype.block_bytes() };
            failed(nan_scale(rows.start + group * group_bytes / desc.row_bytes()))
        })
    }
}
