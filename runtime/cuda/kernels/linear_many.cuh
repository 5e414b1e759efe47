// Linear layers of many rows: prompts, and rows that are grouped by the expert that they are sent to. A block has 128 output
// features of up to 64 rows, so that a weight is expanded once for 64 rows and an activation is read once for 128 features.
//
// The order of sums is that of `linear_tiles`, whose four warps have every fourth 64 columns: here one warp has all columns,
// the same four parts one after another. So a row has the same bits in a prompt as alone.
#pragma once

#include "linear.cuh"

constexpr unsigned MANY_WARPS = 8;
constexpr unsigned MANY_ROWS = 64;
// 16 bytes, which are eight activations; a row has 64 at a time.
constexpr unsigned UNITS = TILE_COLUMNS / 8;

// The rows of a block: a part of all, or one of the groups, which are (matrix, first, end) by places in the order.
__device__ inline RowSet rows_of_block(unsigned rows, const uint32_t *groups, const uint32_t *order) {
    if (groups) {
        const uint32_t *group = groups + blockIdx.y * 3;
        return {order, group[1], group[2], group[0]};
    }
    const unsigned first = blockIdx.y * MANY_ROWS;
    return {nullptr, first, min(rows, first + MANY_ROWS), 0};
}

// Activations of the block's rows in BF16, 64 columns at a time in shared memory, in two places: while one is read, the other
// is written, and the columns after those are on their way.
template <class Family> struct StagedProduct {
    const Tiles &tiles;
    uint4 (&staged)[2][MANY_ROWS * UNITS];
    // This thread's two rows, or nothing.
    const float *own[2];
    unsigned row_len;
    float coming[2][8];
    unsigned place;

    __device__ StagedProduct(const Tiles &tiles, uint4 (&staged)[2][MANY_ROWS * UNITS], const float *input, unsigned row_len,
                             unsigned rows_per_input, const RowSet &rows)
        : tiles(tiles), staged(staged), row_len(row_len), place(0) {
        for (unsigned half = 0; half < 2; ++half) {
            const unsigned i = rows.first + half * (MANY_ROWS / 2) + threadIdx.x / UNITS;
            own[half] = i < rows.end ? input + (size_t)(rows.row(i) / rows_per_input) * row_len : nullptr;
        }
    }

    // Where a unit lies. Two rows that lanes read together are in different banks.
    __device__ static unsigned unit(unsigned row, unsigned index) { return row * UNITS + (index ^ row % 2 * 4); }

    // Loads what is to be staged next.
    __device__ void begin(unsigned chunk) {
        for (unsigned half = 0; half < 2; ++half) {
            if (own[half]) {
                load_eight(own[half], row_len, chunk * TILE_COLUMNS + threadIdx.x % UNITS * 8, coming[half]);
            }
        }
    }

    // Stages what was loaded, and loads what comes after it.
    __device__ void stage(unsigned after, bool has_more) {
        place ^= 1;
        for (unsigned half = 0; half < 2; ++half) {
            if (own[half]) {
                const float(&values)[8] = coming[half];
                const uint4 packed = {pack_bf16(values[0], values[1]), pack_bf16(values[2], values[3]),
                                      pack_bf16(values[4], values[5]), pack_bf16(values[6], values[7])};
                staged[place][unit(half * (MANY_ROWS / 2) + threadIdx.x / UNITS, threadIdx.x % UNITS)] = packed;
            }
        }
        // Whoever still reads the other place has not been here, so nobody writes it.
        __syncthreads();
        if (has_more) {
            begin(after);
        }
    }

    template <unsigned J> __device__ void add(unsigned tile_row, unsigned chunk, const RowSet &rows, float (&sums)[J][4]) const {
        const unsigned lane = threadIdx.x % WARP;
        uint4 loaded[Family::BYTES / 512];
        load_codes<Family>(codes_of<Family>(tiles, tile_row, chunk), lane, loaded);
        // Half a tile at a time, which needs few registers.
        for (unsigned half = 0; half < 2; ++half) {
            uint32_t a[2][4];
            Family::half(loaded, scales_of<Family>(tiles, tile_row, chunk), tiles.flags, lane, half, a);
            for (unsigned j = 0; j < J; ++j) {
                // The whole block has rows left, or none of it.
                if (rows.first + j * MMA_ROWS >= rows.end) {
                    break;
                }
                const unsigned row = j * MMA_ROWS + lane / 4;
                uint4 both = {};
                if (rows.first + row < rows.end) {
                    both = staged[place][unit(row, half * 4 + lane % 4)];
                }
                const uint32_t b[2][2] = {{both.x, both.y}, {both.z, both.w}};
                mma_bf16(sums[j], a[0], b[0], sums[j]);
                mma_bf16(sums[j], a[1], b[1], sums[j]);
            }
        }
    }
};

