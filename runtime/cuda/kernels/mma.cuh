// The matrix instructions, by their PTX.
#pragma once

#include "kernel.cuh"

// Whether block-scaled FP4 is in hardware: 1200 stands for sm_120f and sm_120a, 1210 for sm_121f and sm_121a.
#ifdef KINDLING_STAND_IN
#define KINDLING_HAS_FP4_MMA 1
#elif defined(__CUDA_ARCH_FAMILY_SPECIFIC__) && __CUDA_ARCH_FAMILY_SPECIFIC__ >= 1200 && __CUDA_ARCH_FAMILY_SPECIFIC__ < 1300
#define KINDLING_HAS_FP4_MMA 1
#else
#define KINDLING_HAS_FP4_MMA 0
#endif

// d = a b + c for BF16, 16 x 8 x 16.
__device__ inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4]) {
#ifdef KINDLING_STAND_IN
    stand_in::mma_bf16(d, a, b, c);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]),
                   "f"(c[3]));
#endif
}

#if KINDLING_HAS_FP4_MMA
// d = a b + c for NVFP4, 16 x 8 x 64: E2M1 with a scale in UE4M3 for every 16. The scales of a row of a are those of lanes
// 0 and 1 of its quad, those of a column of b those of lane 0.
__device__ inline void mma_nvfp4(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4],
                                 uint32_t a_scales, uint32_t b_scales) {
#ifdef KINDLING_STAND_IN
    stand_in::mma_nvfp4(d, a, b, c, a_scales, b_scales);
#else
    asm volatile("mma.sync.aligned.kind::mxf4nvf4.block_scale.scale_vec::4X.m16n8k64.row.col.f32.e2m1.e2m1.f32.ue4m3 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13}, {%14}, {%15, %16}, {%17}, {%18, %19};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]),
                   "f"(c[3]), "r"(a_scales), "h"((uint16_t)0), "h"((uint16_t)0), "r"(b_scales), "h"((uint16_t)0),
                   "h"((uint16_t)0));
#endif
}
#endif
