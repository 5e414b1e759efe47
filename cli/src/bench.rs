//! `kindling bench`: how fast a model is on this machine, and how much of the machine that uses.

pub mod bandwidth;
mod cells;
mod http_side;
mod in_process_side;
mod model_path;
mod prompt;
mod raw_side;
mod record;
mod report;
mod session;
mod side;
pub mod spread;
mod subject;
mod table;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use kindling_agent::cache::Cache;
use kindling_runtime::{BackendKind, RuntimeConfig, Summary};
use tokio_util::sync::CancellationToken;

use crate::runtime::{MachineArgs, RemainderArg};
use crate::{device, interrupt, logging};
use bandwidth::Bandwidth;
use cells::{Asked, Plan};
use http_side::HttpSide;
use prompt::Prompts;
use report::{MachineReport, ModelReport, PeerReport, Report, RowReport, SCHEMA, SharedPrefixReport};
use session::{Outcome, Session};
use side::Side;
use subject::{Subject, Way};

/// Measure how fast a model computes on this machine.
#[derive(clap::Args)]
pub struct Args {
    /// A .gguf file, a folder with a checkpoint, or a model of the cache: ORG/REPO or hf:ORG/REPO@REVISION.
    model: String,
    /// The file to use, where a folder or repository holds several models.
    #[arg(long, value_name = "NAME")]
    file: Option<String>,
    /// Tokens of the prompts [default: 512,2048,8192,32768, as far as the model allows]
    #[arg(long, value_delimiter = ',', value_name = "TOKENS", value_parser = positive)]
    contexts: Option<Vec<usize>>,
    /// Streams at a time.
    #[arg(long, value_delimiter = ',', value_name = "STREAMS", default_value = "1,4,16", value_parser = positive)]
    concurrency: Vec<usize>,
    /// Tokens that every stream decodes while all of them do.
    #[arg(long, default_value_t = 64, value_name = "TOKENS", value_parser = at_least_two)]
    generate: usize,
    /// Tokens that the prompts of two agents share; 0 leaves this out [default: 10000, or what fits]
    #[arg(long, value_name = "TOKENS")]
    shared_prefix: Option<usize>,
    /// How often everything is measured.
    #[arg(long, default_value_t = 5, value_parser = positive)]
    runs: usize,
    /// Begin nothing that would probably end later than this; 5 minutes by default.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    max_seconds: u64,
    /// Leave out what needs more tokens in the KV cache, over all streams.
    #[arg(long, default_value_t = 65_536, value_name = "TOKENS", value_parser = positive)]
    max_cached_tokens: usize,
    /// Tokens computed in one step, over all sequences.
    #[arg(long, default_value_t = 512, value_name = "TOKENS", value_parser = positive)]
    max_batched_tokens: usize,
    /// What becomes of matrices that the checkpoint has in BF16 or F16.
    #[arg(long, value_name = "TYPE", default_value = "keep")]
    weights_remainder: RemainderArg,
    /// Do the same work on another OpenAI server, in turns; both are then asked over HTTP.
    #[arg(long, value_name = "URL", conflicts_with = "raw")]
    compare: Option<String>,
    /// The model's name on the other server [default: the only one that it lists]
    #[arg(long, value_name = "NAME", requires = "compare")]
    compare_model: Option<String>,
    /// Compute steps alone, without sampling, text and gRPC: to be held against tools that measure just that.
    #[arg(long)]
    raw: bool,
    /// Do not measure first how fast memory is read; there is no fraction of it then.
    #[arg(long)]
    no_memory_test: bool,
    /// How the result is written.
    #[arg(long, default_value = "table")]
    output: OutputFormat,
    /// Folder of the cache [default: ~/.cache/kindling]
    #[arg(long, env = "KINDLING_CACHE", value_name = "FOLDER")]
    cache: Option<PathBuf>,
    #[command(flatten)]
    machine: MachineArgs,
}

/// For people or for programs.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    Table,
    Json,
}

