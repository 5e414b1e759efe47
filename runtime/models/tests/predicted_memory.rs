//! What a backend predicts without allocating is what it holds once it has prepared, for every tiny checkpoint.
#![allow(clippy::unwrap_used, reason = "this is test code")]

mod common;

use common::golden_model::{CASES, GoldenModel};
use kindling_kernels::{Backend, CpuBackend, KvType, Limits, PrepareError, ReferenceBackend};

/// Some that differ in everything: one sequence and many, long and short steps, both cache types, some threads.
fn limits(num_groups: usize) -> Vec<Limits> {
    let base = Limits {
        max_tokens_per_step: 512,
        max_sequences: 4,
        max_logits_per_step: 4,
        max_context: 4096,
        block_size: 16,
        num_blocks: vec![512; num_groups],
        kv_type: KvType::Wide,
        num_threads: 4,
    };
    let uneven = (0..num_groups).map(|group| 33 + 7 * group).collect();
    vec![
        Limits { kv_type: KvType::F8E4M3, num_blocks: uneven, ..base.clone() },
        Limits { max_tokens_per_step: 7, max_logits_per_step: 9, max_sequences: 9, max_context: 100, ..base.clone() },
        Limits { num_threads: 1, max_context: 60_000, block_size: 4, ..base.clone() },
        Limits { num_threads: 13, max_tokens_per_step: 1000, num_blocks: vec![1; num_groups], ..base.clone() },
        base,
    ]
}

#[test]
fn what_is_predicted_is_what_is_held() {
    let mut compared = 0;
    for (folder, file, lacking) in CASES {
        let golden = GoldenModel::open(folder, file);
        let (plan, weights) = (golden.opened.spec.lower(), golden.opened.weights.as_ref());
        for backend in [&CpuBackend::new() as &dyn Backend, &ReferenceBackend] {
            for limits in limits(plan.cache_groups.len()) {
                let what = format!("{} {folder}/{file} {limits:?}", backend.name());
                match backend.prepare(&plan, weights, &limits, &mut |_| {}) {
                    Ok(prepared) => {
                        assert_eq!(backend.predict(&plan, weights, &limits).unwrap(), prepared.memory(), "{what}");
                        compared += 1;
                    }
                    Err(PrepareError::Unsupported { what: prepared, .. }) => {
                        assert_eq!(Some(prepared.as_str()), *lacking, "{what}");
                        let predicted = backend.predict(&plan, weights, &limits);
                        let is_same =
                            |error| matches!(error, PrepareError::Unsupported { what, .. } if what == prepared);
                        assert!(predicted.is_err_and(is_same), "{what}: predict and prepare disagree");
                    }
                    Err(error) => panic!("{what}: {error:?}"),
                }
            }
        }
    }
    assert_eq!(compared, CASES.iter().map(|(_, _, lacking)| if lacking.is_none() { 10 } else { 5 }).sum::<usize>());
}

/// A model of a size that no machine has is predicted none the less.
#[test]
fn more_than_there_is_can_be_predicted() {
    let golden = GoldenModel::open("tiny_llama", "");
    let plan = golden.opened.spec.lower();
    let [mut huge] = [limits(plan.cache_groups.len()).pop().unwrap()];
    let small = CpuBackend::new().predict(&plan, golden.opened.weights.as_ref(), &huge).unwrap();
    huge.num_blocks.iter_mut().for_each(|blocks| *blocks <<= 22);
    let predicted = CpuBackend::new().predict(&plan, golden.opened.weights.as_ref(), &huge).unwrap();
    assert_eq!(predicted.kv_cache_bytes, small.kv_cache_bytes << 22);
    assert!(predicted.kv_cache_bytes > 1 << 40, "{predicted:?}");
}
