//! `config.json`, family by family. Defaults are those of the families' own configuration classes.

use serde_json::{Map, Value};

use super::keys::Keys;
use super::{DescribeError, Described, state};
use crate::CacheLayers;

/// What one layer keeps; `None`: nothing.
type Layer = Option<CacheLayers>;
type Read = fn(Keys<'_>, u64) -> Result<Vec<Layer>, DescribeError>;

/// Every class that is known. Those of several kinds of input keep the figures of their language model apart.
const CLASSES: &[(&str, Read)] = &[
    ("LlamaForCausalLM", all_layers),
    ("MistralForCausalLM", mistral),
    ("MixtralForCausalLM", mistral),
    ("Mistral3ForConditionalGeneration", mistral),
    ("Qwen2ForCausalLM", qwen),
    ("Qwen3ForCausalLM", qwen),
    ("Qwen3MoeForCausalLM", qwen),
    ("Qwen3NextForCausalLM", delta_nets),
    ("Qwen3_5ForCausalLM", delta_nets),
    ("Qwen3_5MoeForCausalLM", delta_nets),
    ("Qwen3_5ForConditionalGeneration", delta_nets),
    ("Qwen3_5MoeForConditionalGeneration", delta_nets),
    ("Gemma3ForCausalLM", gemma3),
    ("Gemma3ForConditionalGeneration", gemma3),
    ("Gemma4ForCausalLM", gemma4),
    ("Gemma4ForConditionalGeneration", gemma4),
    ("GptOssForCausalLM", gpt_oss),
    ("NemotronHForCausalLM", nemotron_h),
    ("Llama4ForCausalLM", llama4),
    ("Llama4ForConditionalGeneration", llama4),
    ("DeepseekV2ForCausalLM", latent),
    ("DeepseekV3ForCausalLM", latent),
];

pub(super) fn describe(config: &Map<String, Value>) -> Result<Described, DescribeError> {
    let class = config.get("architectures").and_then(Value::as_array).and_then(|classes| match &classes[..] {
        [class] => class.as_str(),
        _ => None,
    });
    let architecture = class.ok_or(DescribeError::Nameless { key: "architectures in config.json" })?;
    let read = CLASSES.iter().find(|(class, _)| *class == architecture).map(|(_, read)| read);
    let read = read.ok_or_else(|| DescribeError::Unknown {
        architecture: architecture.to_owned(),
        known: CLASSES.iter().map(|(class, _)| *class).collect::<Vec<_>>().join(", "),
    })?;
    let (map, place) = match config.get("text_config") {
        Some(Value::Object(text)) => (text, "text_config."),
        _ => (config, ""),
    };
    let keys = Keys { map, place, is_prefix: false, architecture };
    let is_gemma3 = architecture.starts_with("Gemma3");
    let layers = match keys.value("layers_block_type").or_else(|| keys.value("hybrid_override_pattern")) {
        Some(Value::Array(kinds)) => kinds.len() as u64,
        Some(Value::String(kinds)) => kinds.len() as u64,
        _ => keys.layers("num_hidden_layers")?,
    };
    let max_context = match keys.optional("max_position_embeddings")? {
        None if is_gemma3 => 131_072,
        found => found.ok_or_else(|| keys.missing("max_position_embeddings"))?,
    };
    Ok(Described::new(architecture, read(keys, layers)?, max_context))
}

/// Key and value heads, and elements of a head, of the layers that have no others.
fn heads(keys: Keys<'_>, default_dim: Option<u64>) -> Result<(u64, u64), DescribeError> {
    let kv_heads = match keys.optional("num_key_value_heads")? {
        Some(kv_heads) => kv_heads,
        None => keys.required("num_attention_heads")?,
    };
    let head_dim = match keys.optional("head_dim")?.or(default_dim) {
        Some(head_dim) => head_dim,
        None => {
            let (width, heads) = (keys.required("hidden_size")?, keys.required("num_attention_heads")?);
            let odd = || keys.out_of_range("num_attention_heads", &heads.to_string(), format!("they share {width}"));
            width.checked_div(heads).ok_or_else(odd)?
        }
    };
    Ok((kv_heads, head_dim))
}

fn full((kv_heads, head_dim): (u64, u64)) -> Layer {
    Some(CacheLayers::Full { layers: 1, kv_heads, head_dim })
}

fn windowed((kv_heads, head_dim): (u64, u64), window: u64) -> Layer {
    Some(CacheLayers::Window { layers: 1, kv_heads, head_dim, window })
}

/// Names of the layers' kinds, if the list is there; else what `default` says of each index.
fn kinds<'a>(keys: Keys<'a>, layers: u64, default: impl Fn(u64) -> &'a str) -> Result<Vec<&'a str>, DescribeError> {
    match keys.list("layer_types", layers)? {
        Some(kinds) => kinds.iter().map(|kind| kind.as_str().ok_or_else(|| keys.missing("layer_types"))).collect(),
        None => Ok((0..layers).map(default).collect()),
    }
}

/// Layers of full attention, and of attention within a window.
fn by_kind(
    keys: Keys<'_>,
    kinds: &[&str],
    (of_full, of_window): (Layer, Result<Layer, DescribeError>),
) -> Result<Vec<Layer>, DescribeError> {
    let layer = |kind: &&str| match *kind {
        "full_attention" => Ok(of_full),
        "sliding_attention" | "chunked_attention" => of_window.clone(),
        other => Err(keys.out_of_range("layer_types", other, "nobody knows what such a layer keeps".to_owned())),
    };
    kinds.iter().map(layer).collect()
}

fn all_layers(keys: Keys<'_>, layers: u64) -> Result<Vec<Layer>, DescribeError> {
    Ok(vec![full(heads(keys, None)?); layers as usize])
}

/// A window for all layers, if there is one. The newest keep a compressed vector.
fn mistral(keys: Keys<'_>, layers: u64) -> Result<Vec<Layer>, DescribeError> {
    if keys.value("kv_lora_rank").is_some() {
        return latent(keys, layers);
    }
    let heads = heads(keys, None)?;
    let kind = if keys.value("sliding_window").is_some() { "sliding_attention" } else { "full_attention" };
    let of_window = keys.required("sliding_window").map(|window| windowed(heads, window));
    by_kind(keys, &kinds(keys, layers, |_| kind)?, (full(heads), of_window))
}

/// A window for the layers from `max_window_layers` on, if it is switched on.
fn qwen(keys: Keys<'_>, layers: u64) -> Result<Vec<Layer>, DescribeError> {
    let heads = heads(keys, None)?;
    let has_window = keys.value("use_sliding_window").and_then(Value::as_bool).unwrap_or(false);
    let window = keys.optional("sliding_window")?.unwrap_or(4096);
    let first = keys.optional("max_window_layers")?.unwrap_or(28);
    let kind = |index| if has_window && index >= first { "sliding_attention" } else { "full_attention" };
    by_kind(keys, &kinds(keys, layers, kind)?, (full(heads), Ok(windowed(heads, window))))
}

/// Three of four layers have a state of their own.
fn delta_nets(keys: Keys<'_>, layers: u64) -> Result<Vec<Layer>, DescribeError> {
    let heads = heads(keys, Some(256))?;
    let figure = |key, default| keys.optional(key).map(|found| found.unwrap_or(default));
    let interval = figure("full_attention_interval", 4)?.max(1);
    let inner = figure("linear_num_value_heads", 32)?.saturating_mul(figure("linear_value_head_dim", 128)?);
    let (key_heads, key_dim) = (figure("linear_num_key_heads", 16)?, figure("linear_key_head_dim", 128)?);
    let recurrent = state(inner, key_heads, key_dim, figure("linear_conv_kernel_dim", 4)?);
    let kind = |index: u64| if (index + 1).is_multiple_of(interval) { "full_attention" } else { "linear_attention" };
    let layer = |kind: &&str| match *kind {
        "full_attention" => Ok(full(heads)),
        "linear_attention" => Ok(recurrent),
        other => Err(keys.out_of_range("layer_types", other, "nobody knows what such a layer keeps".to_owned())),
    };
    kinds(keys, layers, kind)?.iter().map(layer).collect()
}

/// Five of six layers have a window.
fn gemma3(keys: Keys<'_>, layers: u64) -> Result<Vec<Layer>, DescribeError> {
    let kv_heads = keys.optional("num_key_value_heads")?.unwrap_or(4);
    let heads = (kv_heads, keys.optional("head_dim")?.unwrap_or(256));
    let pattern = keys.optional("sliding_window_pattern")?.unwrap_or(6).max(1);
    let window = keys.optional("sliding_window")?.unwrap_or(4096);
    let kind = |index: u64| if (index + 1).is_multiple_of(pattern) { "full_attention" } else { "sliding_attention" };
    by_kind(keys, &kinds(keys, layers, kind)?, (full(heads), Ok(windowed(heads, window))))
}

/// Layers without window have heads of their own size, and the last layers of some models use the keys of others.
fn gemma4(keys: Keys<'_>, layers: u64) -> Result<Vec<Layer>, DescribeError> {
    let heads = heads(keys, Some(256))?;
    let shares_keys = keys.value("attention_k_eq_v").and_then(Value::as_bool).unwrap_or(false);
    let global_heads = keys.optional("num_global_key_value_heads")?.filter(|_| shares_keys).unwrap_or(heads.0);
    let global = (global_heads, keys.optional("global_head_dim")?.unwrap_or(512));
    let window = keys.optional("sliding_window")?.unwrap_or(512);
    let kind = |index: u64| if (index + 1).is_multiple_of(6) { "full_attention" } else { "sliding_attention" };
    let mut all = by_kind(keys, &kinds(keys, layers, kind)?, (full(global), Ok(windowed(heads, window))))?;
    let borrowing = keys.optional("num_kv_shared_layers")?.unwrap_or(0).min(layers);
    all[(layers - borrowing) as usize..].fill(None);
    Ok(all)
}

/// Every other layer has a window.
fn gpt_oss(keys: Keys<'_>, layers: u64) -> Result<Vec<Layer>, DescribeError> {
    let heads = heads(keys, Some(64))?;
    let window = keys.optional("sliding_window")?.unwrap_or(128);
    let kind = |index: u64| if index.is_multiple_of(2) { "sliding_attention" } else { "full_attention" };
    by_kind(keys, &kinds(keys, layers, kind)?, (full(heads), Ok(windowed(heads, window))))
}

/// Mamba 2, a little attention, and blocks that keep nothing.
fn nemotron_h(keys: Keys<'_>, layers: u64) -> Result<Vec<Layer>, DescribeError> {
    let kv_heads = keys.required("num_key_value_heads")?;
    let head_dim = match keys.optional("head_dim")? {
        Some(head_dim) => head_dim,
        None => keys.required("attention_head_dim")?,
    };
    let inner = keys.required("mamba_num_heads")?.saturating_mul(keys.required("mamba_head_dim")?);
    let recurrent =
        state(inner, keys.required("n_groups")?, keys.required("ssm_state_size")?, keys.required("conv_kernel")?);
    let listed = keys.list("layers_block_type", layers)?;
    let kinds: Vec<String> = match listed {
        Some(kinds) => kinds.iter().map(|kind| kind.as_str().unwrap_or_default().to_owned()).collect(),
        None => {
            let pattern = keys.value("hybrid_override_pattern").and_then(Value::as_str);
            let pattern = pattern.ok_or_else(|| keys.missing("hybrid_override_pattern"))?;
            pattern.chars().map(String::from).collect()
        }
    };
    let layer = |kind: &String| match kind.as_str() {
        "M" | "mamba" | "mamba2" => Ok(recurrent),
        "*" | "attention" => Ok(full((kv_heads, head_dim))),
        "-" | "E" | "mlp" | "moe" => Ok(None),
        other => {
            let expected = "known are M, *, - and E".to_owned();
            Err(keys.out_of_range("hybrid_override_pattern", other, expected))
        }
    };
    kinds.iter().map(layer).collect()
}

/// Three of four layers see their own chunk only.
fn llama4(keys: Keys<'_>, layers: u64) -> Result<Vec<Layer>, DescribeError> {
    let heads = heads(keys, None)?;
    let chunk = keys.optional("attention_chunk_size")?.unwrap_or(8192);
    let interval = keys.optional("no_rope_layer_interval")?.unwrap_or(4).max(1);
    // 1 where positions are embedded, which is where chunks are. Some files have the list and leave it empty.
    let roped = keys.list("no_rope_layers", layers).ok().flatten();
    let is_chunked = |index: u64| match roped {
        Some(roped) => roped[index as usize].as_u64() != Some(0),
        None => !(index + 1).is_multiple_of(interval),
    };
    let kind = |index: u64| if is_chunked(index) { "chunked_attention" } else { "full_attention" };
    by_kind(keys, &kinds(keys, layers, kind)?, (full(heads), Ok(windowed(heads, chunk))))
}

/// A compressed vector for each token, and the part of its key that has a position.
fn latent(keys: Keys<'_>, layers: u64) -> Result<Vec<Layer>, DescribeError> {
    let width = keys.required("kv_lora_rank")?.saturating_add(keys.required("qk_rope_head_dim")?);
    Ok(vec![Some(CacheLayers::Latent { layers: 1, width }); layers as usize])
}
