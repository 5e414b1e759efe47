// Rows of a matrix, by token.
#pragma once

#include "linear.cuh"

// grid: tokens; block: any.
#define EMBED_TILES_KERNEL(name, Family)                                                                                        \
    KERNEL void name(const uint8_t *codes, const uint8_t *scales, const float *row_scales, unsigned flags,                      \
                     const uint32_t *tokens, float *output, unsigned row_len) {                                                 \
        const Tiles tiles = {codes, scales, row_scales, (row_len + TILE_COLUMNS - 1) / TILE_COLUMNS, flags};                    \
        const unsigned row = tokens[blockIdx.x], tile_row = row / TILE_ROWS;                                                    \
        const float row_scale = row_scales ? row_scales[row] : 1.0f;                                                            \
        for (unsigned column = threadIdx.x; column < row_len; column += blockDim.x) {                                           \
            const unsigned chunk = column / TILE_COLUMNS;                                                                       \
            const float value =                                                                                                 \
                Family::element(codes_of<Family>(tiles, tile_row, chunk), scales_of<Family>(tiles, tile_row, chunk), flags,     \
                                row % TILE_ROWS, column % TILE_COLUMNS);                                                        \
            output[(size_t)blockIdx.x * row_len + column] = value * row_scale;                                                  \
        }                                                                                                                       \
    }

EMBED_TILES_KERNEL(embed_tokens_bf16, Bf16Tiles)
EMBED_TILES_KERNEL(embed_tokens_fp8, Fp8Tiles)
EMBED_TILES_KERNEL(embed_tokens_int4, Int4Tiles)
EMBED_TILES_KERNEL(embed_tokens_int8, Int8Tiles)
EMBED_TILES_KERNEL(embed_tokens_nvfp4, Nvfp4Tiles)
EMBED_TILES_KERNEL(embed_tokens_mxfp4, Mxfp4Tiles)
#undef EMBED_TILES_KERNEL

#define EMBED_ROWS_KERNEL(name, Row)                                                                                            \
    KERNEL void name(const uint8_t *weight, const float *row_scales, const uint32_t *tokens, float *output, unsigned row_len) { \
        const unsigned row = tokens[blockIdx.x];                                                                                \
        const float row_scale = row_scales ? row_scales[row] : 1.0f;                                                            \
        for (unsigned column = threadIdx.x; column < row_len; column += blockDim.x) {                                           \
            const float value = Row::at(weight + (size_t)row * row_len * Row::BYTES, column);                                   \
            output[(size_t)blockIdx.x * row_len + column] = value * row_scale;                                                  \
        }                                                                                                                       \
    }

EMBED_ROWS_KERNEL(embed_tokens_f32, F32Row)
EMBED_ROWS_KERNEL(embed_tokens_f16, F16Row)
#undef EMBED_ROWS_KERNEL
