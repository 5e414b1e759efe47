// Causal softmax attention of each token over its sequence's cache. Positions are cut into spans at the same places whoever
// asks, and the results of spans are added in order: a token's result depends on its sequence alone.
#pragma once

#include "kv_cache.cuh"

constexpr unsigned ATTENTION_WARPS = 4;
// Positions of a span: what one block sees.
constexpr unsigned SPAN = 256;
// Elements of a head are at most 32 times this.
constexpr unsigned HEAD_SLICES = 16;

// What one span gives: [greatest score, sum of weights, weighted sum of values, [head_dim]].
constexpr unsigned SPAN_HEAD = 2;

struct AttentionRow {
    unsigned first;
    unsigned end;
    unsigned first_span;
};

// What a token sees; `window` 0 is everything.
__device__ inline AttentionRow attention_row(unsigned position, unsigned window) {
    const unsigned first = window != 0 && position + 1 > window ? position + 1 - window : 0;
    return {first, position + 1, first / SPAN};
}

// Writes a head from the parts of its spans.
__device__ inline void finish_head(const float *parts, unsigned num_parts, const float *sink, unsigned head_dim, float *output) {
    const unsigned lane = threadIdx.x % WARP, stride = head_dim + SPAN_HEAD;
    float greatest = sink ? *sink : -INFINITY;
    for (unsigned part = 0; part < num_parts; ++part) {
        greatest = fmaxf(greatest, parts[part * stride]);
    }
    float total = 0.0f;
    for (unsigned part = 0; part < num_parts; ++part) {
        total += parts[part * stride + 1] * expf(parts[part * stride] - greatest);
    }
    total += sink ? expf(*sink - greatest) : 0.0f;
    for (unsigned i = lane; i < head_dim; i += WARP) {
        float sum = 0.0f;
        for (unsigned part = 0; part < num_parts; ++part) {
            sum += parts[part * stride + SPAN_HEAD + i] * expf(parts[part * stride] - greatest);
        }
        output[i] = sum / total;
    }
}

// A block to a token, a head of keys and a span; its warps share the heads of queries, and a lane has one position of 32 at
// a time. grid: heads of keys, tokens, spans; block: 128; dynamic shared memory: head_dim floats for each warp.
template <class Kept>
__device__ inline void attend(const KvLayer &layer, const float *query, float *parts, const uint32_t *sequences,
                              const uint32_t *positions, const uint32_t *tables, unsigned table_len, unsigned num_heads,
                              unsigned window, float scale, float key_scale, float value_scale) {
    DYNAMIC_SHARED(float, queries);
    const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, head_dim = layer.head_dim;
    const unsigned token = blockIdx.y, kv_head = blockIdx.x;
    const AttentionRow row = attention_row(positions[token], window);
    const unsigned span = (row.first_span + blockIdx.z) * SPAN;
    const unsigned first = max(row.first, span), end = min(row.end, span + SPAN);
    const uint32_t *table = tables + (size_t)sequences[token] * table_len;
    const unsigned heads_each = num_heads / layer.num_heads;
    float *own_query = queries + warp * head_dim;
    for (unsigned head = kv_head * heads_each + warp; head < (kv_head + 1) * heads_each; head += ATTENTION_WARPS) {
        __syncwarp();
        for (unsigned i = lane; i < head_dim; i += WARP) {
            own_query[i] = query[((size_t)token * num_heads + head) * head_dim + i] * scale * key_scale;
        }
        __syncwarp();
        float greatest = -INFINITY, total = 0.0f;
        float sums[HEAD_SLICES] = {};
        for (unsigned start = span; start < end; start += WARP) {
            if (start + WARP <= first) {
                continue;
            }
            const unsigned position = start + lane;
            float score = -INFINITY;
            if (position >= first && position < end) {
                const size_t element = kv_element(layer, table, position, kv_head);
                score = 0.0f;
                if (head_dim % 8 == 0) {
                    for (unsigned i = 0; i < head_dim; i += 8) {
                        float key[8];
                        Kept::eight(layer.keys, element + i, key);
                        for (unsigned j = 0; j < 8; ++j) {
                            score = fmaf(own_query[i + j], key[j], score);
                        }
                    }
                } else {
                    for (unsigned i = 0; i < head_dim; ++i) {
                        score = fmaf(own_query[i], Kept::at(layer.keys, element + i), score);
                    }
                }
            }
            const float now = fmaxf(greatest, warp_max(score));
            const float correction = greatest == -INFINITY ? 0.0f : expf(greatest - now);
            const float weight = position >= first && position < end ? expf(score - now) : 0.0f;
            total = total * correction + warp_sum(weight);
            greatest = now;
#pragma unroll
            for (unsigned slice = 0; slice < HEAD_SLICES; ++slice) {
                sums[slice] *= correction;
            }
            const unsigned from = max(first, start) - start, to = min(end - start, WARP);
            for (unsigned other = from; other < to; ++other) {
                const float of_other = __shfl_sync(ALL_LANES, weight, other);
                const size_t element = kv_element(layer, table, start + other, kv_head);
#pragma unroll
                for (unsigned slice = 0; slice < HEAD_SLICES; ++slice) {
                    const unsigned i = slice * WARP + lane;
                    if (i < head_dim) {
                        sums[slice] = fmaf(of_other, Kept::at(layer.values, element + i), sums[slice]);
                    }
                }
            }
        }
        float *part = parts + (((size_t)token * num_heads + head) * gridDim.z + blockIdx.z) * (head_dim + SPAN_HEAD);
        if (lane == 0) {
            part[0] = greatest, part[1] = total;
        }
#pragma unroll
        for (unsigned slice = 0; slice < HEAD_SLICES; ++slice) {
            if (slice * WARP + lane < head_dim) {
                part[SPAN_HEAD + slice * WARP + lane] = sums[slice] * value_scale;
            }
        }
    }
}

#define ATTENTION_KERNEL(name, Kept)                                                                                            \
    KERNEL void __launch_bounds__(ATTENTION_WARPS *WARP)                                                                        \
        name(const uint8_t *keys, const uint8_t *values, const float *query, float *parts, const uint32_t *sequences,           \
             const uint32_t *positions, const uint32_t *tables, unsigned table_len, unsigned block_size, unsigned num_kv_heads, \
             unsigned head_dim, unsigned num_heads, unsigned window, float scale, float key_scale, float value_scale) {         \
        const KvLayer layer = {keys, values, block_size, num_kv_heads, head_dim};                                               \
        attend<Kept>(layer, query, parts, sequences, positions, tables, table_len, num_heads, window, scale, key_scale,         \
                     value_scale);                                                                                              \
    }

ATTENTION_KERNEL(paged_attention_bf16, KeptBf16)
ATTENTION_KERNEL(paged_attention_fp8, KeptFp8)
#undef ATTENTION_KERNEL

// The spans of each head together. A warp to a head; grid: heads, tokens; block: 32. `sinks` may be missing.
KERNEL void __launch_bounds__(WARP) paged_attention_finish(const float *parts, const float *sinks, float *output, unsigned head_dim,
                                                           unsigned num_parts) {
    const size_t head = (size_t)blockIdx.y * gridDim.x + blockIdx.x;
    finish_head(parts + head * num_parts * (head_dim + SPAN_HEAD), num_parts, sinks ? sinks + blockIdx.x : nullptr, head_dim,
                output + head * head_dim);
}
