use std::ops::Range;

use kindling_kernels::{
    Activation, BufferId, DType, ExpertWeights, KvType, TensorDesc, TensorScale, WeightError, WeightSpec,
};

use super::*;

/// A tensor per name, one row per byte.
struct Sizes(Vec<(&'static str, usize)>);

impl WeightSource for Sizes {
    fn describe(&self, name: &str) -> Option<TensorDesc> {
        let num_bytes = self.0.iter().find(|(other, _)| *other == name)?.1;
        let (dtype, shape, scale) = (DType::F16, vec![num_bytes, 1], TensorScale::One);
        Some(TensorDesc { name: name.to_owned(), dtype, shape, num_bytes, scale })
    }

    fn read_rows(&self, _name: &str, _rows: Range<usize>, _out: &mut [u8]) -> Result<(), WeightError> {
        unreachable!("sizes are never read")
    }
}

fn linear(weight: usize) -> Op {
    Op::Linear { input: BufferId(0), weight: WeightId(weight), bias: None, output: BufferId(1) }
}

fn plan(weights: &[(&str, usize)], ops: Vec<Op>) -> Plan {
    let embed = Op::EmbedTokens { weight: WeightId(0), output: BufferId(0) };
    let group = |num_layers, kind| CacheGroupSpec { kind, num_layers, num_kv_heads: 2, head_dim: 4 };
    Plan {
        weights: weights.iter().map(|(name, rows)| WeightSpec::whole(*name, vec![*rows, 1])).collect(),
        buffers: Vec::new(),
        rotaries: Vec::new(),
        cache_groups: vec![group(1, CacheGroupKind::Full), group(3, CacheGroupKind::Window { window: 8 })],
        ops: [embed].into_iter().chain(ops).collect(),
        logits: BufferId(1),
        vocab_size: 1,
        max_position: 100,
    }
}

fn limits(num_blocks: Vec<usize>) -> Limits {
    Limits {
        max_tokens_per_step: 1,
        max_sequences: 1,
        max_logits_per_step: 1,
        max_context: 100,
        block_size: 16,
        num_blocks,
        kv_type: KvType::Wide,
        num_threads: 1,
    }
}

/// Held in twice the stored bytes; 10 bytes of cache per layer and position.
const MEMORY: MemoryUse = MemoryUse { weight_bytes: 4000, kv_cache_bytes: 6400, activation_bytes: 1 };

fn reads(output: usize) -> DecodeReads {
    let sizes = vec![("embed", 500), ("head", 1500)];
    let plan = plan(&sizes, vec![linear(output)]);
    DecodeReads::new(&plan, &Sizes(sizes), MEMORY, &limits(vec![10, 10]))
}

#[test]
fn a_tied_embedding_is_read_and_an_untied_one_is_not() {
    assert_eq!(reads(0).weight_bytes(1), 4000.0);
    // A quarter of the stored bytes, so a quarter of the held ones.
    assert_eq!(reads(1).weight_bytes(1), 3000.0);
}

#[test]
fn a_window_bounds_what_a_group_reads() {
    assert_eq!(reads(0).cache_bytes(5), f64::from(5 * 10 + 5 * 30));
    assert_eq!(reads(0).cache_bytes(50), f64::from(50 * 10 + 8 * 30));
}

#[test]
fn sequences_share_the_weights_but_not_the_cache() {
    let cache = f64::from(50 * 10 + 8 * 30);
    assert_eq!(reads(0).bytes_per_token(50, 1), 4000.0 + cache);
    assert_eq!(reads(0).bytes_per_token(50, 16), 250.0 + cache);
}

#[test]
fn a_state_costs_the_same_at_any_context() {
    let sizes = vec![("embed", 500)];
    let mut plan = plan(&sizes, vec![linear(0)]);
    plan.cache_groups[1].kind = CacheGroupKind::Recurrent { state_len: 25 };
    let memory = MemoryUse { kv_cache_bytes: 160 * 10 + 4 * 300, ..MEMORY };
    let reads = DecodeReads::new(&plan, &Sizes(sizes), memory, &limits(vec![10, 4]));
    assert_eq!((reads.cache_bytes(1), reads.cache_bytes(100)), (310.0, 1300.0));
}

#[test]
fn of_experts_only_the_chosen_ones_are_read() {
    let sizes = vec![("embed", 400), ("gate", 200), ("up", 200), ("down", 200), ("fused", 1000)];
    let [gate, up, down] = [1, 2, 3].map(WeightId);
    let experts = ExpertWeights { gate, up, down, gate_bias: None, up_bias: None, down_bias: None };
    let moe = Op::MoeExperts {
        input: BufferId(0),
        routes: BufferId(0),
        experts,
        activation: Activation::Silu,
        top_k: 1,
        output: BufferId(1),
    };
    let mut plan = plan(&sizes[..4], vec![linear(0), moe]);
    plan.weights.iter_mut().skip(1).for_each(|spec| spec.shape = vec![4, 50, 1]);
    // Every other row of a larger tensor: what counts is what is taken of it.
    plan.weights[3].rows =
        vec![kindling_kernels::RowRange { tensor: "fused".to_owned(), first: 0, step: 2, count: 200 }];
    let memory = MemoryUse { weight_bytes: 1000, ..MEMORY };
    let reads = DecodeReads::new(&plan, &Sizes(sizes), memory, &limits(vec![10, 10]));
    assert!((reads.weight_bytes(1) - (400.0 + 600.0 / 4.0)).abs() < 1e-9);
    // Two sequences choose the same expert one time in four.
    assert!((reads.weight_bytes(2) - (400.0 + 600.0 * 7.0 / 16.0)).abs() < 1e-9);
}
