//! How attention is started: rows of a tile, tokens of a block, the grid. Pure; no choice changes a bit of the result, since a
//! row's sums are made in the same order in every tile.

use crate::launch::Shape;

/// Rows of the tiles for few tokens and for many.
const FEW_ROWS: usize = 16;
const MANY_ROWS: usize = 32;
/// Up to so many tokens each has a block of its own: sequences that decode then do not wait for one another.
const FEW_TOKENS: usize = 32;
/// Larger heads have a kernel whose warps see to twice as many elements of few rows.
const SMALL_HEAD_DIM: usize = 256;
/// Spans that are seen to at a time, where their number is not known. Blocks take every so-maniest: 32 k positions are four
/// spans for each of 32 blocks, and one sequence with 8 heads of keys is 256 blocks for the 48 multiprocessors of GB10.
const SPANS_AT_A_TIME: usize = 32;
/// Positions of a span, as words of two weights with four more, and warps of a block.
const WEIGHT_WORDS: usize = 256 / 2 + 4;
const WARPS: usize = 4;

/// An attention layer's sizes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    pub num_heads: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
}

/// What is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AttentionShape {
    /// By which the kernel is named.
    pub tile: &'static str,
    /// Tokens of a block.
    pub tokens_each: usize,
    pub shape: Shape,
}

/// Whether the grid for so many tokens must not depend on how long contexts are.
pub(crate) const fn is_few(num_tokens: usize) -> bool {
    num_tokens <= FEW_TOKENS
}

/// For so many of the `step_tokens` tokens of a step, and at most so many spans each.
pub(crate) fn attention_shape(heads: Heads, (num_tokens, step_tokens): (usize, usize), spans: usize) -> AttentionShape {
    let Heads { num_heads, num_kv_heads, head_dim } = heads;
    let group = num_heads / num_kv_heads;
    let has_few = is_few(step_tokens);
    let (tile, rows) = match (head_dim > SMALL_HEAD_DIM, has_few) {
        (true, _) => ("large", FEW_ROWS),
        (false, true) => ("16", FEW_ROWS),
        (false, false) => ("32", MANY_ROWS),
    };
    let tokens_each = if has_few { 1 } else { (rows / group).max(1) };
    let query_words = (head_dim.div_ceil(32) | 1) * 16;
    // Queries, weights, and of each warp and row the greatest score and the sum.
    let words = rows * (query_words + WEIGHT_WORDS + 2 * WARPS);
    let grid = (num_kv_heads * group.div_ceil(rows), num_tokens.div_ceil(tokens_each), spans.min(SPANS_AT_A_TIME));
    let grid = (grid.0 as u32, grid.1 as u32, grid.2 as u32);
    let shape = Shape { shared_bytes: (words * size_of::<u32>()) as u32, ..Shape::four_warps(grid) };
    AttentionShape { tile, tokens_each, shape }
}

/// The name of a kernel.
pub(crate) fn kernel(kept: &str, tile: &str) -> String {
    format!("paged_attention_{kept}_{tile}")
}

/// All that attention with heads of a size may start.
pub(crate) fn kernels(kept: &str, head_dim: usize) -> Vec<String> {
    let tiles: &[&str] = if head_dim > SMALL_HEAD_DIM { &["large"] } else { &["16", "32"] };
    tiles.iter().map(|tile| kernel(kept, tile)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a block may have without being asked for.
    const SHARED_BYTES: u32 = 48 << 10;

    fn chosen(heads: (usize, usize, usize), tokens: usize, spans: usize) -> (&'static str, usize, (u32, u32, u32)) {
        let heads = Heads { num_heads: heads.0, num_kv_heads: heads.1, head_dim: heads.2 };
        let AttentionShape { tile, tokens_each, shape } = attention_shape(heads, (tokens, tokens), spans);
        assert!(shape.shared_bytes <= SHARED_BYTES, "{heads:?}: {}", shape.shared_bytes);
        (tile, tokens_each, shape.grid)
    }

    #[test]
    fn few_tokens_have_a_block_each_and_many_share_tiles() {
        assert_eq!(chosen((32, 8, 128), 1, 128), ("16", 1, (8, 1, 32)));
        assert_eq!(chosen((32, 8, 128), 32, 4), ("16", 1, (8, 32, 4)));
        assert_eq!(chosen((32, 8, 128), 33, 4), ("32", 8, (8, 5, 4)));
        // Groups that do not divide a tile, and groups beyond one.
        assert_eq!(chosen((9, 3, 64), 100, 1), ("32", 10, (3, 10, 1)));
        assert_eq!(chosen((40, 1, 64), 3, 1), ("16", 1, (3, 3, 1)));
        assert_eq!(chosen((40, 1, 64), 33, 1), ("32", 1, (2, 33, 1)));
    }

    #[test]
    fn the_largest_heads_have_room() {
        assert_eq!(chosen((2, 1, 256), 64, 1), ("32", 16, (1, 4, 1)));
        assert_eq!(chosen((2, 1, 512), 64, 1), ("large", 8, (1, 8, 1)));
    }
}
