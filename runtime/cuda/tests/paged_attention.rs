//! `kv_cache_append` and `paged_attention` on the device against reference, and what a token's result must not depend on.
#![allow(clippy::print_stdout, reason = "what was compared is worth reading")]

#[path = "../../kernels/tests/common/mod.rs"]
mod common;
mod device;

use common::op_plans::{attention, attention_with, in_steps, with_evicted_blocks};
use common::{NUM_BLOCKS, Part, Rng, assert_close, limits, limits_of_rows, prepare, run, step};
use kindling_kernels::{CacheGroupKind, KvType, Limits, ReferenceBackend};

/// Queries, keys, values and the weights of positions are rounded to BF16: measured 2.85e-3 at most on 2026-11-23 on the stand-in.
const TOLERANCE: f64 = 6e-3;
/// Eight bits are the same ones as the reference's, but queries and weights are rounded to BF16: measured 1.63e-3.
const FP8_TOLERANCE: f64 = 4e-3;

/// `(query heads, key heads, elements per head)`: as in SmolLM2, odd, and large; then heads that fill no vector.
const HEADS: [(usize, usize, usize); 7] =
    [(9, 3, 64), (4, 4, 80), (8, 1, 128), (5, 1, 32), (2, 2, 20), (1, 1, 7), (2, 1, 512)];

fn tokens(rng: &mut Rng, len: usize, vocab_size: usize) -> Vec<u32> {
    (0..len).map(|_| rng.below(vocab_size) as u32).collect()
}

#[test]
fn matches_reference_over_scattered_blocks() {
    let Some(backend) = device::backend() else { return };
    let mut rng = Rng(3);
    for heads in HEADS {
        for (kind, block_size) in
            [(CacheGroupKind::Full, 16), (CacheGroupKind::Window { window: 9 }, 16), (CacheGroupKind::Full, 20)]
        {
            for (extras, kv_type) in [(false, KvType::Wide), (true, KvType::Wide), (true, KvType::F8E4M3)] {
                let model = attention_with(heads, kind, extras);
                let limits = Limits { block_size, kv_type, ..limits() };
                let blocks = rng.permutation(NUM_BLOCKS);
                let tokens = tokens(&mut rng, 61, model.0.vocab_size);
                let cuts = [1, 2, 3, 33, 5, 17];
                let expected = in_steps(&ReferenceBackend, &model, (&tokens, &blocks), (&cuts, &limits));
                let found = in_steps(&backend, &model, (&tokens, &blocks), (&cuts, &limits));
                let tolerance = if kv_type == KvType::Wide { TOLERANCE } else { FP8_TOLERANCE };
                assert_close(&found, &expected, tolerance, &format!("{heads:?} {kind:?} {block_size} {kv_type:?}"));
            }
        }
    }
}

/// Contexts of several spans, cut at other places.
#[test]
fn long_contexts_give_the_same_bits_however_they_are_cut() {
    let Some(backend) = device::backend() else { return };
    let mut rng = Rng(7);
    for (kind, extras, kv_type) in [
        (CacheGroupKind::Full, false, KvType::Wide),
        (CacheGroupKind::Window { window: 300 }, true, KvType::Wide),
        (CacheGroupKind::Full, true, KvType::F8E4M3),
    ] {
        let model = attention_with((3, 1, 32), kind, extras);
        let (len, base) = (611, Limits { max_tokens_per_step: 1024, max_context: 1024, kv_type, ..limits() });
        let limits = Limits { max_logits_per_step: 1024, ..base };
        let tokens = tokens(&mut rng, len, model.0.vocab_size);
        let (blocks, others) = (rng.permutation(NUM_BLOCKS), rng.permutation(NUM_BLOCKS));
        let expected = in_steps(&ReferenceBackend, &model, (&tokens, &blocks), (&[len], &limits));
        let whole = in_steps(&backend, &model, (&tokens, &blocks), (&[len], &limits));
        let tolerance = if kv_type == KvType::Wide { TOLERANCE } else { FP8_TOLERANCE };
        assert_close(&whole, &expected, tolerance, &format!("{kind:?} {kv_type:?}"));
        let cut = in_steps(&backend, &model, (&tokens, &others), (&[300, 1, 255, 2, 1, 1, 50, 1], &limits));
        assert_eq!(cut, whole, "{kind:?} {kv_type:?}");
    }
}

/// Contexts of so many spans that a block sees to several of them; of a window, spans that begin far behind the first.
#[test]
fn contexts_of_more_spans_than_blocks_match_reference() {
    let Some(backend) = device::backend() else { return };
    let mut rng = Rng(9);
    for kind in [CacheGroupKind::Full, CacheGroupKind::Window { window: 8400 }] {
        let model = attention((1, 1, 8), kind);
        let (len, num_blocks) = (8700, 544);
        let limits = Limits { max_context: len, num_blocks: vec![num_blocks], ..limits_of_rows(len) };
        let (mut tokens, blocks) = (tokens(&mut rng, len, model.0.vocab_size), rng.permutation(num_blocks));
        // The values of the others nearly cancel out, so these few positions matter.
        tokens[8192..8600].fill(3);
        let expected = in_steps(&ReferenceBackend, &model, (&tokens, &blocks), (&[len], &limits));
        let found = in_steps(&backend, &model, (&tokens, &blocks), (&[8600, 1, 98, 1], &limits));
        for (what, rows) in [("decoded", 8600..8601), ("of a prompt", 8601..8699), ("decoded last", 8699..8700)] {
            let of_rows = |all: &[f32]| all[rows.start * 8..rows.end * 8].to_vec();
            assert_close(&of_rows(&found), &of_rows(&expected), TOLERANCE, &format!("{kind:?}, {what}"));
        }
    }
}

