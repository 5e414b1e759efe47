// Linear layers: output = input * weight^T * row scales + bias. A row's result depends on that row alone, never on the batch.
#pragma once

#include "mma.cuh"
#include "tiles.cuh"

constexpr unsigned LINEAR_WARPS = 4;
// Rows of activations to one matrix instruction.
constexpr unsigned MMA_ROWS = 8;

// 16 activations of a row as the second operand of four steps; beyond the row they are zero.
__device__ inline void load_activations(const float *row, unsigned row_len, unsigned column, uint32_t (&b)[4][2]) {
    for (unsigned half = 0; half < 2; ++half, column += 32) {
        float values[8];
        if (row_len % 4 == 0 && column + 8 <= row_len) {
            const float4 first = *reinterpret_cast<const float4 *>(row + column);
            const float4 second = *reinterpret_cast<const float4 *>(row + column + 4);
            values[0] = first.x, values[1] = first.y, values[2] = first.z, values[3] = first.w;
            values[4] = second.x, values[5] = second.y, values[6] = second.z, values[7] = second.w;
        } else {
            for (unsigned i = 0; i < 8; ++i) {
                values[i] = column + i < row_len ? row[column + i] : 0.0f;
            }
        }
        for (unsigned i = 0; i < 4; ++i) {
            b[2 * half + i / 2][i % 2] = pack_bf16(values[2 * i], values[2 * i + 1]);
        }
    }
}

// Sixteen output features of up to 8 J rows by one block. Its warps share the columns, and their sums are added in the order
// of warps. With picks every row has a matrix of its own, `picks[row]`, and blocks have one row each.
template <class Family, unsigned J>
__device__ inline void linear_tiles(const Tiles &tiles, const float *bias, const float *input, float *output, unsigned features,
                                    unsigned row_len, unsigned rows, const uint32_t *picks, unsigned rows_per_input) {
    __shared__ float parts[LINEAR_WARPS][J * MMA_ROWS][TILE_ROWS + 1];
    const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const unsigned tiles_per_matrix = (features + TILE_ROWS - 1) / TILE_ROWS;
    const unsigned first_row = picks ? blockIdx.y : blockIdx.y * J * MMA_ROWS;
    const unsigned end_row = picks ? first_row + 1 : min(rows, first_row + J * MMA_ROWS);
    const unsigned matrix = picks ? picks[first_row] : 0;
    if (matrix == 0xffffffffu) {
        return;
    }
    const unsigned tile_row = matrix * tiles_per_matrix + blockIdx.x;
    float sums[J][4] = {};
    for (unsigned chunk = warp; chunk < tiles.chunks; chunk += LINEAR_WARPS) {
        uint32_t a[4][4];
        Family::fragments(codes_of<Family>(tiles, tile_row, chunk), scales_of<Family>(tiles, tile_row, chunk), tiles.flags, lane, a);
        // The whole warp has rows left, or none of it.
        for (unsigned j = 0; j < J && first_row + j * MMA_ROWS < end_row; ++j) {
            const unsigned row = first_row + j * MMA_ROWS + lane / 4;
            uint32_t b[4][2] = {};
            if (row < end_row) {
                const float *activations = input + (size_t)(row / rows_per_input) * row_len;
                load_activations(activations, row_len, chunk * TILE_COLUMNS + lane % 4 * 8, b);
            }
            for (unsigned step = 0; step < 4; ++step) {
                mma_bf16(sums[j], a[step], b[step], sums[j]);
            }
        }
    }
    for (unsigned j = 0; j < J; ++j) {
        for (unsigned reg = 0; reg < 4; ++reg) {
            parts[warp][j * MMA_ROWS + lane % 4 * 2 + reg % 2][lane / 4 + reg / 2 * 8] = sums[j][reg];
        }
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < J * MMA_ROWS * TILE_ROWS; i += LINEAR_WARPS * WARP) {
        const unsigned row = first_row + i / TILE_ROWS, feature = blockIdx.x * TILE_ROWS + i % TILE_ROWS;
        if (row >= end_row || feature >= features) {
            continue;
        }
        float sum = 0.0f;
        for (unsigned part = 0; part < LINEAR_WARPS; ++part) {
            sum += parts[part][i / TILE_ROWS][i % TILE_ROWS];
        }
        if (tiles.row_scales) {
            sum *= tiles.row_scales[(size_t)tile_row * TILE_ROWS + i % TILE_ROWS];
        }
        if (bias) {
            sum += bias[(size_t)matrix * features + feature];
        }
        output[(size_t)row * features + feature] = sum;
    }
}