/// What is measured against what, once the arguments are understood.
struct Setup {
    config: RuntimeConfig,
    plan: Plan,
    way: Way,
    runs: usize,
    time_limit: Duration,
    memory_test: bool,
    compare: Option<(String, Option<String>)>,
    output: OutputFormat,
}

/// Runs `kindling bench`.
pub async fn run(args: Args) -> anyhow::Result<()> {
    logging::start("warn");
    let interrupted = interrupt::token()?;
    let setup = setup(args).await?;
    let prepared = tokio::select! {
        prepared = prepare(&setup, &interrupted) => prepared?,
        () = interrupted.cancelled() => bail!("interrupted before anything was measured"),
    };
    let report = measure(&setup, prepared, &interrupted).await?;
    let text = match setup.output {
        OutputFormat::Json => serde_json::to_string_pretty(&report)? + "\n",
        OutputFormat::Table => table::render(&report),
    };
    std::io::stdout().write_all(text.as_bytes()).context("write the result")?;
    if interrupted.is_cancelled() {
        bail!("interrupted; what is above was measured before");
    }
    Ok(())
}

async fn setup(args: Args) -> anyhow::Result<Setup> {
    let Args {
        model,
        file,
        contexts,
        concurrency,
        generate,
        shared_prefix,
        runs,
        max_seconds,
        max_cached_tokens,
        max_batched_tokens,
        weights_remainder,
        compare,
        compare_model,
        raw,
        no_memory_test,
        output,
        cache,
        machine,
    } = args;
    let cache = cache.map_or_else(Cache::of_user, |folder| Ok(Cache::at(folder)))?;
    let path = model_path::resolve(&model, file.as_deref(), &cache)?;
    let facts = kindling_runtime::facts(&path)?;
    let way = match (&compare, raw) {
        (Some(_), _) => Way::Http,
        (None, true) => Way::Raw,
        (None, false) => Way::InProcess,
    };
    // Two agents need a service that remembers the first one's prompt; a model that is driven by hand has none.
    let shared_prefix = if way == Way::Raw { Some(0) } else { shared_prefix };
    let asked = Asked { contexts, concurrency, generate, shared_prefix, max_batched_tokens, max_cached_tokens };
    let plan = asked.plan(facts.context_length)?;
    let mut config = RuntimeConfig::new(path);
    config.context_length = Some(plan.context_length());
    config.max_concurrency = plan.max_concurrency();
    config.kv_tokens = Some(plan.cached_tokens());
    config.max_batched_tokens = max_batched_tokens;
    config.weights_remainder = weights_remainder.into();
    if let Some(choice) = machine.apply(&mut config, None).await? {
        eprintln!("{}", device::words(&choice));
    }
    let time_limit = Duration::from_secs(max_seconds);
    let (memory_test, compare) = (!no_memory_test, compare.map(|url| (url, compare_model)));
    Ok(Setup { config, plan, way, runs, time_limit, memory_test, compare, output })
}

/// All that comes before the measuring.
struct Ready {
    subject: Subject,
    peer: Option<HttpSide>,
    machine: MachineReport,
}

async fn prepare(setup: &Setup, interrupted: &CancellationToken) -> anyhow::Result<Ready> {
    // First, because it is quick: an address that is wrong should be known at once.
    let peer = match &setup.compare {
        Some((url, model)) => Some(HttpSide::connect(url, model.clone()).await?),
        None => None,
    };
    let load_average = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load_average = load_average.split(' ').take(3).collect::<Vec<_>>().join(" ");
    let memory_read = if setup.memory_test { memory_read(&setup.config).await? } else { None };
    let subject = Subject::start(setup.config.clone(), setup.way, interrupted).await?;
    let machine = MachineReport {
        threads: subject.summary.num_threads,
        backend: subject.summary.backend,
        kernels: subject.summary.kernels.clone(),
        load_average,
        memory_read,
    };
    Ok(Ready { subject, peer, machine })
}

