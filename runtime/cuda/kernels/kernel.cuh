// What every kernel is written with: warps, shared memory, and the number formats of weights and caches. The same source is
// compiled by nvcc and, for tests without a GPU, by a host compiler that is given `device.h`.
#pragma once

#include <cstdint>

#ifdef KINDLING_STAND_IN
#include "device.h"
#else
// A kernel, by its name in the fatbin.
#define KERNEL extern "C" __global__
// Shared memory whose size is given at the launch.
extern __shared__ __align__(16) unsigned char dynamic_shared_bytes[];
#define DYNAMIC_SHARED(type, name) type *name = reinterpret_cast<type *>(dynamic_shared_bytes)
#endif

constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr unsigned WARP = 32;

__device__ inline float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }

// The sum over a warp, in every lane; the order of additions is always the same.
__device__ inline float warp_sum(float value) {
    for (unsigned distance = WARP / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(ALL_LANES, value, distance);
    }
    return value;
}

__device__ inline float warp_max(float value) {
    for (unsigned distance = WARP / 2; distance > 0; distance /= 2) {
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
    }
    return value;
}

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ inline float bf16_to_float(uint32_t bits) { return bits_to_float(bits << 16); }

// To the nearest, ties to even; what is no number stays none.
__device__ inline uint32_t float_to_bf16(float value) {
    const uint32_t bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return bits >> 16 | 0x40u;
    }
    return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

// Two of them in one register, the first in its lower half.
__device__ inline uint32_t pack_bf16(float low, float high) {
#ifdef KINDLING_STAND_IN
    return float_to_bf16(low) | float_to_bf16(high) << 16;
#else
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
#endif
}

// All its numbers, subnormal ones too; exponents are moved by a multiplication.
__device__ inline float f16_to_float(uint32_t bits) {
    const uint32_t magnitude = bits & 0x7fffu;
    const uint32_t sign = (bits & 0x8000u) << 16;
    if (magnitude >= 0x7c00u) {
        return bits_to_float(sign | 0x7f800000u | magnitude << 13);
    }
    return bits_to_float(sign | __float_as_uint(bits_to_float(magnitude << 13) * 5.192296858534828e33f));
}

// E4M3 without what is no number. The factor is 2^120.
__device__ inline float e4m3_to_float(uint32_t code) {
    return bits_to_float((code & 0x80u) << 24 | (code & 0x7fu) << 20) * 1.329227995784916e36f;
}

// To the nearest E4M3, ties to even; beyond 448 the greatest; what is no number stays none.
__device__ inline uint32_t float_to_e4m3(float value) {
    const uint32_t bits = __float_as_uint(value);
    const uint32_t sign = bits >> 24 & 0x80u;
    const float magnitude = fabsf(value);
    if (!(magnitude == magnitude)) {
        return sign | 0x7fu;
    }
    if (magnitude < 0.015625f) {
        // Below the normal numbers, codes count steps of 2^-9.
        return sign | (uint32_t)rintf(magnitude * 512.0f);
    }
    const uint32_t exact = bits & 0x7fffffffu;
    const uint32_t rounded = exact + 0x7ffffu + (exact >> 20 & 1u);
    const uint32_t code = (rounded >> 20) - (120u << 3);
    return sign | (magnitude > 448.0f || code > 0x7eu ? 0x7eu : code);
}

// E4M3's codes include one for what is no number.
__device__ inline float kept_e4m3_to_float(uint32_t code) {
    return (code & 0x7fu) == 0x7fu ? bits_to_float(0x7fc00000u) : e4m3_to_float(code);
}

// A power of two: bias 127.
__device__ inline float e8m0_to_float(uint32_t code) { return bits_to_float(code == 0 ? 1u << 22 : code << 23); }

// E2M1 times 2^-126: its exponent and mantissa are put where those of a float are.
__device__ inline float e2m1_to_tiny_float(uint32_t code) { return bits_to_float((code & 8u) << 28 | (code & 7u) << 22); }

// The value of an E2M1 code. The factor is 2^126.
__device__ inline float e2m1_to_float(uint32_t code) { return e2m1_to_tiny_float(code) * 8.507059173023462e37f; }
