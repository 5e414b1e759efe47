// Causal softmax attention of each token over its sequence's cache, on the matrix instructions. A tile has 16 or 32 rows: the
// heads of queries that share a head of keys, of one token or of several that follow one another. Positions are cut into spans
// at the same places whoever asks, a span's greatest score is a row's own, and the results of spans are added in order: a
// token's bits depend on its sequence alone. What a row does not see weighs exactly nothing; only a value that is not finite,
// of a later token in the same tile, reaches the rows before it (0 times infinity is no number).
#pragma once

#include "kv_cache.cuh"
#include "mma.cuh"

constexpr unsigned ATTENTION_WARPS = 4;
// Positions of a span.
constexpr unsigned SPAN = 256;
// Positions that a warp multiplies with queries at a time, and how often it does in a span.
constexpr unsigned KEY_TILE = 8;
constexpr unsigned KEY_TILES = SPAN / KEY_TILE / ATTENTION_WARPS;
// Positions and elements of values to one step.
constexpr unsigned VALUE_TILE = 16;
constexpr unsigned SLICE = 64;
// Words of a row of weights in shared memory: 4 more than it has, so that 8 rows lie in different banks.
constexpr unsigned WEIGHT_WORDS = SPAN / 2 + 4;

// What one span gives: [greatest score, sum of weights, weighted sum of values, [head_dim]].
constexpr unsigned SPAN_HEAD = 2;

struct AttentionRow {
    unsigned first;
    unsigned end;
};

// What a token sees; `window` 0 is everything.
__device__ inline AttentionRow attention_row(unsigned position, unsigned window) {
    return {window != 0 && position + 1 > window ? position + 1 - window : 0, position + 1};
}

// Writes a head from the parts of its spans.
__device__ inline void finish_head(const float *parts, unsigned num_parts, const float *sink, unsigned head_dim, float *output) {
    const unsigned lane = threadIdx.x % WARP, stride = head_dim + SPAN_HEAD;
    float greatest = sink ? *sink : -INFINITY;
    for (unsigned part = 0; part < num_parts; ++part) {
        greatest = fmaxf(greatest, parts[part * stride]);
    }
    float total = 0.0f;
    for (unsigned part = 0; part < num_parts; ++part) {
        total += parts[part * stride + 1] * expf(parts[part * stride] - greatest);
    }
    total += sink ? expf(*sink - greatest) : 0.0f;
    for (unsigned i = lane; i < head_dim; i += WARP) {
        float sum = 0.0f;
        for (unsigned part = 0; part < num_parts; ++part) {
            sum += parts[part * stride + SPAN_HEAD + i] * expf(parts[part * stride] - greatest);
        }
        output[i] = sum / total;
    }
}

// What a kernel is told of an attention layer.
struct Attention {
    KvLayer layer;
    const float *query;
    float *parts;
    const uint32_t *sequences, *positions, *tables;
    unsigned table_len, num_heads, window, num_tokens, tokens_each, num_parts;
    float score_scale, value_scale;
};

// Eight neighbours of a head as four words of two BF16; beyond the head they are zero.
template <class Kept>
__device__ inline void eight_kept(const uint8_t *kept, size_t head, unsigned element, unsigned head_dim, uint32_t (&words)[4]) {
    if (head_dim % 8 == 0) {
        if (element < head_dim) {
            Kept::eight_bf16(kept, head + element, words);
        }
        return;
    }
    for (unsigned i = 0; i < 4; ++i) {
        const unsigned at = element + 2 * i;
        words[i] = pack_bf16(at < head_dim ? Kept::at(kept, head + at) : 0.0f,
                             at + 1 < head_dim ? Kept::at(kept, head + at + 1) : 0.0f);
    }
}

// The neighbours `j` of two positions as one operand.
__device__ inline uint32_t same_element(const uint32_t (&first)[4], const uint32_t (&second)[4], unsigned j) {
    const uint32_t low = first[j / 2], high = second[j / 2];
    return j % 2 == 0 ? (low & 0xffffu) | high << 16 : low >> 16 | (high & 0xffff0000u);
}

