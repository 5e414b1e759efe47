//! The metadata of GGUF files, family by family. What files do not say, llama.cpp knows by the family.

use serde_json::{Map, Value};

use super::keys::Keys;
use super::{DescribeError, Described, state};
use crate::CacheLayers;

type Read = fn(&Layers<'_>, u64) -> Result<Option<CacheLayers>, DescribeError>;

/// Every name in `general.architecture` that is known.
const NAMES: &[(&str, Read)] = &[
    ("llama", full),
    ("mistral3", full),
    ("qwen2", full),
    ("qwen3", full),
    ("qwen3moe", full),
    ("qwen3next", hybrid),
    ("qwen35", hybrid),
    ("qwen35moe", hybrid),
    ("gemma3", |layers, index| window(layers, index, (index + 1).is_multiple_of(6), None)),
    ("gemma4", gemma4),
    ("gpt-oss", |layers, index| window(layers, index, !index.is_multiple_of(2), None)),
    ("nemotron_h", nemotron_h),
    ("nemotron_h_moe", nemotron_h),
    ("llama4", |layers, index| window(layers, index, (index + 1).is_multiple_of(4), Some(8192))),
    ("deepseek2", latent),
];

/// Lists that are as long as the model is deep.
struct Layers<'a> {
    keys: Keys<'a>,
    kv_heads: Vec<u64>,
    feed_forward: Vec<u64>,
}

pub(super) fn describe(metadata: &Map<String, Value>) -> Result<Described, DescribeError> {
    let name = metadata.get("general.architecture").and_then(Value::as_str);
    let architecture = name.ok_or(DescribeError::Nameless { key: "general.architecture" })?;
    let read = NAMES.iter().find(|(name, _)| *name == architecture).map(|(_, read)| read);
    let read = read.ok_or_else(|| DescribeError::Unknown {
        architecture: architecture.to_owned(),
        known: NAMES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
    })?;
    let place = format!("{architecture}.");
    let keys = Keys { map: metadata, place: &place, is_prefix: true, architecture };
    // Heads that guess ahead are blocks as well.
    let blocks = keys.layers("block_count")?;
    let guessing = keys.optional("nextn_predict_layers")?.unwrap_or(0).min(blocks);
    let query_heads = keys.by_layer("attention.head_count", blocks)?;
    let kv_heads = keys.by_layer("attention.head_count_kv", blocks)?.or(query_heads);
    let kv_heads = kv_heads.ok_or_else(|| keys.missing("attention.head_count"))?;
    let feed_forward = keys.by_layer("feed_forward_length", blocks)?.unwrap_or_else(|| vec![0; blocks as usize]);
    let layers = Layers { keys, kv_heads, feed_forward };
    let all = (0..blocks - guessing).map(|index| read(&layers, index)).collect::<Result<_, _>>()?;
    Ok(Described::new(architecture, all, keys.required("context_length")?))
}

impl Layers<'_> {
    fn head_dim(&self) -> Result<u64, DescribeError> {
        if let Some(head_dim) = self.keys.optional("attention.key_length")? {
            return Ok(head_dim);
        }
        let (width, heads) = (self.keys.required("embedding_length")?, self.keys.required("attention.head_count")?);
        let odd = || self.keys.out_of_range("attention.head_count", &heads.to_string(), format!("they share {width}"));
        width.checked_div(heads).ok_or_else(odd)
    }
}

fn full(layers: &Layers<'_>, index: u64) -> Result<Option<CacheLayers>, DescribeError> {
    let kv_heads = layers.kv_heads[index as usize];
    Ok(Some(CacheLayers::Full { layers: 1, kv_heads, head_dim: layers.head_dim()? }))
}

fn window(
    layers: &Layers<'_>,
    index: u64,
    is_full: bool,
    default: Option<u64>,
) -> Result<Option<CacheLayers>, DescribeError> {
    const KEY: &str = "attention.sliding_window";
    if is_full {
        return full(layers, index);
    }
    let window = layers.keys.optional(KEY)?.or(default).ok_or_else(|| layers.keys.missing(KEY))?;
    let (kv_heads, head_dim) = (layers.kv_heads[index as usize], layers.head_dim()?);
    Ok(Some(CacheLayers::Window { layers: 1, kv_heads, head_dim, window }))
}

/// Which layers have a window stands in a list; those have heads of their own size.
fn gemma4(layers: &Layers<'_>, index: u64) -> Result<Option<CacheLayers>, DescribeError> {
    const PATTERN: &str = "attention.sliding_window_pattern";
    let (keys, blocks) = (layers.keys, layers.kv_heads.len() as u64);
    let borrowing = keys.optional("attention.shared_kv_layers")?.unwrap_or(0);
    if index >= blocks.saturating_sub(borrowing) {
        return Ok(None);
    }
    let pattern = keys.list(PATTERN, blocks)?.ok_or_else(|| keys.missing(PATTERN))?;
    let has_window = pattern[index as usize].as_bool().ok_or_else(|| keys.missing(PATTERN))?;
    if !has_window {
        return full(layers, index);
    }
    let (kv_heads, window) = (layers.kv_heads[index as usize], keys.required("attention.sliding_window")?);
    let head_dim = keys.required("attention.key_length_swa")?;
    Ok(Some(CacheLayers::Window { layers: 1, kv_heads, head_dim, window }))
}

fn recurrent(keys: Keys<'_>) -> Result<Option<CacheLayers>, DescribeError> {
    let (inner, groups) = (keys.required("ssm.inner_size")?, keys.required("ssm.group_count")?);
    Ok(state(inner, groups, keys.required("ssm.state_size")?, keys.required("ssm.conv_kernel")?))
}

fn hybrid(layers: &Layers<'_>, index: u64) -> Result<Option<CacheLayers>, DescribeError> {
    let interval = layers.keys.optional("full_attention_interval")?.unwrap_or(4).max(1);
    if (index + 1).is_multiple_of(interval) { full(layers, index) } else { recurrent(layers.keys) }
}

fn nemotron_h(layers: &Layers<'_>, index: u64) -> Result<Option<CacheLayers>, DescribeError> {
    match (layers.kv_heads[index as usize], layers.feed_forward[index as usize]) {
        (0, 0) => recurrent(layers.keys),
        (0, _) => Ok(None),
        _ => full(layers, index),
    }
}

fn latent(layers: &Layers<'_>, _: u64) -> Result<Option<CacheLayers>, DescribeError> {
    let keys = layers.keys;
    let width = keys.required("attention.kv_lora_rank")?.saturating_add(keys.required("rope.dimension_count")?);
    Ok(Some(CacheLayers::Latent { layers: 1, width }))
}
