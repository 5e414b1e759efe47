//! Keys and values into the cache, and attention over it.

use kindling_kernels::{CacheGroupKind, KvType, Op, Plan};

use super::{CudaModel, StepSize};
use crate::activations::{most_spans, token_span_bytes};
use crate::attention_shape::{Heads, attention_shape, is_few, kernel};
use crate::backend::kept_name;
use crate::driver::GpuError;
use crate::launch::{Arg, Shape};
use crate::weights::Weights;

/// What keys and values of 8 bits are divided by, by group and layer: 1 where the checkpoint says nothing, and in wider caches.
pub(super) fn kv_scales(plan: &Plan, weights: &Weights, kv_type: KvType) -> Vec<Vec<[f32; 2]>> {
    let mut all: Vec<Vec<[f32; 2]>> = plan.cache_groups.iter().map(|group| vec![[1.0; 2]; group.num_layers]).collect();
    for op in plan.ops.iter().filter(|_| kv_type == KvType::F8E4M3) {
        if let Op::KvCacheAppend { group, layer, kv_scales: Some((key, value)), .. } = *op {
            all[group.0][layer] = [key, value].map(|id| weights.values(plan, id)[0]);
        }
    }
    all
}

impl CudaModel {
    /// Writes a step's keys and values.
    pub(super) fn kv_cache_append(&self, op: &Op, size: StepSize) -> Result<(), GpuError> {
        let Op::KvCacheAppend { key, value, group, layer, kv_scales: _ } = *op else {
            unreachable!("start should have seen to {}", op.name())
        };
        let [keys, values] = self.caches.layer(group, layer);
        let [key_scale, value_scale] = self.kv_scales[group.0][layer];
        let spec = &self.plan.cache_groups[group.0];
        let places = &self.places.step_places;
        let args = [
            Arg::At(keys),
            Arg::At(values),
            Arg::At(self.at(key)),
            Arg::At(self.at(value)),
            Arg::At(self.of_step(places.sequences)),
            Arg::At(self.of_step(places.positions)),
            Arg::At(self.of_step(places.tables[group.0])),
            Arg::U32(places.table_len as u32),
            Arg::U32(self.limits.block_size as u32),
            Arg::U32(spec.num_kv_heads as u32),
            Arg::U32(spec.head_dim as u32),
            Arg::F32(key_scale),
            Arg::F32(value_scale),
        ];
        let name = format!("kv_cache_append_{}", kept_name(self.limits.kv_type));
        self.kernels.launch(&name, Shape::rows(size.tokens), &args)
    }

    /// Attention of as many tokens at a time as there is room for the results of their spans.
    pub(super) fn paged_attention(&self, op: &Op, size: StepSize) -> Result<(), GpuError> {
        let Op::PagedAttention { query, output, num_heads, scale, sinks, group, layer } = *op else {
            unreachable!("start should have seen to {}", op.name())
        };
        let spec = &self.plan.cache_groups[group.0];
        // Steps of few tokens start the same grids however long contexts have become.
        let context = if is_few(size.tokens as usize) { self.limits.max_context } else { size.context };
        let spans = most_spans(spec, context);
        let of_token = token_span_bytes(spec, num_heads, spans).unwrap_or(usize::MAX);
        let at_a_time = (self.places.span_bytes / of_token).max(1) as u32;
        let window = match spec.kind {
            CacheGroupKind::Window { window } => window as u32,
            CacheGroupKind::Full | CacheGroupKind::Recurrent { .. } => 0,
        };
        let [keys, values] = self.caches.layer(group, layer);
        let [key_scale, value_scale] = self.kv_scales[group.0][layer];
        let parts = self.activations.at(self.places.spans);
        let sinks = sinks.map_or(0, |sinks| self.weights.vector(&self.plan, sinks));
        let places = &self.places.step_places;
        let heads = Heads { num_heads, num_kv_heads: spec.num_kv_heads, head_dim: spec.head_dim };
        for first in (0..size.tokens).step_by(at_a_time as usize) {
            let tokens = at_a_time.min(size.tokens - first);
            let row = u64::from(first) * u64::from(self.width(query)) * size_of::<f32>() as u64;
            let word = u64::from(first) * size_of::<u32>() as u64;
            let chosen = attention_shape(heads, (tokens as usize, size.tokens as usize), spans);
            let positions = Arg::At(self.of_step(places.positions) + word);
            let args = [
                Arg::At(keys),
                Arg::At(values),
                Arg::At(self.at(query) + row),
                Arg::At(parts),
                Arg::At(self.of_step(places.sequences) + word),
                positions,
                Arg::At(self.of_step(places.tables[group.0])),
                Arg::U32(places.table_len as u32),
                Arg::U32(self.limits.block_size as u32),
                Arg::U32(spec.num_kv_heads as u32),
                Arg::U32(spec.head_dim as u32),
                Arg::U32(num_heads as u32),
                Arg::U32(window),
                Arg::U32(tokens),
                Arg::U32(chosen.tokens_each as u32),
                Arg::U32(spans as u32),
                Arg::F32(scale),
                Arg::F32(key_scale),
                Arg::F32(value_scale),
            ];
            let name = kernel(kept_name(self.limits.kv_type), chosen.tile);
            self.kernels.launch(&name, chosen.shape, &args)?;
            let args = [
                Arg::At(parts),
                Arg::At(sinks),
                Arg::At(self.at(output) + row),
                positions,
                Arg::U32(window),
                Arg::U32(spec.head_dim as u32),
                Arg::U32(spans as u32),
            ];
            self.kernels.launch("paged_attention_finish", Shape::warps((num_heads as u32, tokens)), &args)?;
        }
        Ok(())
    }
}
