// Reads memory and does next to nothing with it: what the memory gives at most.
#pragma once

#include "kernel.cuh"

// grid and block: any; `count` pieces of 16 bytes are read once. The result is written so that the reading is not left out.
KERNEL void read_bandwidth(const uint8_t *memory, uint32_t *results, unsigned long long count) {
    const unsigned long long stride = (unsigned long long)gridDim.x * blockDim.x;
    unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
    uint32_t sum = 0;
    for (; i + 3 * stride < count; i += 4 * stride) {
        uint4 pieces[4];
        for (unsigned j = 0; j < 4; ++j) {
            pieces[j] = *reinterpret_cast<const uint4 *>(memory + 16 * (i + j * stride));
        }
        for (unsigned j = 0; j < 4; ++j) {
            sum += pieces[j].x ^ pieces[j].y ^ pieces[j].z ^ pieces[j].w;
        }
    }
    for (; i < count; i += stride) {
        const uint4 piece = *reinterpret_cast<const uint4 *>(memory + 16 * i);
        sum += piece.x ^ piece.y ^ piece.z ^ piece.w;
    }
    results[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
