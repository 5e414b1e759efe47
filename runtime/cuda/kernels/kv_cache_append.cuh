// Writes a step's keys and values into the blocks of each sequence.
#pragma once

#include "kv_cache.cuh"

// grid: tokens; block: any. `tables`: a row of block numbers for each sequence.
template <class Kept>
__device__ inline void append(uint8_t *keys, uint8_t *values, const float *key_rows, const float *value_rows,
                              const uint32_t *sequences, const uint32_t *positions, const uint32_t *tables, unsigned table_len,
                              unsigned block_size, unsigned num_heads, unsigned head_dim, float key_scale, float value_scale) {
    const KvLayer layer = {keys, values, block_size, num_heads, head_dim};
    const uint32_t *table = tables + (size_t)sequences[blockIdx.x] * table_len;
    const unsigned width = num_heads * head_dim;
    for (unsigned i = threadIdx.x; i < width; i += blockDim.x) {
        const size_t element = kv_element(layer, table, positions[blockIdx.x], i / head_dim) + i % head_dim;
        Kept::keep(keys, element, key_rows[(size_t)blockIdx.x * width + i], key_scale);
        Kept::keep(values, element, value_rows[(size_t)blockIdx.x * width + i], value_scale);
    }
}

#define APPEND_KERNEL(name, Kept)                                                                                               \
    KERNEL void name(uint8_t *keys, uint8_t *values, const float *key_rows, const float *value_rows, const uint32_t *sequences, \
                     const uint32_t *positions, const uint32_t *tables, unsigned table_len, unsigned block_size,                \
                     unsigned num_heads, unsigned head_dim, float key_scale, float value_scale) {                               \
        append<Kept>(keys, values, key_rows, value_rows, sequences, positions, tables, table_len, block_size, num_heads,        \
                     head_dim, key_scale, value_scale);                                                                         \
    }

APPEND_KERNEL(kv_cache_append_bf16, KeptBf16)
APPEND_KERNEL(kv_cache_append_fp8, KeptFp8)
#undef APPEND_KERNEL
