//! Turns a [`ModelSpec`] into a [`Plan`]: ops in order over a handful of buffers that all layers share.
//!
//! Nothing is fused here; backends do that as they like.

mod mixer;

use std::collections::HashMap;

use kindling_kernels::{
    BufferId, BufferSpec, CacheGroupSpec, ExpertWeights, Op, Plan, RotarySpec, Rows, WeightId, WeightSpec,
};

use crate::spec::{Experts, FeedForward, GatedDense, Layer, Linear, Mixer, ModelSpec, Moe, Norm};

impl ModelSpec {
    /// Lowers the model. Each name becomes one weight, however often it is used.
    pub fn lower(&self) -> Plan {
        let mut lowering = Lowering::new(self);
        let hidden = lowering.hidden_buffer("hidden");
        let weight = lowering.weight(&self.embed_tokens);
        lowering.ops.push(Op::EmbedTokens { weight, output: hidden });
        if let Some(factor) = self.embedding_scale {
            lowering.ops.push(Op::Scale { buffer: hidden, factor, weight: None });
        }
        for layer in &self.layers {
            lowering.layer(layer, hidden);
        }
        let last = lowering.buffer("last hidden", self.hidden_size, Rows::Logits);
        let logits = lowering.buffer("logits", self.vocab_size, Rows::Logits);
        lowering.ops.push(Op::GatherLogitRows { input: hidden, output: last });
        lowering.norm(&self.final_norm, last, last);
        lowering.linear(&self.lm_head, last, logits);
        if let Some(cap) = self.final_logit_softcap {
            lowering.ops.push(Op::SoftCap { buffer: logits, cap });
        }
        lowering.finish(logits)
    }
}

/// What grows while the spec is walked.
struct Lowering<'a> {
    spec: &'a ModelSpec,
    weights: Vec<WeightSpec>,
    weight_ids: HashMap<String, WeightId>,
    buffers: Vec<BufferSpec>,
    rotaries: Vec<RotarySpec>,
    cache_groups: Vec<CacheGroupSpec>,
    ops: Vec<Op>,
}

impl<'a> Lowering<'a> {
    fn new(spec: &'a ModelSpec) -> Self {
        let mut lowering = Self {
            spec,
            weights: Vec::new(),
            weight_ids: HashMap::new(),
            buffers: Vec::new(),
            rotaries: Vec::new(),
            cache_groups: Vec::new(),
            ops: Vec::new(),
        };
        for rotary in &spec.rotaries {
            let frequency_factors = rotary.frequency_factors.as_ref().map(|factors| lowering.weight(factors));
            lowering.rotaries.push(RotarySpec {
                rotary_dim: rotary.rotary_dim,
                theta: rotary.theta,
                style: rotary.style,
                scaling: rotary.scaling,
                frequency_factors,
            });
        }
        lowering
    }

    /// The buffer of this name and width, made at its first use.
    fn buffer(&mut self, name: &str, width: usize, rows: Rows) -> BufferId {
        let wanted = BufferSpec { name: name.to_owned(), width, rows };
        let known = self.buffers.iter().position(|buffer| *buffer == wanted);
        BufferId(known.unwrap_or_else(|| {
            self.buffers.push(wanted);
            self.buffers.len() - 1
        }))
    }

    fn hidden_buffer(&mut self, name: &str) -> BufferId {
        self.buffer(name, self.spec.hidden_size, Rows::Tokens)
    }

    fn weight(&mut self, weight: &WeightSpec) -> WeightId {
        if let Some(id) = self.weight_ids.get(&weight.name) {
            debug_assert_eq!(self.weights[id.0], *weight, "two weights should not share a name");
            return *id;
        }
        let id = WeightId(self.weights.len());
        self.weights.push(weight.clone());
        self.weight_ids.insert(weight.name.clone(), id);
        id
    }

    fn norm(&mut self, norm: &Norm, input: BufferId, output: BufferId) {
        let weight = norm.weight.as_ref().map(|weight| self.weight(weight));
        let Norm { eps, offset: weight_offset, width: group_width, .. } = *norm;
        self.ops.push(Op::RmsNorm { input, weight, eps, weight_offset, group_width, output });
    }

