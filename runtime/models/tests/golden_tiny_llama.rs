//! The tiny checkpoints that `golden/record_tiny_models.py` made, opened and lowered. Their logits are compared
//! in `golden_tiny_models.rs`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is test code, helpers included")]

mod common;

use std::path::Path;

use common::golden;
use kindling_kernels::{DType, RopeScaling, RotaryStyle, WeightSource};
use kindling_models::{OpenWeights, open, open_weights};

/// Opens, and reads every tensor that the plan needs.
fn opened(folder: &str) -> OpenWeights {
    let opened = open_weights(&golden(folder)).unwrap();
    let plan = opened.spec.lower();
    let mut total = 0;
    for weight in &plan.weights {
        let desc = opened.weights.describe(&weight.name).unwrap();
        assert_eq!(desc.shape, weight.shape, "{}", weight.name);
        let mut bytes = vec![0; desc.num_bytes];
        opened.weights.read(&weight.name, &mut bytes).unwrap();
        assert!(bytes.iter().any(|byte| *byte != 0), "{} is all zeros", weight.name);
        total += desc.num_bytes as u64;
    }
    assert_eq!(total, opened.facts.weight_bytes);
    assert_eq!((plan.vocab_size, plan.max_position), (256, 512));
    opened
}

fn dtype(weights: &dyn WeightSource, name: &str) -> DType {
    weights.describe(name).unwrap().dtype
}

#[test]
fn one_file_of_bf16() {
    let OpenWeights { spec, facts, weights } = opened("tiny_llama");
    assert_eq!((facts.quantization.as_str(), dtype(weights.as_ref(), "lm_head.weight")), ("BF16", DType::BF16));
    assert_eq!(spec.lower().weights.len(), 3 + 2 * 9);
    assert_eq!(spec.rotaries[0].style, RotaryStyle::Half);
}

#[test]
fn shards_with_llama3_scaling() {
    let OpenWeights { spec, facts, .. } = opened("tiny_llama_llama3");
    assert_eq!(facts.quantization, "F32");
    let expected =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 64.0 };
    assert_eq!(spec.rotaries[0].scaling, Some(expected));
}

#[test]
fn tied_embeddings_biases_and_an_explicit_head_dim() {
    let OpenWeights { spec, facts, .. } = opened("tiny_llama_tied");
    assert_eq!(facts.quantization, "F16");
    assert_eq!(spec.lm_head.weight, spec.embed_tokens);
    assert_eq!(spec.rotaries[0].theta, 500_000.0);
    assert_eq!(spec.lower().weights.len(), 2 + 2 * (9 + 4));
}

#[test]
fn without_a_tokenizer_a_model_is_not_complete() {
    let error = open(&golden("tiny_llama")).err().expect("should be refused");
    assert!(error.to_string().ends_with(&Path::new("tiny_llama/tokenizer.json").display().to_string()), "{error}");
}
