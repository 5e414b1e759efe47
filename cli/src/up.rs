//! `kindling up`: everything in one process on this machine, from the YAML that a cluster takes too.

// What the user can do next is this command's result, so it goes to standard output.
#![allow(clippy::print_stdout)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use kindling_agent::cache::Cache;
use kindling_agent::source::HubSource;
use kindling_api::{Device, KvCacheType, LocalModel};
use kindling_gateway::{Availability, Backend, Config, Discovery, Route, StaticRoutes, Timeouts, serve};
use kindling_runtime::{KvType, Runtime, RuntimeConfig};
use tokio_util::sync::CancellationToken;

use crate::bars::Bytes;
use crate::fit::machine::Machine;
use crate::runtime::{MachineArgs, bind};
use crate::{device, interrupt, local_models, logging, pull};

/// How long a model that fails lets its clients hear of it.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Between two looks at how far a load is: smooth for the eye.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What a client that comes while a model loads is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// Running answers may finish after Ctrl-C; a second Ctrl-C ends at once.
const DRAIN: Duration = Duration::from_secs(10);

/// Serve the models of a YAML file on this machine: no cluster, no GPU needed, and one used where the file lets it.
#[derive(clap::Args)]
pub struct Args {
    /// File with one or more LocalModels, as for kubectl apply.
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    file: PathBuf,
    /// Where the OpenAI API is served.
    #[arg(long, default_value = "127.0.0.1:8080", env = "KINDLING_LISTEN")]
    listen: SocketAddr,
    /// Folder of the cache [default: ~/.cache/kindling]
    #[arg(long, env = "KINDLING_CACHE", value_name = "FOLDER")]
    cache: Option<PathBuf>,
    #[command(flatten)]
    machine: MachineArgs,
}

