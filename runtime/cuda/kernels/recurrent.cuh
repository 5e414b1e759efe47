// Layers that keep a state of constant size for each sequence: a convolution over its last inputs, and the gated delta rule. A
// sequence's tokens are taken one after another, so its bits do not depend on how they are cut into steps.
#pragma once

#include "kernel.cuh"

// Inputs that a convolution may see.
constexpr unsigned MOST_TAPS = 8;
// Columns of a memory to one block, and how many threads share a column.
constexpr unsigned MEMORY_COLUMNS = 32;
constexpr unsigned COLUMN_SHARERS = 16;
// Elements of a column that a thread has: keys have at most 16 times as many.
constexpr unsigned OWN_KEYS = 16;

// The sequences of a step: where the rows of each begin, with the end of the last one, and where its slot is noted.
struct StatesOf {
    float *states;
    const uint32_t *starts, *tables;
    unsigned table_len, layers, layer, state_len;

    __device__ float *state(unsigned sequence) const {
        const size_t slot = tables[(size_t)sequence * table_len];
        return states + (slot * layers + layer) * state_len;
    }
};

// A thread to a channel of a sequence. `kept` of a state begins at `kept_at`: [taps - 1, channels], oldest first.
// grid: channels / 128, sequences; block: 128.
KERNEL void causal_conv(float *rows, const float *weight, float *states, const uint32_t *starts, const uint32_t *tables,
                        unsigned table_len, unsigned layers, unsigned layer, unsigned state_len, unsigned kept_at, unsigned channels,
                        unsigned taps) {
    const unsigned channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= channels) {
        return;
    }
    const StatesOf of = {states, starts, tables, table_len, layers, layer, state_len};
    float *kept = of.state(blockIdx.y) + kept_at + channel;
    float seen[MOST_TAPS], factors[MOST_TAPS];
#pragma unroll
    for (unsigned tap = 0; tap < MOST_TAPS; ++tap) {
        // The last one comes with each token.
        seen[tap] = tap + 1 < taps ? kept[(size_t)tap * channels] : 0.0f;
        factors[tap] = tap < taps ? weight[(size_t)channel * taps + tap] : 0.0f;
    }
    for (unsigned row = starts[blockIdx.y]; row < starts[blockIdx.y + 1]; ++row) {
        float &here = rows[(size_t)row * channels + channel];
        const float newest = here;
        float sum = 0.0f;
#pragma unroll
        for (unsigned tap = 0; tap < MOST_TAPS; ++tap) {
            const float input = tap + 1 == taps ? newest : seen[tap];
            sum = tap < taps ? fmaf(factors[tap], input, sum) : sum;
        }
#pragma unroll
        for (unsigned tap = 0; tap + 1 < MOST_TAPS; ++tap) {
            seen[tap] = tap + 2 == taps ? newest : seen[tap + 1];
        }
        here = sum * sigmoid(sum);
    }
    for (unsigned tap = 0; tap + 1 < MOST_TAPS; ++tap) {
        if (tap + 1 < taps) {
            kept[(size_t)tap * channels] = seen[tap];
        }
    }
}

// ln(1 + e^x).
__device__ inline float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

// A sum for each column, of which every warp has a part; added in the order of warps.
__device__ inline float column_sum(float (&parts)[COLUMN_SHARERS][MEMORY_COLUMNS], float part, unsigned column, unsigned sharer) {
    __syncthreads();
    parts[sharer][column] = part;
    __syncthreads();
    float sum = 0.0f;
    for (unsigned other = 0; other < COLUMN_SHARERS; ++other) {
        sum += parts[other][column];
    }
    return sum;
}

