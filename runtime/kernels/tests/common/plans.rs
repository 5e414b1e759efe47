//! Plans of a single op: embeddings make its inputs, and its output is gathered as the logits.

use kindling_kernels::{BufferId, BufferSpec, DType, Op, Plan, Rows, WeightId, WeightSpec};

use super::{MemoryWeights, Rng};

/// A plan under construction. Its vocabulary is as large as the output is wide, so that the output can be the logits.
pub struct PlanBuilder {
    pub plan: Plan,
    pub weights: MemoryWeights,
    pub rng: Rng,
}

impl PlanBuilder {
    /// An empty plan whose output is `width` wide.
    pub fn new(width: usize) -> Self {
        let plan = Plan {
            weights: Vec::new(),
            buffers: Vec::new(),
            rotaries: Vec::new(),
            cache_groups: Vec::new(),
            ops: Vec::new(),
            logits: BufferId(0),
            vocab_size: width,
            max_position: 4096,
        };
        Self { plan, weights: MemoryWeights::default(), rng: Rng(width as u64) }
    }

    /// A weight with random values.
    pub fn weight(&mut self, dtype: DType, shape: &[usize], amplitude: f32) -> WeightId {
        let name = format!("weight {}", self.plan.weights.len());
        self.weights.random(&mut self.rng, &name, (dtype, shape), amplitude);
        self.plan.weights.push(WeightSpec::whole(name, shape.to_vec()));
        WeightId(self.plan.weights.len() - 1)
    }

    /// A buffer.
    pub fn buffer(&mut self, width: usize, rows: Rows) -> BufferId {
        self.plan.buffers.push(BufferSpec { name: format!("buffer {}", self.plan.buffers.len()), width, rows });
        BufferId(self.plan.buffers.len() - 1)
    }

    /// A buffer of random rows, one for each token id.
    pub fn input(&mut self, width: usize) -> BufferId {
        let weight = self.weight(DType::F32, &[self.plan.vocab_size, width], 1.0);
        let output = self.buffer(width, Rows::Tokens);
        self.plan.ops.push(Op::EmbedTokens { weight, output });
        output
    }

    /// Ends with `output` as the logits.
    pub fn finish(mut self, output: BufferId) -> (Plan, MemoryWeights) {
        let logits = self.buffer(self.plan.vocab_size, Rows::Logits);
        self.plan.ops.push(Op::GatherLogitRows { input: output, output: logits });
        self.plan.logits = logits;
        (self.plan, self.weights)
    }
}
