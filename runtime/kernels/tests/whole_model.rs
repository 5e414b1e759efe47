//! A small llama with random weights: all ops together, on both backends.

mod common;

use common::llama::{Llama, TINY};
use common::{DTYPES, Part, Rng, assert_close, cpu_backends, limits, prepare, run, step, with_blocks};
use kindling_kernels::{
    Backend, BufferId, CacheGroupKind, CpuBackend, DType, Limits, Op, PrepareError, ReferenceBackend, Step, StepError,
    WeightError, WeightId,
};

/// int8 activations through two layers of random weights: measured 1.5e-2 at most on 2026-11-22.
const INT_TOLERANCE: f64 = 3e-2;
/// f16 keys and values: measured 3.1e-4 at most on 2026-11-22.
const FLOAT_TOLERANCE: f64 = 1e-3;

/// Breaks a valid step.
type Damage = fn(&mut Step);

fn tokens(len: usize) -> Vec<u32> {
    let mut rng = Rng(11);
    (0..len).map(|_| rng.below(TINY.vocab_size) as u32).collect()
}

#[test]
fn matches_reference_for_every_type() {
    for dtype in DTYPES {
        for kind in [CacheGroupKind::Full, CacheGroupKind::Window { window: 8 }] {
            let model = Llama { dtype, embedding: dtype, kind, ..TINY }.build();
            let (tokens, blocks) = (tokens(40), [5, 9, 2]);
            let step = step(&[Part { tokens: &tokens, context_len: 0, blocks: &blocks }], 1);
            let expected = run(&ReferenceBackend, &model, &limits(), &step);
            let tolerance = if dtype.block_elements() > 1 { INT_TOLERANCE } else { FLOAT_TOLERANCE };
            let mut first: Option<Vec<f32>> = None;
            for (isa, backend) in cpu_backends() {
                let found = run(&backend, &model, &limits(), &step);
                assert_close(&found, &expected, tolerance, &format!("{dtype} {kind:?} on {isa}"));
                assert_eq!(*first.get_or_insert(found.clone()), found, "instruction sets agree on every bit");
            }
        }
    }
}

#[test]
fn prefill_chunks_decode_batches_and_threads_give_the_same_bits() {
    for dtype in [DType::Q4_1, DType::BF16] {
        let model = Llama { dtype, ..TINY }.build();
        let (tokens, blocks) = (tokens(40), [5, 9, 2]);
        let vocab_size = TINY.vocab_size;
        for (isa, backend) in cpu_backends() {
            let whole = run(
                &backend,
                &model,
                &limits(),
                &step(&[Part { tokens: &tokens, context_len: 0, blocks: &blocks }], 1),
            );
            for num_threads in [1, 2, 3] {
                let limits = Limits { num_threads, ..limits() };
                let mut prepared = prepare(&backend, &model.0, &model.1, &limits);
                let (mut rows, mut logits, mut context_len) = (Vec::new(), Vec::new(), 0);
                for cut in [1, 1, 13, 2, 22, 1] {
                    // Another sequence comes along, with blocks of its own.
                    let part = Part { tokens: &tokens[context_len..context_len + cut], context_len, blocks: &blocks };
                    let other = Part { tokens: &tokens[..cut], context_len: 0, blocks: &[20, 21] };
                    prepared.execute(&step(&[other, part], 1), &mut logits).unwrap();
                    rows.extend_from_slice(&logits[cut * vocab_size..]);
                    assert_eq!(logits[..cut * vocab_size], whole[..cut * vocab_size]);
                    context_len += cut;
                }
                assert_eq!(rows, whole, "{dtype} on {isa} with {num_threads} threads");
            }
        }
    }
}

#[test]
fn only_wanted_rows_are_given() {
    let model = TINY.build();
    let (tokens, blocks) = (tokens(20), [0, 1]);
    let mut step = step(&[Part { tokens: &tokens, context_len: 0, blocks: &blocks }], 1);
    for backend in [&ReferenceBackend as &dyn Backend, &CpuBackend::new()] {
        step.logit_indices = (0..20).collect();
        let all = run(backend, &model, &limits(), &step);
        step.logit_indices = vec![3, 19];
        let some = run(backend, &model, &limits(), &step);
        assert_eq!(some[..200], all[600..800]);
        assert_eq!(some[200..], all[3800..]);
        step.logit_indices.clear();
        assert_eq!(run(backend, &model, &limits(), &step), []);
    }
}