// grid: eight tiles of features, 64 rows or a group; block: 256.
template <class Product>
__device__ inline void linear_many(const Tiles &tiles, Product &product, const Results &results, const RowSet &rows) {
    constexpr unsigned J = MANY_ROWS / MMA_ROWS;
    const unsigned lane = threadIdx.x % WARP, tile = blockIdx.x * MANY_WARPS + threadIdx.x / WARP;
    const unsigned tiles_per_matrix = (results.features + TILE_ROWS - 1) / TILE_ROWS;
    if (rows.first >= rows.end) {
        return;
    }
    float totals[J][4] = {};
    product.begin(0);
    for (unsigned part = 0; part < LINEAR_WARPS; ++part) {
        float sums[J][4] = {};
        for (unsigned chunk = part; chunk < tiles.chunks; chunk += LINEAR_WARPS) {
            const bool ends_part = chunk + LINEAR_WARPS >= tiles.chunks;
            const unsigned after = ends_part ? part + 1 : chunk + LINEAR_WARPS;
            product.stage(after, !ends_part || (after < LINEAR_WARPS && after < tiles.chunks));
            // The last warps may have no features; they stage all the same.
            if (tile < tiles_per_matrix) {
                product.add(rows.matrix * tiles_per_matrix + tile, chunk, rows, sums);
            }
        }
        for (unsigned j = 0; j < J; ++j) {
            for (unsigned reg = 0; reg < 4; ++reg) {
                totals[j][reg] += sums[j][reg];
            }
        }
    }
    for (unsigned j = 0; j < J; ++j) {
        for (unsigned reg = 0; reg < 4; ++reg) {
            const unsigned i = rows.first + j * MMA_ROWS + lane % 4 * 2 + reg % 2;
            if (i < rows.end) {
                results.put(totals[j][reg], tiles, rows.matrix, tile, lane / 4 + reg / 2 * 8, rows.row(i));
            }
        }
    }
}

// So many blocks share a multiprocessor: scales with a minimum need more registers than two leave each other.
#define LINEAR_MANY_KERNEL(name, Family, BLOCKS)                                                                                \
    KERNEL void __launch_bounds__(MANY_WARPS *WARP, BLOCKS)                                                                     \
        name(const uint8_t *codes, const uint8_t *scales, const float *row_scales, unsigned flags, const float *bias,           \
             const float *input, float *output, unsigned features, unsigned row_len, unsigned rows, const uint32_t *groups,     \
             const uint32_t *order, unsigned rows_per_input) {                                                                  \
        __shared__ uint4 staged[2][MANY_ROWS * UNITS];                                                                          \
        const Tiles tiles = {codes, scales, row_scales, (row_len + TILE_COLUMNS - 1) / TILE_COLUMNS, flags};                    \
        const RowSet set = rows_of_block(rows, groups, order);                                                                  \
        StagedProduct<Family> product(tiles, staged, input, row_len, rows_per_input, set);                                      \
        linear_many(tiles, product, {bias, nullptr, output, features, rows_per_input}, set);                                    \
    }

LINEAR_MANY_KERNEL(linear_bf16_64, Bf16Tiles, 2)
LINEAR_MANY_KERNEL(linear_fp8_64, Fp8Tiles, 2)
LINEAR_MANY_KERNEL(linear_int4_64, Int4Tiles, 1)
LINEAR_MANY_KERNEL(linear_int8_64, Int8Tiles, 1)
LINEAR_MANY_KERNEL(linear_nvfp4_64, Nvfp4Tiles, 2)
LINEAR_MANY_KERNEL(linear_mxfp4_64, Mxfp4Tiles, 2)
#undef LINEAR_MANY_KERNEL
