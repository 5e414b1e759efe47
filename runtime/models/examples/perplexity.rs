//! Prints the perplexity of a text under a checkpoint: `perplexity MODEL TEXT [CHUNKS] [cpu|cpu-f32|reference]`.
#![allow(clippy::print_stdout, reason = "this is what it is for")]

use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use kindling_kernels::{Backend, CpuBackend, ReferenceBackend};
use kindling_models::open;
use kindling_models::perplexity::{PerplexityOptions, perplexity};

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, text, rest @ ..] = args.as_slice() else {
        anyhow::bail!("usage: perplexity MODEL TEXT [CHUNKS] [BACKEND]")
    };
    let max_chunks = rest.first().map_or(Ok(usize::MAX), |count| count.parse())?;
    let (cpu, reference) = (CpuBackend::default(), ReferenceBackend);
    let (backend, as_f32): (&dyn Backend, bool) = match rest.get(1).map_or("cpu", String::as_str) {
        "cpu" => (&cpu, false),
        "cpu-f32" => (&cpu, true),
        "reference" => (&reference, false),
        other => anyhow::bail!("no backend {other}"),
    };
    let text = std::fs::read_to_string(text).with_context(|| format!("read {text}"))?;
    let model = open(Path::new(model))?;
    let num_threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let options = PerplexityOptions { backend, num_threads, max_chunks, as_f32, stop: &|| false };
    let started = Instant::now();
    let result = perplexity(&model, &text, &options, &mut |_, _| ())?;
    println!(
        "{} on {}: {result:?} in {:.1} s",
        model.facts.quantization,
        backend.name(),
        started.elapsed().as_secs_f64()
    );
    Ok(())
}
