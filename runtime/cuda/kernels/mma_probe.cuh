// Single matrix instructions, fed and read lane by lane: what a device makes of the layouts that `fragments.rs` describes.
#pragma once

#include "mma.cuh"

// One warp. Lane l has a[4 l ..], b[2 l ..] and c[4 l ..], and writes d[4 l ..].
KERNEL void mma_probe_bf16(const uint32_t *a, const uint32_t *b, const float *c, float *d) {
    const unsigned lane = threadIdx.x;
    const uint32_t a_lane[4] = {a[4 * lane], a[4 * lane + 1], a[4 * lane + 2], a[4 * lane + 3]};
    const uint32_t b_lane[2] = {b[2 * lane], b[2 * lane + 1]};
    const float c_lane[4] = {c[4 * lane], c[4 * lane + 1], c[4 * lane + 2], c[4 * lane + 3]};
    float d_lane[4];
    mma_bf16(d_lane, a_lane, b_lane, c_lane);
    for (int i = 0; i < 4; ++i) {
        d[4 * lane + i] = d_lane[i];
    }
}

#if !defined(__CUDA_ARCH__) || KINDLING_HAS_FP4_MMA
// The same with the lane's scales a_scales[l] and b_scales[l]. Only there where the hardware has it.
KERNEL void mma_probe_nvfp4(const uint32_t *a, const uint32_t *b, const float *c, const uint32_t *a_scales,
                                           const uint32_t *b_scales, float *d) {
#if KINDLING_HAS_FP4_MMA
    const unsigned lane = threadIdx.x;
    const uint32_t a_lane[4] = {a[4 * lane], a[4 * lane + 1], a[4 * lane + 2], a[4 * lane + 3]};
    const uint32_t b_lane[2] = {b[2 * lane], b[2 * lane + 1]};
    const float c_lane[4] = {c[4 * lane], c[4 * lane + 1], c[4 * lane + 2], c[4 * lane + 3]};
    float d_lane[4];
    mma_nvfp4(d_lane, a_lane, b_lane, c_lane, a_scales[lane], b_scales[lane]);
    for (int i = 0; i < 4; ++i) {
        d[4 * lane + i] = d_lane[i];
    }
#endif
}
#endif
