//! What a GGUF file becomes in a Hugging Face folder: names, and `config.json`.
//!
//! Both descriptions of a model are lowered to plans that differ in nothing but names and the order of rotated rows;
//! so weight number `i` of one is weight number `i` of the other, and no list of names is needed here.

use kindling_kernels::{Plan, RotaryStyle, TensorDesc, WeightError, WeightSource};
use serde_json::{Map, Value, json};

use super::job::Source;
use super::{QuantizeError, unsupported};
use crate::architecture::{Checkpoint, Description, detect};
use crate::gguf::Metadata;

/// `general.architecture`, the class and `model_type` of `config.json`.
const CLASSES: [(&str, &str, &str); 3] = [
    ("llama", "LlamaForCausalLM", "llama"),
    ("qwen2", "Qwen2ForCausalLM", "qwen2"),
    ("qwen3", "Qwen3ForCausalLM", "qwen3"),
];
/// How near the divisors of a file must be to those of a rule, relative.
const SAME_FACTOR: f32 = 1e-4;

/// No tensors: a config must say everything.
struct NoTensors;

impl WeightSource for NoTensors {
    fn describe(&self, _: &str) -> Option<TensorDesc> {
        None
    }

    fn read_rows(&self, name: &str, _: std::ops::Range<usize>, _: &mut [u8]) -> Result<(), WeightError> {
        Err(WeightError::Missing { name: name.to_owned() })
    }
}

/// Hugging Face's name of each weight of the plan; `None` for frequency factors, which become a rule in the config.
pub(super) fn names(source: &Source, metadata: &Metadata) -> Result<Vec<Option<String>>, QuantizeError> {
    let config = config(source, metadata)?;
    let checkpoint = Checkpoint { description: Description::ConfigJson(&config), weights: &NoTensors };
    let result = detect(&checkpoint)?.spec(&checkpoint)?.lower();
    if result.rotaries.iter().any(|rotary| rotary.style != RotaryStyle::Half) {
        return Err(unsupported("the rotary embedding", "the class in config.json pairs neighbours"));
    }
    let plan = &source.plan;
    let factors: Vec<usize> =
        plan.rotaries.iter().filter_map(|rotary| rotary.frequency_factors.map(|id| id.0)).collect();
    let mut results = result.weights.iter();
    let mut names = Vec::with_capacity(plan.weights.len());
    for (index, weight) in plan.weights.iter().enumerate() {
        if factors.contains(&index) {
            names.push(None);
            continue;
        }
        match results.next() {
            Some(result) if result.shape == weight.shape && result.rows.is_empty() => {
                names.push(Some(result.name.clone()));
            }
            _ => return Err(unsupported(&weight.name, "config.json describes no weight like it")),
        }
    }
    match results.next() {
        None if same_ops(plan, &result) => Ok(names),
        None => Err(unsupported("the model", "config.json describes other computations")),
        Some(extra) => Err(unsupported(&extra.name, "config.json needs it and the gguf file has no such weight")),
    }
}

/// Kinds and order only; weights are numbered anew where frequency factors have gone.
fn same_ops(plan: &Plan, result: &Plan) -> bool {
    plan.ops.iter().map(|op| op.name()).eq(result.ops.iter().map(|op| op.name()))
}

