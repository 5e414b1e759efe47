use kindling_kernels::{RopeScaling, RotaryStyle, TensorDesc, WeightError, WeightSource};
use serde_json::{Value, json};

use super::Llama;
use crate::architecture::{Architecture, Checkpoint, Description, SpecError, detect};
use crate::gguf::synthetic::{SyntheticGguf, llama};
use crate::gguf::{GgufHeader, GgufWeights};
use crate::spec::{Attention, Mixer, ModelSpec};

/// A checkpoint without tensors.
struct NoWeights;

impl WeightSource for NoWeights {
    fn describe(&self, _: &str) -> Option<TensorDesc> {
        None
    }
    fn read_rows(&self, name: &str, _: std::ops::Range<usize>, _: &mut [u8]) -> Result<(), WeightError> {
        Err(WeightError::Missing { name: name.to_owned() })
    }
}

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "rope_theta": 500000.0, "torch_dtype": "bfloat16",
    })
}

fn from_config(config: &Value) -> Result<ModelSpec, SpecError> {
    let description = Description::ConfigJson(config.as_object().unwrap());
    let checkpoint = Checkpoint { description, weights: &NoWeights };
    detect(&checkpoint)?.spec(&checkpoint)
}

fn from_gguf(file: &SyntheticGguf) -> Result<ModelSpec, SpecError> {
    let bytes = file.file();
    let header = GgufHeader::read(&bytes).unwrap();
    let weights = GgufWeights::new(Box::new(bytes), header.tensors).unwrap();
    let checkpoint = Checkpoint { description: Description::Gguf(&header.metadata), weights: &weights };
    detect(&checkpoint)?.spec(&checkpoint)
}

fn biases(spec: &ModelSpec) -> Vec<String> {
    let weights = spec.lower().weights.into_iter().map(|weight| weight.name);
    weights.filter(|name| name.ends_with(".bias")).collect()
}

fn first_attention(spec: &ModelSpec) -> &Attention {
    let Mixer::Attention(attention) = &spec.layers[0].mixer else { panic!("should be attention") };
    attention
}

fn with(key: &str, value: Value) -> Value {
    let mut config = config();
    config[key] = value;
    config
}

#[test]
fn a_config_becomes_a_spec_with_the_checkpoints_names() {
    let spec = from_config(&config()).unwrap();
    assert_eq!((spec.layers.len(), spec.hidden_size, spec.context_length), (2, 64, 512));
    assert_eq!(spec.lm_head.weight.name, "lm_head.weight");
    let Mixer::Attention(attention) = &spec.layers[1].mixer else { panic!("should be attention") };
    assert_eq!(attention.q_proj.weight.name, "model.layers.1.self_attn.q_proj.weight");
    assert_eq!((attention.k_proj.out_features(), attention.head_dim, attention.scale), (32, 16, 0.25));
    assert_eq!(attention.q_proj.bias, None);
    let rotary = &spec.rotaries[0];
    assert_eq!((rotary.style, rotary.theta, rotary.rotary_dim), (RotaryStyle::Half, 500_000.0, 16));
}

#[test]
fn optional_keys_are_honoured() {
    let spec = from_config(&with("tie_word_embeddings", json!(true))).unwrap();
    assert_eq!(spec.lm_head.weight.name, "model.embed_tokens.weight");
    let spec = from_config(&with("attention_bias", json!(true))).unwrap();
    assert_eq!(biases(&spec).len(), 8);
    let spec = from_config(&with("mlp_bias", json!(true))).unwrap();
    assert_eq!(biases(&spec).len(), 6);
    let spec = from_config(&with("head_dim", json!(24))).unwrap();
    assert_eq!(first_attention(&spec).q_proj.out_features(), 96);
    let spec = from_config(&with("num_key_value_heads", Value::Null)).unwrap();
    assert_eq!(first_attention(&spec).k_proj.out_features(), 64);
    let spec = from_config(&with("rope_theta", Value::Null)).unwrap();
    assert_eq!(spec.rotaries[0].theta, 10_000.0);
    let spec = from_config(&with("rope_parameters", json!({"rope_type": "default", "rope_theta": 7.0}))).unwrap();
    assert_eq!(spec.rotaries[0].theta, 7.0);
}

#[test]
fn rope_scaling_is_read_in_both_spellings() {
    let linear = from_config(&with("rope_scaling", json!({"type": "linear", "factor": 2.0}))).unwrap();
    assert_eq!(linear.rotaries[0].scaling, Some(RopeScaling::Linear { factor: 2.0 }));
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    });
    let expected =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 64.0 };
    for key in ["rope_scaling", "rope_parameters"] {
        assert_eq!(from_config(&with(key, llama3.clone())).unwrap().rotaries[0].scaling, Some(expected));
    }
}