// Words of a row of queries in shared memory: an odd number of times 64 bytes, so that two rows lie in different banks.
__device__ inline unsigned query_words(unsigned head_dim) { return ((head_dim + 31) / 32 | 1) * 16; }

// A tile of 16 R rows by one block. Lane 4 g + t gives and gets rows g and g + 8 of each 16.
template <class Kept, unsigned R, unsigned SLICES> struct AttentionTile {
    const Attention &of;
    // The run of tokens, all of one sequence, and the heads of the tile.
    unsigned first_token, num_tokens, kv_head, first_head, heads;
    const uint32_t *table;
    // What the tile sees.
    AttentionRow all;
    // In shared memory.
    uint32_t *queries, *weights;
    float *greatest_of, *total_of;
    unsigned lane, warp;

    __device__ unsigned row_of(unsigned r, unsigned half) const { return 16 * r + lane / 4 + 8 * half; }
    __device__ bool is_there(unsigned row) const { return row / heads < num_tokens; }
    __device__ size_t query_head(unsigned row) const {
        return (size_t)(first_token + row / heads) * of.num_heads + first_head + row % heads;
    }
    __device__ AttentionRow seen(unsigned row) const {
        return is_there(row) ? attention_row(of.positions[first_token + row / heads], of.window) : AttentionRow{0, 0};
    }

    // Queries as BF16; rows and elements that are not there are zero.
    __device__ void load_queries() const {
        const unsigned words = query_words(of.layer.head_dim), head_dim = of.layer.head_dim;
        for (unsigned i = threadIdx.x; i < 16 * R * words; i += ATTENTION_WARPS * WARP) {
            const unsigned row = i / words, element = i % words * 2;
            const bool is_row = is_there(row);
            const float *query = of.query + (is_row ? query_head(row) * head_dim : 0);
            queries[i] = pack_bf16(is_row && element < head_dim ? query[element] : 0.0f,
                                   is_row && element + 1 < head_dim ? query[element + 1] : 0.0f);
        }
    }

    // Products of queries and the warp's keys: the tiles of 8 positions whose number is 4 n + warp. A lane reads 8 neighbours of
    // a key with one load and takes those of queries alike: a sum does not mind the order of elements.
    __device__ void multiply_keys(unsigned span, float (&scores)[R][KEY_TILES][4]) const {
        const unsigned head_dim = of.layer.head_dim, words = query_words(head_dim), g = lane / 4, t = lane % 4;
#pragma unroll
        for (unsigned n = 0; n < KEY_TILES; ++n) {
            const unsigned start = span + (n * ATTENTION_WARPS + warp) * KEY_TILE, position = start + g;
            for (unsigned r = 0; r < R; ++r) {
                scores[r][n][0] = scores[r][n][1] = scores[r][n][2] = scores[r][n][3] = 0.0f;
            }
            if (start + KEY_TILE <= all.first || start >= all.end) {
                continue;
            }
            const bool is_seen = position >= all.first && position < all.end;
            const size_t head = is_seen ? kv_element(of.layer, table, position, kv_head) : 0;
            for (unsigned element = 8 * t; element < head_dim + 8 * t; element += 32) {
                uint32_t key[4] = {};
                if (is_seen) {
                    eight_kept<Kept>(of.layer.keys, head, element, head_dim, key);
                }
                for (unsigned r = 0; r < R; ++r) {
                    const uint4 low = *reinterpret_cast<const uint4 *>(queries + row_of(r, 0) * words + element / 2);
                    const uint4 high = *reinterpret_cast<const uint4 *>(queries + row_of(r, 1) * words + element / 2);
                    const uint32_t a[2][4] = {{low.x, high.x, low.y, high.y}, {low.z, high.z, low.w, high.w}};
                    const uint32_t b[2][2] = {{key[0], key[1]}, {key[2], key[3]}};
                    mma_bf16(scores[r][n], a[0], b[0], scores[r][n]);
                    mma_bf16(scores[r][n], a[1], b[1], scores[r][n]);
                }
            }
        }
    }

    // Scores become weights, BF16 in shared memory, and their sums; the greatest score of each row is that of all warps.
    // `__fmul_rn`: no compiler may fuse it with the subtraction after it, in one kernel and not in another.
    __device__ void weigh(unsigned span, float (&scores)[R][KEY_TILES][4]) const {
        const unsigned t = lane % 4;
        for (unsigned r = 0; r < R; ++r) {
            for (unsigned half = 0; half < 2; ++half) {
                const AttentionRow row = seen(row_of(r, half));
                float greatest = -INFINITY;
#pragma unroll
                for (unsigned i = 0; i < KEY_TILES * 2; ++i) {
                    const unsigned position = span + (i / 2 * ATTENTION_WARPS + warp) * KEY_TILE + 2 * t + i % 2;
                    float &score = scores[r][i / 2][2 * half + i % 2];
                    score = position >= row.first && position < row.end ? __fmul_rn(score, of.score_scale) : -INFINITY;
                    greatest = fmaxf(greatest, score);
                }
                greatest = fmaxf(greatest, __shfl_xor_sync(ALL_LANES, greatest, 1));
                greatest = fmaxf(greatest, __shfl_xor_sync(ALL_LANES, greatest, 2));
                if (t == 0) {
                    greatest_of[warp * 16 * R + row_of(r, half)] = greatest;
                }
            }
        }
        __syncthreads();
        for (unsigned r = 0; r < R; ++r) {
            for (unsigned half = 0; half < 2; ++half) {
                const unsigned row = row_of(r, half);
                const AttentionRow own = seen(row);
                const float greatest = greatest_in_span(row);
                float total = 0.0f;
#pragma unroll
                for (unsigned n = 0; n < KEY_TILES; ++n) {
                    const unsigned start = (n * ATTENTION_WARPS + warp) * KEY_TILE, position = span + start + 2 * t;
                    const float *score = &scores[r][n][2 * half];
                    const bool first = position >= own.first && position < own.end;
                    const bool second = position + 1 >= own.first && position + 1 < own.end;
                    const uint32_t both = pack_bf16(first ? expf(score[0] - greatest) : 0.0f, second ? expf(score[1] - greatest) : 0.0f);
                    total += bf16_to_float(both & 0xffffu) + bf16_to_float(both >> 16);
                    weights[row * WEIGHT_WORDS + start / 2 + t] = both;
                }
                total += __shfl_xor_sync(ALL_LANES, total, 1);
                total += __shfl_xor_sync(ALL_LANES, total, 2);
                if (t == 0) {
                    total_of[warp * 16 * R + row] = total;
                }
            }
        }
        __syncthreads();
    }

    __device__ float greatest_in_span(unsigned row) const {
        float greatest = -INFINITY;
        for (unsigned other = 0; other < ATTENTION_WARPS; ++other) {
            greatest = fmaxf(greatest, greatest_of[other * 16 * R + row]);
        }
        return greatest;
    }

    // Where a row's result of a span goes; nowhere if it sees none of it.
    __device__ float *part(unsigned row, unsigned span) const {
        const AttentionRow own = seen(row);
        if (span + SPAN <= own.first || span >= own.end) {
            return nullptr;
        }
        const unsigned number = span / SPAN - own.first / SPAN;
        return of.parts + (query_head(row) * of.num_parts + number) * (of.layer.head_dim + SPAN_HEAD);
    }

    // Weights times values. Warps share the elements in slices of 64, and where there are fewer slices, the positions: their sums
    // are added in the order of warps. A lane reads 8 neighbours of a value, which are a column each of 8 products.
    __device__ void multiply_values(unsigned span) const {
        const unsigned head_dim = of.layer.head_dim, g = lane / 4, t = lane % 4;
        const unsigned slices = (head_dim + SLICE - 1) / SLICE, sharers = slices > 2 ? 1 : ATTENTION_WARPS / slices;
        const unsigned share = warp % sharers, first_slice = warp / sharers;
        float sums[SLICES][R][8][4] = {};
        for (unsigned step = share; step < SPAN / VALUE_TILE; step += sharers) {
            const unsigned start = span + step * VALUE_TILE;
            if (start + VALUE_TILE <= all.first || start >= all.end) {
                continue;
            }
#pragma unroll
            for (unsigned s = 0; s < SLICES; ++s) {
                const unsigned element = (first_slice + s * ATTENTION_WARPS) * SLICE + 8 * g;
                if (first_slice + s * ATTENTION_WARPS >= slices) {
                    continue;
                }
                uint32_t values[4][4] = {};
                for (unsigned i = 0; i < 4; ++i) {
                    const unsigned position = start + 2 * t + i % 2 + i / 2 * 8;
                    if (position >= all.first && position < all.end) {
                        eight_kept<Kept>(of.layer.values, kv_element(of.layer, table, position, kv_head), element, head_dim, values[i]);
                    }
                }
                for (unsigned r = 0; r < R; ++r) {
                    const uint32_t *low = weights + row_of(r, 0) * WEIGHT_WORDS + step * (VALUE_TILE / 2) + t;
                    const uint32_t *high = weights + row_of(r, 1) * WEIGHT_WORDS + step * (VALUE_TILE / 2) + t;
                    const uint32_t a[4] = {low[0], high[0], low[4], high[4]};
#pragma unroll
                    for (unsigned j = 0; j < 8; ++j) {
                        const uint32_t b[2] = {same_element(values[0], values[1], j), same_element(values[2], values[3], j)};
                        mma_bf16(sums[s][r][j], a, b, sums[s][r][j]);
                    }
                }
            }
        }
        // Sums take the place of weights: up to 128 floats to a row.
        float *shared_sums = reinterpret_cast<float *>(weights);
        for (unsigned turn = 0; turn < sharers; ++turn) {
            __syncthreads();
            if (turn != share) {
                continue;
            }
#pragma unroll
            for (unsigned i = 0; i < SLICES * R * 4; ++i) {
                const unsigned s = i / (R * 4), r = i / 4 % R, reg = i % 4, row = row_of(r, reg / 2);
                const unsigned element = (first_slice + s * ATTENTION_WARPS) * SLICE + 8 * (2 * t + reg % 2);
                float *own = part(row, span);
                float *shared = shared_sums + row * WEIGHT_WORDS + element;
#pragma unroll
                for (unsigned j = 0; j < 8; ++j) {
                    if (element + j >= head_dim) {
                        continue;
                    }
                    const float sum = turn == 0 ? sums[s][r][j][reg] : shared[j] + sums[s][r][j][reg];
                    if (turn + 1 < sharers) {
                        shared[j] = sum;
                    } else if (own) {
                        own[SPAN_HEAD + element + j] = sum * of.value_scale;
                    }
                }
            }
        }
    }

    __device__ void span(unsigned number) const {
        {
            float scores[R][KEY_TILES][4];
            multiply_keys(number * SPAN, scores);
            weigh(number * SPAN, scores);
        }
        for (unsigned row = threadIdx.x; row < 16 * R; row += ATTENTION_WARPS * WARP) {
            float *own = part(row, number * SPAN);
            if (own) {
                own[0] = greatest_in_span(row), own[1] = 0.0f;
                for (unsigned other = 0; other < ATTENTION_WARPS; ++other) {
                    own[1] += total_of[other * 16 * R + row];
                }
            }
        }
        multiply_values(number * SPAN);
        __syncthreads();
    }
};

