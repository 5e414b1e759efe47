//! For every tiny checkpoint: what is predicted for a serving is what the backend would hold with the runtime's own limits,
//! and what its configuration says of the cache is what its plan says.
#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::path::{Path, PathBuf};

use kindling_agent::hub::Hub;
use kindling_cuda::CudaBackend;
use kindling_envelope::facts::Described;
use kindling_envelope::{CacheLayers, Device, KvDtype, Pool, Serving};
use kindling_facts::{Facts, ModelSource, read};
use kindling_kernels::{Backend, CpuBackend, MemoryUse, PrepareError};
use kindling_runtime::{KvType, Remainder, RuntimeConfig};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/models/tests/golden")
}

/// Every tiny checkpoint there is, GGUF files by themselves.
fn checkpoints() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(golden()).unwrap().map(|entry| entry.unwrap().path());
    let tiny = entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("tiny_"));
    let mut all = Vec::new();
    for folder in tiny {
        let gguf = folder.join("model.gguf");
        all.extend(gguf.exists().then_some(gguf));
        all.extend(folder.join("config.json").exists().then_some(folder));
    }
    all.sort();
    assert!(all.len() >= 19, "{all:?}");
    all
}

async fn facts(path: &Path) -> Facts {
    let nobody = Hub::new("http://127.0.0.1:9", None);
    read(&ModelSource::Path(path.to_owned()), &nobody)
        .await
        .unwrap_or_else(|error| panic!("{}: {error:?}", path.display()))
}

fn servings(longest: u64, device: Device) -> Vec<Serving> {
    let base = Serving {
        context: longest - 7,
        concurrency: 4,
        pool: Pool::Contexts(2),
        max_batched_tokens: 512,
        kv_dtype: KvDtype::Bf16,
        device,
    };
    vec![
        Serving { concurrency: 1, max_batched_tokens: 1, context: 17, ..base },
        Serving { concurrency: 9, max_batched_tokens: 7, pool: Pool::EverySequence, ..base },
        Serving { concurrency: 64, max_batched_tokens: 1000, pool: Pool::Tokens(3000), context: 64, ..base },
        Serving { max_batched_tokens: 33, pool: Pool::Tokens(100), kv_dtype: KvDtype::Fp8, ..base },
        base,
    ]
}

/// What the runtime would be told to hold.
fn predicted(
    (path, remainder): (&Path, Remainder),
    serving: &Serving,
    threads: usize,
) -> Result<MemoryUse, PrepareError> {
    let opened = kindling_models::open_weights(path).unwrap();
    let plan = opened.spec.lower();
    let config = RuntimeConfig {
        context_length: Some(serving.context as usize),
        max_concurrency: serving.concurrency as usize,
        kv_tokens: Some(serving.pool_tokens() as usize),
        kv_type: match serving.kv_dtype {
            KvDtype::Bf16 => KvType::Wide,
            KvDtype::Fp8 => KvType::F8E4M3,
        },
        max_batched_tokens: serving.max_batched_tokens as usize,
        num_threads: Some(threads),
        ..RuntimeConfig::new(path)
    };
    let limits = config.limits(plan.max_position, &plan.cache_groups).unwrap();
    let backend: &dyn Backend = match serving.device {
        Device::Cpu => &CpuBackend::new(),
        Device::Cuda => &CudaBackend::new(),
    };
    backend.predict(&plan, remainder.apply(&plan, opened.weights).as_ref(), &limits)
}

#[tokio::test]
async fn the_footprint_is_what_the_backend_would_hold() {
    let mut compared = 0;
    for path in checkpoints() {
        let facts = facts(&path).await;
        let devices = [Device::Cpu, Device::Cuda];
        for serving in devices.iter().flat_map(|device| servings(facts.max_context, *device)) {
            for threads in [1, 4, 20] {
                let what = format!("{} {serving:?}", path.display());
                let footprint = facts.model(&serving, Some(threads)).unwrap().footprint(&serving);
                match predicted((&path, Remainder::Keep), &serving, threads) {
                    Ok(held) => {
                        assert_eq!(footprint.weights.0, held.weight_bytes as u64, "weights of {what}");
                        assert_eq!(footprint.activations.0, held.activation_bytes as u64, "activations of {what}");
                        assert_eq!(footprint.kv_cache.0, held.kv_cache_bytes as u64, "KV cache of {what}");
                        compared += 1;
                    }
                    Err(PrepareError::Unsupported { .. }) => {
                        assert!(facts.refusal(serving.device).unwrap().contains("recurrent layers"), "{what}");
                        assert_eq!(footprint.weights, facts.stored.loaded, "{what}");
                    }
                    Err(error) => panic!("{what}: {error:?}"),
                }
            }
        }
    }
    assert_eq!(
        compared,
        (2 * checkpoints().len() - 3) * servings(100, Device::Cpu).len() * 3,
        "three have recurrent layers, which the processor lacks"
    );
}

/// Tiny checkpoints in 16 bits take less then, as much less as the backend says.
#[tokio::test]
async fn what_is_in_16_bits_can_become_less_and_is_predicted_so() {
    let mut changed = 0;
    for path in checkpoints() {
        let [kept, narrow] = [facts(&path).await, facts(&path).await.with_remainder(Remainder::Fp8)];
        for device in [Device::Cpu, Device::Cuda] {
            let serving = servings(kept.max_context, device)[0];
            let Ok(held) = predicted((&path, Remainder::Fp8), &serving, 4) else { continue };
            let [before, after] = [&kept, &narrow].map(|facts| facts.model(&serving, Some(4)).unwrap().weights.0);
            assert_eq!(after, held.weight_bytes as u64, "{}", path.display());
            let is_said = narrow.quantization.ends_with(", matrices of 16 bits in 8");
            assert_eq!(after < before, is_said, "{}: {after} of {before}", path.display());
            changed += u32::from(is_said);
        }
    }
    assert!(changed >= 10, "{changed}");
}

fn sorted(mut cache: Vec<CacheLayers>) -> Vec<String> {
    cache.sort_by_key(|layers| format!("{layers:?}"));
    cache.iter().map(|layers| format!("{layers:?}")).collect()
}

#[tokio::test]
async fn configurations_say_the_same_of_the_cache_as_plans() {
    let mut compared = 0;
    for path in checkpoints().iter().filter(|path| path.is_dir()) {
        let config = std::fs::read(path.join("config.json")).unwrap();
        let described = Described::from_config(&serde_json::from_slice(&config).unwrap()).unwrap();
        let facts = facts(path).await;
        assert_eq!(sorted(described.cache), sorted(facts.cache.clone()), "{}", path.display());
        assert_eq!((described.architecture, described.max_context), (facts.architecture, facts.max_context));
        compared += 1;
    }
    assert!(compared >= 14, "{compared}");
}
