//! Puts weights together from the stored tensors that belong together, by their names.
//!
//! # Layouts
//! Names are those of the weight `T` (`X.weight`), all row-major; nibbles are low for even elements.
//!
//! | Form | Values | Block scales | Factor |
//! | --- | --- | --- | --- |
//! | ModelOpt NVFP4 | `T` U8 `[.., in / 2]` | `T_scale` F8_E4M3 `[.., in / 16]` | times `T_scale_2` |
//! | compressed-tensors NVFP4 | `T_packed` U8 | `T_scale` F8_E4M3 | divided by `T_global_scale` |
//! | MXFP4 of either | `T` or `T_packed` U8 | `T_scale` U8 or F8_E8M0 `[.., in / 32]` | |
//! | gpt-oss | `T_blocks` U8 `[.., in / 32, 16]` | `T_scales` U8 `[.., in / 32]` | |
//! | FP8 | `T` F8_E4M3 | | times `T_scale`, one or one a row |
//! | FP8 in squares | `T` F8_E4M3 | | times `T_scale_inv` (or `T_scale`), one for each 128 x 128 |
//!
//! # Source
//! `modelopt/torch/export` of <https://github.com/NVIDIA/Model-Optimizer>; `compressors` of
//! <https://github.com/vllm-project/compressed-tensors>; the checkpoints of openai/gpt-oss and Qwen's FP8 models.

mod scales;

use std::collections::{HashMap, HashSet};

use kindling_kernels::{DType, TensorDesc, TensorScale};

use super::shards::RawTensors;
use super::stored::{Place, SQUARE, Stored};
use super::{Element, SafetensorsTensor, SafetensorsWeights, ShardError, Weight};

/// Scales of activations: known, and of no use to weights that are multiplied with unquantised activations.
const ACTIVATION_SCALES: [&str; 2] = [".input_scale", ".input_global_scale"];
/// Scales of keys and values in the cache.
const CACHE_SCALES: [&str; 2] = [".k_scale", ".v_scale"];
/// Endings of scales that must belong to a weight.
const WEIGHT_SCALES: [&str; 4] = [".weight_scale", ".weight_scale_2", ".weight_scale_inv", ".weight_global_scale"];
/// Parts of names that mean more than scales: leaving them out would give wrong answers.
const REFUSED: [(&str, &str); 8] = [
    (".pre_quant_scale", "activations would have to be scaled before the product (AWQ)"),
    (".svdquant_lora_", "a low-rank part would have to be added (SVDQuant)"),
    (".weight_zero_point", "zero points are not supported"),
    (".weight_g_idx", "reordered groups are not supported (GPTQ)"),
    (".qweight", "the packed integers of AWQ and GPTQ are not supported"),
    (".qzeros", "the packed integers of AWQ and GPTQ are not supported"),
    (".quant_state.", "bitsandbytes is not supported"),
    (".absmax", "bitsandbytes is not supported"),
];

/// Finds the weights in stored tensors.
///
/// # Errors
/// [`ShardError::Tensor`] naming a tensor that is no weight and belongs to none, or whose scales do not fit.
pub(super) fn resolve(raw: RawTensors) -> Result<SafetensorsWeights, ShardError> {
    let mut resolver = Resolver { raw: &raw, taken: HashSet::new(), weights: HashMap::new() };
    if let Some((name, reason)) = raw.tensors.keys().find_map(|name| refusal(name).map(|reason| (name, reason))) {
        return Err(refused(name, reason.to_owned()));
    }
    for (file, tensor) in raw.tensors.values() {
        resolver.quantised(*file, tensor)?;
    }
    let mut cache_scales = HashMap::new();
    for (name, (file, tensor)) in &raw.tensors {
        if resolver.taken.contains(name.as_str()) || ends(name, &ACTIVATION_SCALES) {
            continue;
        }
        if ends(name, &WEIGHT_SCALES) {
            return Err(refused(name, "it scales a weight that is missing or stored in another form".to_owned()));
        }
        let mut weight = plain(*file, tensor)?;
        if ends(name, &CACHE_SCALES) {
            if weight.desc.shape.iter().any(|length| *length != 1) {
                return Err(refused(name, format!("its shape is {:?}, one scale is possible", tensor.shape)));
            }
            weight.desc.shape = vec![1];
            cache_scales.insert(name.clone(), weight);
        } else {
            resolver.add(name, weight)?;
        }
    }
    let weights = resolver.weights;
    Ok(SafetensorsWeights { files: raw.files, weights, cache_scales })
}

