//! Lowers what mixes tokens, and gives each layer its place in a cache group.

use kindling_kernels::{BufferId, CacheGroupId, CacheGroupKind, CacheGroupSpec, Op, RotaryId, Rows};

use super::Lowering;
use crate::spec::Attention;

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
        self.linear(&attention.v_proj, normed, value);
        for (norm, buffer) in [(&attention.q_norm, query), (&attention.k_norm, key)] {
            if let Some(norm) = norm {
                self.norm(norm, buffer, buffer);
            }
        }
        if let Some(table) = attention.rotary.map(RotaryId) {
            self.ops.push(Op::Rotary { buffer: query, num_heads, head_dim, table });
            self.ops.push(Op::Rotary { buffer: key, num_heads: num_kv_heads, head_dim, table });
        }
        let (group, layer) = self.cache_layer(attention);
        let scales = attention.kv_scales.as_ref();
        let kv_scales = scales.map(|[key, value]| (self.weight(key), self.weight(value)));
        self.ops.push(Op::KvCacheAppend { key, value, group, layer, kv_scales });
        let sinks = attention.sinks.as_ref().map(|sinks| self.weight(sinks));
        self.ops.push(Op::PagedAttention { query, output, num_heads, scale, sinks, group, layer });
        self.linear(&attention.o_proj, output, normed);
        normed
    }

    /// The next layer of the cache group that fits, and its number there.
    fn cache_layer(&mut self, attention: &Attention) -> (CacheGroupId, usize) {
        let Attention { num_kv_heads, head_dim, window, .. } = *attention;
        let kind = window.map_or(CacheGroupKind::Full, |window| CacheGroupKind::Window { window });
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