#[test]
fn evicted_blocks_of_a_window_are_not_read() {
    let Some(backend) = device::backend() else { return };
    let mut rng = Rng(8);
    let model = attention((4, 2, 32), CacheGroupKind::Window { window: 20 });
    let tokens = tokens(&mut rng, 100, model.0.vocab_size);
    let blocks = rng.permutation(NUM_BLOCKS);
    // Blocks that end in the middle of what a kernel reads at a time, too.
    for block_size in [16, 20] {
        let limits = Limits { max_tokens_per_step: 100, max_logits_per_step: 100, block_size, ..limits() };
        let whole = in_steps(&backend, &model, (&tokens, &blocks), (&[100], &limits));
        let rows = with_evicted_blocks(&backend, &model, (&tokens, &blocks), &limits);
        assert_eq!(rows, whole, "blocks of {block_size}");
    }
}

/// Groups of 1 to 40 heads of queries and heads of 8 to 512 elements, in tiles of one token and of many.
#[test]
fn prompts_beside_decoding_rows_have_the_bits_of_whole_prompts() {
    let Some(backend) = device::backend() else { return };
    let mut rng = Rng(11);
    let shapes = [
        (1, 1, 8),
        (3, 1, 64),
        (4, 1, 96),
        (8, 1, 128),
        (16, 1, 32),
        (2, 2, 256),
        (5, 1, 20),
        (40, 1, 16),
        (2, 1, 192),
        (2, 1, 512),
    ];
    for (index, heads) in shapes.into_iter().enumerate() {
        let kind = if index % 2 == 0 { CacheGroupKind::Full } else { CacheGroupKind::Window { window: 37 } };
        let kv_type = if index % 3 == 2 { KvType::F8E4M3 } else { KvType::Wide };
        let model = attention_with(heads, kind, index % 3 != 0);
        let limits =
            Limits { max_context: 512, max_tokens_per_step: 256, max_logits_per_step: 256, kv_type, ..limits() };
        let blocks = rng.permutation(60);
        let sequences: Vec<_> = [51, 77, 40].map(|len| tokens(&mut rng, len, model.0.vocab_size)).into();
        let tables: Vec<_> = blocks.chunks(20).collect();
        let whole: Vec<_> = (0..3)
            .map(|i| in_steps(&backend, &model, (&sequences[i], tables[i]), (&[sequences[i].len()], &limits)))
            .collect();
        for (i, whole) in whole.iter().enumerate() {
            let own = (&sequences[i][..], tables[i]);
            let expected = in_steps(&ReferenceBackend, &model, own, (&[sequences[i].len()], &limits));
            let tolerance = if kv_type == KvType::Wide { TOLERANCE } else { FP8_TOLERANCE };
            assert_close(whole, &expected, tolerance, &format!("{heads:?} {kind:?} {kv_type:?}"));
        }
        let mut prepared = prepare(&backend, &model.0, &model.1, &limits);
        let (mut found, mut done, mut logits) = (vec![Vec::new(); 3], [0; 3], Vec::new());
        // A decoding row between two prompts, then prompts in which others decode, then few rows of all.
        for lens in [[50, 0, 0], [0, 35, 7], [1, 41, 13], [0, 1, 1], [0, 0, 19]] {
            let taking: Vec<_> = (0..3).filter(|i| lens[*i] > 0).collect();
            let parts: Vec<_> = taking
                .iter()
                .map(|&i| {
                    let tokens = &sequences[i][done[i]..done[i] + lens[i]];
                    Part { tokens, context_len: done[i], blocks: tables[i] }
                })
                .collect();
            prepared.execute(&step(&parts, 1), &mut logits).unwrap();
            let mut rows = logits.chunks(model.0.vocab_size);
            for &i in &taking {
                rows.by_ref().take(lens[i]).for_each(|row| found[i].extend_from_slice(row));
                done[i] += lens[i];
            }
        }
        assert_eq!(found, whole, "{heads:?} {kind:?} {kv_type:?}");
    }
}

#[test]
fn sequences_of_one_step_do_not_meet() {
    let Some(backend) = device::backend() else { return };
    let mut rng = Rng(5);
    let model = attention((9, 3, 64), CacheGroupKind::Full);
    let sequences: Vec<_> = [33, 1, 20].map(|len| tokens(&mut rng, len, model.0.vocab_size)).into();
    let blocks = rng.permutation(64);
    let part = |i: usize| Part { tokens: &sequences[i], context_len: 0, blocks: &blocks[i * 8..(i + 1) * 8] };
    let together = run(&backend, &model, &limits(), &step(&[part(0), part(1), part(2)], 1));
    let alone: Vec<_> = (0..3).flat_map(|i| run(&backend, &model, &limits(), &step(&[part(i)], 1))).collect();
    assert_eq!(together, alone);
}