/// Runs `kindling up`.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let Args { file, listen, cache, machine } = args;
    logging::start("warn");
    let models = local_models::read(&file)?;
    refuse_what_this_machine_lacks(&models, &machine).await?;
    let cache = cache.map_or_else(Cache::of_user, |folder| Ok(Cache::at(folder)))?;
    let listener = bind(listen).await?;
    let address = listener.local_addr()?;
    let shutdown = interrupt::token()?;

    let routes = StaticRoutes::new(models.iter().map(waiting_route).collect());
    let mut config = Config::new(Discovery::Static(routes.clone()));
    config.timeouts = Timeouts { drain: DRAIN, ..Timeouts::default() };
    let mut gateway = tokio::spawn(serve(config, listener, shutdown.clone().cancelled_owned()));

    let runtimes = tokio::select! {
        started = start_all(&models, &cache, &machine, &routes) => Some(started?),
        () = shutdown.cancelled() => None,
    };
    let mut gateway_ended = None;
    if let Some(runtimes) = &runtimes {
        print_ready(&models, address);
        tokio::select! {
            ended = wait(runtimes, &shutdown) => if let Err(error) = ended {
                // Whoever waits for an answer is told before the process is gone.
                shutdown.cancel();
                let _ = tokio::time::timeout(LAST_WORDS, gateway).await;
                return Err(error);
            },
            ended = &mut gateway => gateway_ended = Some(ended),
        }
    }
    let is_asked_to_stop = shutdown.is_cancelled();
    eprintln!("stopping");
    let ended = match gateway_ended {
        Some(ended) => ended,
        None => gateway.await,
    };
    ended.context("run the gateway")??;
    if !is_asked_to_stop {
        bail!("the gateway ended by itself");
    }
    for runtime in runtimes.iter().flatten() {
        runtime.drain(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// Before anything is downloaded for it.
async fn refuse_what_this_machine_lacks(models: &[LocalModel], machine: &MachineArgs) -> anyhow::Result<()> {
    let mut by_name = models.iter().filter(|model| model.spec.placement.device == Device::Cuda);
    let Some(model) = by_name.next().filter(|_| machine.computes()) else { return Ok(()) };
    let usable = tokio::task::spawn_blocking(device::usable_here).await.context("look at the GPU")?;
    usable
        .map_err(|why| anyhow::anyhow!("{}: spec.placement.device is Cuda, and no GPU can be used: {why}", name(model)))
}

/// Starts the models one after another: two loads at once would only share the disk.
async fn start_all(
    models: &[LocalModel],
    cache: &Cache,
    machine: &MachineArgs,
    routes: &StaticRoutes,
) -> anyhow::Result<Vec<Runtime>> {
    let mut runtimes = Vec::new();
    for model in models.iter().filter(|model| model.spec.replicas > 0) {
        let path = weights(model, cache).await.with_context(|| name(model))?;
        let config = runtime_config(model, path, machine).await.with_context(|| name(model))?;
        let runtime = Runtime::start(config);
        load(&runtime, &name(model)).await.with_context(|| name(model))?;
        let backend = Backend::new(runtime.connect_in_process());
        routes.update(|routes| {
            for route in routes.iter_mut().filter(|route| route.name == name(model)) {
                route.availability = Availability::Ready;
                route.backend = Some(backend.clone());
            }
        });
        runtimes.push(runtime);
    }
    Ok(runtimes)
}

/// Where the weights lie on this machine, downloaded first if need be.
async fn weights(model: &LocalModel, cache: &Cache) -> anyhow::Result<PathBuf> {
    let source = &model.spec.source;
    if let Some(hf) = &source.hf {
        let hub_source = HubSource::new(&hf.repo, &hf.revision)?;
        pull::pull(cache, &hub_source, &hf.files).await?;
        let folder = cache.folder(&hub_source);
        let mut ggufs = hf.files.iter().filter(|file| file.to_ascii_lowercase().ends_with(".gguf"));
        return Ok(match (ggufs.next(), ggufs.next()) {
            (Some(file), None) => folder.join(file),
            _ => folder,
        });
    }
    match &source.host_path {
        Some(host_path) => Ok(PathBuf::from(&host_path.path)),
        None => bail!("spec.source names no source"),
    }
}

async fn runtime_config(model: &LocalModel, path: PathBuf, machine: &MachineArgs) -> anyhow::Result<RuntimeConfig> {
    let serving = &model.spec.serving;
    let mut config = RuntimeConfig::new(path);
    config.served_name = name(model);
    config.context_length = serving.context_length.map(|tokens| tokens as usize);
    config.max_concurrency = serving.max_concurrency as usize;
    config.kv_tokens = serving.kv_cache.tokens.map(|tokens| tokens as usize);
    config.kv_type = match serving.kv_cache.kind {
        KvCacheType::Auto | KvCacheType::Bf16 => KvType::Wide,
        KvCacheType::Fp8 => KvType::F8E4M3,
    };
    config.weights_remainder = device::remainder(model.spec.weights.remainder);
    if let Some(tokens) = serving.max_batched_tokens {
        config.max_batched_tokens = tokens as usize;
    }
    if let Some(choice) = machine.apply(&mut config, Some(model.spec.placement.device)).await? {
        eprintln!("{} is {}", name(model), device::words(&choice));
    }
    // Read anew for every model: those before it are loaded by then.
    let node = Machine::this()?.node;
    config.memory_budget = Some(node.total.saturating_sub(node.system()).0);
    Ok(config)
}

/// Waits until a model is ready, with a bar.
///
/// # Errors
/// If it never will be.
pub async fn load(runtime: &Runtime, name: &str) -> anyhow::Result<()> {
    let mut bar = Bytes::new(&format!("load {name}"));
    let ready = runtime.ready();
    tokio::pin!(ready);
    let result = loop {
        tokio::select! {
            result = &mut ready => break result,
            () = tokio::time::sleep(LOOK_EVERY) => {
                let progress = runtime.progress();
                bar.set(progress.loaded_bytes, Some(progress.total_bytes));
            }
        }
    };
    bar.finish();
    Ok(result?)
}

async fn wait(runtimes: &[Runtime], shutdown: &CancellationToken) -> anyhow::Result<()> {
    if runtimes.is_empty() {
        shutdown.cancelled().await;
        return Ok(());
    }
    let failures = runtimes.iter().map(|runtime| Box::pin(runtime.failed()));
    tokio::select! {
        (error, _, _) = futures::future::select_all(failures) => Err(error.into()),
        () = shutdown.cancelled() => Ok(()),
    }
}

fn waiting_route(model: &LocalModel) -> Route {
    Route {
        name: name(model),
        namespace: None,
        aliases: model.spec.gateway.aliases.clone(),
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs() as i64),
        availability: Availability::Unavailable {
            message: if model.spec.replicas == 0 { "its spec.replicas is 0" } else { "it is being loaded" }.to_owned(),
            retry_after: Some(RETRY_AFTER),
        },
        backend: None,
        on_demand: None,
    }
}

fn print_ready(models: &[LocalModel], address: SocketAddr) {
    let names: Vec<String> = models.iter().filter(|model| model.spec.replicas > 0).map(name).collect();
    if names.is_empty() {
        println!("nothing is served: spec.replicas is 0 everywhere");
        return;
    }
    println!("ready: {} at http://{address}/v1", names.join(", "));
    println!(
        "try:   curl http://{address}/v1/chat/completions -H 'content-type: application/json' \\\n         -d '{{\"model\": \"{}\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello!\"}}]}}'",
        names.first().map_or("", String::as_str)
    );
}

fn name(model: &LocalModel) -> String {
    model.metadata.name.clone().unwrap_or_default()
}
