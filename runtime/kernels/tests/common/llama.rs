//! A llama by hand, with random weights.

use kindling_kernels::{
    Activation, BufferId, BufferSpec, CacheGroupId, CacheGroupKind, CacheGroupSpec, DType, Op, Plan, RotaryId,
    RotarySpec, RotaryStyle, Rows, WeightId, WeightSpec,
};

use super::{MemoryWeights, Rng};

/// Sizes and types.
#[derive(Clone)]
pub struct Llama {
    pub num_layers: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_heads: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    pub vocab_size: usize,
    pub dtype: DType,
    pub embedding: DType,
    pub kind: CacheGroupKind,
}

/// Two layers of odd sizes.
pub const TINY: Llama = Llama {
    num_layers: 2,
    hidden_size: 96,
    intermediate_size: 160,
    num_heads: 6,
    num_kv_heads: 2,
    head_dim: 16,
    vocab_size: 200,
    dtype: DType::Q4_1,
    embedding: DType::Q8_0,
    kind: CacheGroupKind::Full,
};

/// The shapes of SmolLM2-135M.
pub const SMOLLM2_135M: Llama = Llama {
    num_layers: 30,
    hidden_size: 576,
    intermediate_size: 1536,
    num_heads: 9,
    num_kv_heads: 3,
    head_dim: 64,
    vocab_size: 49152,
    dtype: DType::Q4_1,
    embedding: DType::Q8_0,
    kind: CacheGroupKind::Full,
};

struct Builder<'a> {
    config: &'a Llama,
    plan: Plan,
    weights: MemoryWeights,
    rng: Rng,
}

const HIDDEN: BufferId = BufferId(0);
const NORMED: BufferId = BufferId(1);
const QUERY: BufferId = BufferId(2);
const KEY: BufferId = BufferId(3);
const VALUE: BufferId = BufferId(4);
const ATTENDED: BufferId = BufferId(5);
const PROJECTED: BufferId = BufferId(6);
const GATE: BufferId = BufferId(7);
const UP: BufferId = BufferId(8);
const LAST: BufferId = BufferId(9);
const LOGITS: BufferId = BufferId(10);

impl Llama {
    /// The plan and its weights.
    pub fn build(&self) -> (Plan, MemoryWeights) {
        let (q, kv) = (self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim);
        let widths = [
            ("hidden", self.hidden_size),
            ("normed", self.hidden_size),
            ("query", q),
            ("key", kv),
            ("value", kv),
            ("attended", q),
            ("projected", self.hidden_size),
            ("gate", self.intermediate_size),
            ("up", self.intermediate_size),
            ("last", self.hidden_size),
            ("logits", self.vocab_size),
        ];
        let rows = |name| if name == "last" || name == "logits" { Rows::Logits } else { Rows::Tokens };
        let plan = Plan {
            weights: Vec::new(),
            buffers: widths.map(|(name, width)| BufferSpec { name: name.to_owned(), width, rows: rows(name) }).to_vec(),
            rotaries: vec![RotarySpec {
                rotary_dim: self.head_dim,
                theta: 10000.0,
                style: RotaryStyle::Interleaved,
                scaling: None,
                frequency_factors: None,
            }],
            cache_groups: vec![CacheGroupSpec {
                kind: self.kind,
                num_layers: self.num_layers,
                num_kv_heads: self.num_kv_heads,
                head_dim: self.head_dim,
            }],
            ops: Vec::new(),
            logits: LOGITS,
            vocab_size: self.vocab_size,
            max_position: 8192,
        };
        let mut builder = Builder { config: self, plan, weights: MemoryWeights::default(), rng: Rng(7) };
        let embedding = builder.weight("embedding", self.embedding, &[self.vocab_size, self.hidden_size]);
        builder.plan.ops.push(Op::EmbedTokens { weight: embedding, output: HIDDEN });
        (0..self.num_layers).for_each(|layer| builder.layer(layer));
        let ops = [Op::GatherLogitRows { input: HIDDEN, output: LAST }];
        builder.plan.ops.extend(ops);
        builder.norm("output norm", LAST, LAST);
        builder.plan.ops.push(Op::Linear { input: LAST, weight: embedding, bias: None, output: LOGITS });
        (builder.plan, builder.weights)
    }
}

impl Builder<'_> {
    fn weight(&mut self, name: &str, dtype: DType, shape: &[usize]) -> WeightId {
        let amplitude = if shape.len() == 2 { (3.0 / shape[1] as f32).sqrt() } else { 1.0 };
        self.weights.random(&mut self.rng, name, (dtype, shape), amplitude);
        self.plan.weights.push(WeightSpec::whole(name, shape.to_vec()));
        WeightId(self.plan.weights.len() - 1)
    }

    fn norm(&mut self, name: &str, input: BufferId, output: BufferId) {
        let weight = self.weight(name, DType::F32, &[self.config.hidden_size]);
        self.plan.ops.push(super::norm(&self.plan, (input, weight), output));
    }

    fn linear(&mut self, name: &str, input: BufferId, output: BufferId) {
        let shape = [output, input].map(|id| self.plan.buffers[id.0].width);
        let weight = self.weight(name, self.config.dtype, &shape);
        self.plan.ops.push(Op::Linear { input, weight, bias: None, output });
    }

    fn layer(&mut self, layer: usize) {
        let name = |part: &str| format!("layer {layer} {part}");
        let (group, table) = (CacheGroupId(0), RotaryId(0));
        let Llama { num_heads, num_kv_heads, head_dim, .. } = *self.config;
        self.norm(&name("attention norm"), HIDDEN, NORMED);
        self.linear(&name("q"), NORMED, QUERY);
        self.linear(&name("k"), NORMED, KEY);
        self.linear(&name("v"), NORMED, VALUE);
        let scale = 1.0 / (head_dim as f32).sqrt();
        self.plan.ops.extend([
            Op::Rotary { buffer: QUERY, num_heads, head_dim, table },
            Op::Rotary { buffer: KEY, num_heads: num_kv_heads, head_dim, table },
            Op::KvCacheAppend { key: KEY, value: VALUE, group, layer, kv_scales: None },
            Op::PagedAttention { query: QUERY, output: ATTENDED, num_heads, scale, sinks: None, group, layer },
        ]);
        self.linear(&name("o"), ATTENDED, PROJECTED);
        self.plan.ops.push(Op::Add { input: PROJECTED, output: HIDDEN });
        self.norm(&name("feed-forward norm"), HIDDEN, NORMED);
        self.linear(&name("gate"), NORMED, GATE);
        self.linear(&name("up"), NORMED, UP);
        self.plan.ops.push(Op::GatedActivation { gate: GATE, up: UP, activation: Activation::Silu, output: GATE });
        self.linear(&name("down"), GATE, PROJECTED);
        self.plan.ops.push(Op::Add { input: PROJECTED, output: HIDDEN });
    }
}
