//! The sample model as NVFP4: from GGUF to a folder that opens again, and what it costs.
//!
//! Measured 2026-11-22 over all 52 chunks: see docs/benchmarks.md, "Perplexity". Here the first chunks have to do.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is test code, helpers included")]

mod common;

use std::path::Path;

use common::sample_gguf;
use kindling_kernels::nvfp4::ScaleChoice;
use kindling_kernels::{CpuBackend, RotaryStyle};
use kindling_models::open;
use kindling_models::perplexity::{PerplexityOptions, perplexity};
use kindling_models::quantize::{QuantizeRequest, Recipe, quantize};

/// As the issue has it.
const MAX_GROWTH: f64 = 1.15;
const CHUNKS: usize = 4;

#[test]
fn it_opens_again_with_the_same_tokenizer_and_template() {
    let Some(path) = sample_gguf() else { return };
    let output = std::env::temp_dir().join(format!("kindling-quantize-sample-{}", std::process::id()));
    let request = QuantizeRequest {
        model: path.clone(),
        output: output.clone(),
        scale_choice: ScaleChoice::Search,
        recipe: Recipe::Mixed,
        lm_head: false,
    };
    let report = quantize(&request, &mut |_| (), &|| false).unwrap();
    println!("{report:?}");
    assert_eq!((report.quantized, report.kept), (174, 98));
    let (before, after) = (open(&path).unwrap(), open(&output).unwrap());
    std::fs::remove_dir_all(&output).unwrap();
    assert_eq!(after.facts.parameters, before.facts.parameters);
    assert_eq!(after.facts.quantization, "NVFP4");
    assert_eq!(after.spec.rotaries[0].style, RotaryStyle::Half);
    assert_eq!(after.tokenizer.end_of_generation(), before.tokenizer.end_of_generation());
    assert_eq!(after.tokenizer.special_tokens(), before.tokenizer.special_tokens());
    assert_eq!(after.chat_template.unwrap().source(), before.chat_template.as_ref().unwrap().source());
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/ulysses.txt");
    let text = std::fs::read_to_string(text).unwrap();
    assert_eq!(after.tokenizer.encode(&text, true, true).unwrap(), before.tokenizer.encode(&text, true, true).unwrap());
}

#[test]
fn its_perplexity_grows_by_less_than_the_bar() {
    let Some(path) = sample_gguf() else { return };
    let output = std::env::temp_dir().join(format!("kindling-quantize-sample-eval-{}", std::process::id()));
    let request = QuantizeRequest {
        model: path.clone(),
        output: output.clone(),
        scale_choice: ScaleChoice::Search,
        recipe: Recipe::Mixed,
        lm_head: false,
    };
    quantize(&request, &mut |_| (), &|| false).unwrap();
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/ulysses.txt");
    let text = std::fs::read_to_string(text).unwrap();
    let backend = CpuBackend::default();
    let num_threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let of = |path: &Path| {
        let stop = || false;
        let options =
            PerplexityOptions { backend: &backend, num_threads, max_chunks: CHUNKS, as_f32: false, stop: &stop };
        perplexity(&open(path).unwrap(), &text, &options, &mut |_, _| ()).unwrap()
    };
    let (before, after) = (of(&path), of(&output));
    std::fs::remove_dir_all(&output).unwrap();
    println!("before {before:?}, after {after:?}");
    assert_eq!((before.num_chunks, before.num_tokens), (CHUNKS, CHUNKS * 255));
    assert!(after.value < before.value * MAX_GROWTH && after.value > before.value * 0.9, "{before:?} {after:?}");
}
