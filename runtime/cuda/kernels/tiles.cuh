// Matrices as the kernels read them: tiles of 16 rows (output features) by 64 columns, each tile contiguous, the tiles of 16
// rows one after another. Within a tile every lane of a warp has its own 16 bytes (or some times 16), which hold what it
// gives to the matrix instruction. `tiles.rs` writes this layout and says why it is as it is.
//
// With g = lane / 4 and t = lane % 4, a lane has of rows g and g + 8 the 16 columns
//     L(j) = 8 t + j for j < 8, 32 + 8 t + (j - 8) for the others,
// and gives L(4 s) to L(4 s + 3) in step s of four m16n8k16. The sum over columns does not mind their order, as long as
// activations are read in the same one.
#pragma once

#include "kernel.cuh"

constexpr unsigned TILE_ROWS = 16;
constexpr unsigned TILE_COLUMNS = 64;

// What is known of a matrix beside its family.
struct Tiles {
    const uint8_t *codes;
    // Scales of blocks, tile by tile; nothing in some families.
    const uint8_t *scales;
    // Scales of rows, [rows rounded up to 16], or nothing.
    const float *row_scales;
    // Tiles side by side.
    unsigned chunks;
    // Of the family: see there.
    unsigned flags;
};

// 16 bytes that are read once: they leave the first level cache to the activations.
__device__ inline uint4 load_once(const uint8_t *at) {
#ifdef KINDLING_STAND_IN
    return *reinterpret_cast<const uint4 *>(at);
#else
    uint4 value;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(at));
    return value;
#endif
}

// Where column `column` of a tile lies: its lane among those of a row, and its place in that lane's list.
__device__ inline unsigned lane_of_column(unsigned column) { return column % 32 / 8; }
__device__ inline unsigned place_of_column(unsigned column) { return column / 32 * 8 + column % 8; }

// BF16: four times 16 bytes, one for each step.
struct Bf16Tiles {
    static constexpr unsigned BYTES = 2048;
    static constexpr unsigned SCALE_BYTES = 0;

    __device__ static void half(const uint4 *loaded, const uint8_t *, unsigned, unsigned, unsigned half, uint32_t (*a)[4]) {
        for (unsigned step = 0; step < 2; ++step) {
            const uint4 words = half == 0 ? loaded[step] : loaded[2 + step];
            a[step][0] = words.x, a[step][1] = words.y, a[step][2] = words.z, a[step][3] = words.w;
        }
    }

    __device__ static float element(const uint8_t *codes, const uint8_t *, unsigned, unsigned row, unsigned column) {
        const unsigned lane = row % 8 * 4 + lane_of_column(column), place = place_of_column(column);
        const unsigned at = place / 4 * 512 + lane * 16 + (place % 4 / 2 * 2 + row / 8) * 4 + place % 2 * 2;
        return bf16_to_float(*reinterpret_cast<const uint16_t *>(codes + at));
    }
};

// Eight bits: two times 16 bytes. Of the eight bytes of a step two are of row g, two of row g + 8, and again.
template <class Scale> struct Tiles8 {
    static constexpr unsigned BYTES = 1024;
    static constexpr unsigned SCALE_BYTES = Scale::BYTES;

    __device__ static void half(const uint4 *loaded, const uint8_t *scales, unsigned flags, unsigned lane, unsigned half,
                                uint32_t (*a)[4]) {
        const Scale low(scales, lane / 4, flags), high(scales, lane / 4 + 8, flags);
        const unsigned column = half * 32 + lane % 4 * 8;
        const uint4 four = half == 0 ? loaded[0] : loaded[1];
        const uint32_t words[4] = {four.x, four.y, four.z, four.w};
        for (unsigned i = 0; i < 4; ++i) {
            const unsigned step = i / 2, reg = i % 2 * 2;
            const float low0 = low.value(words[i] & 255, column);
            const float low1 = low.value(words[i] >> 8 & 255, column);
            const float high0 = high.value(words[i] >> 16 & 255, column);
            const float high1 = high.value(words[i] >> 24, column);
            a[step][reg] = pack_bf16(low0, low1);
            a[step][reg + 1] = pack_bf16(high0, high1);
        }
    }

    __device__ static float element(const uint8_t *codes, const uint8_t *scales, unsigned flags, unsigned row, unsigned column) {
        const unsigned lane = row % 8 * 4 + lane_of_column(column), place = place_of_column(column), step = place / 4;
        const unsigned at = step / 2 * 512 + lane * 16 + step % 2 * 8 + place % 4 / 2 * 4 + row / 8 * 2 + place % 2;
        return Scale(scales, row, flags).value(codes[at], column);
    }
};

