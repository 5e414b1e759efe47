//! The sample model as NVFP4: from GGUF to a folder that opens again, and what it costs.
//!
//! Measured 2026-11-22 over all 52 chunks: see docs/benchmarks.md, "Perplexity". Here the first chunks have to do.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is test code, helpers included")]

mod common;

use std::path::Path;

use common::sample_gguf;
use kindling_kernels::nvfp4::ScaleChoice;
use kindling_kernels::{CpuBackend, RotaryStyle};
use kindling_models::perplexity::{PerplexityOptions, perplexity};
use kindling_models::quantize::{QuantizeRequest, Recipe, quantize};
use kindling_models::{OpenModel, open};

/// What the figure may grow by, on this tiny model.
const MAX_GROWTH: f64 = 1.15;
const CHUNKS: usize = 4;

#[test]
fn it_opens_again_and_its_perplexity_grows_by_less_than_the_bar() {
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
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/ulysses.txt");
    let text = std::fs::read_to_string(text).unwrap();
    is_the_same_model_in_nvfp4(&before, &after, &text);
    costs_less_than_the_bar(&before, &after, &text);
    std::fs::remove_dir_all(&output).unwrap();
}

fn is_the_same_model_in_nvfp4(before: &OpenModel, after: &OpenModel, text: &str) {
    assert_eq!(after.facts.parameters, before.facts.parameters);
    assert_eq!(after.facts.quantization, "NVFP4");
    assert_eq!(after.spec.rotaries[0].style, RotaryStyle::Half);
    assert_eq!(after.tokenizer.end_of_generation(), before.tokenizer.end_of_generation());
    assert_eq!(after.tokenizer.special_tokens(), before.tokenizer.special_tokens());
    let [template, expected] = [after, before].map(|model| model.chat_template.as_ref().unwrap().source());
    assert_eq!(template, expected);
    assert_eq!(after.tokenizer.encode(text, true, true).unwrap(), before.tokenizer.encode(text, true, true).unwrap());
}

fn costs_less_than_the_bar(before: &OpenModel, after: &OpenModel, text: &str) {
    let backend = CpuBackend::default();
    let num_threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let of = |model: &OpenModel| {
        let stop = || false;
        let options =
            PerplexityOptions { backend: &backend, num_threads, max_chunks: CHUNKS, as_f32: false, stop: &stop };
        perplexity(model, text, &options, &mut |_, _| ()).unwrap()
    };
    let (before, after) = (of(before), of(after));
    println!("before {before:?}, after {after:?}");
    assert_eq!((before.num_chunks, before.num_tokens), (CHUNKS, CHUNKS * 255));
    assert!(after.value < before.value * MAX_GROWTH && after.value > before.value * 0.9, "{before:?} {after:?}");
}
