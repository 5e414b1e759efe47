//! Scales in f32: read when a checkpoint is opened, and spread over the rows of a weight.

use half::{bf16, f16};
use kindling_kernels::{DType, TensorScale};

use super::super::shards::RawTensors;
use super::super::{Element, SafetensorsTensor, ShardError};
use super::refused;

/// Reads a tensor of scales.
///
/// # Errors
/// [`ShardError`] if it is not stored as F32, BF16 or F16, cannot be read, or a scale is not finite.
pub(super) fn floats(raw: &RawTensors, file: usize, tensor: &SafetensorsTensor) -> Result<Vec<f32>, ShardError> {
    let failed = |source| ShardError::Read { name: tensor.name.clone(), source };
    let mut bytes = vec![0; tensor.num_bytes];
    raw.files[file].read_exact_at(&mut bytes, tensor.offset).map_err(failed)?;
    let values: Vec<f32> = match tensor.element {
        Element::Float(DType::F32) => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Element::Float(DType::BF16) => {
            bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()
        }
        Element::Float(DType::F16) => {
            bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect()
        }
        other => return Err(refused(&tensor.name, format!("scales are stored as {}, not as floats", other.name()))),
    };
    check_finite(&tensor.name, &values)?;
    Ok(values)
}

/// # Errors
/// [`ShardError::Tensor`] with the first scale that is infinite or not a number.
pub(super) fn check_finite(name: &str, scales: &[f32]) -> Result<(), ShardError> {
    match scales.iter().position(|scale| !scale.is_finite()) {
        Some(index) => Err(refused(name, format!("scale {index} is {}", scales[index]))),
        None => Ok(()),
    }
}

/// The factor of each row of a weight of `shape`: one for all, or one for each entry of the outer dimensions that
/// `scale_shape` spells out. `None` if the shapes do not fit.
pub(super) fn per_row(scale_shape: &[usize], scales: &[f32], shape: &[usize]) -> Option<TensorScale> {
    if let [scale] = scales {
        return Some(TensorScale::Tensor(*scale));
    }
    let (_, outer) = shape.split_last()?;
    let ones = scale_shape.iter().rev().take_while(|length| **length == 1).count();
    let spelled = &scale_shape[..scale_shape.len() - ones];
    if spelled.len() > outer.len() || scale_shape.len() > shape.len() || spelled != &outer[..spelled.len()] {
        return None;
    }
    let repeats = outer[spelled.len()..].iter().product();
    Some(TensorScale::Rows(scales.iter().flat_map(|scale| std::iter::repeat_n(*scale, repeats)).collect()))
}

/// What is said of scales that fit no known rule.
pub(super) fn misfit(scale_shape: &[usize], shape: &[usize]) -> String {
    format!(
        "its shape {scale_shape:?} fits neither a weight of shape {shape:?}, nor its rows, nor squares of 128 x 128 in \
         rows of whole squares"
    )
}
