// Linear layers of NVFP4 weights with activations in NVFP4 too, by the block-scaled instruction of sm_12x: twice to four times
// the products of bf16 for rows in plenty, and fewer digits. Whoever wants it asks for it. A row's result depends on that row alone.
#pragma once

#include "linear_many.cuh"

#if KINDLING_HAS_FP4_MMA

constexpr unsigned QUANTISE_WARPS = 4;
// Elements that share a scale.
constexpr unsigned FP4_BLOCK = 16;
// The greatest numbers of E2M1 and E4M3.
constexpr float GREATEST_E2M1 = 6.0f;
constexpr float GREATEST_E4M3 = 448.0f;

// The code of the E2M1 that is nearest to a number that is not negative; ties go to even codes.
__device__ inline uint32_t float_to_e2m1(float x) {
    return (x > 0.25f) + (x >= 0.75f) + (x > 1.25f) + (x >= 1.75f) + (x > 2.5f) + (x >= 3.5f) + (x > 5.0f);
}

// Rows of activations: a factor for each row, a scale for each 16, and codes in the order in which lanes give them to the
// instruction: of 64 columns the t-th lane of four has 8 t to 8 t + 7, and then the same 32 further.
// grid: rows; block: 128. Beyond the row's end there are zeros.
KERNEL void __launch_bounds__(QUANTISE_WARPS *WARP)
    quantise_fp4(const float *input, uint8_t *codes, uint8_t *scales, float *factors, unsigned row_len) {
    __shared__ float parts[QUANTISE_WARPS];
    const unsigned chunks = (row_len + TILE_COLUMNS - 1) / TILE_COLUMNS;
    const float *row = input + (size_t)blockIdx.x * row_len;
    float greatest = 0.0f;
    // What is no finite number is not to be lost: maxima forget it.
    bool is_finite = true;
    for (unsigned i = threadIdx.x; i < row_len; i += QUANTISE_WARPS * WARP) {
        const float magnitude = fabsf(row[i]);
        is_finite = is_finite && magnitude <= 3.402823466e38f;
        greatest = fmaxf(greatest, magnitude);
    }
    greatest = warp_max(is_finite ? greatest : INFINITY);
    if (threadIdx.x % WARP == 0) {
        parts[threadIdx.x / WARP] = greatest;
    }
    __syncthreads();
    greatest = fmaxf(fmaxf(parts[0], parts[1]), fmaxf(parts[2], parts[3]));
    const float factor = greatest > 0.0f && greatest < INFINITY ? greatest / (GREATEST_E2M1 * GREATEST_E4M3) : 1.0f;
    if (threadIdx.x == 0) {
        factors[blockIdx.x] = greatest < INFINITY ? factor : bits_to_float(0x7fc00000u);
    }
    for (unsigned block = threadIdx.x; block < chunks * (TILE_COLUMNS / FP4_BLOCK); block += QUANTISE_WARPS * WARP) {
        const unsigned first = block * FP4_BLOCK;
        float of_block = 0.0f;
        for (unsigned i = 0; i < FP4_BLOCK; ++i) {
            of_block = fmaxf(of_block, first + i < row_len ? fabsf(row[first + i]) : 0.0f);
        }
        const uint32_t scale = max(float_to_e4m3(of_block / GREATEST_E2M1 / factor), 1u);
        const float step = e4m3_to_float(scale) * factor;
        scales[(size_t)blockIdx.x * chunks * 4 + block] = (uint8_t)scale;
        uint32_t words[2] = {};
        for (unsigned i = 0; i < FP4_BLOCK; ++i) {
            const float value = first + i < row_len ? row[first + i] : 0.0f;
            const uint32_t code = float_to_e2m1(fabsf(value) / step) | (__float_as_uint(value) >> 28 & 8u);
            words[i / 8] |= code << (i % 8 * 4);
        }
        // Two lanes' worth, of the first or the second 32 columns.
        const size_t chunk = (size_t)blockIdx.x * chunks + block / 4;
        uint32_t *lanes = reinterpret_cast<uint32_t *>(codes) + (chunk * 4 + block % 2 * 2) * 2 + block % 4 / 2;
        lanes[0] = words[0];
        lanes[2] = words[1];
    }
}

