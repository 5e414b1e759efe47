//! From a path to a model that is ready to compute. Runs on the engine's thread.

use std::sync::Arc;
use std::time::Instant;

use kindling_engine::{Engine, EngineConfig, GroupConfig, GroupKind, Speculation};
use kindling_kernels::{
    Backend, CacheGroupKind, Limits, LoadProgress, MemoryUse, Plan, WeightSource, give_back_free_heap,
    keep_large_blocks_apart,
};
use kindling_models::{ModelFacts, OpenModel};

use crate::decode_reads::DecodeReads;
use crate::engine_loop::EngineLoop;
use crate::error::LoadError;
use crate::grammar::Grammars;
use crate::loaded_model::LoadedModel;
use crate::memory::{self, Measured, Need, process_bytes};
use crate::metrics::ModelLabels;
use crate::script::Player;
use crate::shared::{Description, Phase, Prepared, Shared};
use crate::throttle::ThrottledWeights;

/// Opens and prepares the model, telling how far it is; everyone is told when it is ready.
///
/// # Errors
/// [`LoadError`] naming what could not be opened, configured or prepared.
pub fn load(shared: &Arc<Shared>, backend: &dyn Backend) -> Result<EngineLoop, LoadError> {
    let started = Instant::now();
    keep_large_blocks_apart();
    let config = &shared.config;
    let OpenModel { spec, facts, weights, tokenizer, chat_template, dialect } =
        kindling_models::open(&config.model_path)
            .map_err(|source| LoadError::Open { path: config.model_path.clone(), source: Box::new(source) })?;
    let plan = spec.lower();
    let (num_changed, saved_bytes) = config.weights_remainder.effect(&plan, &*weights);
    if num_changed > 0 {
        tracing::info!(num_changed, saved_bytes, "matrices of 16 bits get 8 while they are read");
    }
    let quantization = config.weights_remainder.quantization(&facts.quantization, num_changed);
    let facts = ModelFacts { quantization, ..facts };
    let limits = config.limits(facts.context_length, &plan.cache_groups)?;
    let weights: Arc<dyn WeightSource> = match config.read_bytes_per_second {
        Some(rate) => Arc::new(ThrottledWeights::new(weights, rate)),
        None => weights,
    };
    let weights = config.weights_remainder.apply(&plan, weights);
    let (limits, need) = memory::fit(config, backend, &plan, &*weights, limits)?;
    announce(shared, &facts, &limits);
    // Before the long part: what it refuses is known without any weights.
    let eos_token_ids = tokenizer.end_of_generation().to_vec();
    let engine = Engine::new(engine_config(shared, &plan, &limits, eos_token_ids))?;

    let player = config.script.as_ref().map(|script| Player::new(script, &tokenizer, plan.vocab_size)).transpose()?;
    // Reading the vocabulary took several times what is left of it.
    give_back_free_heap();
    shared.gate.ask(&need)?;
    let model = backend
        .prepare(&plan, &*weights, &limits, &mut |progress| shared.set_progress(progress))
        .map_err(|source| LoadError::Prepare { backend: backend.name(), source })?;
    let memory = model.memory();
    check_kept(memory, &need)?;
    // What the readers had.
    give_back_free_heap();
    let resident = model.resident().unwrap_or(memory);
    shared.gate.loaded(Measured {
        weights_bytes: resident.weight_bytes as u64,
        kv_cache_bytes: resident.kv_cache_bytes as u64,
        activations_bytes: resident.activation_bytes as u64,
        process_bytes: process_bytes().unwrap_or(need.resident().0),
    });
    shared.metrics.set_memory(memory);
    let decode_reads = DecodeReads::new(&plan, &*weights, memory, &limits);
    // Loading happens once, so nobody has set it before.
    let _ = shared.prepared.set(Prepared { memory, resident, decode_reads });
    shared.metrics.model_load_seconds.set(started.elapsed().as_secs_f64());
    tracing::info!(
        seconds = started.elapsed().as_secs_f64(),
        weight_bytes = memory.weight_bytes,
        kv_cache_bytes = memory.kv_cache_bytes,
        activation_bytes = memory.activation_bytes,
        "model is ready"
    );

    let max_model_len = engine.max_context();
    shared.set_load(engine.load());
    let vocab_size = plan.vocab_size;
    let grammars = Arc::new(Grammars::new(Arc::clone(&tokenizer)));
    let loaded =
        LoadedModel { tokenizer: Arc::clone(&tokenizer), chat_template, dialect, grammars, vocab_size, max_model_len };
    shared.set_phase(Phase::Ready(Arc::new(loaded)));
    Ok(EngineLoop { shared: Arc::clone(shared), model, player, engine, tokenizer, vocab_size })
}