async fn measure(setup: &Setup, ready: Ready, interrupted: &CancellationToken) -> anyhow::Result<Report> {
    let Ready { subject, peer, machine } = ready;
    let mut sides = vec![subject.side.clone()];
    sides.extend(peer.clone().map(Side::Http));
    let mut session = Session {
        sides,
        prompts: Prompts::new(subject.tokenizer.clone()),
        plan: setup.plan.clone(),
        runs: setup.runs,
        time_limit: setup.time_limit,
        interrupted: interrupted.clone(),
    };
    let outcome = session.measure().await?;
    // Its clients go first, so that nothing waits for them.
    drop(session);
    let summary = subject.summary.clone();
    subject.stop().await?;
    Ok(report(setup, &summary, machine, peer.as_ref(), outcome))
}

/// `None`, said aloud, where it cannot be measured.
async fn memory_read(config: &RuntimeConfig) -> anyhow::Result<Option<Bandwidth>> {
    let (num_threads, is_gpu) = (config.threads(), config.backend == BackendKind::Cuda);
    let reader = if is_gpu { "the GPU".to_owned() } else { format!("{num_threads} threads") };
    eprintln!("reading memory with {reader}");
    let measure = move || if is_gpu { bandwidth::measure_gpu() } else { bandwidth::measure(num_threads) };
    let measured = tokio::task::spawn_blocking(measure).await.context("read memory")?;
    if let Err(error) = &measured {
        eprintln!("the speed of memory was not measured: {error:#}");
    }
    Ok(measured.ok())
}

fn report(
    setup: &Setup,
    summary: &Summary,
    machine: MachineReport,
    peer: Option<&HttpSide>,
    outcome: Outcome,
) -> Report {
    let Outcome { rows, agents, skipped, runs, cut_short } = outcome;
    let memory_rate = machine.memory_read.as_ref().map(|read| read.bytes_per_second.median);
    let row = |(cell, [ours, theirs]): (&cells::Cell, &[Vec<record::Figures>; 2])| {
        // On average while all streams decode.
        let context = cell.context + cell.max_tokens / 2;
        let bytes_per_token = summary.decode_reads.bytes_per_token(context, cell.concurrency);
        RowReport::of(cell, bytes_per_token, memory_rate, [ours, theirs])
    };
    let prefix_tokens = setup.plan.shared_prefix.unwrap_or(0);
    let [our_agents, their_agents] = &agents;
    Report {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        model: model_report(setup, summary),
        machine,
        path: setup.way.name(),
        peer: peer.map(|peer| PeerReport { url: peer.base().to_owned(), model: peer.model().to_owned() }),
        runs,
        cut_short,
        rows: setup.plan.cells.iter().zip(&rows).filter_map(row).collect(),
        skipped: setup.plan.skipped.iter().cloned().chain(skipped).collect(),
        shared_prefix: SharedPrefixReport::of(prefix_tokens, [our_agents, their_agents]),
    }
}

fn model_report(setup: &Setup, summary: &Summary) -> ModelReport {
    let facts = &summary.facts;
    ModelReport {
        path: setup.config.model_path.display().to_string(),
        architecture: facts.architecture.clone(),
        quantization: facts.quantization.clone(),
        parameters: facts.parameters,
        stored_bytes: facts.weight_bytes,
        held_bytes: summary.memory.weight_bytes,
        read_bytes: summary.decode_reads.weight_bytes(1),
        context_length: facts.context_length,
    }
}

fn positive(text: &str) -> Result<usize, String> {
    at_least(1, text)
}

/// A rate needs two tokens: it is measured from the first one on.
fn at_least_two(text: &str) -> Result<usize, String> {
    at_least(2, text)
}

fn at_least(least: usize, text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number >= least => Ok(number),
        Ok(_) => Err(format!("it must be at least {least}")),
        Err(error) => Err(format!("it is no number: {error}")),
    }
}
