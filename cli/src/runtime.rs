//! `kindling runtime`: serves one model over gRPC. What a model's pod runs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{ArgAction, ValueEnum};
use kindling_cuda::Activations;
use kindling_envelope::Bytes;
use kindling_envelope::device::Choice;
use kindling_runtime::memory::{AgentGate, MemoryGate, Ungated};
use kindling_runtime::{BackendKind, KvType, Listeners, Remainder, Runtime, RuntimeConfig, Script};
use tokio::net::TcpListener;

use crate::{device, interrupt, logging, self_test};

/// Serve one model over gRPC.
#[derive(clap::Args)]
pub struct Args {
    /// A .gguf file, or a folder with config.json and safetensors, or a folder with one .gguf.
    #[arg(long, value_name = "PATH")]
    model_path: PathBuf,
    /// What the model is called in logs and metrics [default: the file's name]
    #[arg(long, value_name = "NAME")]
    served_model_name: Option<String>,
    /// Where gRPC is served.
    #[arg(long, default_value = "127.0.0.1:50051", env = "KINDLING_LISTEN")]
    listen: SocketAddr,
    /// Where /metrics and /healthz are served over HTTP [default: nowhere]
    #[arg(long, env = "KINDLING_METRICS_LISTEN")]
    metrics_listen: Option<SocketAddr>,
    /// Bytes that the whole process may take: a KV cache whose size is not given is made to fit, and what does not fit is
    /// refused before it is loaded [default: no bound]
    #[arg(long, value_name = "BYTES", env = "KINDLING_MEMORY_BUDGET")]
    memory_budget: Option<Bytes>,
    /// The node's agent, which is asked for memory before any is taken [default: nobody is asked]
    #[arg(long, value_name = "HOST:PORT", env = "KINDLING_AGENT", requires = "agent_token_file")]
    agent: Option<String>,
    /// File with the token for the agent; read anew for every try.
    #[arg(long, value_name = "FILE", env = "KINDLING_AGENT_TOKEN_FILE")]
    agent_token_file: Option<PathBuf>,
    #[command(flatten)]
    serving: ServingArgs,
}

/// How a model is computed: what `kindling runtime` and `kindling up` have in common.
#[derive(clap::Args, Clone)]
pub struct ServingArgs {
    /// Longest sequence, in tokens [default: the model's maximum, at most 65536]
    #[arg(long, value_name = "TOKENS")]
    context_length: Option<usize>,
    /// Sequences computed at once.
    #[arg(long, default_value_t = 4)]
    max_concurrency: usize,
    /// Tokens in the KV cache, shared by all sequences [default: two full contexts]
    #[arg(long, value_name = "TOKENS")]
    kv_tokens: Option<usize>,
    /// What keys and values are kept in: bf16 stands for 16 bits of the device's choice.
    #[arg(long, value_name = "TYPE", default_value = "bf16")]
    kv_type: KvTypeArg,
    /// What becomes of matrices that the checkpoint has in BF16 or F16: fp8 halves them while they are read, so that less
    /// is read for every token; answers differ a little. Rows that 128 does not divide become 8-bit whole numbers.
    #[arg(long, value_name = "TYPE", default_value = "keep")]
    weights_remainder: RemainderArg,
    /// Tokens computed in one step, over all sequences.
    #[arg(long, default_value_t = 512, value_name = "TOKENS")]
    max_batched_tokens: usize,
    #[command(flatten)]
    machine: MachineArgs,
}

/// What keys and values are kept in.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KvTypeArg {
    Bf16,
    Fp8,
}

impl From<KvTypeArg> for KvType {
    fn from(kind: KvTypeArg) -> Self {
        match kind {
            KvTypeArg::Bf16 => Self::Wide,
            KvTypeArg::Fp8 => Self::F8E4M3,
        }
    }
}

/// What becomes of matrices in 16 bits.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RemainderArg {
    Keep,
    Fp8,
}

impl From<RemainderArg> for Remainder {
    fn from(kind: RemainderArg) -> Self {
        match kind {
            RemainderArg::Keep => Self::Keep,
            RemainderArg::Fp8 => Self::Fp8,
        }
    }
}