#[test]
fn an_invalid_step_is_refused_and_leaves_the_cache_alone() {
    let (plan, weights) = TINY.build();
    let (tokens, blocks) = (tokens(21), [5, 9]);
    for backend in [&ReferenceBackend as &dyn Backend, &CpuBackend::new()] {
        let whole = step(&[Part { tokens: &tokens, context_len: 0, blocks: &blocks }], 1);
        let expected = run(backend, &(plan.clone(), TINY.build().1), &limits(), &whole);
        let mut prepared = prepare(backend, &plan, &weights, &limits());
        let mut logits = Vec::new();
        let first = step(&[Part { tokens: &tokens[..20], context_len: 0, blocks: &blocks }], 1);
        prepared.execute(&first, &mut logits).unwrap();
        let good = step(&[Part { tokens: &tokens[20..], context_len: 20, blocks: &blocks }], 1);
        let damage: [(&str, Damage); 9] = [
            ("token id", |step| step.token_ids[0] = 200),
            ("block id", |step| step.sequences[0].block_tables[0][0] = 64),
            ("block count", |step| step.sequences[0].block_tables[0].truncate(1)),
            ("block tables", |step| step.sequences[0].block_tables.clear()),
            ("query start", |step| step.sequences[0].query_start = 1),
            ("query length", |step| step.sequences[0].query_len = 2),
            ("context", |step| step.sequences[0].context_len = usize::MAX),
            ("positions", |step| step.positions.clear()),
            ("logit index", |step| step.logit_indices = vec![1]),
        ];
        for (what, damage) in damage {
            let mut bad = good.clone();
            damage(&mut bad);
            assert!(prepared.execute(&bad, &mut logits).is_err(), "{what} on {}", backend.name());
        }
        prepared.execute(&good, &mut logits).unwrap();
        assert_eq!(logits.len(), 200);
        assert_close(&logits, &expected[4000..], 1e-6, backend.name());
    }
}

#[test]
fn logits_of_an_empty_step_are_refused() {
    let (plan, _) = TINY.build();
    let step = Step { logit_indices: vec![0], ..Default::default() };
    assert!(matches!(step.validate(&plan, &with_blocks(&limits(), &plan)), Err(StepError::Inconsistent { .. })));
}

#[test]
fn damaged_plans_and_weights_are_refused() {
    for backend in [&ReferenceBackend as &dyn Backend, &CpuBackend::new()] {
        let refusal = |change: &dyn Fn(&mut kindling_kernels::Plan, &mut common::MemoryWeights, &mut Limits)| {
            let (mut plan, mut weights) = TINY.build();
            let mut limits = with_blocks(&limits(), &plan);
            change(&mut plan, &mut weights, &mut limits);
            backend.prepare(&plan, &weights, &limits, &mut |_| {}).err()
        };
        for op in 0..TINY.build().0.ops.len() {
            let error = refusal(&|plan, _, _| match &mut plan.ops[op] {
                Op::EmbedTokens { weight, .. }
                | Op::RmsNorm { weight: Some(weight), .. }
                | Op::Linear { weight, .. } => {
                    *weight = WeightId(usize::MAX);
                }
                Op::Rotary { num_heads, .. } | Op::PagedAttention { num_heads, .. } => *num_heads += 1,
                Op::KvCacheAppend { layer, .. } => *layer = 2,
                Op::GatedActivation { output, .. } | Op::Add { output, .. } | Op::GatherLogitRows { output, .. } => {
                    *output = BufferId(99);
                }
                other => panic!("{} is not in this plan", other.name()),
            });
            assert!(matches!(error, Some(PrepareError::Plan(_))), "op {op}: {error:?}");
        }
        assert!(matches!(refusal(&|plan, _, _| plan.logits = BufferId(0)), Some(PrepareError::Plan(_))));
        assert!(matches!(refusal(&|_, _, limits| limits.block_size = 0), Some(PrepareError::Plan(_))));
        assert!(matches!(refusal(&|_, _, limits| limits.num_blocks[0] = 1 << 60), Some(PrepareError::Memory { .. })));
        let missing = refusal(&|_, weights, _| weights.remove("output norm"));
        assert!(matches!(missing, Some(PrepareError::Weight(WeightError::Missing { .. }))));
        let shape = refusal(&|_, weights, _| weights.insert("output norm", DType::F32, &[95], vec![0; 380]));
        assert!(matches!(shape, Some(PrepareError::Weight(WeightError::Shape { .. }))));
    }
}

#[test]
fn memory_and_progress_are_told() {
    let (plan, weights) = TINY.build();
    let mut last = None;
    let model = CpuBackend::new()
        .prepare(&plan, &weights, &with_blocks(&limits(), &plan), &mut |progress| last = Some(progress))
        .unwrap();
    let last = last.unwrap();
    assert_eq!((last.loaded_bytes, last.total_bytes), (weights.num_bytes() as u64, weights.num_bytes() as u64));
    // 64 blocks of 16 positions, 2 layers, 2 heads of 16, keys and values in f16.
    assert_eq!(model.memory().kv_cache_bytes, 64 * 16 * 2 * 2 * 16 * 2 * 2);
    // Rows are padded to sixteen: 200 become 208.
    let padding = 8 * 96 / 32 * 34;
    assert_eq!(model.memory().weight_bytes, weights.num_bytes() + padding);
}
