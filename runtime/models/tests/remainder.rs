//! A model whose 16-bit matrices become FP8 while they are read: what it takes, and that the backends agree.
#![allow(clippy::print_stdout, reason = "what was compared is worth reading")]

#[path = "../../kernels/tests/common/mod.rs"]
mod common;

use std::sync::Arc;

use common::llama::{Llama, TINY};
use common::{limits, relative_error, rows_step, with_blocks};
use kindling_kernels::{Backend, CpuBackend, DType, ReferenceBackend, WeightSource};
use kindling_models::Remainder;

#[test]
fn a_model_takes_half_and_what_was_predicted() {
    let llama = Llama {
        hidden_size: 128,
        intermediate_size: 256,
        num_heads: 8,
        dtype: DType::BF16,
        embedding: DType::BF16,
        ..TINY
    };
    let (plan, weights) = llama.build();
    let weights: Arc<dyn WeightSource> = Arc::new(weights);
    let limits = with_blocks(&limits(), &plan);
    let fp8 = Remainder::Fp8.apply(&plan, Arc::clone(&weights));
    let step = rows_step(40, plan.vocab_size, 1);
    let (cpu, mut logits) = (CpuBackend::new(), [(); 4].map(|()| Vec::new()));
    let backends: [&dyn Backend; 2] = [&ReferenceBackend, &cpu];
    for (backend, logits) in backends.into_iter().zip(logits.chunks_mut(2)) {
        let mut held = Vec::new();
        for (source, logits) in [&weights, &fp8].into_iter().zip(logits) {
            let mut model = backend.prepare(&plan, &**source, &limits, &mut |_| {}).expect("it should be prepared");
            assert_eq!(model.memory(), backend.predict(&plan, &**source, &limits).expect("it should be predicted"));
            held.push(model.memory().weight_bytes);
            model.execute(&step, logits).expect("it should compute");
        }
        println!("{}: {} bytes of weights, {} before", backend.name(), held[1], held[0]);
        if backend.name() == "cpu" {
            // 132 bytes for what was 256, beside norms, and the 200 rows of the output matrix in panels of 16.
            let share = held[1] as f64 / held[0] as f64;
            assert!(share > 0.51 && share < 0.54, "{share}");
        }
    }
    let [reference, reference_fp8, _, cpu_fp8] = &logits;
    let changed = relative_error(reference_fp8, reference);
    let apart = relative_error(cpu_fp8, reference_fp8);
    println!("logits: {changed:.1e} from those of 16 bits, {apart:.1e} between the backends");
    // Measured: 8.2e-2, of random weights whose output matrix is their embedding, and 2.8e-4.
    assert!(changed > 1e-3 && changed < 0.15, "{changed}");
    assert!(apart < 2e-3, "{apart}");
}
