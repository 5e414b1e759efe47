//! The tiny checkpoints that `golden/record_tiny_models.py` made, computed whole, in chunks and in a batch, against the
//! logits that transformers gave for them.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is test code, helpers included")]

mod common;

use common::golden_model::{CASES, Distance, GoldenModel, Running};
use kindling_kernels::{Backend, CpuBackend, PrepareError, ReferenceBackend};

/// What `reference` may differ by. Measured on 2026-11-22: 6.82e-5 and 4.91e-6 at most, of logits that are recorded to 6
/// digits and reach 18. The greatest is of `tiny_qwen3_5`, where passes of transformers that cut the prompt are apart by
/// 3.15e-5 themselves; without delta nets it is 3.21e-5.
const REFERENCE: Distance = Distance { greatest: 1e-4, mean: 8e-6 };
/// What `cpu` may differ by, whose types are narrower. Measured on 2026-11-22 with AVX-512:
/// 1.72e-2 and 2.37e-3 at most.
const CPU: Distance = Distance { greatest: 0.03, mean: 0.005 };
/// The same with experts in four bits, which meet activations in eight. Measured on 2026-11-22: 1.38e-1 and 1.97e-2.
const CPU_FOUR_BITS: Distance = Distance { greatest: 0.3, mean: 0.04 };

fn check(what: &str, golden: &GoldenModel, logits: &[Vec<f32>], tolerance: Distance) {
    let found = golden.distance(logits);
    println!("{what}: greatest {:.2e}, mean {:.2e}", found.greatest, found.mean);
    let is_near = found.greatest <= tolerance.greatest && found.mean <= tolerance.mean;
    assert!(is_near, "{what}: {found:?} is more than {tolerance:?}");
}

/// Every way to cut and batch the prompt.
fn check_passes(name: &str, golden: &GoldenModel, running: &mut Running, tolerance: Distance) {
    let tokens = &golden.tokens;
    check(&format!("{name} whole"), golden, &running.whole(tokens), tolerance);
    for cut in [1, 7, 16] {
        check(&format!("{name} cut at {cut}"), golden, &running.chunked(tokens, &[cut]), tolerance);
        check(&format!("{name} batched, cut at {cut}"), golden, &running.batched(tokens, cut), tolerance);
    }
    let each: Vec<usize> = (1..tokens.len()).collect();
    check(&format!("{name} token by token"), golden, &running.chunked(tokens, &each), tolerance);
}

fn prepared(golden: &GoldenModel, backend: &dyn Backend, name: &str) -> Running {
    golden.prepare(backend).unwrap_or_else(|error| panic!("{name}: {error:?}"))
}

#[test]
fn reference_gives_the_recorded_logits_and_greedy_tokens() {
    for (folder, file, _) in CASES {
        let name = format!("reference {folder}/{file}");
        let golden = GoldenModel::open(folder, file);
        let mut running = prepared(&golden, &ReferenceBackend, &name);
        check_passes(&name, &golden, &mut running, REFERENCE);
        assert_eq!(running.greedy(&golden.tokens, golden.greedy.len()), golden.greedy, "{name}");
    }
}

#[test]
fn cpu_gives_the_recorded_logits_or_says_what_it_lacks() {
    for (folder, file, lacking) in CASES {
        let name = format!("cpu {folder}/{file}");
        let golden = GoldenModel::open(folder, file);
        match (golden.prepare(&CpuBackend::new()), lacking) {
            (Ok(mut running), None) => {
                let tolerance = if *folder == "tiny_gpt_oss" { CPU_FOUR_BITS } else { CPU };
                check_passes(&name, &golden, &mut running, tolerance);
            }
            (Ok(_), Some(lacking)) => panic!("{name}: no longer lacks {lacking}, take it off the list"),
            (Err(PrepareError::Unsupported { what, .. }), Some(lacking)) if what == *lacking => {
                println!("cpu refuses {folder}/{file}: {what}");
            }
            (Err(error), lacking) => panic!("{name}: {error:?}, expected to lack {lacking:?}"),
        }
    }
}

#[test]
fn experts_are_counted_in_all_and_by_token() {
    for file in ["", "model.gguf"] {
        let facts = GoldenModel::open("tiny_qwen3_moe", file).opened.facts;
        let experts = 2 * 8 * 3 * 32 * 64;
        assert_eq!(facts.parameters - facts.active_parameters, experts / 8 * 6, "2 of 8 experts for each token");
        assert_eq!(facts.quantization, "BF16");
    }
    for file in ["", "model.gguf"] {
        let facts = GoldenModel::open("tiny_gpt_oss", file).opened.facts;
        let experts = 3 * 4 * (3 * 64 * 64 + 3 * 64);
        assert_eq!(facts.parameters - facts.active_parameters, experts / 4 * 2, "2 of 4 experts for each token");
        assert_eq!(facts.quantization, "MXFP4");
    }
    let dense = GoldenModel::open("tiny_qwen3", "").opened.facts;
    assert_eq!(dense.parameters, dense.active_parameters);
}
