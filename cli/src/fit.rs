//! `kindling fit`: what a model would take, and whether a machine has it. Reads heads of files, never weights.

mod answer;
pub mod machine;
mod manifest;
pub mod source;
mod text;

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::ValueEnum;
use kindling_agent::cache::Cache;
use kindling_agent::hub::Hub;
use kindling_envelope::device::{Choice, Why};
use kindling_envelope::{Bytes, Device, KvDtype, Pool, Serving};
use kindling_facts::Facts;
use kindling_runtime::Remainder;

use answer::Answer;
use machine::Machine;

use crate::device;
use crate::runtime::{KvTypeArg, RemainderArg};

/// As the runtime: longer contexts are rarely used, but always paid for.
const MOST_UNASKED_CONTEXT: u64 = 65_536;
const DEFAULT_CONCURRENCY: u64 = 4;
const DEFAULT_BATCHED_TOKENS: u64 = 512;
/// The model does not fit.
const DOES_NOT_FIT: u8 = 1;
/// No answer could be given.
const FAILED: u8 = 2;

/// Say what a model takes and whether this machine, or another, has room for it
///
/// Reads the heads of its files only, from a hub by a few small requests. The exit status is 0 if it fits, 1 if it does
/// not, and 2 if there is no answer.
#[derive(clap::Args)]
pub struct Args {
    /// org/name or org/name@revision on the hub, a folder, a .gguf file, or the http address of one.
    #[arg(required_unless_present = "manifest")]
    model: Option<String>,
    /// Take source and serving from the first LocalModel of this file.
    #[arg(short = 'f', long, value_name = "FILE", conflicts_with_all = ["model", "files"])]
    manifest: Option<PathBuf>,
    /// Only this file of a repository; may be given several times.
    #[arg(long = "file", value_name = "FILE")]
    files: Vec<String>,
    /// Longest sequence, in tokens [default: the model's maximum, at most 65536]
    #[arg(long, value_name = "TOKENS")]
    context: Option<NonZeroU64>,
    /// Sequences computed at once, each at full length [default: 4, which share two full contexts]
    #[arg(long, value_name = "NUMBER")]
    concurrency: Option<NonZeroU64>,
    /// Tokens in the KV cache, shared by all sequences.
    #[arg(long, value_name = "TOKENS")]
    kv_tokens: Option<NonZeroU64>,
    /// Tokens computed in one step, over all sequences [default: 512]
    #[arg(long, value_name = "TOKENS")]
    max_batched_tokens: Option<NonZeroU64>,
    /// What keys and values are kept in.
    #[arg(long, value_name = "TYPE", default_value = "bf16")]
    kv_type: KvTypeArg,
    /// What becomes of matrices that the checkpoint has in BF16 or F16.
    #[arg(long, value_name = "TYPE", default_value = "keep")]
    weights_remainder: RemainderArg,
    /// What computes; auto is the machine's GPU where it can be used for the model, else its processor [default: auto, or
    /// what a LocalModel says]
    #[arg(long)]
    device: Option<DeviceArg>,
    /// Memory of a machine that does nothing else, for example 119.6GiB [default: this machine, as it is now]
    #[arg(long, value_name = "BYTES")]
    memory: Option<Bytes>,
    /// A node of the cluster of the current kubeconfig, with the models that are there.
    #[arg(long, value_name = "NAME", conflicts_with = "memory")]
    node: Option<String>,
    /// Threads that the runtime would compute with [default: the cores this process may use]
    #[arg(long, env = "KINDLING_THREADS")]
    threads: Option<usize>,
    /// Folder of the cache, where a model that is there is read [default: ~/.cache/kindling]
    #[arg(long, env = "KINDLING_CACHE", value_name = "FOLDER")]
    cache: Option<PathBuf>,
    /// How the answer is printed.
    #[arg(long, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum DeviceArg {
    Auto,
    Cpu,
    Cuda,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Runs `kindling fit`. Its exit status has a meaning of its own.
pub async fn run(args: Args) -> ExitCode {
    let output = args.output;
    match answer(args).await {
        Ok(answer) => {
            print(&answer, output);
            if answer.verdict.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(DOES_NOT_FIT) }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

#[expect(clippy::print_stdout, reason = "this is the program's output")]
fn print(answer: &Answer, output: Output) {
    match output {
        Output::Text => print!("{}", text::render(answer)),
        Output::Json => println!("{:#}", answer.json()),
    }
}

async fn answer(args: Args) -> anyhow::Result<Answer> {
    let machine = match (&args.node, args.memory) {
        (Some(name), _) => Machine::node(name).await?,
        (None, Some(total)) => Machine::given(total),
        (None, None) => Machine::this()?,
    };
    let cache = args.cache.clone().map_or_else(Cache::of_user, |folder| Ok(Cache::at(folder)))?;
    let (source, serving) = match &args.manifest {
        Some(file) => manifest::read(file, &args, &cache)?,
        None => (source::find(args.model.as_deref().unwrap_or_default(), &args.files, &cache)?, Wanted::of(&args)),
    };
    let facts = kindling_facts::read(&source.place, &Hub::from_environment()).await?;
    let facts = facts.with_remainder(serving.remainder);
    let choice = choice(serving.device, &machine, &facts);
    let serving = serving.complete(facts.max_context, choice.device)?;
    let model = facts.model(&serving, args.threads)?;
    Ok(Answer::new((source.name, facts), model, (serving, choice.reason()), machine))
}

/// What would compute it. A device that is named is taken as it is: the question is what that would take.
fn choice(asked: Option<Device>, machine: &Machine, facts: &Facts) -> Choice {
    let named = |device| Choice { device, why: Why::Asked };
    match asked {
        Some(device) => named(device),
        None => device::choose_for(None, || machine.gpu(), facts).unwrap_or(named(Device::Cpu)),
    }
}

/// How the model is to be served, before its own figures are known.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    context: Option<u64>,
    concurrency: Option<u64>,
    pool: Option<Pool>,
    max_batched_tokens: u64,
    kv_dtype: KvDtype,
    remainder: Remainder,
    /// Nothing is the best that works.
    device: Option<Device>,
}

impl Wanted {
    fn of(args: &Args) -> Self {
        // Who names a concurrency wants to know what it takes, not what happens to be shared.
        let guaranteed = args.concurrency.map(|_| Pool::EverySequence);
        Self {
            context: args.context.map(NonZeroU64::get),
            concurrency: args.concurrency.map(NonZeroU64::get),
            pool: args.kv_tokens.map(|tokens| Pool::Tokens(tokens.get())).or(guaranteed),
            max_batched_tokens: args.max_batched_tokens.map_or(DEFAULT_BATCHED_TOKENS, NonZeroU64::get),
            kv_dtype: match args.kv_type {
                KvTypeArg::Bf16 => KvDtype::Bf16,
                KvTypeArg::Fp8 => KvDtype::Fp8,
            },
            remainder: args.weights_remainder.into(),
            device: match args.device {
                None | Some(DeviceArg::Auto) => None,
                Some(DeviceArg::Cpu) => Some(Device::Cpu),
                Some(DeviceArg::Cuda) => Some(Device::Cuda),
            },
        }
    }

    fn complete(self, max_context: u64, device: Device) -> anyhow::Result<Serving> {
        let context = self.context.unwrap_or_else(|| max_context.min(MOST_UNASKED_CONTEXT));
        if context > max_context {
            bail!("a context of {context} tokens is more than the model's {max_context}");
        }
        if let Some(Pool::Tokens(tokens)) = self.pool.filter(|pool| matches!(pool, Pool::Tokens(n) if *n < context)) {
            bail!("{tokens} tokens in the KV cache are fewer than one context of {context}; name a shorter --context");
        }
        Ok(Serving {
            context,
            concurrency: self.concurrency.unwrap_or(DEFAULT_CONCURRENCY),
            pool: self.pool.unwrap_or(Pool::Contexts(2)),
            max_batched_tokens: self.max_batched_tokens,
            kv_dtype: self.kv_dtype,
            device,
        })
    }
}
