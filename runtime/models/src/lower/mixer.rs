//! Lowers what mixes tokens, and gives each layer its place in a cache group.

use kindling_kernels::{Activation, BufferId, CacheGroupId, CacheGroupKind, CacheGroupSpec, Op, RotaryId, Rows};

use super::Lowering;
use crate::spec::{Attention, GatedDeltaNet, Linear};

impl Lowering<'_> {
    /// Reads `normed` and leaves the result there.
    pub(super) fn attention(&mut self, attention: &Attention, normed: BufferId) -> BufferId {
        let Attention { num_heads, num_kv_heads, head_dim, scale, .. } = *attention;
        let query = self.buffer("query", num_heads * head_dim, Rows::Tokens);
        let key = self.buffer("key", num_kv_heads * head_dim, Rows::Tokens);
        let value = self.buffer("value", num_kv_heads * head_dim, Rows::Tokens);
        let output = self.buffer("attended", num_heads * head_dim, Rows::Tokens);
        self.linear(&attention.q_proj, normed, query);
        self.linear(&attention.k_proj, normed, key);
        match &attention.v_norm {
            // Values are keys before their norm: no second product.
            Some(norm) if attention.v_proj == attention.k_proj => self.norm(norm, key, value),
            norm => {
                self.linear(&attention.v_proj, normed, value);
                norm.iter().for_each(|norm| self.norm(norm, value, value));
            }
        }
        for (norm, buffer) in [(&attention.q_norm, query), (&attention.k_norm, key)] {
            if let Some(norm) = norm {
                self.norm(norm, buffer, buffer);
            }
        }
        if let Some(table) = attention.rotary.map(RotaryId) {
            self.ops.push(Op::Rotary { buffer: query, num_heads, head_dim, table });
            self.ops.push(Op::Rotary { buffer: key, num_heads: num_kv_heads, head_dim, table });
        }
        let kind = attention.window.map_or(CacheGroupKind::Full, |window| CacheGroupKind::Window { window });
        let (group, layer) = self.cache_layer(kind, num_kv_heads, head_dim);
        let scales = attention.kv_scales.as_ref();
        let kv_scales = scales.map(|[key, value]| (self.weight(key), self.weight(value)));
        self.ops.push(Op::KvCacheAppend { key, value, group, layer, kv_scales });
        let sinks = attention.sinks.as_ref().map(|sinks| self.weight(sinks));
        self.ops.push(Op::PagedAttention { query, output, num_heads, scale, sinks, group, layer });
        if let Some(gate_proj) = &attention.gate_proj {
            self.attention_gate(gate_proj, normed, output);
        }
        self.linear(&attention.o_proj, output, normed);
        normed
    }

    /// Multiplies what is attended to by the sigmoid of a projection of `normed`.
    fn attention_gate(&mut self, gate_proj: &Linear, normed: BufferId, output: BufferId) {
        let gate = self.buffer("attention gate", gate_proj.out_features(), Rows::Tokens);
        self.linear(gate_proj, normed, gate);
        self.ops.push(Op::GatedActivation { gate, up: output, activation: Activation::Sigmoid, output });
    }

    /// Reads `normed` and leaves the result there.
    pub(super) fn gated_delta_net(&mut self, net: &GatedDeltaNet, normed: BufferId) -> BufferId {
        let shape = net.shape;
        let heads = shape.num_value_heads;
        let qkv = self.buffer("delta qkv", shape.conv_channels(), Rows::Tokens);
        let z = self.buffer("delta z", heads * shape.value_dim, Rows::Tokens);
        let beta = self.buffer("delta beta", heads, Rows::Tokens);
        let alpha = self.buffer("delta alpha", heads, Rows::Tokens);
        let output = self.buffer("recalled", heads * shape.value_dim, Rows::Tokens);
        self.linear(&net.qkv_proj, normed, qkv);
        self.linear(&net.z_proj, normed, z);
        self.linear(&net.beta_proj, normed, beta);
        self.linear(&net.alpha_proj, normed, alpha);
        let kind = CacheGroupKind::Recurrent { state_len: shape.state_len() };
        let (group, layer) = self.cache_layer(kind, 0, 0);
        let weight = self.weight(&net.conv);
        self.ops.push(Op::CausalConv { buffer: qkv, weight, shape, group, layer });
        let (a_log, dt_bias) = (self.weight(&net.a_log), self.weight(&net.dt_bias));
        self.ops.push(Op::GatedDeltaRule { qkv, beta, alpha, a_log, dt_bias, shape, group, layer, output });
        self.norm(&net.norm, output, output);
        self.ops.push(Op::GatedActivation { gate: z, up: output, activation: Activation::Silu, output });
        self.linear(&net.out_proj, output, normed);
        normed
    }

    /// The next layer of the cache group that fits, and its number there.
    fn cache_layer(&mut self, kind: CacheGroupKind, num_kv_heads: usize, head_dim: usize) -> (CacheGroupId, usize) {
        let fits = |group: &CacheGroupSpec| {
            group.kind == kind && group.num_kv_heads == num_kv_heads && group.head_dim == head_dim
        };
        let index = self.cache_groups.iter().position(fits).unwrap_or_else(|| {
            self.cache_groups.push(CacheGroupSpec { kind, num_layers: 0, num_kv_heads, head_dim });
            self.cache_groups.len() - 1
        });
        let group = &mut self.cache_groups[index];
        group.num_layers += 1;
        (CacheGroupId(index), group.num_layers - 1)
    }
}
