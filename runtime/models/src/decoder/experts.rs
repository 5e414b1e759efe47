//! Experts as files have them: one tensor for each matrix of each expert, or stacked, or row by row interleaved.

use kindling_kernels::{RowRange, WeightSpec};

use super::validate::MAX_WIDTH;
use super::{LayerParts, Name, between};
use crate::architecture::{Description, SpecError};
use crate::element_slices::slice_name;
use crate::spec::Experts;

/// Bound far beyond any model.
pub(crate) const MAX_EXPERTS: usize = 1 << 14;

const EXPERTS: Name = Name { safetensors: "mlp.experts", gguf: "ffn" };

/// Sizes of the experts of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExpertSizes {
    pub num_experts: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
}

impl ExpertSizes {
    /// # Errors
    /// [`SpecError::OutOfRange`] if the width that stands under `key` cannot be.
    pub(crate) fn check(&self, key: &str) -> Result<(), SpecError> {
        between(key, self.intermediate_size, MAX_WIDTH)
    }
}

impl LayerParts<'_> {
    /// Experts without biases. Published safetensors have them one by one; files that transformers 5 writes may have
    /// gate and up of each expert below each other in one stacked tensor; GGUF has three stacked tensors.
    pub(crate) fn experts(&self, sizes: ExpertSizes) -> Experts {
        let prefix = self.name(EXPERTS);
        let is_fused = self.decoder.has(&format!("{prefix}.gate_up_proj"));
        match self.decoder.checkpoint.description {
            Description::Gguf(_) => stacked(&prefix, sizes),
            Description::ConfigJson(_) if is_fused => fused(&prefix, sizes),
            Description::ConfigJson(_) => separate(&prefix, sizes),
        }
    }

    /// Experts with biases. Published safetensors have gate and up row by row in turn; GGUF has them apart.
    ///
    /// # Errors
    /// [`SpecError::Unsupported`] if they are not quantised: such files have them transposed.
    pub(crate) fn interleaved_experts(&self, sizes: ExpertSizes) -> Result<Experts, SpecError> {
        let prefix = self.name(EXPERTS);
        if matches!(self.decoder.checkpoint.description, Description::Gguf(_)) {
            let biases = stacked_biases(&prefix, sizes);
            return Ok(Experts { biases: Some(biases), ..stacked(&prefix, sizes) });
        }
        let tensor = format!("{prefix}.gate_up_proj");
        match self.decoder.checkpoint.weights.describe(&tensor) {
            Some(desc) if desc.dtype.block_elements() == 1 => {
                let found = format!("as {}", desc.dtype);
                Err(SpecError::unsupported(&tensor, &found, "only blocks of four bits are, plain files transpose it"))
            }
            _ => Ok(interleaved(&prefix, sizes)),
        }
    }
}

/// `blk.N.ffn_{gate,up,down}_exps.weight`.
fn stacked(prefix: &str, sizes: ExpertSizes) -> Experts {
    let ExpertSizes { num_experts, hidden_size, intermediate_size } = sizes;
    let matrices = |part: &str, rows, columns| {
        WeightSpec::whole(format!("{prefix}_{part}_exps.weight"), vec![num_experts, rows, columns])
    };
    Experts {
        gate_proj: matrices("gate", intermediate_size, hidden_size),
        up_proj: matrices("up", intermediate_size, hidden_size),
        down_proj: matrices("down", hidden_size, intermediate_size),
        biases: None,
    }
}

/// `blk.N.ffn_{gate,up,down}_exps.bias`.
fn stacked_biases(prefix: &str, sizes: ExpertSizes) -> [WeightSpec; 3] {
    let ExpertSizes { num_experts, hidden_size, intermediate_size } = sizes;
    [("gate", intermediate_size), ("up", intermediate_size), ("down", hidden_size)]
        .map(|(part, len)| WeightSpec::whole(format!("{prefix}_{part}_exps.bias"), vec![num_experts, len]))
}

/// `experts.E.{gate,up,down}_proj.weight`, all rows of each.
fn separate(prefix: &str, sizes: ExpertSizes) -> Experts {
    let ExpertSizes { num_experts, hidden_size, intermediate_size } = sizes;
    let matrices = |part: &str, count, columns| {
        let range = |expert| RowRange { tensor: format!("{prefix}.{expert}.{part}.weight"), first: 0, step: 1, count };
        let rows = (0..num_experts).map(range).collect();
        WeightSpec { name: format!("{prefix}.{part}"), shape: vec![num_experts, count, columns], rows }
    };
    Experts {
        gate_proj: matrices("gate_proj", intermediate_size, hidden_size),
        up_proj: matrices("up_proj", intermediate_size, hidden_size),
        down_proj: matrices("down_proj", hidden_size, intermediate_size),
        biases: None,
    }
}

/// `experts.gate_up_proj`, `[num_experts, 2 * intermediate_size, hidden_size]`: in each expert the rows of the gate come
/// first.
fn fused(prefix: &str, sizes: ExpertSizes) -> Experts {
    let ExpertSizes { num_experts, hidden_size, intermediate_size: count } = sizes;
    let tensor = format!("{prefix}.gate_up_proj");
    let half = |part: &str, offset| {
        let range = |expert| RowRange { tensor: tensor.clone(), first: 2 * expert * count + offset, step: 1, count };
        let rows = (0..num_experts).map(range).collect();
        WeightSpec { name: format!("{prefix}.{part}"), shape: vec![num_experts, count, hidden_size], rows }
    };
    let down_proj = WeightSpec::whole(format!("{prefix}.down_proj"), vec![num_experts, hidden_size, count]);
    Experts { gate_proj: half("gate_proj", 0), up_proj: half("up_proj", count), down_proj, biases: None }
}

/// `experts.gate_up_proj` of the same shape, but the rows of gate and up take turns; so do the elements of
/// `experts.gate_up_proj_bias`, `[num_experts, 2 * intermediate_size]`.
fn interleaved(prefix: &str, sizes: ExpertSizes) -> Experts {
    let ExpertSizes { num_experts, hidden_size, intermediate_size } = sizes;
    let rows_from = |part: &str, first| {
        let tensor = format!("{prefix}.gate_up_proj");
        let rows = vec![RowRange { tensor, first, step: 2, count: num_experts * intermediate_size }];
        WeightSpec { name: format!("{prefix}.{part}"), shape: vec![num_experts, intermediate_size, hidden_size], rows }
    };
    let bias = |name: &str, len| WeightSpec::whole(format!("{prefix}.{name}"), vec![num_experts, len]);
    let bias_from = |first| bias(&slice_name("gate_up_proj_bias", first, 2), intermediate_size);
    let down_proj = vec![num_experts, hidden_size, intermediate_size];
    Experts {
        gate_proj: rows_from("gate_proj", 0),
        up_proj: rows_from("up_proj", 1),
        down_proj: WeightSpec::whole(format!("{prefix}.down_proj"), down_proj),
        biases: Some([bias_from(0), bias_from(1), bias("down_proj_bias", hidden_size)]),
    }
}
