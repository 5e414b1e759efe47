//! SmolLM2-135M in Q4_1 on the device: its logits beside those of the reference, prompt and decoding.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "this is test code, and what was compared is worth reading"
)]

#[path = "../../models/tests/common/mod.rs"]
mod common;
mod device;

use common::sample_gguf;
use kindling_kernels::{Backend, KvType, Limits, PreparedModel, ReferenceBackend, Step, StepSequence};
use kindling_models::OpenModel;

const PROMPT: &str = "The capital of France is Paris. The capital of Italy is";
const DECODED: usize = 2;
/// Activations, keys, values and weights are rounded to BF16, and in attention queries and the weights of positions: measured
/// 2.83e-2 on 2026-11-23 on the stand-in, of the second token; of the others 6.1e-3 at most.
const TOLERANCE: f64 = 5e-2;

/// Prefill, then greedy decoding; the logits of the prompt's last token and of every token after it.
fn decode(model: &mut dyn PreparedModel, prompt: &[u32], follow: Option<&[u32]>) -> (Vec<u32>, Vec<Vec<f32>>) {
    let (mut tokens, mut all, mut next, mut context_len) = (Vec::new(), Vec::new(), prompt.to_vec(), 0);
    for index in 0..=DECODED {
        let query_len = next.len();
        let block_tables = vec![(0..8).rev().collect()];
        let step = Step {
            positions: (0..query_len).map(|offset| [(context_len + offset) as u32; 3]).collect(),
            sequences: vec![StepSequence { query_start: 0, query_len, context_len, block_tables }],
            logit_indices: vec![query_len - 1],
            token_ids: next,
            ..Step::default()
        };
        let mut logits = Vec::new();
        model.execute(&step, &mut logits).unwrap();
        context_len += query_len;
        let greatest = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32;
        tokens.push(greatest);
        // The same text for both, whatever each would say.
        next = vec![follow.map_or(greatest, |follow| follow[index])];
        all.push(logits);
    }
    (tokens, all)
}

#[test]
fn the_sample_model_says_what_it_says_in_the_reference() {
    let (Some(backend), Some(path)) = (device::backend(), sample_gguf()) else { return };
    let OpenModel { spec, weights, tokenizer, .. } = kindling_models::open(&path).unwrap();
    let plan = spec.lower();
    let limits = Limits {
        max_tokens_per_step: 64,
        max_sequences: 1,
        max_logits_per_step: 1,
        max_context: 128,
        block_size: 16,
        num_blocks: vec![8],
        kv_type: KvType::Wide,
        num_threads: 2,
    };
    let prompt = tokenizer.encode(PROMPT, false, false).unwrap();
    let prepare = |backend: &dyn Backend| backend.prepare(&plan, weights.as_ref(), &limits, &mut |_| {}).unwrap();
    let (expected, reference) = decode(&mut *prepare(&ReferenceBackend), &prompt, None);
    let predicted = backend.predict(&plan, weights.as_ref(), &limits).unwrap();
    let mut model = prepare(&backend);
    assert_eq!(model.memory(), predicted);
    let (found, cuda) = decode(&mut *model, &prompt, Some(&expected));
    for (index, (reference, cuda)) in reference.iter().zip(&cuda).enumerate() {
        let square = |x: f32| f64::from(x) * f64::from(x);
        let error: f64 = reference.iter().zip(cuda).map(|(a, b)| square(a - b)).sum();
        let error = (error / reference.iter().map(|a| square(*a)).sum::<f64>()).sqrt();
        println!("token {index}: {} and {}, relative error {error:.2e}", expected[index], found[index]);
        assert!(error <= TOLERANCE, "token {index}");
    }
    assert_eq!(found, expected);
}
