//! `kv_cache_append` and `paged_attention`: cpu against reference over scattered blocks, and what a token's result must
//! not depend on.

mod common;

use common::op_plans::{attention, attention_with, in_steps, with_evicted_blocks};
use common::{NUM_BLOCKS, Part, Rng, assert_close, cpu_backends, limits, prepare, run, step};
use kindling_kernels::{CacheGroupKind, KvType, Limits, ReferenceBackend, WeightSource};

/// Keys and values are rounded to f16: measured 2.5e-4 at most on 2026-11-22.
const TOLERANCE: f64 = 5e-4;

/// `(query heads, key heads, elements per head)`: as in SmolLM2, odd, and large; then heads that fill no vector.
const HEADS: [(usize, usize, usize); 6] = [(9, 3, 64), (4, 4, 80), (8, 1, 128), (5, 1, 32), (2, 2, 20), (1, 1, 7)];

fn tokens(rng: &mut Rng, len: usize, vocab_size: usize) -> Vec<u32> {
    (0..len).map(|_| rng.below(vocab_size) as u32).collect()
}

#[test]
fn matches_reference_over_scattered_blocks() {
    let mut rng = Rng(3);
    for heads in HEADS {
        for kind in [CacheGroupKind::Full, CacheGroupKind::Window { window: 9 }] {
            for block_size in [16, 32, 8, 20] {
                let model = attention(heads, kind);
                let limits = Limits { block_size, ..limits() };
                let blocks = rng.permutation(NUM_BLOCKS);
                let tokens = tokens(&mut rng, 61, model.0.vocab_size);
                let cuts = [1, 2, 3, 33, 5, 17];
                let expected = in_steps(&ReferenceBackend, &model, (&tokens, &blocks), (&cuts, &limits));
                let mut first: Option<Vec<f32>> = None;
                for (isa, backend) in cpu_backends() {
                    let found = in_steps(&backend, &model, (&tokens, &blocks), (&cuts, &limits));
                    assert_close(&found, &expected, TOLERANCE, &format!("{heads:?} {kind:?} {block_size} on {isa}"));
                    assert_eq!(*first.get_or_insert(found.clone()), found, "instruction sets agree on every bit");
                }
            }
        }
    }
}

#[test]
fn sinks_and_an_8_bit_cache_match_reference() {
    let mut rng = Rng(6);
    for heads in HEADS {
        for (extras, kv_type) in [(true, KvType::Wide), (false, KvType::F8E4M3), (true, KvType::F8E4M3)] {
            let model = attention_with(heads, CacheGroupKind::Window { window: 40 }, extras);
            let limits = Limits { kv_type, num_threads: 2, ..limits() };
            let blocks = rng.permutation(NUM_BLOCKS);
            let tokens = tokens(&mut rng, 61, model.0.vocab_size);
            let cuts = [1, 2, 53, 5];
            let expected = in_steps(&ReferenceBackend, &model, (&tokens, &blocks), (&cuts, &limits));
            let mut first: Option<Vec<f32>> = None;
            for (isa, backend) in cpu_backends() {
                let found = in_steps(&backend, &model, (&tokens, &blocks), (&cuts, &limits));
                assert_close(&found, &expected, TOLERANCE, &format!("{heads:?} {extras} {kv_type:?} on {isa}"));
                assert_eq!(*first.get_or_insert(found.clone()), found, "instruction sets agree on every bit");
            }
        }
    }
}

/// Contexts of several chunks, which one token's step hands to several threads and a long prompt's does not.
#[test]
fn long_contexts_give_the_same_bits_however_they_are_cut() {
    let mut rng = Rng(7);
    for (kind, extras, kv_type) in [
        (CacheGroupKind::Full, false, KvType::Wide),
        (CacheGroupKind::Window { window: 300 }, true, KvType::Wide),
        (CacheGroupKind::Full, true, KvType::F8E4M3),
    ] {
        let model = attention_with((9, 3, 64), kind, extras);
        let (len, base) = (611, Limits { max_tokens_per_step: 1024, max_context: 1024, kv_type, ..limits() });
        let base = Limits { max_logits_per_step: 1024, ..base };
        let tokens = tokens(&mut rng, len, model.0.vocab_size);
        let blocks = rng.permutation(NUM_BLOCKS);
        let expected = in_steps(&ReferenceBackend, &model, (&tokens, &blocks), (&[len], &base));
        for (isa, backend) in cpu_backends() {
            let whole = in_steps(&backend, &model, (&tokens, &blocks), (&[len], &base));
            assert_close(&whole, &expected, TOLERANCE, &format!("{kind:?} {kv_type:?} on {isa}"));
            for num_threads in [1, 2, 3] {
                let limits = Limits { num_threads, ..base.clone() };
                let cut = in_steps(&backend, &model, (&tokens, &blocks), (&[300, 1, 255, 2, 1, 1, 50, 1], &limits));
                assert_eq!(cut, whole, "{kind:?} {kv_type:?} on {isa} with {num_threads} threads");
            }
        }
    }
}