/// What a person says about the machine rather than about the model.
#[derive(clap::Args, Clone)]
pub struct MachineArgs {
    /// Threads to compute with [default: the cores this process may use]
    #[arg(long, env = "KINDLING_THREADS")]
    threads: Option<usize>,
    /// What computes: cpu; cuda, the first NVIDIA GPU; auto, that where it can be used for the model, else cpu; or reference,
    /// which is slow and plain and serves to check the others [default: cpu, or what a LocalModel says]
    #[arg(long)]
    backend: Option<BackendArg>,
    /// Say what this file says in place of computing: for tests of what stands in front (docs/scripted-engine.md)
    #[arg(long, value_name = "FILE", conflicts_with = "backend")]
    script: Option<PathBuf>,
    /// Read weights no faster than this, to spare a disk that others use [default: as fast as it goes]
    #[arg(long, value_name = "BYTES")]
    read_bytes_per_second: Option<u64>,
    /// Whether requests begin with what others of the same beginning have computed.
    #[arg(long, default_value_t = true, action = ArgAction::Set, value_name = "true|false", env = "KINDLING_PREFIX_CACHE")]
    prefix_cache: bool,
    /// Tokens to guess ahead per step from what the text has had before; changes no answer. 0 guesses none.
    #[arg(long, default_value_t = 0, value_name = "TOKENS", env = "KINDLING_SPECULATIVE_TOKENS")]
    speculative_tokens: usize,
    /// What a GPU rounds activations to. fp4 multiplies NVFP4 weights in hardware, on GB10 and its relatives: faster prompts,
    /// and answers that differ more than with bf16.
    #[arg(long, value_name = "TYPE", default_value = "bf16", env = "KINDLING_GPU_ACTIVATIONS")]
    gpu_activations: ActivationsArg,
    /// Whether a GPU decodes by graphs. `false` gives its driver one kernel after another, to look for a fault.
    #[arg(long, default_value_t = true, action = ArgAction::Set, value_name = "true|false", env = "KINDLING_GPU_GRAPHS")]
    gpu_graphs: bool,
}

/// What a GPU rounds activations to.
#[derive(Clone, Copy, ValueEnum)]
enum ActivationsArg {
    Bf16,
    Fp4,
}

/// The backends by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BackendArg {
    Auto,
    Cpu,
    Cuda,
    Reference,
}

impl MachineArgs {
    /// Whether a model computes at all, and does not only say what a script says.
    pub fn computes(&self) -> bool {
        self.script.is_none()
    }

    /// Completes a configuration, of a model whose LocalModel says `placement` if it has one. What is said of the device
    /// where there was a choice comes back.
    ///
    /// # Errors
    /// If the device can't be had, or two are named.
    pub async fn apply(
        &self,
        config: &mut RuntimeConfig,
        placement: Option<kindling_api::Device>,
    ) -> anyhow::Result<Option<Choice>> {
        let Self {
            threads,
            backend,
            script,
            read_bytes_per_second,
            prefix_cache,
            speculative_tokens,
            gpu_activations,
            gpu_graphs,
        } = self;
        config.num_threads = *threads;
        config.read_bytes_per_second = *read_bytes_per_second;
        config.prefix_cache = *prefix_cache;
        config.speculative_tokens = *speculative_tokens;
        config.gpu_activations = match gpu_activations {
            ActivationsArg::Bf16 => Activations::Bf16,
            ActivationsArg::Fp4 => Activations::Fp4,
        };
        config.gpu_graphs = *gpu_graphs;
        config.self_tests = Some(self_test::in_child()?);
        config.script = script.as_deref().map(Script::read).transpose()?;
        if config.script.is_some() {
            return Ok(None);
        }
        let asked = match asked(*backend, placement)? {
            Asked::Backend(backend) => {
                config.backend = backend;
                return Ok(None);
            }
            Asked::Device(asked) => device::asked(asked),
        };
        let choice = device::choose_here(asked, config).await?;
        config.backend = device::backend(choice.device);
        Ok(Some(choice))
    }
}

/// What is asked for, by whoever says it.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// Just that, and nobody looks.
    Backend(BackendKind),
    /// By the rule.
    Device(kindling_api::Device),
}

