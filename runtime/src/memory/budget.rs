//! What a model will take with these limits, and the limits that a budget allows.

use kindling_envelope::{Bytes, Device};
use kindling_kernels::{Backend, CacheGroupKind, Limits, MemoryUse, Plan, PrepareError, WeightSource};

use crate::config::{BLOCK_SIZE, RuntimeConfig};

/// What a runtime will take, term by term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Weights as they lie in memory.
    pub weights: Bytes,
    /// Keys, values and states.
    pub kv_cache: Bytes,
    /// What a step computes in.
    pub activations: Bytes,
    /// The process itself.
    pub process: Bytes,
    /// While it loads, beside the rest.
    pub load_transient: Bytes,
}

/// Why a model can't be had within a budget.
#[derive(Debug, thiserror::Error)]
pub enum BudgetError {
    /// The terms are more than the budget.
    #[error(
        "the model needs {} ({} weights, {} KV cache of {kv_tokens} tokens, {} activations, {} process), and its memory \
         budget is {budget}; {advice}",
        need.resident(), need.weights, need.kv_cache, need.activations, need.process
    )]
    TooLittle {
        /// The terms.
        need: Box<Need>,
        /// Tokens of the KV cache in them.
        kv_tokens: usize,
        /// What may be taken.
        budget: Bytes,
        /// What would help.
        advice: String,
    },
    /// The backend can't say what it would take.
    #[error("work out the memory of the model")]
    Predict(#[from] PrepareError),
}

impl Need {
    /// While it serves.
    pub fn resident(&self) -> Bytes {
        self.weights + self.kv_cache + self.activations + self.process
    }

    fn of(
        backend: &dyn Backend,
        plan: &Plan,
        weights: &dyn WeightSource,
        limits: &Limits,
    ) -> Result<Self, PrepareError> {
        let MemoryUse { weight_bytes, kv_cache_bytes, activation_bytes } = backend.predict(plan, weights, limits)?;
        let device = if backend.name() == "cuda" { Device::Cuda } else { Device::Cpu };
        let tensors = plan.weights.iter().filter_map(|weight| weights.describe(&weight.name));
        let largest = tensors.map(|tensor| (tensor.num_rows() * tensor.row_bytes()) as u64).max().unwrap_or(0);
        Ok(Self {
            weights: Bytes(weight_bytes as u64),
            kv_cache: Bytes(kv_cache_bytes as u64),
            activations: Bytes(activation_bytes as u64),
            process: process(device, plan, limits),
            load_transient: device.load_transient(Bytes(largest)),
        })
    }
}

fn process(device: Device, plan: &Plan, limits: &Limits) -> Bytes {
    let groups = plan.cache_groups.iter().zip(&limits.num_blocks);
    let full = groups.filter(|(group, _)| group.kind == CacheGroupKind::Full).map(|(_, blocks)| *blocks).max();
    // Whoever has no such group notes less than is reserved for it.
    device.process(Some(plan.vocab_size as u64), limits.max_sequences as u64, full.unwrap_or(0) as u64)
}

/// The limits within the budget of `config`, and what they take. Without a budget the limits stay as they are.
///
/// A KV cache whose size nobody asked for is made as large as the budget lets it, but never smaller than one context.
///
/// # Errors
/// [`BudgetError`] with every term.
pub fn fit(
    config: &RuntimeConfig,
    backend: &dyn Backend,
    plan: &Plan,
    weights: &dyn WeightSource,
    mut limits: Limits,
) -> Result<(Limits, Need), BudgetError> {
    let need = Need::of(backend, plan, weights, &limits)?;
    let Some(budget) = config.memory_budget.map(Bytes) else { return Ok((limits, need)) };
    if need.resident() <= budget {
        return Ok((limits, need));
    }
    let is_free = config.kv_tokens.is_none();
    let (least, most) = (limits.max_context.div_ceil(BLOCK_SIZE), full_blocks(plan, &limits));
    let with = |blocks: usize| config.with_full_blocks(&limits, plan, blocks);
    let needs = |blocks: usize| Need::of(backend, plan, weights, &with(blocks));
    let smallest = needs(least.min(most))?;
    if !is_free || smallest.resident() > budget {
        let shown = if is_free { smallest } else { need };
        let kv_tokens = BLOCK_SIZE * if is_free { least.min(most) } else { most };
        let advice = advice(&limits, smallest, budget);
        return Err(BudgetError::TooLittle { need: Box::new(shown), kv_tokens, budget, advice });
    }
    // The terms rise with the blocks: the last that fit are found by halving.
    let (mut fits, mut too_many) = (least.min(most), most);
    while too_many - fits > 1 {
        let middle = fits + (too_many - fits) / 2;
        if needs(middle)?.resident() <= budget {
            fits = middle;
        } else {
            too_many = middle;
        }
    }
    limits = with(fits);
    let need = Need::of(backend, plan, weights, &limits)?;
    Ok((limits, need))
}

/// Blocks of the groups that keep every token; of any group, where there is none.
fn full_blocks(plan: &Plan, limits: &Limits) -> usize {
    let groups = plan.cache_groups.iter().zip(&limits.num_blocks);
    let full = groups.clone().filter(|(group, _)| group.kind == CacheGroupKind::Full).map(|(_, blocks)| *blocks).max();
    full.or_else(|| groups.map(|(_, blocks)| *blocks).max()).unwrap_or(0)
}

fn advice(limits: &Limits, smallest: Need, budget: Bytes) -> String {
    if smallest.resident() <= budget {
        return format!("a KV cache of {} tokens (one context) would fit", limits.max_context);
    }
    let without_cache = smallest.weights + smallest.activations + smallest.process;
    if without_cache > budget {
        return format!("even without any KV cache it needs {without_cache}");
    }
    "ask for a shorter context or fewer sequences".to_owned()
}
