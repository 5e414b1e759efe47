// Keys and values of one cache group: [layer][block][head][position in the block][element], keys and values each.
#pragma once

#include "kernel.cuh"

// Of one layer.
struct KvLayer {
    const uint8_t *keys;
    const uint8_t *values;
    unsigned block_size;
    unsigned num_heads;
    unsigned head_dim;
};

// The first element of a head at a position.
__device__ inline size_t kv_element(const KvLayer &layer, const uint32_t *table, unsigned position, unsigned head) {
    const size_t block = table[position / layer.block_size];
    return ((block * layer.num_heads + head) * layer.block_size + position % layer.block_size) * layer.head_dim;
}

struct KeptBf16 {
    static constexpr unsigned BYTES = 2;
    __device__ static float at(const uint8_t *kept, size_t element) {
        return bf16_to_float(reinterpret_cast<const uint16_t *>(kept)[element]);
    }
    __device__ static void keep(uint8_t *kept, size_t element, float value, float) {
        reinterpret_cast<uint16_t *>(kept)[element] = (uint16_t)float_to_bf16(value);
    }
    // Eight from an element on whose number is a multiple of eight.
    __device__ static void eight(const uint8_t *kept, size_t element, float (&values)[8]) {
        const uint4 four = *reinterpret_cast<const uint4 *>(kept + 2 * element);
        const uint32_t words[4] = {four.x, four.y, four.z, four.w};
        for (unsigned i = 0; i < 4; ++i) {
            values[2 * i] = bf16_to_float(words[i] & 0xffff);
            values[2 * i + 1] = bf16_to_float(words[i] >> 16);
        }
    }
};

// Divided by a scale that whoever reads has to multiply with.
struct KeptFp8 {
    static constexpr unsigned BYTES = 1;
    __device__ static float at(const uint8_t *kept, size_t element) { return kept_e4m3_to_float(kept[element]); }
    __device__ static void keep(uint8_t *kept, size_t element, float value, float scale) {
        kept[element] = (uint8_t)float_to_e4m3(value / scale);
    }
    __device__ static void eight(const uint8_t *kept, size_t element, float (&values)[8]) {
        const uint2 two = *reinterpret_cast<const uint2 *>(kept + element);
        for (unsigned i = 0; i < 8; ++i) {
            values[i] = kept_e4m3_to_float((i < 4 ? two.x : two.y) >> (i % 4 * 8) & 255);
        }
    }
};
