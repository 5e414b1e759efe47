//! `kindling doctor`: what this machine has, which kernels pass their self-test, and what would compute a model.

pub mod gpu;
mod text;

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::ValueEnum;
use kindling_agent::cache::Cache;
use kindling_cuda::CudaBackend;
use kindling_facts::ModelSource;
use kindling_kernels::{Backend, CpuBackend};
use kindling_runtime::{DecodeReads, RuntimeConfig};
use serde::Serialize;

use crate::bench::bandwidth::{self, Bandwidth};
use crate::device::fails_its_test;
use crate::fit::machine::Machine;
use crate::fit::source;
use crate::self_test;
use gpu::{Depth, GpuReport};

/// Look at this machine: memory, its speed, the GPU and its driver, which kernels pass their self-test
///
/// Nothing leaves the machine. What `--report` writes holds no names of people, hosts or files but the model's.
#[derive(clap::Args)]
pub struct Args {
    /// A model that is here, to say how fast it can be at most: a file, a folder, or a name in the cache.
    model: Option<String>,
    /// How the answer is printed.
    #[arg(long, default_value = "text")]
    output: Output,
    /// Write the answer into a file, as JSON, to be sent along with a question.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Folder of the cache [default: ~/.cache/kindling]
    #[arg(long, env = "KINDLING_CACHE", value_name = "FOLDER")]
    cache: Option<PathBuf>,
    /// What this command runs in a process of its own: a driver that crashes or hangs ends only that.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "load")]
    only_gpu: Option<Depth>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// What was found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    version: &'static str,
    architecture: &'static str,
    threads: usize,
    cpu_kernels: Vec<String>,
    memory_total_bytes: u64,
    memory_used_bytes: u64,
    bandwidth: Option<Bandwidth>,
    gpu: GpuReport,
    /// What computes models here whose `placement.device` is `Auto`.
    path: &'static str,
    model: Option<ModelReport>,
}

/// How fast a model can be.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ModelReport {
    name: String,
    /// One sequence, at its beginning.
    bytes_per_token: f64,
    /// As fast as memory is read, and no faster.
    most_tokens_per_second: Option<f64>,
    /// Why the processor computes it, though there is a GPU that can be used.
    refused_by_gpu: Option<String>,
}

/// Runs `kindling doctor`.
#[expect(clippy::print_stdout, reason = "this is the program's output")]
pub async fn run(args: Args) -> anyhow::Result<()> {
    if let Some(depth) = args.only_gpu {
        println!("{}", serde_json::to_string(&gpu::here(depth))?);
        return Ok(());
    }
    let model = args.model.as_deref().map(|model| find(model, args.cache.clone())).transpose()?;
    let config = RuntimeConfig::new("");
    let threads = config.threads();
    let measured = tokio::task::spawn_blocking(move || bandwidth::measure(threads)).await.context("read memory")?;
    if let Err(error) = &measured {
        eprintln!("the speed of memory was not measured: {error:#}");
    }
    let bandwidth = measured.ok();
    let node = Machine::this()?.node;
    let self_tests = self_test::in_child()?;
    let gpu = tokio::task::spawn_blocking(move || gpu::tested(&self_tests)).await.context("look at the GPU")?;
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        architecture: std::env::consts::ARCH,
        threads,
        cpu_kernels: CpuBackend::new().kernels(),
        memory_total_bytes: node.total.0,
        memory_used_bytes: node.baseline.0,
        path: if gpu.usable().is_ok() { "cuda" } else { "cpu" },
        model: model.map(|model| model_report(model, gpu.usable().ok(), bandwidth.as_ref())).transpose()?,
        gpu,
        bandwidth,
    };
    let json = serde_json::to_string_pretty(&report)?;
    match args.output {
        Output::Text => print!("{}", text::render(&report)),
        Output::Json => println!("{json}"),
    }
    if let Some(path) = args.report {
        std::fs::write(&path, json).with_context(|| format!("write {}", path.display()))?;
        eprintln!("written to {}", path.display());
    }
    Ok(())
}

/// What a model is called, and where it lies.
fn find(model: &str, cache: Option<PathBuf>) -> anyhow::Result<(String, PathBuf)> {
    let cache = cache.map_or_else(Cache::of_user, |folder| Ok(Cache::at(folder)))?;
    let source = source::find(model, &[], &cache)?;
    let ModelSource::Path(path) = source.place else {
        bail!("{model} is not on this machine; `kindling pull` brings it");
    };
    Ok((source.name, path))
}

/// What each token reads as the backend holds the model that would compute it, and how fast that can be. `gpu`: one that can
/// be used.
fn model_report(
    (name, path): (String, PathBuf),
    gpu: Option<&gpu::Device>,
    by_processor: Option<&Bandwidth>,
) -> anyhow::Result<ModelReport> {
    let opened = kindling_models::open_weights(&path).with_context(|| format!("open {}", path.display()))?;
    let plan = opened.spec.lower();
    let config = RuntimeConfig { context_length: Some(1), ..RuntimeConfig::new(path) };
    let limits = config.limits(plan.max_position, &plan.cache_groups)?;
    let predict = |backend: &dyn Backend| backend.predict(&plan, opened.weights.as_ref(), &limits);
    let on_gpu = gpu.map(|gpu| {
        let cuda = CudaBackend::new();
        let needed = cuda.kernels_of(&plan, opened.weights.as_ref(), &limits).map_err(|error| error.to_string())?;
        fails_its_test(&gpu.checks, &needed).map_or(Ok(()), Err)?;
        Ok((gpu.read_bytes_per_second, predict(&cuda).map_err(|error| error.to_string())?))
    });
    let (refused_by_gpu, rate, memory) = match on_gpu {
        Some(Ok((rate, memory))) => (None, rate, memory),
        refused => {
            let why = refused.and_then(Result::err);
            (why, by_processor.map(|it| it.bytes_per_second.median), predict(&CpuBackend::new())?)
        }
    };
    let bytes_per_token = DecodeReads::new(&plan, opened.weights.as_ref(), memory, &limits).bytes_per_token(1, 1);
    let most_tokens_per_second = rate.map(|rate| rate / bytes_per_token);
    Ok(ModelReport { name, bytes_per_token, most_tokens_per_second, refused_by_gpu })
}