fn ends(name: &str, endings: &[&str]) -> bool {
    endings.iter().any(|ending| name.ends_with(ending))
}

fn refusal(name: &str) -> Option<&'static str> {
    REFUSED.iter().find(|(part, _)| name.contains(part)).map(|(_, reason)| *reason)
}

fn refused(name: &str, problem: String) -> ShardError {
    ShardError::Tensor { name: name.to_owned(), problem }
}

/// A tensor that is stored as it is used.
fn plain(file: usize, tensor: &SafetensorsTensor) -> Result<Weight, ShardError> {
    let SafetensorsTensor { name, element, shape, num_bytes, offset } = tensor;
    let dtype = match element {
        Element::Float(dtype) if *dtype != DType::F8E4M3 => *dtype,
        Element::Float(_) => return Err(refused(name, "it is stored as F8_E4M3 without a scale".to_owned())),
        _ => {
            let supported = "only BF16, F16, F32, FP8, NVFP4 and MXFP4 with the scales of ModelOpt, \
                             compressed-tensors or gpt-oss are supported";
            return Err(refused(name, format!("it is stored as {} without known scales; {supported}", element.name())));
        }
    };
    let (name, shape, num_bytes, scale) = (name.clone(), shape.clone(), *num_bytes, TensorScale::One);
    let stored = Stored::Plain(Place { file, offset: *offset });
    Ok(Weight { desc: TensorDesc { name, dtype, shape, num_bytes, scale }, stored })
}

/// What grows while tensors are looked at.
struct Resolver<'a> {
    raw: &'a RawTensors,
    /// Stored tensors that are parts of weights.
    taken: HashSet<&'a str>,
    weights: HashMap<String, Weight>,
}

impl<'a> Resolver<'a> {
    fn add(&mut self, name: &str, weight: Weight) -> Result<(), ShardError> {
        match self.weights.insert(name.to_owned(), weight) {
            None => Ok(()),
            Some(_) => Err(refused(name, "it is there in two forms".to_owned())),
        }
    }