/// The `config.json` that says what the metadata say.
pub(super) fn config(source: &Source, metadata: &Metadata) -> Result<Map<String, Value>, QuantizeError> {
    let architecture = metadata.string("general.architecture")?.unwrap_or("(missing)");
    let Some((_, class, model_type)) = CLASSES.iter().find(|(name, _, _)| *name == architecture) else {
        let known = CLASSES.map(|(name, _, _)| name).join(", ");
        return Err(unsupported(format!("a gguf file of architecture {architecture}"), format!("only {known} are")));
    };
    let number = |key: &str| metadata.unsigned(&format!("{architecture}.{key}"));
    let needed =
        |key: &str| number(key)?.ok_or_else(|| unsupported(format!("metadata {architecture}.{key}"), "it is missing"));
    let has = |name: &str| source.weights.describe(name).is_some();
    let heads = needed("attention.head_count")?;
    let vocab_size = source.plan.vocab_size;
    let eps = metadata.float(&format!("{architecture}.attention.layer_norm_rms_epsilon"))?;
    let mut config = json!({
        "architectures": [class],
        "model_type": model_type,
        "hidden_size": needed("embedding_length")?,
        "intermediate_size": needed("feed_forward_length")?,
        "num_hidden_layers": needed("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": number("attention.head_count_kv")?.unwrap_or(heads),
        "head_dim": source.plan.cache_groups.first().map(|group| group.head_dim),
        "vocab_size": vocab_size,
        "max_position_embeddings": needed("context_length")?,
        "rms_norm_eps": shortest(eps.unwrap_or(1e-5)),
        "rope_theta": shortest(source.plan.rotaries.first().map_or(1e4, |rotary| rotary.theta.into())),
        "hidden_act": "silu",
        "attention_bias": has("blk.0.attn_q.bias"),
        "mlp_bias": has("blk.0.ffn_gate.bias"),
        "tie_word_embeddings": !has("output.weight"),
        "torch_dtype": "bfloat16",
    });
    for (name, key) in
        [("bos_token_id", "bos_token_id"), ("eos_token_id", "eos_token_id"), ("pad_token_id", "padding_token_id")]
    {
        if let Some(id) = metadata.unsigned(&format!("tokenizer.ggml.{key}"))? {
            config[name] = json!(id);
        }
    }
    if let Some(scaling) = rope_scaling(source)? {
        config["rope_scaling"] = scaling;
    }
    match config {
        Value::Object(config) => Ok(config),
        _ => unreachable!("the literal should be an object"),
    }
}

/// Metadata are f32: the shortest number that is the same f32, not the f64 that it became.
fn shortest(value: f64) -> f64 {
    (value as f32).to_string().parse().unwrap_or(value)
}

fn rope_scaling(source: &Source) -> Result<Option<Value>, QuantizeError> {
    use kindling_kernels::RopeScaling;
    let Some(rotary) = source.plan.rotaries.first() else { return Ok(None) };
    match (rotary.scaling, rotary.frequency_factors) {
        (None, None) => Ok(None),
        (Some(RopeScaling::Linear { factor }), None) => {
            Ok(Some(json!({"rope_type": "linear", "factor": shortest(factor.into())})))
        }
        (None, Some(id)) => llama3_rule(source, &source.plan.weights[id.0].name, rotary.theta).map(Some),
        _ => Err(unsupported("this scaling of rotary frequencies", "only linear and llama3 are")),
    }
}

/// Llama 3 files keep the divisors that its rule gives; the rule has one published set of figures per factor.
fn llama3_rule(source: &Source, name: &str, theta: f32) -> Result<Value, QuantizeError> {
    let desc = source.weights.describe(name).ok_or_else(|| WeightError::Missing { name: name.to_owned() })?;
    let mut bytes = vec![0; desc.num_bytes];
    source.weights.read(name, &mut bytes)?;
    let mut found = vec![0.0f32; desc.shape.iter().product()];
    kindling_kernels::dequantise::dequantise_into(desc.dtype, &bytes, &mut found);
    let factor = found.iter().copied().fold(1.0, f32::max);
    let (low, high, original) = (1.0f32, 4.0f32, 8192.0f32);
    let pairs = found.len() as f32;
    let is_rule = found.iter().enumerate().all(|(pair, found)| {
        let wavelength = std::f32::consts::TAU * theta.powf(pair as f32 / pairs);
        let expected = if wavelength < original / high {
            1.0
        } else if wavelength > original / low {
            factor
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        };
        (found / expected - 1.0).abs() < SAME_FACTOR
    });
    if !is_rule {
        return Err(unsupported(name, "its divisors are not those of llama3's rule with its published figures"));
    }
    Ok(json!({
        "rope_type": "llama3",
        "factor": shortest(factor.into()),
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original as u32,
    }))
}