// grid: tiles of features, groups of 8 J rows (or rows, with picks); block: 128.
#define LINEAR_KERNEL(name, Family, J)                                                                                          \
    KERNEL void __launch_bounds__(LINEAR_WARPS *WARP) name(                                                                     \
        const uint8_t *codes, const uint8_t *scales, const float *row_scales, unsigned flags, const float *bias,                \
        const float *input, float *output, unsigned features, unsigned row_len, unsigned rows, const uint32_t *picks,           \
        unsigned rows_per_input) {                                                                                              \
        const Tiles tiles = {codes, scales, row_scales, (row_len + TILE_COLUMNS - 1) / TILE_COLUMNS, flags};                    \
        linear_tiles<Family, J>(tiles, bias, input, output, features, row_len, rows, picks, rows_per_input);                    \
    }

LINEAR_KERNEL(linear_bf16_8, Bf16Tiles, 1)
LINEAR_KERNEL(linear_bf16_32, Bf16Tiles, 4)
LINEAR_KERNEL(linear_fp8_8, Fp8Tiles, 1)
LINEAR_KERNEL(linear_fp8_32, Fp8Tiles, 4)
LINEAR_KERNEL(linear_int4_8, Int4Tiles, 1)
LINEAR_KERNEL(linear_int4_32, Int4Tiles, 4)
LINEAR_KERNEL(linear_int8_8, Int8Tiles, 1)
LINEAR_KERNEL(linear_int8_32, Int8Tiles, 4)
LINEAR_KERNEL(linear_nvfp4_8, Nvfp4Tiles, 1)
LINEAR_KERNEL(linear_nvfp4_32, Nvfp4Tiles, 4)
LINEAR_KERNEL(linear_mxfp4_8, Mxfp4Tiles, 1)
LINEAR_KERNEL(linear_mxfp4_32, Mxfp4Tiles, 4)
#undef LINEAR_KERNEL

struct F32Row {
    __device__ static float at(const uint8_t *row, unsigned column) { return reinterpret_cast<const float *>(row)[column]; }
    static constexpr unsigned BYTES = 4;
};
struct F16Row {
    __device__ static float at(const uint8_t *row, unsigned column) {
        return f16_to_float(reinterpret_cast<const uint16_t *>(row)[column]);
    }
    static constexpr unsigned BYTES = 2;
};

struct Bf16Row {
    __device__ static float at(const uint8_t *row, unsigned column) {
        return bf16_to_float(reinterpret_cast<const uint16_t *>(row)[column]);
    }
    static constexpr unsigned BYTES = 2;
};

// Without matrix instructions, row by row, with activations in f32: for types that BF16 would cut and for routers, whose
// choice a rounded activation would change. Small matrices in practice.
// A warp to an output; grid: four features, rows; block: 128.
template <class Row>
__device__ inline void linear_rows(const uint8_t *weight, const float *row_scales, const float *bias, const float *input, float *output,
                                   unsigned features, unsigned row_len, const uint32_t *picks, unsigned rows_per_input) {
    const unsigned lane = threadIdx.x % WARP, feature = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    const unsigned matrix = picks ? picks[blockIdx.y] : 0;
    if (feature >= features || matrix == 0xffffffffu) {
        return;
    }
    const size_t weight_row = (size_t)matrix * features + feature;
    const uint8_t *weights = weight + weight_row * row_len * Row::BYTES;
    const float *activations = input + (size_t)(blockIdx.y / rows_per_input) * row_len;
    float sum = 0.0f;
    for (unsigned column = lane; column < row_len; column += WARP) {
        sum = fmaf(Row::at(weights, column), activations[column], sum);
    }
    sum = warp_sum(sum);
    if (lane == 0) {
        sum = row_scales ? sum * row_scales[weight_row] : sum;
        output[(size_t)blockIdx.y * features + feature] = bias ? sum + bias[weight_row] : sum;
    }
}

#define LINEAR_ROWS_KERNEL(name, Row)                                                                                           \
    KERNEL void __launch_bounds__(128)                                                                                          \
        name(const uint8_t *weight, const float *row_scales, const float *bias, const float *input, float *output,              \
             unsigned features, unsigned row_len, const uint32_t *picks, unsigned rows_per_input) {                             \
        linear_rows<Row>(weight, row_scales, bias, input, output, features, row_len, picks, rows_per_input);                    \
    }

LINEAR_ROWS_KERNEL(linear_f32, F32Row)
LINEAR_ROWS_KERNEL(linear_f16, F16Row)
LINEAR_ROWS_KERNEL(linear_bf16, Bf16Row)
#undef LINEAR_ROWS_KERNEL