// A block to `tokens_each` tokens one after another (tokens of different sequences are different tiles), the heads of queries of
// a head of keys, and every gridDim.z-th of their spans: the grid need not know how long contexts are.
// grid: heads of keys by tiles of their heads of queries, tokens / tokens_each, spans at a time; block: 128.
template <class Kept, unsigned R, unsigned SLICES> __device__ inline void attend(const Attention &of) {
    DYNAMIC_SHARED(uint32_t, shared);
    const unsigned of_each = of.num_heads / of.layer.num_heads, splits = gridDim.x / of.layer.num_heads;
    const unsigned split = blockIdx.x % splits * 16 * R, kv_head = blockIdx.x / splits;
    const unsigned heads = min(of_each - split, 16 * R), end = min(of.num_tokens, (blockIdx.y + 1) * of.tokens_each);
    uint32_t *weights = shared + 16 * R * query_words(of.layer.head_dim);
    float *greatest_of = reinterpret_cast<float *>(weights + 16 * R * WEIGHT_WORDS);
    for (unsigned first = blockIdx.y * of.tokens_each, next; first < end; first = next) {
        const unsigned sequence = of.sequences[first];
        for (next = first + 1; next < end && of.sequences[next] == sequence; ++next) {
        }
        const AttentionRow all = {attention_row(of.positions[first], of.window).first, of.positions[next - 1] + 1};
        const AttentionTile<Kept, R, SLICES> tile = {
            of, first, next - first, kv_head, kv_head * of_each + split, heads, of.tables + (size_t)sequence * of.table_len, all,
            shared, weights, greatest_of, greatest_of + ATTENTION_WARPS * 16 * R, threadIdx.x % WARP, threadIdx.x / WARP};
        unsigned span = all.first / SPAN + blockIdx.z;
        if (span * SPAN >= all.end) {
            continue;
        }
        tile.load_queries();
        __syncthreads();
        for (; span * SPAN < all.end; span += gridDim.z) {
            tile.span(span);
        }
    }
}

