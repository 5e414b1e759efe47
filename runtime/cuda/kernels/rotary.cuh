// Rotates the leading elements of each head by the token's position, in place.
#pragma once

#include "kernel.cuh"

// grid: tokens; block: any. `distance` of a pair's elements: half of the rotated ones, or 1 if pairs are neighbours.
KERNEL void rotary(float *buffer, const uint32_t *positions, const float *frequencies, unsigned num_heads, unsigned head_dim,
                   unsigned num_pairs, unsigned are_neighbours, float attention_factor) {
    float *row = buffer + (size_t)blockIdx.x * num_heads * head_dim;
    const float position = (float)positions[blockIdx.x];
    for (unsigned i = threadIdx.x; i < num_heads * num_pairs; i += blockDim.x) {
        const unsigned head = i / num_pairs, pair = i % num_pairs;
        float *first = row + head * head_dim + (are_neighbours ? 2 * pair : pair);
        float *second = first + (are_neighbours ? 1 : num_pairs);
        float sine, cosine;
        sincosf(position * frequencies[pair], &sine, &cosine);
        sine *= attention_factor, cosine *= attention_factor;
        const float x = *first, y = *second;
        *first = x * cosine - y * sine;
        *second = x * sine + y * cosine;
    }
}