#[test]
fn evicted_blocks_of_a_window_are_not_read() {
    let mut rng = Rng(8);
    let model = attention((4, 2, 32), CacheGroupKind::Window { window: 20 });
    let tokens = tokens(&mut rng, 100, model.0.vocab_size);
    let blocks = rng.permutation(NUM_BLOCKS);
    for (isa, backend) in cpu_backends() {
        for num_threads in [1, 2] {
            let limits = Limits { num_threads, max_tokens_per_step: 100, ..limits() };
            let limits = Limits { max_logits_per_step: 100, ..limits };
            let whole = in_steps(&backend, &model, (&tokens, &blocks), (&[100], &limits));
            let rows = with_evicted_blocks(&backend, &model, (&tokens, &blocks), &limits);
            assert_eq!(rows, whole, "on {isa} with {num_threads} threads");
        }
    }
}

#[test]
fn a_token_does_not_depend_on_cuts_threads_or_blocks() {
    let mut rng = Rng(4);
    for heads in HEADS {
        for kind in [CacheGroupKind::Full, CacheGroupKind::Window { window: 21 }] {
            let model = attention(heads, kind);
            let tokens = tokens(&mut rng, 60, model.0.vocab_size);
            let (ordered, scattered): (Vec<u32>, _) = ((0..64).collect(), rng.permutation(64));
            for (isa, backend) in cpu_backends() {
                let whole = in_steps(&backend, &model, (&tokens, &ordered), (&[60], &limits()));
                for (cuts, num_threads) in [(vec![1; 60], 1), (vec![7, 16, 1, 36], 2), (vec![60], 3)] {
                    let limits = Limits { num_threads, ..limits() };
                    let cut = in_steps(&backend, &model, (&tokens, &scattered), (&cuts, &limits));
                    assert_eq!(cut, whole, "{heads:?} {kind:?} on {isa} in {} steps", cuts.len());
                }
            }
        }
    }
}

#[test]
fn sequences_of_one_step_do_not_meet() {
    let mut rng = Rng(5);
    let model = attention((9, 3, 64), CacheGroupKind::Full);
    let sequences: Vec<_> = [33, 1, 20].map(|len| tokens(&mut rng, len, model.0.vocab_size)).into();
    let blocks = rng.permutation(64);
    let part = |i: usize| Part { tokens: &sequences[i], context_len: 0, blocks: &blocks[i * 8..(i + 1) * 8] };
    for (isa, backend) in cpu_backends() {
        let together = run(&backend, &model, &limits(), &step(&[part(0), part(1), part(2)], 1));
        let alone: Vec<_> = (0..3).flat_map(|i| run(&backend, &model, &limits(), &step(&[part(i)], 1))).collect();
        assert_eq!(together, alone, "on {isa}");
    }
}

#[test]
fn what_one_sequence_leaves_in_a_block_does_not_reach_the_next() {
    let (plan, mut weights) = attention((4, 2, 20), CacheGroupKind::Full);
    // Token 0 has keys and values that are no numbers, token 1 infinite ones.
    for name in ["weight 1", "weight 2"] {
        let desc = weights.describe(name).unwrap();
        let mut bytes = vec![0; desc.num_bytes];
        weights.read_rows(name, 0..desc.num_rows(), &mut bytes).unwrap();
        for (row, value) in bytes.chunks_exact_mut(40 * 4).zip([f32::NAN, f32::INFINITY]) {
            row.as_chunks_mut::<4>().0.fill(value.to_le_bytes());
        }
        weights.insert(name, desc.dtype, &desc.shape, bytes);
    }
    for (isa, backend) in cpu_backends() {
        let one = |tokens| step(&[Part { tokens, context_len: 0, blocks: &[3, 7] }], 1);
        let clean = one(&[5, 9, 4, 77]);
        let model = (plan.clone(), weights);
        let expected = run(&backend, &model, &limits(), &clean);
        let mut prepared = prepare(&backend, &model.0, &model.1, &limits());
        let mut logits = Vec::new();
        prepared.execute(&one(&[0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1]), &mut logits).unwrap();
        prepared.execute(&clean, &mut logits).unwrap();
        assert_eq!(logits, expected, "on {isa}");
        weights = model.1;
    }
}
