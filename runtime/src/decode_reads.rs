//! What decoding one token reads from memory: the figure that a benchmark holds against the memory's bandwidth.

use kindling_kernels::{CacheGroupKind, Limits, MemoryUse, Op, Plan, WeightId, WeightSource};

/// Bytes that a decode step reads, as the backend holds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeReads {
    /// All weights that take part in every step. A matrix that is only looked up (an untied embedding) is none of
    /// them: a lookup reads one row.
    pub weight_bytes: u64,
    groups: Vec<GroupReads>,
}

/// One cache group's share.
#[derive(Debug, Clone, PartialEq, Eq)]
struct GroupReads {
    bytes_per_position: u64,
    window: Option<usize>,
}

impl DecodeReads {
    /// From what was prepared. Exact if nothing is only looked up; otherwise the backend's bytes are divided as the
    /// stored ones are, because backends say only how much they hold in all.
    pub fn new(plan: &Plan, source: &dyn WeightSource, memory: MemoryUse, limits: &Limits) -> Self {
        let stored = |id: usize| source.describe(&plan.weights[id].name).map_or(0, |desc| desc.num_bytes as u128);
        let total: u128 = (0..plan.weights.len()).map(stored).sum();
        let lookups: u128 = only_looked_up(plan).into_iter().map(|WeightId(id)| stored(id)).sum();
        let held = memory.weight_bytes as u128;
        let weight_bytes = held - (held * lookups).checked_div(total).unwrap_or(0);
        Self { weight_bytes: u64::try_from(weight_bytes).unwrap_or(u64::MAX), groups: groups(plan, memory, limits) }
    }

    /// Keys and values that the next token of one sequence reads after `context` tokens.
    pub fn kv_bytes(&self, context: usize) -> u64 {
        let positions = |group: &GroupReads| group.window.map_or(context, |window| context.min(window)) as u64;
        self.groups.iter().map(|group| group.bytes_per_position * positions(group)).sum()
    }

    /// Bytes per token of a step that decodes `num_sequences` sequences of `context` tokens: they share one reading of
    /// the weights.
    pub fn bytes_per_token(&self, context: usize, num_sequences: usize) -> f64 {
        self.weight_bytes as f64 / num_sequences.max(1) as f64 + self.kv_bytes(context) as f64
    }
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

/// Divides the cache's bytes by the groups' sizes; every group has the same number of blocks.
fn groups(plan: &Plan, memory: MemoryUse, limits: &Limits) -> Vec<GroupReads> {
    let elements =
        |group: &kindling_kernels::CacheGroupSpec| (group.num_layers * group.num_kv_heads * group.head_dim) as u128;
    let total: u128 = plan.cache_groups.iter().map(elements).sum();
    let positions = (limits.num_blocks * limits.block_size) as u128;
    let reads = |group: &kindling_kernels::CacheGroupSpec| {
        let bytes = (memory.kv_cache_bytes as u128 * elements(group)).checked_div(total * positions).unwrap_or(0);
        let window = if let CacheGroupKind::Window { window } = group.kind { Some(window) } else { None };
        GroupReads { bytes_per_position: u64::try_from(bytes).unwrap_or(u64::MAX), window }
    };
    plan.cache_groups.iter().map(reads).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kindling_kernels::{BufferId, CacheGroupSpec, DType, TensorDesc, WeightError, WeightSpec};

    /// Tensors of the given sizes, by the names `w0`, `w1`...
    struct Sizes(Vec<usize>);

    impl WeightSource for Sizes {
        fn describe(&self, name: &str) -> Option<TensorDesc> {
            let id: usize = name[1..].parse().unwrap();
            let num_bytes = self.0[id];
            Some(TensorDesc { name: name.to_owned(), dtype: DType::F16, shape: vec![num_bytes / 2], num_bytes })
        }

        fn read(&self, _name: &str, _out: &mut [u8]) -> Result<(), WeightError> {
            unreachable!("sizes are never read")
        }
    }

    fn plan(output: usize) -> Plan {
        let group = |num_layers, kind| CacheGroupSpec { kind, num_layers, num_kv_heads: 2, head_dim: 4 };
        let embed = Op::EmbedTokens { weight: WeightId(0), output: BufferId(0) };
        let linear = Op::Linear { input: BufferId(0), weight: WeightId(output), bias: None, output: BufferId(1) };
        Plan {
            weights: (0..2).map(|id| WeightSpec { name: format!("w{id}"), shape: vec![1] }).collect(),
            buffers: Vec::new(),
            rotaries: Vec::new(),
            cache_groups: vec![group(1, CacheGroupKind::Full), group(3, CacheGroupKind::Window { window: 8 })],
            ops: vec![embed, linear],
            logits: BufferId(1),
            vocab_size: 1,
            max_position: 100,
        }
    }

    fn reads(output: usize) -> DecodeReads {
        let memory = MemoryUse { weight_bytes: 4000, kv_cache_bytes: 6400, activation_bytes: 1 };
        let limits = Limits {
            max_tokens_per_step: 1,
            max_sequences: 1,
            max_logits_per_step: 1,
            max_context: 100,
            block_size: 16,
            num_blocks: 10,
            num_threads: 1,
        };
        DecodeReads::new(&plan(output), &Sizes(vec![500, 1500]), memory, &limits)
    }

    #[test]
    fn a_tied_embedding_is_read_and_an_untied_one_is_not() {
        assert_eq!(reads(0).weight_bytes, 4000);
        // A quarter of the stored bytes, so a quarter of the held ones.
        assert_eq!(reads(1).weight_bytes, 3000);
    }

    #[test]
    fn a_window_bounds_what_a_group_reads() {
        // 6400 bytes over 160 positions and four layers: 10 bytes per layer and position.
        assert_eq!(reads(0).kv_bytes(5), 5 * 10 + 5 * 30);
        assert_eq!(reads(0).kv_bytes(50), 50 * 10 + 8 * 30);
    }

    #[test]
    fn sequences_share_the_weights_but_not_the_cache() {
        let kv = f64::from(50 * 10 + 8 * 30);
        assert_eq!(reads(0).bytes_per_token(50, 1), 4000.0 + kv);
        assert_eq!(reads(0).bytes_per_token(50, 16), 250.0 + kv);
    }
}
