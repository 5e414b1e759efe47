//! Speed of one linear layer by stored type, for one row and for many.
//!
//! `cargo run --release -p kindling-kernels --example linear_bench -- [dtype..] [isa] [threads]`
//! The layers are repeated until they exceed the caches, as in a model. GB/s are stored bytes per second.
#![allow(clippy::print_stdout, reason = "a benchmark prints")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Instant;

use common::{MemoryWeights, Part, Rng, step};
use kindling_kernels::{
    Backend, BufferId, BufferSpec, CpuBackend, DType, Isa, Limits, Op, Plan, Rows, WeightId, WeightSpec,
};

/// `(out_features, in_features)` of SmolLM2-135M.
const SHAPES: [(usize, usize); 5] = [(192, 576), (576, 576), (1536, 576), (576, 1536), (49152, 576)];
/// Weights of one plan, in bytes: beyond the third-level cache.
const PLAN_BYTES: usize = 96 << 20;
const REPETITIONS: usize = 5;
const VOCAB_SIZE: usize = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let isa = Isa::available().into_iter().find(|isa| arguments.contains(&isa.to_string())).unwrap_or(Isa::best());
    let num_threads = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(1);
    let backend = CpuBackend::with_isa(isa).ok_or("this machine lacks the instruction set")?;
    println!("{isa}, {num_threads} threads; median of {REPETITIONS}");
    let wanted = |dtype: &DType| arguments.iter().any(|argument| argument == dtype.name());
    let all = !common::DTYPES.iter().any(wanted);
    for dtype in common::DTYPES.into_iter().filter(|dtype| all || wanted(dtype)) {
        for shape in SHAPES {
            let (plan, weights, layer_bytes) = layers(dtype, shape);
            let num_layers = plan.ops.len() - 3;
            let limits = Limits { num_threads, ..common::limits() };
            let mut model = backend.prepare(&plan, &weights, &limits, &mut |_| {})?;
            print!("{dtype:5} [{:5}, {:4}]", shape.0, shape.1);
            for rows in [1, 4, 64] {
                let tokens: Vec<u32> = (0..rows).collect();
                let mut step = step(&[Part { tokens: &tokens, context_len: 0, blocks: &[0, 1, 2, 3] }], 0);
                step.logit_indices = vec![0];
                let mut seconds: Vec<f64> = (0..REPETITIONS)
                    .map(|_| {
                        let start = Instant::now();
                        model.execute(&step, &mut Vec::new()).expect("the step should be valid");
                        start.elapsed().as_secs_f64() / num_layers as f64
                    })
                    .collect();
                seconds.sort_by(f64::total_cmp);
                let median = seconds[REPETITIONS / 2];
                let products = f64::from(rows) * (shape.0 * shape.1) as f64;
                let (gigabytes, giga_products) = (layer_bytes as f64 / median / 1e9, products / median / 1e9);
                print!("   x{rows:<2} {:8.1} us {gigabytes:5.1} GB/s {giga_products:6.1} GMAC/s", median * 1e6);
            }
            println!();
        }
    }
    Ok(())
}

/// Layers of one shape, all with the same input.
fn layers(dtype: DType, (out_features, in_features): (usize, usize)) -> (Plan, MemoryWeights, usize) {
    let layer_bytes = dtype.bytes_for(out_features * in_features).unwrap_or(0);
    let num_layers = (PLAN_BYTES / layer_bytes).clamp(1, 512);
    let buffer = |width, rows| BufferSpec { name: format!("width {width}"), width, rows };
    let [input, output, shown, logits] = [0, 1, 2, 3].map(BufferId);
    let mut plan = Plan {
        weights: vec![WeightSpec::whole("input", vec![VOCAB_SIZE, in_features])],
        buffers: vec![
            buffer(in_features, Rows::Tokens),
            buffer(out_features, Rows::Tokens),
            buffer(VOCAB_SIZE, Rows::Tokens),
            buffer(VOCAB_SIZE, Rows::Logits),
        ],
        rotaries: Vec::new(),
        cache_groups: Vec::new(),
        ops: vec![Op::EmbedTokens { weight: WeightId(0), output: input }],
        logits,
        vocab_size: VOCAB_SIZE,
        max_position: 64,
    };
    let (mut weights, mut rng) = (MemoryWeights::default(), Rng(1));
    weights.random(&mut rng, "input", (DType::F32, &[VOCAB_SIZE, in_features]), 1.0);
    for layer in 0..num_layers {
        let (name, shape) = (format!("layer {layer}"), vec![out_features, in_features]);
        weights.random(&mut rng, &name, (dtype, &shape), 0.1);
        plan.weights.push(WeightSpec::whole(name, shape));
        plan.ops.push(Op::Linear { input, weight: WeightId(layer + 1), bias: None, output });
    }
    weights.random(&mut rng, "shown", (DType::F32, &[VOCAB_SIZE, VOCAB_SIZE]), 1.0);
    plan.weights.push(WeightSpec::whole("shown", vec![VOCAB_SIZE, VOCAB_SIZE]));
    plan.ops.push(Op::EmbedTokens { weight: WeightId(num_layers + 1), output: shown });
    plan.ops.push(Op::GatherLogitRows { input: shown, output: logits });
    (plan, weights, layer_bytes)
}
