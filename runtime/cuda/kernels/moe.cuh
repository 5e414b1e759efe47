// Experts: which ones a token goes to, and the sum of what they give.
#pragma once

#include "linear_many.cuh"

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

// From the picks of rows: `order`, the rows of each expert side by side, and groups of at most 64 of them as (expert, first,
// end) by places in the order; the groups that are left over are empty. Rows of nobody are in no group.
// One block of 1024; shared: three words for each expert.
KERNEL void __launch_bounds__(1024) moe_group(const uint32_t *picks, uint32_t *order, uint32_t *groups, unsigned rows, unsigned num_experts,
                                              unsigned num_groups) {
    DYNAMIC_SHARED(uint32_t, counts);
    uint32_t *first_rows = counts + num_experts, *first_groups = first_rows + num_experts;
    __shared__ unsigned groups_in_use;
    const unsigned lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
    for (unsigned expert = threadIdx.x / WARP; expert < num_experts; expert += warps) {
        unsigned count = 0;
        for (unsigned start = 0; start < rows; start += WARP) {
            const bool is_own = start + lane < rows && picks[start + lane] == expert;
            count += __popc(__ballot_sync(ALL_LANES, is_own));
        }
        if (lane == 0) {
            counts[expert] = count;
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        unsigned row = 0, group = 0;
        for (unsigned expert = 0; expert < num_experts; ++expert) {
            first_rows[expert] = row, first_groups[expert] = group;
            row += counts[expert], group += (counts[expert] + MANY_ROWS - 1) / MANY_ROWS;
        }
        groups_in_use = group;
    }
    __syncthreads();
    for (unsigned expert = threadIdx.x / WARP; expert < num_experts; expert += warps) {
        const unsigned first = first_rows[expert], end = first + counts[expert];
        unsigned next = first;
        for (unsigned start = 0; start < rows && next < end; start += WARP) {
            const bool is_own = start + lane < rows && picks[start + lane] == expert;
            const uint32_t all = __ballot_sync(ALL_LANES, is_own);
            if (is_own) {
                order[next + __popc(all & ((1u << lane) - 1))] = start + lane;
            }
            next += __popc(all);
        }
        for (unsigned i = lane; first + i * MANY_ROWS < end; i += WARP) {
            uint32_t *group = groups + (first_groups[expert] + i) * 3;
            group[0] = expert, group[1] = first + i * MANY_ROWS, group[2] = min(end, first + (i + 1) * MANY_ROWS);
        }
    }
    for (unsigned i = groups_in_use * 3 + threadIdx.x; i < num_groups * 3; i += blockDim.x) {
        groups[i] = 0;
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
