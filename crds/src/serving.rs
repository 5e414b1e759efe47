//! How a model is served: lengths, sequences, the cache of keys and values.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the model is served.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.contextLength) || !has(self.kvCache) || !has(self.kvCache.tokens) || self.kvCache.tokens >= self.contextLength")
        .message("kvCache.tokens must be at least contextLength, so that one full sequence fits")
)]
pub struct Serving {
    /// Tokens that one sequence may hold, prompt and answer together. Unset means the model's own maximum, at most
    /// 65536.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 4_194_304))]
    pub context_length: Option<u32>,

    /// Sequences that are decoded together; more requests wait.
    #[serde(default = "default_max_concurrency")]
    #[schemars(range(min = 1, max = 256))]
    pub max_concurrency: u32,

    /// The cache of keys and values that all sequences share.
    #[serde(default, skip_serializing_if = "KvCache::is_unset")]
    pub kv_cache: KvCache,

    /// Tokens that one step may compute. More makes long prompts faster and costs memory for activations. Unset
    /// leaves it to the runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 65_536))]
    pub max_batched_tokens: Option<u32>,
}

/// The cache of keys and values.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct KvCache {
    /// Tokens in the cache, shared by all sequences. Unset means two full contexts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 16_777_216))]
    pub tokens: Option<u32>,

    /// What keys and values are kept in.
    #[serde(default, rename = "type", skip_serializing_if = "KvCacheType::is_auto")]
    pub kind: KvCacheType,
}

/// What keys and values are kept in.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvCacheType {
    /// 16 bits.
    #[default]
    Auto,
    /// 16 bits: BF16, or F16 where the device computes with that.
    Bf16,
    /// FP8 (E4M3), half of that; answers differ a little.
    Fp8,
}

impl KvCacheType {
    /// Whether nothing was asked for.
    pub fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

impl KvCache {
    fn is_unset(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Serving {
    fn default() -> Self {
        Self {
            context_length: None,
            max_concurrency: default_max_concurrency(),
            kv_cache: KvCache::default(),
            max_batched_tokens: None,
        }
    }
}

fn default_max_concurrency() -> u32 {
    4
}