#[test]
fn wrong_configs_are_refused_by_key() {
    let cases = [
        ("hidden_size", json!(0), "hidden_size is 0"),
        ("hidden_size", json!(1u64 << 40), "hidden_size is 1099511627776"),
        ("hidden_size", json!(66), "hidden_size is 66, not a multiple of num_attention_heads 4"),
        ("intermediate_size", json!(0), "intermediate_size is 0"),
        ("num_hidden_layers", json!(0), "num_hidden_layers is 0"),
        ("num_hidden_layers", json!(1_000_000), "num_hidden_layers is 1000000"),
        ("num_attention_heads", json!(0), "num_attention_heads is 0"),
        ("num_key_value_heads", json!(0), "num_key_value_heads is 0"),
        ("num_key_value_heads", json!(3), "num_key_value_heads is 3, not a divisor of num_attention_heads 4"),
        ("num_key_value_heads", json!(8), "num_key_value_heads is 8"),
        ("head_dim", json!(15), "head_dim is 15, odd"),
        ("vocab_size", json!(0), "vocab_size is 0"),
        ("vocab_size", json!(1u64 << 50), "vocab_size is"),
        ("max_position_embeddings", json!(0), "max_position_embeddings is 0"),
        ("rms_norm_eps", json!(0.0), "rms_norm_eps is 0"),
        ("rms_norm_eps", json!(2.0), "rms_norm_eps is 2"),
        ("rope_theta", json!(-1.0), "rope_theta is -1"),
        ("hidden_act", json!("gelu"), "hidden_act gelu is not supported, only silu is"),
        ("rope_scaling", json!({"rope_type": "longrope"}), "rope_scaling type longrope is not supported"),
        ("rope_scaling", json!({"rope_type": "linear"}), "metadata rope_scaling.factor is missing"),
        ("rope_scaling", json!({"rope_type": "linear", "factor": 0.0}), "rope_scaling.factor is 0"),
        (
            "rope_scaling",
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}),
            "rope_scaling.low_freq_factor is 4, not below high_freq_factor 4",
        ),
        ("sliding_window", json!(4096), "sliding_window 4096 is not supported"),
        ("partial_rotary_factor", json!(0.5), "partial_rotary_factor 0.5 is not supported"),
        ("vocab_size", json!("many"), "config.json does not describe a LlamaForCausalLM"),
        ("vocab_size", json!(-1), "config.json does not describe a LlamaForCausalLM"),
        (
            "architectures",
            json!(["BertModel"]),
            "no architecture fits: LlamaForCausalLM: architectures in config.json says BertModel",
        ),
        ("architectures", json!([]), "config.json has no list architectures with one name"),
    ];
    for (key, value, part) in cases {
        let message = from_config(&with(key, value.clone())).expect_err(key).to_string();
        assert!(message.contains(part), "{key} {value}: {message:?} lacks {part:?}");
    }
}

#[test]
fn gguf_metadata_become_the_same_spec() {
    let spec = from_gguf(&llama()).unwrap();
    assert_eq!((spec.architecture.as_str(), spec.vocab_size, spec.context_length), ("LlamaForCausalLM", 4, 64));
    assert_eq!(
        (spec.embed_tokens.name.as_str(), spec.lm_head.weight.name.as_str()),
        ("token_embd.weight", "token_embd.weight")
    );
    let rotary = &spec.rotaries[0];
    assert_eq!((rotary.style, rotary.theta, rotary.rotary_dim), (RotaryStyle::Interleaved, 10_000.0, 16));
    let Mixer::Attention(attention) = &spec.layers[0].mixer else { panic!("should be attention") };
    assert_eq!((attention.num_heads, attention.num_kv_heads, attention.head_dim), (2, 1, 16));
    assert_eq!(attention.o_proj.weight.name, "blk.0.attn_output.weight");
}

#[test]
fn gguf_extras_are_found_by_their_tensors_and_keys() {
    let file = llama()
        .float("llama.rope.freq_base", 100_000.0)
        .number("llama.rope.dimension_count", 16)
        .text("llama.rope.scaling.type", "linear")
        .float("llama.rope.scaling.factor", 2.0)
        .tensor("output.weight", &[4, 32], 8)
        .tensor("rope_freqs.weight", &[8], 0)
        .tensor("blk.0.attn_q.bias", &[32], 0);
    let spec = from_gguf(&file).unwrap();
    assert_eq!(spec.lm_head.weight.name, "output.weight");
    assert_eq!(spec.rotaries[0].frequency_factors.as_ref().unwrap().name, "rope_freqs.weight");
    assert_eq!(spec.rotaries[0].scaling, Some(RopeScaling::Linear { factor: 2.0 }));
    assert_eq!(spec.rotaries[0].theta, 100_000.0);
    assert_eq!(biases(&spec), ["blk.0.attn_q.bias"]);
}

#[test]
fn wrong_gguf_metadata_are_refused_by_key() {
    let replaced = |key: &str, value: u32| llama().without(key).number(key, value);
    let cases = [
        (llama().without("general.architecture"), "general.architecture is missing"),
        (
            llama().without("general.architecture").text("general.architecture", "mamba"),
            "general.architecture is mamba",
        ),
        (llama().without("general.architecture").number("general.architecture", 1), "is not a string"),
        (llama().without("llama.block_count"), "metadata llama.block_count is missing"),
        (llama().without("llama.block_count").text("llama.block_count", "2"), "read the model's dimensions"),
        (llama().without("llama.attention.layer_norm_rms_epsilon"), "layer_norm_rms_epsilon is missing"),
        (replaced("llama.attention.head_count", 3), "hidden_size is 32, not a multiple of num_attention_heads 3"),
        (replaced("llama.attention.head_count", 0), "num_attention_heads is 0"),
        (replaced("llama.embedding_length", 0), "hidden_size is 0"),
        (llama().number("llama.rope.dimension_count", 8), "llama.rope.dimension_count 8 is not supported"),
        (llama().number("llama.expert_count", 8), "llama.expert_count 8 is not supported"),
        (llama().number("split.count", 2), "split.count 2 is not supported"),
        (llama().number("llama.attention.key_length", 16), "llama.attention.value_length"),
        (llama().text("llama.rope.scaling.type", "longrope"), "rope_scaling type longrope is not supported"),
        (llama().text("llama.rope.scaling.type", "yarn"), "llama.rope.scaling.factor is missing"),
        (llama().text("llama.rope.scaling.type", "linear"), "rope_scaling.factor is missing"),
    ];
    for (file, part) in cases {
        let message = from_gguf(&file).expect_err(part).to_string();
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[test]
fn it_is_listed_under_its_class_name() {
    assert_eq!(Llama.name(), "LlamaForCausalLM");
}
