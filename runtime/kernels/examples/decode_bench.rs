//! Prefill and decode speed of a whole model with random weights, by default in the shapes of SmolLM2-135M Q4_1.
//!
//! Figures are tokens per second by the clock and, in brackets, per second of CPU time of all threads: the second holds
//! on a busy machine too.
//!
//! `cargo run --release -p kindling-kernels --example decode_bench -- [dtype] [isa] [threads..]`
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
const MAX_CONTEXT: usize = 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let dtype = common::DTYPES.into_iter().find(|dtype| arguments.iter().any(|a| a == dtype.name()));
    let isa = Isa::available().into_iter().find(|isa| arguments.contains(&isa.to_string())).unwrap_or(Isa::best());
    let mut threads: Vec<usize> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    if threads.is_empty() {
        threads = vec![1, 2];
    }
    let config = Llama { dtype: dtype.unwrap_or(DType::Q4_1), ..SMOLLM2_135M };
    let (plan, weights) = config.build();
    let backend = CpuBackend::with_isa(isa).ok_or("this machine lacks the instruction set")?;
    println!(
        "{} blocks, Q8_0 head, {:?}, weights {:.1} MB",
        config.dtype,
        backend.kernels(),
        megabytes(weights.num_bytes())
    );
    for num_threads in threads {
        let limits = Limits {
            max_tokens_per_step: PROMPT,
            max_sequences: 16,
            max_logits_per_step: 16,
            max_context: MAX_CONTEXT,
            block_size: BLOCK_SIZE,
            num_blocks: vec![16 * MAX_CONTEXT / BLOCK_SIZE; plan.cache_groups.len()],
            kv_type: KvType::Wide,
            num_threads,
        };
        let start = Instant::now();
        let mut model = backend.prepare(&plan, &weights, &limits, &mut |_| {})?;
        let memory = model.memory();
        println!("{num_threads} threads: prepared in {:.2} s, {memory:?}", start.elapsed().as_secs_f64());
        for _ in 0..REPETITIONS {
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

fn one_step(model: &mut dyn PreparedModel, num_sequences: usize, num_tokens: usize, context_len: usize) {
    let tokens: Vec<u32> = (0..num_tokens as u32).map(|i| i * 31 % 49152).collect();
    let per_sequence = MAX_CONTEXT / BLOCK_SIZE;
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