// Adds the products of a tile and of rows of activations in NVFP4: both are operands as they lie.
struct Fp4Product {
    const Tiles &tiles;
    const uint8_t *codes, *scales;
    unsigned rows_per_input;

    template <unsigned J> __device__ void add(unsigned tile_row, unsigned chunk, const RowSet &rows, float (&sums)[J][4]) const {
        const unsigned lane = threadIdx.x % WARP;
        // The scales of rows 8 to 15 are given by the second lane of four.
        const unsigned scale_row = lane / 4 + (lane % 4 == 1 ? 8 : 0);
        const uint4 four = load_once(codes_of<Nvfp4Tiles>(tiles, tile_row, chunk) + lane * 16);
        const uint32_t a[4] = {four.x, four.y, four.z, four.w};
        const uint32_t a_scales = reinterpret_cast<const uint32_t *>(scales_of<Nvfp4Tiles>(tiles, tile_row, chunk))[scale_row];
        // The whole warp has rows left, or none of it.
        for (unsigned j = 0; j < J && rows.first + j * MMA_ROWS < rows.end; ++j) {
            const unsigned i = rows.first + j * MMA_ROWS + lane / 4;
            uint32_t b[2] = {}, b_scales = 0;
            if (i < rows.end) {
                const size_t of_input = (size_t)(rows.row(i) / rows_per_input) * tiles.chunks + chunk;
                const uint2 two = reinterpret_cast<const uint2 *>(codes)[of_input * 4 + lane % 4];
                b[0] = two.x, b[1] = two.y;
                b_scales = reinterpret_cast<const uint32_t *>(scales)[of_input];
            }
            mma_nvfp4(sums[j], a, b, sums[j], a_scales, b_scales);
        }
    }

    // Nothing is staged: what a block needs of activations is little, and stays in the first level cache.
    __device__ void begin(unsigned) {}
    __device__ void stage(unsigned, bool) {}
};

// grid and block as of the other linear layers.
#define LINEAR_FP4_KERNEL(name, J)                                                                                              \
    KERNEL void __launch_bounds__(LINEAR_WARPS *WARP)                                                                           \
        name(const uint8_t *weights, const uint8_t *weight_scales, const float *row_scales, const float *bias,                  \
             const uint8_t *codes, const uint8_t *scales, const float *factors, float *output, unsigned features,               \
             unsigned row_len, unsigned rows, const uint32_t *picks, unsigned rows_per_input) {                                 \
        const Tiles tiles = {weights, weight_scales, row_scales, (row_len + TILE_COLUMNS - 1) / TILE_COLUMNS, 0};               \
        const Fp4Product product = {tiles, codes, scales, rows_per_input};                                                      \
        linear_tiles<J>(tiles, product, {bias, factors, output, features, rows_per_input}, rows, picks);                        \
    }

LINEAR_FP4_KERNEL(linear_fp4_8, 1)
LINEAR_FP4_KERNEL(linear_fp4_32, 4)
#undef LINEAR_FP4_KERNEL

KERNEL void __launch_bounds__(MANY_WARPS *WARP, 2)
    linear_fp4_64(const uint8_t *weights, const uint8_t *weight_scales, const float *row_scales, const float *bias,
                  const uint8_t *codes, const uint8_t *scales, const float *factors, float *output, unsigned features,
                  unsigned row_len, unsigned rows, const uint32_t *groups, const uint32_t *order, unsigned rows_per_input) {
    const Tiles tiles = {weights, weight_scales, row_scales, (row_len + TILE_COLUMNS - 1) / TILE_COLUMNS, 0};
    const RowSet set = rows_of_block(rows, groups, order);
    Fp4Product product = {tiles, codes, scales, rows_per_input};
    linear_many(tiles, product, {bias, factors, output, features, rows_per_input}, set);
}

#endif
