// Linear layers: output = input * weight^T * row scales + bias. A row's result depends on that row alone, never on the batch.
#pragma once

#include "mma.cuh"
#include "tiles.cuh"

constexpr unsigned LINEAR_WARPS = 4;
// Rows of activations to one matrix instruction.
constexpr unsigned MMA_ROWS = 8;
// Stands where a row has no matrix.
constexpr unsigned NOBODY = 0xffffffffu;

// Eight activations of a row; beyond the row they are zero.
__device__ inline void load_eight(const float *row, unsigned row_len, unsigned column, float (&values)[8]) {
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
}

// Rows that meet one matrix: those from `first` on, or those that are listed there.
struct RowSet {
    const uint32_t *order;
    unsigned first, end, matrix;

    __device__ unsigned row(unsigned i) const { return order ? order[i] : i; }
};

// Where results go, and what is done to a sum before. Its products are never fused with the addition: every kernel gives the
// same bits.
struct Results {
    const float *bias;
    // Of activations in FP4, one for each row of the input; or nothing.
    const float *factors;
    float *output;
    unsigned features, rows_per_input;

    __device__ void put(float sum, const Tiles &tiles, unsigned matrix, unsigned tile, unsigned row_of_tile, unsigned row) const {
        const unsigned feature = tile * TILE_ROWS + row_of_tile, tiles_per_matrix = (features + TILE_ROWS - 1) / TILE_ROWS;
        if (feature >= features) {
            return;
        }
        if (factors) {
            sum = __fmul_rn(sum, factors[row / rows_per_input]);
        }
        if (tiles.row_scales) {
            sum = __fmul_rn(sum, tiles.row_scales[((size_t)matrix * tiles_per_matrix + tile) * TILE_ROWS + row_of_tile]);
        }
        output[(size_t)row * features + feature] = bias ? sum + bias[(size_t)matrix * features + feature] : sum;
    }
};

// Adds the products of a tile and of rows of activations in BF16, which every warp loads for itself.
template <class Family> struct Bf16Product {
    const Tiles &tiles;
    const float *input;
    unsigned row_len, rows_per_input;

    template <unsigned J> __device__ void add(unsigned tile_row, unsigned chunk, const RowSet &rows, float (&sums)[J][4]) const {
        const unsigned lane = threadIdx.x % WARP;
        uint4 loaded[Family::BYTES / 512];
        load_codes<Family>(codes_of<Family>(tiles, tile_row, chunk), lane, loaded);
        uint32_t a[4][4];
        for (unsigned half = 0; half < 2; ++half) {
            Family::half(loaded, scales_of<Family>(tiles, tile_row, chunk), tiles.flags, lane, half, a + 2 * half);
        }
        // The whole warp has rows left, or none of it.
        for (unsigned j = 0; j < J && rows.first + j * MMA_ROWS < rows.end; ++j) {
            const unsigned i = rows.first + j * MMA_ROWS + lane / 4;
            uint32_t b[4][2] = {};
            if (i < rows.end) {
                const float *row = input + (size_t)(rows.row(i) / rows_per_input) * row_len;
                for (unsigned half = 0; half < 2; ++half) {
                    float values[8];
                    load_eight(row, row_len, chunk * TILE_COLUMNS + half * 32 + lane % 4 * 8, values);
                    for (unsigned pair = 0; pair < 4; ++pair) {
                        b[2 * half + pair / 2][pair % 2] = pack_bf16(values[2 * pair], values[2 * pair + 1]);
                    }
                }
            }
            for (unsigned step = 0; step < 4; ++step) {
                mma_bf16(sums[j], a[step], b[step], sums[j]);
            }
        }
    }
};

// Sixteen output features of up to 8 J rows by one block. Its warps share the columns, and their sums are added in the order
// of warps. With picks every row has a matrix of its own, `picks[row]`, and blocks have one row each.
template <unsigned J, class Product>
__device__ inline void linear_tiles(const Tiles &tiles, const Product &product, const Results &results, unsigned num_rows,
                                    const uint32_t *picks) {
    __shared__ float parts[LINEAR_WARPS][J * MMA_ROWS][TILE_ROWS + 1];
    const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const unsigned tiles_per_matrix = (results.features + TILE_ROWS - 1) / TILE_ROWS;
    const unsigned first = picks ? blockIdx.y : blockIdx.y * J * MMA_ROWS;
    const RowSet rows = {nullptr, first, picks ? first + 1 : min(num_rows, first + J * MMA_ROWS), picks ? picks[first] : 0};
    if (rows.matrix == NOBODY) {
        return;
    }
    float sums[J][4] = {};
    for (unsigned chunk = warp; chunk < tiles.chunks; chunk += LINEAR_WARPS) {
        product.add(rows.matrix * tiles_per_matrix + blockIdx.x, chunk, rows, sums);
    }
    for (unsigned j = 0; j < J; ++j) {
        for (unsigned reg = 0; reg < 4; ++reg) {
            parts[warp][j * MMA_ROWS + lane % 4 * 2 + reg % 2][lane / 4 + reg / 2 * 8] = sums[j][reg];
        }
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < J * MMA_ROWS * TILE_ROWS; i += LINEAR_WARPS * WARP) {
        const unsigned row = first + i / TILE_ROWS;
        if (row >= rows.end) {
            continue;
        }
        float sum = 0.0f;
        for (unsigned part = 0; part < LINEAR_WARPS; ++part) {
            sum += parts[part][i / TILE_ROWS][i % TILE_ROWS];
        }
        results.put(sum, tiles, rows.matrix, blockIdx.x, i % TILE_ROWS, row);
    }
}

// grid: tiles of features, groups of 8 J rows (or rows, with picks); block: 128.
#define LINEAR_KERNEL(name, Family, J)                                                                                          \
    KERNEL void __launch_bounds__(LINEAR_WARPS *WARP) name(                                                                     \
        const uint8_t *codes, const uint8_t *scales, const float *row_scales, unsigned flags, const float *bias,                \
        const float *input, float *output, unsigned features, unsigned row_len, unsigned rows, const uint32_t *picks,           \
        unsigned rows_per_input) {                                                                                              \
        const Tiles tiles = {codes, scales, row_scales, (row_len + TILE_COLUMNS - 1) / TILE_COLUMNS, flags};                    \
        const Bf16Product<Family> product = {tiles, input, row_len, rows_per_input};                                            \
        linear_tiles<J>(tiles, product, {bias, nullptr, output, features, rows_per_input}, rows, picks);                        \
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
    if (feature >= features || matrix == NOBODY) {
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
