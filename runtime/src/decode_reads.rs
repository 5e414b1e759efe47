//! What decoding one token reads from memory: the figure that a benchmark holds against the memory's bandwidth.

use kindling_kernels::{CacheGroupKind, CacheGroupSpec, Limits, MemoryUse, Op, Plan, WeightId, WeightSource};

/// Bytes that a decode step reads, as the backend holds them.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodeReads {
    /// Weights that take part in every step. A matrix that is only looked up (an untied embedding) is none of them: a
    /// lookup reads one row.
    dense_bytes: f64,
    experts: Vec<ExpertReads>,
    groups: Vec<GroupReads>,
}

/// The experts of one layer.
#[derive(Debug, Clone, PartialEq)]
struct ExpertReads {
    bytes: f64,
    num_experts: usize,
    top_k: usize,
}

/// One cache group's share.
#[derive(Debug, Clone, PartialEq)]
enum GroupReads {
    /// Keys and values of the positions in sight.
    Positions { bytes_per_position: f64, window: Option<usize> },
    /// A state of one size.
    State { bytes: f64 },
}

impl DecodeReads {
    /// From what was prepared. Backends say only how much they hold in all, so that is divided as the stored bytes
    /// are: exact where every weight is read or the backend keeps what is stored.
    pub fn new(plan: &Plan, source: &dyn WeightSource, memory: MemoryUse, limits: &Limits) -> Self {
        let stored = |id: WeightId| stored_bytes(plan, source, id);
        let total: f64 = (0..plan.weights.len()).map(|id| stored(WeightId(id))).sum();
        let held_per_stored = if total > 0.0 { memory.weight_bytes as f64 / total } else { 0.0 };
        let lookups: f64 = only_looked_up(plan).into_iter().map(stored).sum();
        let mut experts = Vec::new();
        for op in &plan.ops {
            if let Op::MoeExperts { experts: weights, top_k, .. } = op {
                let matrices = [weights.gate, weights.up, weights.down].map(stored);
                let num_experts = plan.weights[weights.gate.0].shape.first().copied().unwrap_or(1);
                let bytes = matrices.iter().sum::<f64>() * held_per_stored;
                experts.push(ExpertReads { bytes, num_experts, top_k: *top_k });
            }
        }
        let of_experts: f64 = experts.iter().map(|layer| layer.bytes).sum();
        let dense_bytes = (total - lookups) * held_per_stored - of_experts;
        Self { dense_bytes, experts, groups: groups(plan, memory, limits) }
    }

    /// Weights that a step reads which decodes `num_sequences` sequences. Of experts, as many as are chosen by anyone
    /// on average, if every choice is as likely as any other.
    pub fn weight_bytes(&self, num_sequences: usize) -> f64 {
        let chosen = |layer: &ExpertReads| {
            let left_out = 1.0 - layer.top_k as f64 / layer.num_experts.max(1) as f64;
            layer.bytes * (1.0 - left_out.max(0.0).powf(num_sequences as f64))
        };
        self.dense_bytes + self.experts.iter().map(chosen).sum::<f64>()
    }

    /// Keys, values and states that the next token of one sequence reads after `context` tokens.
    pub fn cache_bytes(&self, context: usize) -> f64 {
        let of_group = |group: &GroupReads| match group {
            GroupReads::Positions { bytes_per_position, window } => {
                bytes_per_position * window.map_or(context, |window| context.min(window)) as f64
            }
            GroupReads::State { bytes } => *bytes,
        };
        self.groups.iter().map(of_group).sum()
    }

    /// Bytes per token of a step that decodes `num_sequences` sequences of `context` tokens: they share one reading of
    /// the weights.
    pub fn bytes_per_token(&self, context: usize, num_sequences: usize) -> f64 {
        self.weight_bytes(num_sequences) / num_sequences.max(1) as f64 + self.cache_bytes(context)
    }
}

/// As in the checkpoint; a weight may be put together from rows of several tensors of one type.
fn stored_bytes(plan: &Plan, source: &dyn WeightSource, WeightId(id): WeightId) -> f64 {
    let spec = &plan.weights[id];
    let tensor = spec.rows.first().map_or(&spec.name, |range| &range.tensor);
    source.describe(tensor).map_or(0.0, |desc| (desc.row_bytes() * spec.num_rows()) as f64)
}

/// Embeddings that are not the output matrix too.
fn only_looked_up(plan: &Plan) -> Vec<WeightId> {
    let embeddings =
        plan.ops.iter().filter_map(|op| if let Op::EmbedTokens { weight, .. } = op { Some(*weight) } else { None });
    let is_multiplied =
        |id: WeightId| plan.ops.iter().any(|op| matches!(op, Op::Linear { weight, .. } if *weight == id));
    let mut found: Vec<WeightId> = embeddings.filter(|id| !is_multiplied(*id)).collect();
    found.sort();
    found.dedup();
    found
}

/// States are f32; what else the cache holds is divided by the sizes of the other groups.
fn groups(plan: &Plan, memory: MemoryUse, limits: &Limits) -> Vec<GroupReads> {
    let state = |group: &CacheGroupSpec| match group.kind {
        CacheGroupKind::Recurrent { state_len } => Some((group.num_layers * state_len * size_of::<f32>()) as f64),
        _ => None,
    };
    let elements = |group: &CacheGroupSpec| (group.num_layers * group.num_kv_heads * group.head_dim) as f64;
    let (mut states, mut positions) = (0.0, 0.0);
    for (group, num_blocks) in plan.cache_groups.iter().zip(&limits.num_blocks) {
        match state(group) {
            Some(bytes) => states += bytes * *num_blocks as f64,
            None => positions += elements(group) * (num_blocks * limits.block_size) as f64,
        }
    }
    let per_element = if positions > 0.0 { (memory.kv_cache_bytes as f64 - states).max(0.0) / positions } else { 0.0 };
    let reads = |group: &CacheGroupSpec| match state(group) {
        Some(bytes) => GroupReads::State { bytes },
        None => {
            let window = if let CacheGroupKind::Window { window } = group.kind { Some(window) } else { None };
            GroupReads::Positions { bytes_per_position: per_element * elements(group), window }
        }
    };
    plan.cache_groups.iter().map(reads).collect()
}

#[cfg(test)]
mod tests;
