// Experts: which ones a token goes to, and the sum of what they give.
#pragma once

#include "kernel.cuh"

constexpr unsigned NOBODY = 0xffffffffu;
constexpr unsigned SOFTMAX_THEN_TOP = 0, SOFTMAX_THEN_TOP_NORMALISED = 1, TOP_THEN_SOFTMAX = 2;

// From a router's logits to the weights of experts, 0 for those not chosen; ties go to the lower index. The chosen ones are
// found one after another. A warp to a token; grid: tokens; block: 32.
KERNEL void __launch_bounds__(WARP) moe_route(const float *logits, float *routes, unsigned num_experts, unsigned rule, unsigned top_k) {
    const unsigned lane = threadIdx.x;
    const float *own = logits + (size_t)blockIdx.x * num_experts;
    float *weights = routes + (size_t)blockIdx.x * num_experts;
    for (unsigned i = lane; i < num_experts; i += WARP) {
        weights[i] = 0.0f;
    }
    __syncwarp();
    float highest = 0.0f, last = INFINITY, sum_of_chosen = 0.0f;
    unsigned last_index = 0;
    for (unsigned round = 0; round < top_k; ++round) {
        // The greatest of those that come after the one before: smaller, or equal and later.
        float best = -INFINITY;
        unsigned best_index = NOBODY;
        for (unsigned i = lane; i < num_experts; i += WARP) {
            const bool is_left = round == 0 || own[i] < last || (own[i] == last && i > last_index);
            if (is_left && (best_index == NOBODY || own[i] > best)) {
                best = own[i], best_index = i;
            }
        }
        for (unsigned distance = WARP / 2; distance > 0; distance /= 2) {
            const float other = __shfl_xor_sync(ALL_LANES, best, distance);
            const unsigned other_index = __shfl_xor_sync(ALL_LANES, best_index, distance);
            const bool is_better = best_index == NOBODY || other > best || (other == best && other_index < best_index);
            if (other_index != NOBODY && is_better) {
                best = other, best_index = other_index;
            }
        }
        if (best_index == NOBODY) {
            break;
        }
        highest = round == 0 ? best : highest;
        const float weight = expf(best - highest);
        sum_of_chosen += weight;
        if (lane == 0) {
            weights[best_index] = weight;
        }
        last = best, last_index = best_index;
    }
    float total = sum_of_chosen;
    if (rule == SOFTMAX_THEN_TOP) {
        total = 0.0f;
        for (unsigned i = lane; i < num_experts; i += WARP) {
            total += expf(own[i] - highest);
        }
        total = warp_sum(total);
    }
    __syncwarp();
    for (unsigned i = lane; i < num_experts; i += WARP) {
        weights[i] /= total;
    }
}

// The experts with a weight, in order, and their weights: [tokens, top_k] each; NOBODY where there are fewer.
// grid: tokens; block: 32.
KERNEL void __launch_bounds__(WARP)
    moe_pick(const float *routes, uint32_t *picks, float *weights, unsigned num_experts, unsigned top_k) {
    const unsigned lane = threadIdx.x;
    const float *own = routes + (size_t)blockIdx.x * num_experts;
    unsigned count = 0;
    for (unsigned start = 0; start < num_experts; start += WARP) {
        const unsigned expert = start + lane;
        const float weight = expert < num_experts ? own[expert] : 0.0f;
        for (unsigned other = 0; other < WARP; ++other) {
            const float of_other = __shfl_sync(ALL_LANES, weight, other);
            if (of_other != 0.0f && count < top_k) {
                if (lane == 0) {
                    picks[blockIdx.x * top_k + count] = start + other;
                    weights[blockIdx.x * top_k + count] = of_other;
                }
                ++count;
            }
        }
    }
    for (unsigned i = count + lane; i < top_k; i += WARP) {
        picks[blockIdx.x * top_k + i] = NOBODY;
        weights[blockIdx.x * top_k + i] = 0.0f;
    }
}

// output[token] = the sum over its picks, in their order, of weight * results[token, pick]. grid: tokens; block: any.
KERNEL void moe_sum(const float *results, const uint32_t *picks, const float *weights, float *output, unsigned width, unsigned top_k) {
    for (unsigned i = threadIdx.x; i < width; i += blockDim.x) {
        float sum = 0.0f;
        for (unsigned pick = 0; pick < top_k; ++pick) {
            const unsigned at = blockIdx.x * top_k + pick;
            if (picks[at] != NOBODY) {
                sum += weights[at] * results[(size_t)at * width + i];
            }
        }
        output[(size_t)blockIdx.x * width + i] = sum;
    }
}