// A block to 32 columns of the memory of one head of one sequence, [key_dim, value_dim]; its threads hold them while they take
// the sequence's tokens.
// grid: value heads by columns / 32, sequences; block: 512.
KERNEL void __launch_bounds__(MEMORY_COLUMNS *COLUMN_SHARERS, 1)
    gated_delta_rule(const float *qkv, const float *beta, const float *alpha, const float *a_log, const float *dt_bias, float *states,
                     const uint32_t *starts, const uint32_t *tables, unsigned table_len, unsigned layers, unsigned layer,
                     unsigned state_len, unsigned key_heads, unsigned value_heads, unsigned key_dim, unsigned value_dim, float *output) {
    __shared__ float parts[COLUMN_SHARERS][MEMORY_COLUMNS];
    __shared__ float query[OWN_KEYS * COLUMN_SHARERS], key[OWN_KEYS * COLUMN_SHARERS];
    __shared__ float inverse_lengths[2];
    const unsigned lane = threadIdx.x % MEMORY_COLUMNS, sharer = threadIdx.x / MEMORY_COLUMNS;
    const unsigned tiles = (value_dim + MEMORY_COLUMNS - 1) / MEMORY_COLUMNS;
    const unsigned head = blockIdx.x / tiles, column = blockIdx.x % tiles * MEMORY_COLUMNS + lane;
    const unsigned key_head = head / (value_heads / key_heads);
    const bool is_column = column < value_dim;
    const StatesOf of = {states, starts, tables, table_len, layers, layer, state_len};
    float *memory = of.state(blockIdx.y) + (size_t)head * key_dim * value_dim;
    const unsigned channels = 2 * key_heads * key_dim + value_heads * value_dim;
    float own[OWN_KEYS];
#pragma unroll
    for (unsigned i = 0; i < OWN_KEYS; ++i) {
        const unsigned k = i * COLUMN_SHARERS + sharer;
        own[i] = is_column && k < key_dim ? memory[(size_t)k * value_dim + column] : 0.0f;
    }
    const float rate = -expf(a_log[head]);
    for (unsigned row = starts[blockIdx.y]; row < starts[blockIdx.y + 1]; ++row) {
        const float *token = qkv + (size_t)row * channels;
        __syncthreads();
        for (unsigned k = threadIdx.x; k < OWN_KEYS * COLUMN_SHARERS; k += MEMORY_COLUMNS * COLUMN_SHARERS) {
            query[k] = k < key_dim ? token[key_head * key_dim + k] : 0.0f;
            key[k] = k < key_dim ? token[(key_heads + key_head) * key_dim + k] : 0.0f;
        }
        __syncthreads();
        if (sharer < 2) {
            const float *vector = sharer == 0 ? query : key;
            float squares = 0.0f;
            for (unsigned k = lane; k < key_dim; k += WARP) {
                squares = fmaf(vector[k], vector[k], squares);
            }
            squares = warp_sum(squares);
            if (lane == 0) {
                inverse_lengths[sharer] = 1.0f / sqrtf(squares + 1e-6f);
            }
        }
        __syncthreads();
        const float query_scale = inverse_lengths[0] / sqrtf((float)key_dim), key_scale = inverse_lengths[1];
        const size_t of_head = (size_t)row * value_heads + head;
        const float decay = expf(rate * softplus(alpha[of_head] + dt_bias[head]));
        float recalled = 0.0f;
#pragma unroll
        for (unsigned i = 0; i < OWN_KEYS; ++i) {
            own[i] *= decay;
            recalled = fmaf(own[i], key[i * COLUMN_SHARERS + sharer] * key_scale, recalled);
        }
        recalled = column_sum(parts, recalled, lane, sharer);
        const float value = is_column ? token[2 * key_heads * key_dim + head * value_dim + column] : 0.0f;
        const float correction = (value - recalled) * sigmoid(beta[of_head]);
        float read = 0.0f;
#pragma unroll
        for (unsigned i = 0; i < OWN_KEYS; ++i) {
            own[i] = fmaf(key[i * COLUMN_SHARERS + sharer] * key_scale, correction, own[i]);
            read = fmaf(own[i], query[i * COLUMN_SHARERS + sharer] * query_scale, read);
        }
        read = column_sum(parts, read, lane, sharer);
        if (sharer == 0 && is_column) {
            output[((size_t)row * value_heads + head) * value_dim + column] = read;
        }
    }
#pragma unroll
    for (unsigned i = 0; i < OWN_KEYS; ++i) {
        const unsigned k = i * COLUMN_SHARERS + sharer;
        if (is_column && k < key_dim) {
            memory[(size_t)k * value_dim + column] = own[i];
        }
    }
}
