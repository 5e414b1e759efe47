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
    // Eight from an element on whose number is a multiple of eight, as BF16.
    __device__ static void eight_bf16(const uint8_t *kept, size_t element, uint32_t (&words)[4]) {
        const uint4 four = *reinterpret_cast<const uint4 *>(kept + 2 * element);
        words[0] = four.x, words[1] = four.y, words[2] = four.z, words[3] = four.w;
    }
};

// Divided by a scale that whoever reads has to multiply with.
struct KeptFp8 {
    static constexpr unsigned BYTES = 1;
    __device__ static float at(const uint8_t *kept, size_t element) { return kept_e4m3_to_float(kept[element]); }
    __device__ static void keep(uint8_t *kept, size_t element, float value, float scale) {
        kept[element] = (uint8_t)float_to_e4m3(value / scale);
    }
    // BF16 has all numbers of E4M3.
    __device__ static void eight_bf16(const uint8_t *kept, size_t element, uint32_t (&words)[4]) {
        const uint2 two = *reinterpret_cast<const uint2 *>(kept + element);
        for (unsigned i = 0; i < 4; ++i) {
            const uint32_t both = (i < 2 ? two.x : two.y) >> (i % 2 * 16);
            words[i] = pack_bf16(kept_e4m3_to_float(both & 255), kept_e4m3_to_float(both >> 8 & 255));
        }
    }
};