    /// A stored tensor by name.
    fn find(&self, name: &str) -> Option<&'a (usize, SafetensorsTensor)> {
        self.raw.tensors.get(name)
    }

    /// Takes a tensor's parts if it holds the values of a quantised weight.
    fn quantised(&mut self, file: usize, tensor: &'a SafetensorsTensor) -> Result<(), ShardError> {
        let name = tensor.name.as_str();
        if tensor.element == Element::U8 {
            if let Some(weight) = name.strip_suffix("_blocks")
                && self.find(&format!("{weight}_scales")).is_some()
            {
                return self.blocks(weight, (file, tensor), &format!("{weight}_scales"));
            }
            let weight = name.strip_suffix("_packed").unwrap_or(name);
            let scales = format!("{weight}_scale");
            if self.find(&scales).is_some() {
                return self.blocks(weight, (file, tensor), &scales);
            }
        } else if tensor.element == Element::Float(DType::F8E4M3) {
            for scales in ["_scale_inv", "_scale"] {
                if let Some((_, scales)) = self.find(&format!("{name}{scales}")) {
                    return self.eight_bits((file, tensor), scales);
                }
            }
        }
        Ok(())
    }

    /// Four-bit values with block scales beside them.
    fn blocks(
        &mut self,
        name: &str,
        (file, values): (usize, &'a SafetensorsTensor),
        scales: &str,
    ) -> Result<(), ShardError> {
        let Some((scale_file, scales)) = self.find(scales) else { return Ok(()) };
        let dtype = match scales.element {
            Element::Float(DType::F8E4M3) => DType::NVFP4,
            Element::U8 | Element::F8E8M0 => DType::MXFP4,
            other => {
                let found = other.name();
                return Err(refused(&scales.name, format!("block scales are stored as {found}, not F8_E4M3 or U8")));
            }
        };
        // gpt-oss gives the sixteen bytes of a block a dimension of their own.
        let bytes = match values.shape.as_slice() {
            [outer @ .., blocks, 16] if values.name.ends_with("_blocks") => {
                [outer, &[blocks.saturating_mul(16)]].concat()
            }
            shape => shape.to_vec(),
        };
        let shape = logical_shape(dtype, &bytes, &scales.shape).ok_or_else(|| {
            let needs =
                format!("values of shape {:?} need one scale for {} elements", values.shape, dtype.block_elements());
            let other = "padded, swizzled and private layouts are not supported";
            refused(&scales.name, format!("its shape is {:?}, {needs}; {other}", scales.shape))
        })?;
        let scale = if dtype == DType::NVFP4 { self.global_scale(name, values, &shape)? } else { TensorScale::One };
        let num_bytes = values.num_bytes + scales.num_bytes;
        self.taken.extend([values.name.as_str(), scales.name.as_str()]);
        let stored = Stored::Blocks {
            nibbles: Place { file, offset: values.offset },
            scales: Place { file: *scale_file, offset: scales.offset },
        };
        self.add(name, Weight { desc: TensorDesc { name: name.to_owned(), dtype, shape, num_bytes, scale }, stored })
    }

    /// ModelOpt multiplies by it, compressed-tensors divides.
    fn global_scale(
        &mut self,
        name: &str,
        values: &SafetensorsTensor,
        shape: &[usize],
    ) -> Result<TensorScale, ShardError> {
        let divides = values.name.ends_with("_packed");
        let global = format!("{name}{}", if divides { "_global_scale" } else { "_scale_2" });
        let Some((file, tensor)) = self.find(&global) else {
            return Err(refused(name, format!("it is NVFP4, but {global} is missing")));
        };
        self.taken.insert(&tensor.name);
        let mut factors = scales::floats(self.raw, *file, tensor)?;
        if divides {
            factors.iter_mut().for_each(|factor| *factor = 1.0 / *factor);
            scales::check_finite(&tensor.name, &factors)?;
        }
        scales::per_row(&tensor.shape, &factors, shape)
            .ok_or_else(|| refused(&tensor.name, scales::misfit(&tensor.shape, shape)))
    }

    /// E4M3 values with scales for the tensor, its rows, or squares.
    fn eight_bits(
        &mut self,
        (file, values): (usize, &'a SafetensorsTensor),
        scales: &'a SafetensorsTensor,
    ) -> Result<(), ShardError> {
        let Some((scale_file, _)) = self.find(&scales.name) else { return Ok(()) };
        let factors = scales::floats(self.raw, *scale_file, scales)?;
        let (name, shape, place) = (&values.name, values.shape.clone(), Place { file, offset: values.offset });
        let misfit = || refused(&scales.name, scales::misfit(&scales.shape, &shape));
        if shape.contains(&0) {
            return Err(misfit());
        }
        let (dtype, num_bytes, scale, stored) = match scales::per_row(&scales.shape, &factors, &shape) {
            Some(scale) => (DType::F8E4M3, values.num_bytes, scale, Stored::Plain(place)),
            None => {
                let matrix_rows = squares(&shape, &scales.shape).ok_or_else(misfit)?;
                let num_bytes = DType::F8E4M3Block128.bytes_for(values.num_bytes).ok_or_else(misfit)?;
                let stored = Stored::Squares { codes: place, scales: factors.into(), matrix_rows };
                (DType::F8E4M3Block128, num_bytes, TensorScale::One, stored)
            }
        };
        self.taken.extend([name.as_str(), scales.name.as_str()]);
        self.add(name, Weight { desc: TensorDesc { name: name.clone(), dtype, shape, num_bytes, scale }, stored })
    }
}

/// The shape of a weight from that of its bytes, if the scales fit it.
fn logical_shape(dtype: DType, bytes: &[usize], scales: &[usize]) -> Option<Vec<usize>> {
    let (row_bytes, outer) = bytes.split_last()?;
    let (row_scales, scale_outer) = scales.split_last()?;
    let row_len = row_bytes.checked_mul(2)?;
    let fits = row_len.is_multiple_of(dtype.block_elements()) && *row_scales == row_len / dtype.block_elements();
    if !fits || outer != scale_outer || bytes.contains(&0) || outer.is_empty() {
        return None;
    }
    Some([outer, &[row_len]].concat())
}

/// Rows of one matrix, if the scales are those of its squares and rows are whole squares long.
fn squares(shape: &[usize], scales: &[usize]) -> Option<usize> {
    let [outer @ .., rows, columns] = shape else { return None };
    let expected = [outer, &[rows.div_ceil(SQUARE), columns.div_ceil(SQUARE)]].concat();
    (expected == scales && columns.is_multiple_of(SQUARE)).then_some(*rows)
}

#[cfg(test)]
mod tests;
