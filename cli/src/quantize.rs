//! `kindling quantize`: make a smaller checkpoint of a model.

use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use anyhow::{Context, bail};
use kindling_kernels::nvfp4::ScaleChoice;
use kindling_kernels::{Backend, CpuBackend, PrepareError};
use kindling_models::perplexity::{Perplexity, PerplexityError, PerplexityOptions, perplexity};
use kindling_models::quantize::{QuantizeRequest, Recipe, quantize};
use tokio_util::sync::CancellationToken;

use crate::bars::{Bytes, mebibytes};
use crate::{interrupt, logging};

/// Make an NVFP4 checkpoint of a model in BF16, F16 or F32 safetensors or in a GGUF file.
#[derive(clap::Args)]
pub struct Args {
    /// A folder with config.json and safetensors, or a GGUF file.
    model: PathBuf,
    /// Form of the result.
    #[arg(long, value_enum)]
    to: Form,
    /// Folder to make.
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
    /// How the scale of a block is found.
    #[arg(long, value_enum, default_value = "search")]
    method: Method,
    /// Which matrices of the layers are quantised.
    #[arg(long, value_enum, default_value = "mixed")]
    recipe: Matrices,
    /// Quantise the output matrix too, where it is not tied to the embedding.
    #[arg(long)]
    lm_head: bool,
    /// Print the perplexity of this text file before and after.
    #[arg(long, value_name = "TEXT")]
    eval: Option<PathBuf>,
    /// Threads that compute the perplexity [default: all cores]
    #[arg(long, value_name = "COUNT")]
    threads: Option<usize>,
}

/// What can be made.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Form {
    /// Four-bit floats in ModelOpt's layout.
    Nvfp4,
}

/// How block scales are found.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Method {
    /// The scale with the least squared error.
    Search,
    /// The scale that makes the largest element 6.
    Round,
}

/// Which matrices are quantised.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Matrices {
    /// All but the last layer's and every v_proj, which stay BF16.
    Mixed,
    /// All.
    All,
}

/// Runs `kindling quantize`.
pub async fn run(args: Args) -> anyhow::Result<()> {
    logging::start("info");
    let stop = interrupt::token()?;
    tokio::task::spawn_blocking(move || work(args, &stop)).await?
}

fn work(args: Args, stop: &CancellationToken) -> anyhow::Result<()> {
    let Args { model, to: Form::Nvfp4, output, method, recipe, lm_head, eval, threads } = args;
    let scale_choice = match method {
        Method::Search => ScaleChoice::Search,
        Method::Round => ScaleChoice::Round,
    };
    let recipe = match recipe {
        Matrices::Mixed => Recipe::Mixed,
        Matrices::All => Recipe::All,
    };
    // Before the long part.
    let text = eval.map(|path| std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display())));
    let text = text.transpose()?;
    let num_threads = threads.unwrap_or_else(|| available_parallelism().map_or(1, std::num::NonZero::get));
    let mut bar = Bytes::new("quantize");
    let request = QuantizeRequest { model: model.clone(), output: output.clone(), scale_choice, recipe, lm_head };
    let made = quantize(&request, &mut |progress| bar.set(progress.written_bytes, Some(progress.total_bytes)), &|| {
        stop.is_cancelled()
    });
    bar.finish();
    let report = made?;
    eprintln!(
        "{}: {} matrices in NVFP4, {} tensors in BF16, {}; relative error of the matrices {:.4}",
        output.display(),
        report.quantized,
        report.kept,
        mebibytes(report.num_bytes),
        report.relative_error
    );
    if let Some(text) = text {
        let before = evaluate(&model, &text, num_threads, stop).context("evaluate the model as it was")?;
        show("before", &before);
        let after = evaluate(&output, &text, num_threads, stop).context("evaluate the result")?;
        show("after", &after);
        eprintln!("perplexity grew by {:.2} %", (after.value / before.value - 1.0) * 100.0);
    }
    Ok(())
}

fn show(when: &str, perplexity: &Perplexity) {
    let Perplexity { value, uncertainty, num_chunks, num_tokens } = perplexity;
    eprintln!("perplexity {when}: {value:.4} ± {uncertainty:.4} ({num_tokens} tokens counted in {num_chunks} chunks)");
}

/// On the cpu backend; weights of a type that it lacks are given to it as F32, and that is said.
fn evaluate(path: &Path, text: &str, num_threads: usize, stop: &CancellationToken) -> anyhow::Result<Perplexity> {
    let model = kindling_models::open(path)?;
    let cpu = CpuBackend::default();
    for as_f32 in [false, true] {
        let stop = || stop.is_cancelled();
        let options = PerplexityOptions { backend: &cpu, num_threads, max_chunks: usize::MAX, as_f32, stop: &stop };
        match perplexity(&model, text, &options, &mut |_, _| ()) {
            Err(PerplexityError::Prepare(PrepareError::Unsupported { what, .. })) if !as_f32 => {
                eprintln!("the {} backend lacks {what}: its weights are computed with as F32", cpu.name());
            }
            result => return Ok(result?),
        }
    }
    bail!("the {} backend supports this model in no form", cpu.name())
}
