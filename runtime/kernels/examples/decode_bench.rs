//! Prefill and decode speed of a whole model with random weights, by default in the shapes of SmolLM2-135M Q4_1.
//!
//! Figures are tokens per second by the clock and, in brackets, per second of CPU time of all threads: the second holds
//! on a busy machine too.
//!
//! `cargo run --release -p kindling-kernels --example decode_bench -- [dtype] [isa] [kv8] [ctx=tokens] [threads..]`
//! With `ctx` a prompt of that length is computed in parts of 512, then tokens after it.
#![allow(clippy::print_stdout, reason = "a benchmark prints")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Instant;

use common::llama::{Llama, SMOLLM2_135M};
use common::{Part, step};
use kindling_kernels::{Backend, CpuBackend, DType, Isa, KvType, Limits, PreparedModel};

const PROMPT: usize = 512;
const GENERATED: usize = 16;
const REPETITIONS: usize = 3;
const BLOCK_SIZE: usize = 32;
const SHORT_CONTEXT: usize = 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let dtype = common::DTYPES.into_iter().find(|dtype| arguments.iter().any(|a| a == dtype.name()));
    let isa = Isa::available().into_iter().find(|isa| arguments.contains(&isa.to_string())).unwrap_or(Isa::best());
    let mut threads: Vec<usize> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    if threads.is_empty() {
        threads = vec![1, 2];
    }
    let context = arguments.iter().find_map(|argument| argument.strip_prefix("ctx=")?.parse().ok());
    let max_context = context.map_or(SHORT_CONTEXT, |context: usize| context + GENERATED);
    let max_sequences = if context.is_some() { 1 } else { 16 };
    let dtype = dtype.unwrap_or(DType::Q4_1);
    // The sample model's embedding is Q8_0 beside blocks of four bits.
    let embedding = if dtype.block_elements() == 1 { dtype } else { DType::Q8_0 };
    let config = Llama { dtype, embedding, ..SMOLLM2_135M };
    let (plan, weights) = config.build();
    let backend = CpuBackend::with_isa(isa).ok_or("this machine lacks the instruction set")?;
    println!(
        "{} blocks, {embedding} head, {:?}, weights {:.1} MB",
        config.dtype,
        backend.kernels(),
        megabytes(weights.num_bytes())
    );
    for num_threads in threads {
        let limits = Limits {
            max_tokens_per_step: PROMPT,
            max_sequences,
            max_logits_per_step: max_sequences,
            max_context,
            block_size: BLOCK_SIZE,
            num_blocks: vec![max_sequences * max_context.div_ceil(BLOCK_SIZE); plan.cache_groups.len()],
            kv_type: if arguments.iter().any(|argument| argument == "kv8") { KvType::F8E4M3 } else { KvType::Wide },
            num_threads,
        };
        let start = Instant::now();
        let mut model = backend.prepare(&plan, &weights, &limits, &mut |_| {})?;
        let memory = model.memory();
        println!("{num_threads} threads: prepared in {:.2} s, {memory:?}", start.elapsed().as_secs_f64());
        for _ in 0..REPETITIONS {
            if let Some(context) = context {
                long_context(&mut *model, context);
                continue;
            }
            print!("  pp{PROMPT} {}", rate(PROMPT, || one_step(&mut *model, 1, PROMPT, 0)));
            for batch in [1, 4, 16] {
                let decode = || (0..GENERATED).for_each(|i| one_step(&mut *model, batch, 1, 128 + i));
                print!("  tg x{batch} {}", rate(batch * GENERATED, decode));
            }
            println!();
        }
    }
    Ok(())
}

fn long_context(model: &mut dyn PreparedModel, context: usize) {
    let parts = |model: &mut dyn PreparedModel| {
        (0..context).step_by(PROMPT).for_each(|first| one_step(model, 1, PROMPT.min(context - first), first));
    };
    print!("  pp{context} {}", rate(context, || parts(model)));
    let decode = || (0..GENERATED).for_each(|i| one_step(model, 1, 1, context + i));
    println!("  tg at {context} {}", rate(GENERATED, decode));
}

fn one_step(model: &mut dyn PreparedModel, num_sequences: usize, num_tokens: usize, context_len: usize) {
    let tokens: Vec<u32> = (0..num_tokens as u32).map(|i| i * 31 % 49152).collect();
    let per_sequence = (context_len + num_tokens).div_ceil(BLOCK_SIZE).max(SHORT_CONTEXT / BLOCK_SIZE);
    let blocks: Vec<Vec<u32>> = (0..num_sequences)
        .map(|sequence| (0..per_sequence).map(|i| (sequence * per_sequence + i) as u32).collect())
        .collect();
    let parts: Vec<_> = blocks.iter().map(|blocks| Part { tokens: &tokens, context_len, blocks }).collect();
    let mut step = step(&parts, 1);
    step.logit_indices = step.sequences.iter().map(|part| part.query_start + part.query_len - 1).collect();
    model.execute(&step, &mut Vec::new()).expect("the step should be valid");
}

/// Tokens per second, by the clock and by CPU time.
fn rate(num_tokens: usize, work: impl FnOnce()) -> String {
    let (start, cpu_start) = (Instant::now(), cpu_seconds());
    work();
    let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu_start);
    format!("{:6.1} ({:6.1})", num_tokens as f64 / wall, num_tokens as f64 / cpu)
}

/// CPU time of all threads so far, from Linux's scheduler statistics; not a number elsewhere.
fn cpu_seconds() -> f64 {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return f64::NAN };
    let of_thread = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|nanoseconds| nanoseconds.parse().ok()).unwrap_or(0.0)
    };
    threads.flatten().map(|thread| of_thread(thread.path())).sum::<f64>() / 1e9
}

fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}