    fn linear(&mut self, linear: &Linear, input: BufferId, output: BufferId) {
        let weight = self.weight(&linear.weight);
        let bias = linear.bias.as_ref().map(|bias| self.weight(bias));
        self.ops.push(Op::Linear { input, weight, bias, output });
    }

    fn layer(&mut self, layer: &Layer, hidden: BufferId) {
        let normed = self.hidden_buffer("normed");
        self.norm(&layer.mixer_norm, hidden, normed);
        let mixed = match &layer.mixer {
            Mixer::Attention(attention) => self.attention(attention, normed),
            Mixer::GatedDeltaNet(net) => self.gated_delta_net(net, normed),
        };
        self.add_to_residual(mixed, layer.post_mixer_norm.as_ref(), hidden);
        self.norm(&layer.feed_forward_norm, hidden, normed);
        let fed = match &layer.feed_forward {
            FeedForward::Gated(dense) => self.gated_dense(dense, normed),
            FeedForward::Moe(moe) => self.moe(moe, normed),
        };
        self.add_to_residual(fed, layer.post_feed_forward_norm.as_ref(), hidden);
        if let Some(scale) = &layer.output_scale {
            let weight = Some(self.weight(scale));
            self.ops.push(Op::Scale { buffer: hidden, factor: 1.0, weight });
        }
    }

    fn add_to_residual(&mut self, part: BufferId, norm: Option<&Norm>, hidden: BufferId) {
        if let Some(norm) = norm {
            self.norm(norm, part, part);
        }
        self.ops.push(Op::Add { input: part, output: hidden });
    }

    /// Reads `normed` and leaves the result there.
    fn gated_dense(&mut self, dense: &GatedDense, normed: BufferId) -> BufferId {
        let gate = self.buffer("gate", dense.gate_proj.out_features(), Rows::Tokens);
        let up = self.buffer("up", dense.up_proj.out_features(), Rows::Tokens);
        self.linear(&dense.gate_proj, normed, gate);
        self.linear(&dense.up_proj, normed, up);
        self.ops.push(Op::GatedActivation { gate, up, activation: dense.activation, output: gate });
        self.linear(&dense.down_proj, gate, normed);
        normed
    }

    /// Reads `normed`, which a shared expert overwrites; the result is in another buffer.
    fn moe(&mut self, moe: &Moe, normed: BufferId) -> BufferId {
        let Moe { rule, top_k, activation, .. } = *moe;
        let num_experts = moe.router.out_features();
        let logits = self.buffer("router logits", num_experts, Rows::Tokens);
        let routes = self.buffer("routes", num_experts, Rows::Tokens);
        let output = self.hidden_buffer("experts");
        self.linear(&moe.router, normed, logits);
        self.ops.push(Op::MoeRoute { logits, rule, top_k, output: routes });
        let experts = self.experts(&moe.experts);
        self.ops.push(Op::MoeExperts { input: normed, routes, experts, activation, top_k, output });
        if let Some(shared) = &moe.shared {
            let gate = shared.gate.as_ref().map(|linear| {
                let gate = self.buffer("shared expert's gate", 1, Rows::Tokens);
                self.linear(linear, normed, gate);
                gate
            });
            let shared = self.gated_dense(&shared.dense, normed);
            if let Some(gate) = gate {
                self.ops.push(Op::SigmoidGateRows { gate, output: shared });
            }
            self.ops.push(Op::Add { input: shared, output });
        }
        output
    }

    fn experts(&mut self, experts: &Experts) -> ExpertWeights {
        let [gate_bias, up_bias, down_bias] = match &experts.biases {
            Some(biases) => biases.each_ref().map(|bias| Some(self.weight(bias))),
            None => [None; 3],
        };
        ExpertWeights {
            gate: self.weight(&experts.gate_proj),
            up: self.weight(&experts.up_proj),
            down: self.weight(&experts.down_proj),
            gate_bias,
            up_bias,
            down_bias,
        }
    }

    fn finish(self, logits: BufferId) -> Plan {
        Plan {
            weights: self.weights,
            buffers: self.buffers,
            rotaries: self.rotaries,
            cache_groups: self.cache_groups,
            ops: self.ops,
            logits,
            vocab_size: self.spec.vocab_size,
            max_position: self.spec.context_length,
        }
    }
}

#[cfg(test)]
mod tests;