/// `--backend` and a LocalModel's `placement.device` may not contradict each other.
fn asked(backend: Option<BackendArg>, placement: Option<kindling_api::Device>) -> anyhow::Result<Asked> {
    use kindling_api::Device;
    let named = match (backend, placement) {
        (None, None) => return Ok(Asked::Backend(BackendKind::Cpu)),
        (None | Some(BackendArg::Auto), placement) => return Ok(Asked::Device(placement.unwrap_or_default())),
        (Some(named), _) => named,
    };
    let (backend, device) = match named {
        BackendArg::Cuda => (BackendKind::Cuda, Device::Cuda),
        BackendArg::Reference => (BackendKind::Reference, Device::Cpu),
        BackendArg::Cpu | BackendArg::Auto => (BackendKind::Cpu, Device::Cpu),
    };
    match placement {
        Some(placement) if placement != Device::Auto && placement != device => {
            bail!("spec.placement.device is {placement:?}, which --backend contradicts")
        }
        _ => Ok(Asked::Backend(backend)),
    }
}

/// Runs `kindling runtime`.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let Args { model_path, served_model_name, listen, metrics_listen, memory_budget, agent, agent_token_file, serving } =
        args;
    let ServingArgs {
        context_length,
        max_concurrency,
        kv_tokens,
        kv_type,
        weights_remainder,
        max_batched_tokens,
        machine,
    } = serving;
    logging::start("info");
    let mut config = RuntimeConfig::new(model_path);
    if let Some(name) = served_model_name {
        config.served_name = name;
    }
    config.context_length = context_length;
    config.max_concurrency = max_concurrency;
    config.kv_tokens = kv_tokens;
    config.kv_type = kv_type.into();
    config.weights_remainder = weights_remainder.into();
    config.max_batched_tokens = max_batched_tokens;
    config.memory_budget = memory_budget.map(|bytes| bytes.0);
    // A pod has 30 s to end; the servers' own closing needs some of them.
    config.drain_timeout = Duration::from_secs(20);
    if let Some(choice) = machine.apply(&mut config, None).await? {
        eprintln!("{}", device::words(&choice));
    }
    let listeners = Listeners {
        grpc: bind(listen).await?,
        metrics: match metrics_listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        },
    };
    let gate: Arc<dyn MemoryGate> = match (agent, agent_token_file) {
        (Some(address), Some(token_file)) => Arc::new(AgentGate::new(&address, &token_file)?),
        _ => Arc::new(Ungated::default()),
    };
    Ok(Runtime::start_gated(config, gate).serve(listeners, interrupt::token()?).await?)
}

/// Listens, or says which address cannot be had.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address}; choose another address if something else is there"))
}

#[cfg(test)]
mod tests {
    use kindling_api::Device;

    use super::*;

    #[test]
    fn a_backend_and_a_placement_may_not_contradict_each_other() {
        let backend = Asked::Backend;
        for (named, placement, expected) in [
            (None, None, backend(BackendKind::Cpu)),
            (Some(BackendArg::Auto), None, Asked::Device(Device::Auto)),
            (None, Some(Device::Auto), Asked::Device(Device::Auto)),
            (None, Some(Device::Cuda), Asked::Device(Device::Cuda)),
            (Some(BackendArg::Auto), Some(Device::Cpu), Asked::Device(Device::Cpu)),
            (Some(BackendArg::Cuda), None, backend(BackendKind::Cuda)),
            (Some(BackendArg::Cuda), Some(Device::Auto), backend(BackendKind::Cuda)),
            (Some(BackendArg::Reference), Some(Device::Cpu), backend(BackendKind::Reference)),
        ] {
            assert_eq!(asked(named, placement).unwrap(), expected, "{named:?} {placement:?}");
        }
        for (named, placement) in
            [(BackendArg::Cpu, Device::Cuda), (BackendArg::Reference, Device::Cuda), (BackendArg::Cuda, Device::Cpu)]
        {
            let said = asked(Some(named), Some(placement)).unwrap_err().to_string();
            assert!(said.contains(&format!("spec.placement.device is {placement:?}")), "{said}");
        }
    }
}