/// Nothing was taken that was not asked for.
fn check_kept(memory: MemoryUse, need: &Need) -> Result<(), LoadError> {
    let terms = [
        ("weights", memory.weight_bytes, need.weights),
        ("KV caches", memory.kv_cache_bytes, need.kv_cache),
        ("activations", memory.activation_bytes, need.activations),
    ];
    match terms.into_iter().find(|(_, taken, predicted)| *taken as u64 > predicted.0) {
        Some((term, taken, predicted)) => {
            Err(LoadError::Exceeded { term, taken: taken as u64, predicted: predicted.0 })
        }
        None => Ok(()),
    }
}

/// Tells what the headers say, before the long part.
fn announce(shared: &Shared, facts: &ModelFacts, limits: &Limits) {
    tracing::info!(
        model = shared.config.served_name,
        architecture = facts.architecture,
        parameters = facts.parameters,
        quantization = facts.quantization,
        weight_bytes = facts.weight_bytes,
        max_context = limits.max_context,
        num_blocks = ?limits.num_blocks,
        num_threads = limits.num_threads,
        backend = shared.backend,
        "loading model"
    );
    shared.metrics.set_model(ModelLabels {
        model: &shared.config.served_name,
        architecture: &facts.architecture,
        quantization: &facts.quantization,
        backend: shared.backend,
    });
    let total_bytes = facts.weight_bytes;
    shared.set_progress(LoadProgress { loaded_bytes: 0, total_bytes });
    let description = Description { facts: facts.clone(), limits: limits.clone() };
    // Loading happens once, so nobody has set it before.
    let _ = shared.description.set(description);
}

/// Steps of waiting that make up for one level of priority: some ten seconds of a busy machine.
const AGING_STEPS: u32 = 256;
/// Tokens that must agree with an earlier place before a guess is made: two agree by chance too often.
const MIN_MATCH: usize = 3;

fn engine_config(shared: &Shared, plan: &Plan, limits: &Limits, eos_token_ids: Vec<u32>) -> EngineConfig {
    let groups = plan.cache_groups.iter().zip(&limits.num_blocks).map(|(group, num_blocks)| GroupConfig {
        kind: match group.kind {
            CacheGroupKind::Full => GroupKind::Full,
            CacheGroupKind::Window { window } => GroupKind::Window { window },
            CacheGroupKind::Recurrent { .. } => GroupKind::Recurrent,
        },
        num_blocks: u32::try_from(*num_blocks).expect("the configuration should limit the number of blocks"),
    });
    let max_draft_tokens = shared.config.speculative_tokens;
    EngineConfig {
        groups: groups.collect(),
        block_size: limits.block_size,
        max_context: limits.max_context,
        max_running: limits.max_sequences,
        max_waiting: shared.config.max_waiting,
        max_batched_tokens: limits.max_tokens_per_step,
        aging_steps: AGING_STEPS,
        prefix_cache: shared.config.prefix_cache,
        sampling_threads: shared.config.threads(),
        speculation: (max_draft_tokens > 0).then_some(Speculation { max_draft_tokens, min_match: MIN_MATCH }),
        eos_token_ids,
    }
}
