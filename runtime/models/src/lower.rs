//! Turns a [`ModelSpec`] into a [`Plan`]: ops in order over a handful of buffers that all layers share.
//!
//! Nothing is fused here; backends do that as they like.

use std::collections::HashMap;

use kindling_kernels::{
    Activation, BufferId, BufferSpec, CacheGroupId, CacheGroupKind, CacheGroupSpec, Op, Plan, RotaryId, RotarySpec,
    Rows, WeightId, WeightSpec,
};

use crate::spec::{Attention, FeedForward, GatedDense, Linear, Mixer, ModelSpec, Norm};

impl ModelSpec {
    /// Lowers the model. Each tensor becomes one weight, however often it is used.
    pub fn lower(&self) -> Plan {
        let mut lowering = Lowering::new(self);
        let tokens = |lowering: &mut Lowering, name| lowering.buffer(name, self.hidden_size, Rows::Tokens);
        let hidden = tokens(&mut lowering, "hidden");
        let normed = tokens(&mut lowering, "normed");
        let weight = lowering.weight(&self.embed_tokens, vec![self.vocab_size, self.hidden_size]);
        lowering.ops.push(Op::EmbedTokens { weight, output: hidden });
        for layer in &self.layers {
            lowering.norm(&layer.mixer_norm, hidden, normed);
            match &layer.mixer {
                Mixer::Attention(attention) => lowering.attention(attention, normed),
            }
            lowering.ops.push(Op::Add { input: normed, output: hidden });
            lowering.norm(&layer.feed_forward_norm, hidden, normed);
            match &layer.feed_forward {
                FeedForward::SiluGated(dense) => lowering.gated_dense(dense, Activation::Silu, normed),
            }
            lowering.ops.push(Op::Add { input: normed, output: hidden });
        }
        let last = lowering.buffer("last hidden", self.hidden_size, Rows::Logits);
        let logits = lowering.buffer("logits", self.vocab_size, Rows::Logits);
        lowering.ops.push(Op::GatherLogitRows { input: hidden, output: last });
        lowering.norm(&self.final_norm, last, last);
        lowering.linear(&self.lm_head, last, logits);
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
            let factors = rotary.frequency_factors.as_ref();
            let frequency_factors = factors.map(|name| lowering.weight(name, vec![rotary.rotary_dim / 2]));
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

    fn weight(&mut self, name: &str, shape: Vec<usize>) -> WeightId {
        if let Some(id) = self.weight_ids.get(name) {
            return *id;
        }
        let id = WeightId(self.weights.len());
        self.weights.push(WeightSpec::whole(name, shape));
        self.weight_ids.insert(name.to_owned(), id);
        id
    }

    fn norm(&mut self, norm: &Norm, input: BufferId, output: BufferId) {
        let weight = self.weight(&norm.weight, vec![self.spec.hidden_size]);
        let group_width = self.spec.hidden_size;
        let weight = Some(weight);
        self.ops.push(Op::RmsNorm { input, weight, eps: norm.eps, weight_offset: 0.0, group_width, output });
    }

    fn linear(&mut self, linear: &Linear, input: BufferId, output: BufferId) {
        let weight = self.weight(&linear.weight, vec![linear.out_features, linear.in_features]);
        let bias = linear.bias.as_ref().map(|name| self.weight(name, vec![linear.out_features]));
        self.ops.push(Op::Linear { input, weight, bias, output });
    }

    /// The next layer of the cache group that fits, and its number there.
    fn cache_layer(&mut self, attention: &Attention) -> (CacheGroupId, usize) {
        let Attention { num_kv_heads, head_dim, .. } = *attention;
        let fits = |group: &CacheGroupSpec| {
            group.kind == CacheGroupKind::Full && group.num_kv_heads == num_kv_heads && group.head_dim == head_dim
        };
        let index = self.cache_groups.iter().position(fits).unwrap_or_else(|| {
            let kind = CacheGroupKind::Full;
            self.cache_groups.push(CacheGroupSpec { kind, num_layers: 0, num_kv_heads, head_dim });
            self.cache_groups.len() - 1
        });
        let group = &mut self.cache_groups[index];
        group.num_layers += 1;
        (CacheGroupId(index), group.num_layers - 1)
    }

    /// Reads `normed` and leaves the result there.
    fn attention(&mut self, attention: &Attention, normed: BufferId) {
        let Attention { num_heads, num_kv_heads, head_dim, scale, .. } = *attention;
        let query = self.buffer("query", num_heads * head_dim, Rows::Tokens);
        let key = self.buffer("key", num_kv_heads * head_dim, Rows::Tokens);
        let value = self.buffer("value", num_kv_heads * head_dim, Rows::Tokens);
        let attended = self.buffer("attended", num_heads * head_dim, Rows::Tokens);
        self.linear(&attention.q_proj, normed, query);
        self.linear(&attention.k_proj, normed, key);
        self.linear(&attention.v_proj, normed, value);
        let table = RotaryId(attention.rotary);
        self.ops.push(Op::Rotary { buffer: query, num_heads, head_dim, table });
        self.ops.push(Op::Rotary { buffer: key, num_heads: num_kv_heads, head_dim, table });
        let (group, layer) = self.cache_layer(attention);
        self.ops.push(Op::KvCacheAppend { key, value, group, layer, kv_scales: None });
        let sinks = None;
        self.ops.push(Op::PagedAttention { query, output: attended, num_heads, scale, sinks, group, layer });
        self.linear(&attention.o_proj, attended, normed);
    }

    /// Reads `normed` and leaves the result there.
    fn gated_dense(&mut self, dense: &GatedDense, activation: Activation, normed: BufferId) {
        let gate = self.buffer("gate", dense.gate_proj.out_features, Rows::Tokens);
        let up = self.buffer("up", dense.up_proj.out_features, Rows::Tokens);
        self.linear(&dense.gate_proj, normed, gate);
        self.linear(&dense.up_proj, normed, up);
        self.ops.push(Op::GatedActivation { gate, up, activation, output: gate });
        self.linear(&dense.down_proj, gate, normed);
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
