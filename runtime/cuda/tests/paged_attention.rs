//! `kv_cache_append` and `paged_attention` on the device against reference, and what a token's result must not depend on.
#![allow(clippy::print_stdout, reason = "what was compared is worth reading")]

#[path = "../../kernels/tests/common/mod.rs"]
mod common;
mod device;

use common::op_plans::{attention, attention_with, in_steps};
use common::{NUM_BLOCKS, Part, Rng, assert_close, limits, prepare, run, step};
use kindling_kernels::{CacheGroupKind, EVICTED_BLOCK, KvType, Limits, ReferenceBackend};

/// Keys and values are rounded to BF16: measured 2.0e-3 at most on 2026-11-23.
const TOLERANCE: f64 = 6e-3;
/// Eight bits are the same ones as the reference's; measured 7.5e-7.
const FP8_TOLERANCE: f64 = 2e-6;

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

#[test]
fn evicted_blocks_of_a_window_are_not_read() {
    let Some(backend) = device::backend() else { return };
    let mut rng = Rng(8);
    let model = attention((4, 2, 32), CacheGroupKind::Window { window: 20 });
    let tokens = tokens(&mut rng, 100, model.0.vocab_size);
    let blocks = rng.permutation(NUM_BLOCKS);
    let limits = Limits { max_tokens_per_step: 100, max_logits_per_step: 100, ..limits() };
    let whole = in_steps(&backend, &model, (&tokens, &blocks), (&[100], &limits));
    let mut prepared = prepare(&backend, &model.0, &model.1, &limits);
    let (mut rows, mut logits) = (Vec::new(), Vec::new());
    for (context_len, len) in [(0, 40), (40, 30), (70, 1), (71, 29)] {
        // 20 positions are seen, the token's own included.
        let seen = (context_len + 1usize).saturating_sub(20) / limits.block_size;
        let mut blocks = blocks.clone();
        blocks[..seen].fill(EVICTED_BLOCK);
        let part = Part { tokens: &tokens[context_len..context_len + len], context_len, blocks: &blocks };
        prepared.execute(&step(&[part], 1), &mut logits).unwrap();
        rows.extend_from_slice(&logits);
    }
    assert_eq!(rows, whole);
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
