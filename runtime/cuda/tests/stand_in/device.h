// A GPU for tests: the words that CUDA adds to C++, as a host compiler can take them. Every thread of a block is a fiber;
// they meet at barriers and exchange registers within warps. It is strict where a device is lenient: threads that end while
// others wait, or that wait for different things, end the launch with an error.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define KERNEL extern "C"
#define DYNAMIC_SHARED(type, name) type *name = reinterpret_cast<type *>(stand_in::dynamic_shared)

using std::max;
using std::min;

struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(8) uint2 { uint32_t x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) float2 { float x, y; };

namespace stand_in {

constexpr unsigned LANES = 32;
struct Dim { unsigned x, y, z; };

// What one lane gives to the others of its warp.
struct Words { uint32_t word[16]; };

struct Thread {
    Dim index;
    unsigned lane, warp;
};

extern Thread *current;
extern Dim block_index, block_size, grid_size;
extern unsigned char *dynamic_shared;

// Waits for all threads of the block.
void meet_block();
// Gives the words to the warp and takes those of all its lanes, once all have given theirs.
const Words *exchange(const Words &mine);
// Ends the process: the kernel does what no device may be asked to.
[[noreturn]] void refuse(const char *what);

template <class T> T lane_value(T value, unsigned lane, unsigned mask) {
    static_assert(sizeof(T) == 4, "a register");
    if (mask != 0xffffffffu) refuse("a warp that is asked in part");
    Words mine{};
    std::memcpy(&mine.word[0], &value, 4);
    const Words *all = exchange(mine);
    std::memcpy(&value, &all[lane % LANES].word[0], 4);
    return value;
}

void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4]);
void mma_nvfp4(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4], uint32_t a_scales,
               uint32_t b_scales);

} // namespace stand_in

#define threadIdx (stand_in::current->index)
#define blockIdx stand_in::block_index
#define blockDim stand_in::block_size
#define gridDim stand_in::grid_size

inline void __syncthreads() { stand_in::meet_block(); }
inline void __syncwarp() { stand_in::exchange(stand_in::Words{}); }
template <class T> T __shfl_xor_sync(unsigned mask, T value, unsigned lanes) {
    return stand_in::lane_value(value, stand_in::current->lane ^ lanes, mask);
}
template <class T> T __shfl_sync(unsigned mask, T value, unsigned lane) { return stand_in::lane_value(value, lane, mask); }
inline unsigned __ballot_sync(unsigned mask, bool is_set) {
    unsigned all = 0;
    for (unsigned lane = 0; lane < stand_in::LANES; ++lane) {
        all |= stand_in::lane_value((unsigned)is_set, lane, mask) << lane;
    }
    return all;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline float __uint_as_float(uint32_t bits) { float value; std::memcpy(&value, &bits, 4); return value; }
inline uint32_t __float_as_uint(float value) { uint32_t bits; std::memcpy(&bits, &value, 4); return bits; }
inline float __fmul_rn(float a, float b) { return a * b; }
template <class T> T __ldg(const T *at) { return *at; }