// Four bits: 16 bytes, which are the four registers of m16n8k64: row g, row g + 8, and again.
template <class Scale> struct Tiles4 {
    static constexpr unsigned BYTES = 512;
    static constexpr unsigned SCALE_BYTES = Scale::BYTES;

    __device__ static void half(const uint4 *loaded, const uint8_t *scales, unsigned flags, unsigned lane, unsigned half,
                                uint32_t (*a)[4]) {
        const Scale low(scales, lane / 4, flags), high(scales, lane / 4 + 8, flags);
        const unsigned column = half * 32 + lane % 4 * 8;
        const uint32_t low_word = half == 0 ? loaded->x : loaded->z, high_word = half == 0 ? loaded->y : loaded->w;
        for (unsigned step = 0; step < 2; ++step) {
            const uint32_t of_low = low_word >> (16 * step), of_high = high_word >> (16 * step);
            a[step][0] = pack_bf16(low.value(of_low & 15, column), low.value(of_low >> 4 & 15, column));
            a[step][1] = pack_bf16(high.value(of_high & 15, column), high.value(of_high >> 4 & 15, column));
            a[step][2] = pack_bf16(low.value(of_low >> 8 & 15, column), low.value(of_low >> 12 & 15, column));
            a[step][3] = pack_bf16(high.value(of_high >> 8 & 15, column), high.value(of_high >> 12 & 15, column));
        }
    }

    __device__ static float element(const uint8_t *codes, const uint8_t *scales, unsigned flags, unsigned row, unsigned column) {
        const unsigned lane = row % 8 * 4 + lane_of_column(column), word = column / 32 * 2 + row / 8;
        const uint8_t both = codes[lane * 16 + word * 4 + column % 8 / 2];
        return Scale(scales, row, flags).value(column % 2 == 0 ? both & 15 : both >> 4, column);
    }
};

// Whole numbers with scales in F16, eight bytes for the 64 columns of a row. Flag 0: scale and minimum of each 32; 1: a scale
// for each 16.
struct AffineScale {
    static constexpr unsigned BYTES = 128;
    uint2 words;
    bool of_sixteen;

    __device__ AffineScale(const uint8_t *scales, unsigned row, unsigned flags)
        : words(reinterpret_cast<const uint2 *>(scales)[row]), of_sixteen(flags != 0) {}

    __device__ float affine(float code, unsigned column) const {
        const uint32_t word = column < 32 ? words.x : words.y;
        if (of_sixteen) {
            return code * f16_to_float(word >> (column % 32 / 16 * 16) & 0xffff);
        }
        return fmaf(code, f16_to_float(word & 0xffff), f16_to_float(word >> 16));
    }
};

struct UnsignedAffineScale : AffineScale {
    using AffineScale::AffineScale;
    __device__ float value(uint32_t code, unsigned column) const { return affine((float)code, column); }
};

struct SignedAffineScale : AffineScale {
    using AffineScale::AffineScale;
    __device__ float value(uint32_t code, unsigned column) const { return affine((float)(int8_t)code, column); }
};

// E2M1 with a scale in E4M3 for each 16: NVFP4.
struct E4m3Scale {
    static constexpr unsigned BYTES = 64;
    uint32_t word;

    __device__ E4m3Scale(const uint8_t *scales, unsigned row, unsigned) : word(reinterpret_cast<const uint32_t *>(scales)[row]) {}
    __device__ float value(uint32_t code, unsigned column) const {
        return e2m1_to_float(code) * e4m3_to_float(word >> (column / 16 * 8) & 255);
    }
};

// E2M1 with a power of two for each 32: MXFP4.
struct E8m0Scale {
    static constexpr unsigned BYTES = 32;
    uint32_t both;

    __device__ E8m0Scale(const uint8_t *scales, unsigned row, unsigned) : both(reinterpret_cast<const uint16_t *>(scales)[row]) {}
    __device__ float value(uint32_t code, unsigned column) const {
        return e2m1_to_float(code) * e8m0_to_float(both >> (column / 32 * 8) & 255);
    }
};

// E4M3. Flag 1: with a scale for the 64 columns of a row.
struct Fp8Scale {
    static constexpr unsigned BYTES = 64;
    float scale;

    __device__ Fp8Scale(const uint8_t *scales, unsigned row, unsigned flags)
        : scale(flags != 0 ? reinterpret_cast<const float *>(scales)[row] : 1.0f) {}
    __device__ float value(uint32_t code, unsigned) const { return e4m3_to_float(code) * scale; }
};

using Int4Tiles = Tiles4<UnsignedAffineScale>;
using Int8Tiles = Tiles8<SignedAffineScale>;
using Nvfp4Tiles = Tiles4<E4m3Scale>;
using Mxfp4Tiles = Tiles4<E8m0Scale>;
using Fp8Tiles = Tiles8<Fp8Scale>;

// Everything of a tile.
template <class Family> __device__ inline const uint8_t *codes_of(const Tiles &tiles, unsigned tile_row, unsigned chunk) {
    return tiles.codes + ((size_t)tile_row * tiles.chunks + chunk) * Family::BYTES;
}
template <class Family> __device__ inline const uint8_t *scales_of(const Tiles &tiles, unsigned tile_row, unsigned chunk) {
    return tiles.scales + ((size_t)tile_row * tiles.chunks + chunk) * Family::SCALE_BYTES;
}

// This lane's bytes of a tile, as they lie.
template <class Family> __device__ inline void load_codes(const uint8_t *codes, unsigned lane, uint4 (&loaded)[Family::BYTES / 512]) {
    for (unsigned i = 0; i < Family::BYTES / 512; ++i) {
        loaded[i] = load_once(codes + i * 512 + lane * 16);
    }
}