#define ATTENTION_KERNEL(name, Kept, R, SLICES)                                                                                 \
    KERNEL void __launch_bounds__(ATTENTION_WARPS *WARP, 3)                                                                     \
        name(const uint8_t *keys, const uint8_t *values, const float *query, float *parts, const uint32_t *sequences,           \
             const uint32_t *positions, const uint32_t *tables, unsigned table_len, unsigned block_size, unsigned num_kv_heads, \
             unsigned head_dim, unsigned num_heads, unsigned window, unsigned num_tokens, unsigned tokens_each,                 \
             unsigned num_parts, float scale, float key_scale, float value_scale) {                                             \
        const Attention of = {{keys, values, block_size, num_kv_heads, head_dim}, query, parts, sequences, positions, tables,   \
                              table_len, num_heads, window, num_tokens, tokens_each, num_parts, scale * key_scale, value_scale}; \
        attend<Kept, R, SLICES>(of);                                                                                            \
    }

// Sixteen and 32 rows with heads of up to 256 elements, and 16 with heads of up to 512.
ATTENTION_KERNEL(paged_attention_bf16_16, KeptBf16, 1, 1)
ATTENTION_KERNEL(paged_attention_bf16_32, KeptBf16, 2, 1)
ATTENTION_KERNEL(paged_attention_bf16_large, KeptBf16, 1, 2)
ATTENTION_KERNEL(paged_attention_fp8_16, KeptFp8, 1, 1)
ATTENTION_KERNEL(paged_attention_fp8_32, KeptFp8, 2, 1)
ATTENTION_KERNEL(paged_attention_fp8_large, KeptFp8, 1, 2)
#undef ATTENTION_KERNEL

// The spans of each head together. A warp to a head; grid: heads, tokens; block: 32. `sinks` may be missing.
KERNEL void __launch_bounds__(WARP) paged_attention_finish(const float *parts, const float *sinks, float *output, const uint32_t *positions,
                                                           unsigned window, unsigned head_dim, unsigned num_parts) {
    const size_t head = (size_t)blockIdx.y * gridDim.x + blockIdx.x;
    const AttentionRow row = attention_row(positions[blockIdx.y], window);
    const unsigned touched = (row.end - 1) / SPAN - row.first / SPAN + 1;
    finish_head(parts + head * num_parts * (head_dim + SPAN_HEAD), touched, sinks ? sinks + blockIdx.x : nullptr, head_dim,
                output + head * head_dim);
}
