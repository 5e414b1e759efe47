//! The answer, and as JSON: names of fields stay as they are, bytes are whole numbers.

use kindling_envelope::{
    Activations, Alternatives, Bytes, CacheLayers, Device, Footprint, KvDtype, Model, Pool, Serving, Shortfall,
    alternatives,
};
use kindling_facts::Facts;
use serde_json::{Map, Value, json};

use super::machine::{Machine, Name};

/// Everything that is known in the end.
pub struct Answer {
    /// What the model was called.
    pub name: String,
    /// What it is.
    pub facts: Facts,
    /// As the arithmetic sees it.
    pub model: Model,
    /// How it would be served.
    pub serving: Serving,
    /// Where.
    pub machine: Machine,
    /// What it takes.
    pub footprint: Footprint,
    /// What stays free, or what is missing.
    pub verdict: Result<Bytes, Shortfall>,
    /// What would fit instead, if it does not.
    pub alternatives: Option<Alternatives>,
    /// Why that is the processor, if nobody asked for it.
    pub device_reason: Option<String>,
    /// Why the runtime cannot run it on this device, if it cannot.
    pub refusal: Option<String>,
}

impl Answer {
    /// Computes what follows.
    pub fn new(
        (name, facts): (String, Facts),
        model: Model,
        (serving, device_reason): (Serving, Option<String>),
        machine: Machine,
    ) -> Self {
        let footprint = model.footprint(&serving);
        let verdict = machine.node.check(&footprint);
        let alternatives = verdict.is_err().then(|| alternatives(&model, &serving, &machine.node, 0));
        let refusal = facts.refusal(serving.device);
        Self { name, facts, model, serving, machine, footprint, verdict, alternatives, device_reason, refusal }
    }

    /// Whether weights and activations are what a backend would hold, rather than what is stored and a rule of thumb.
    pub fn is_planned(&self) -> bool {
        self.model.activations != Activations::Unplanned
    }

    /// What it takes while it loads.
    pub fn needed(&self) -> Bytes {
        self.footprint.resident() + self.footprint.load_transient
    }

    /// Of the machine, for models.
    pub fn free(&self) -> Bytes {
        self.machine.node.total.saturating_sub(self.machine.node.system()).saturating_sub(self.machine.node.held())
    }

    /// All of it.
    pub fn json(&self) -> Value {
        let Footprint { weights, kv_cache, activations, runtime, load_transient } = self.footprint;
        let (facts, node) = (&self.facts, &self.machine.node);
        json!({
            "model": self.name,
            "architecture": facts.architecture,
            "parameters": facts.parameters,
            "activeParameters": facts.active_parameters,
            "quantization": facts.quantization,
            "maxContext": facts.max_context,
            "vocabulary": facts.vocabulary,
            "stored": {
                "loadedBytes": facts.stored.loaded.0,
                "notLoadedBytes": facts.stored.not_loaded.0,
                "largestTensorBytes": facts.stored.largest_tensor.0,
                "bytesByType": facts.stored.by_type.iter().map(|(kind, bytes)| (kind.clone(), bytes.0.into())).collect::<Map<_, Value>>(),
                "files": facts.stored.files,
            },
            "cacheLayers": self.model.cache.iter().map(|layers| cache_layers(*layers)).collect::<Vec<_>>(),
            "serving": serving(&self.serving),
            "planned": self.is_planned(),
            "weightsBytes": weights.0,
            "kvCacheBytes": kv_cache.0,
            "activationsBytes": activations.0,
            "runtimeBytes": runtime.0,
            "residentBytes": self.footprint.resident().0,
            "loadTransientBytes": load_transient.0,
            "neededBytes": self.needed().0,
            "machine": {
                "isThis": matches!(self.machine.name, Name::This),
                "node": match &self.machine.name {
                    Name::Node(name) => Some(name),
                    Name::This | Name::Given => None,
                },
                "totalBytes": node.total.0,
                "baselineBytes": node.baseline.0,
                "systemBytes": node.system().0,
                "held": node.residents.iter().map(|held| json!({ "model": held.name, "bytes": held.bytes.0 })).collect::<Vec<_>>(),
                "freeForModelsBytes": self.free().0,
            },
            "fits": self.verdict.is_ok(),
            "spareBytes": self.verdict.as_ref().ok().map(|spare| spare.0),
            "missingBytes": self.verdict.err().map(|missing| missing.needed.saturating_sub(missing.free).0),
            "alternatives": self.alternatives.as_ref().map(|found| json!({
                "context": found.context,
                "concurrency": found.concurrency,
                "kvTokens": found.kv_tokens,
                "fp8KvCache": found.fp8_kv_cache,
                "leaving": found.leaving,
            })),
            "deviceReason": self.device_reason,
            "runnable": self.refusal.is_none(),
            "notRunnableBecause": self.refusal,
            "read": { "requests": facts.traffic.requests, "bytes": facts.traffic.bytes },
        })
    }
}

fn serving(serving: &Serving) -> Value {
    json!({
        "context": serving.context,
        "concurrency": serving.concurrency,
        "kvTokens": serving.pool_tokens(),
        "everySequenceAtFullLength": serving.pool == Pool::EverySequence,
        "maxBatchedTokens": serving.max_batched_tokens,
        "kvType": match serving.kv_dtype {
            KvDtype::Bf16 => "bf16",
            KvDtype::Fp8 => "fp8",
        },
        "device": match serving.device {
            Device::Cpu => "cpu",
            Device::Cuda => "cuda",
        },
    })
}

fn cache_layers(layers: CacheLayers) -> Value {
    match layers {
        CacheLayers::Full { layers, kv_heads, head_dim } => {
            json!({ "kind": "full", "layers": layers, "kvHeads": kv_heads, "headDim": head_dim })
        }
        CacheLayers::Window { layers, kv_heads, head_dim, window } => {
            json!({ "kind": "window", "layers": layers, "kvHeads": kv_heads, "headDim": head_dim, "window": window })
        }
        CacheLayers::Latent { layers, width } => json!({ "kind": "latent", "layers": layers, "width": width }),
        CacheLayers::State { layers, elements } => json!({ "kind": "state", "layers": layers, "elements": elements }),
    }
}
