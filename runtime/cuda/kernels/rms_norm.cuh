// output = input / sqrt(mean(input^2) + eps) * (weight + weight_offset), by group of elements.
#pragma once

#include "kernel.cuh"

constexpr unsigned NORM_WARPS = 4;

// grid: groups of all rows; block: 128. `input` and `output` may be the same; `weight` may be missing.
KERNEL void __launch_bounds__(NORM_WARPS *WARP)
    rms_norm(const float *input, const float *weight, float *output, unsigned group_width, float eps, float weight_offset) {
    __shared__ float parts[NORM_WARPS];
    const float *group = input + (size_t)blockIdx.x * group_width;
    float *normed = output + (size_t)blockIdx.x * group_width;
    float sum = 0.0f;
    for (unsigned i = threadIdx.x; i < group_width; i += NORM_WARPS * WARP) {
        sum = fmaf(group[i], group[i], sum);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) {
        parts[threadIdx.x / WARP] = sum;
    }
    __syncthreads();
    const float total = parts[0] + parts[1] + parts[2] + parts[3];
    const float scale = 1.0f / sqrtf(total / (float)group_width + eps);
    for (unsigned i = threadIdx.x; i < group_width; i += NORM_WARPS * WARP) {
        normed[i] = group[i] * scale * (weight ? weight[i] + weight_offset : 1.0f);
    }
}
