use kindling_kernels::{DType, RopeScaling, TensorDesc, WeightError, WeightSource};
use serde_json::{Value, json};

use super::embedding_scale;
use crate::architecture::{Checkpoint, Description, SpecError, detect};
use crate::spec::{Mixer, ModelSpec};

struct NoWeights;

impl WeightSource for NoWeights {
    fn describe(&self, _: &str) -> Option<TensorDesc> {
        None
    }

    fn read_rows(&self, name: &str, _: std::ops::Range<usize>, _: &mut [u8]) -> Result<(), WeightError> {
        Err(WeightError::Missing { name: name.to_owned() })
    }
}

fn spec(extra: &Value) -> Result<ModelSpec, SpecError> {
    let mut config = json!({
        "architectures": ["Gemma4ForCausalLM"], "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 6,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 32, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6, "hidden_size_per_layer_input": 0,
    });
    for (key, value) in extra.as_object().unwrap() {
        config[key] = value.clone();
    }
    let description = Description::ConfigJson(config.as_object().unwrap());
    let checkpoint = Checkpoint { description, weights: &NoWeights };
    detect(&checkpoint)?.spec(&checkpoint)
}

#[test]
fn the_familys_defaults_are_filled_in() {
    let spec = spec(&json!({})).unwrap();
    let sizes: Vec<_> = spec
        .layers
        .iter()
        .map(|layer| {
            let Mixer::Attention(attention) = &layer.mixer else { panic!("should be attention") };
            (attention.window, attention.head_dim, attention.num_kv_heads)
        })
        .collect();
    assert_eq!(sizes[..5], [(Some(512), 256, 2); 5]);
    assert_eq!(sizes[5], (None, 512, 2));
    let rotaries: Vec<_> = spec.rotaries.iter().map(|rotary| (rotary.theta, rotary.scaling)).collect();
    let proportional = RopeScaling::Proportional { factor: 1.0, rotated_pairs: 64 };
    assert_eq!(rotaries, [(10_000.0, None), (1_000_000.0, Some(proportional))]);
    assert_eq!(spec.lm_head.weight, spec.embed_tokens);
}

#[test]
fn the_embedding_scale_is_rounded_as_the_embedding_is() {
    assert_eq!(embedding_scale(3072, Some(DType::BF16)), 55.5);
    assert_eq!(embedding_scale(3072, Some(DType::F32)), 3072f32.sqrt());
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let cases = [
        ("hidden_size_per_layer_input", Value::Null),
        ("hidden_size_per_layer_input", json!(256)),
        ("enable_moe_block", json!(true)),
        ("num_kv_shared_layers", json!(2)),
        ("hidden_activation", json!("silu")),
        ("use_bidirectional_attention", json!("all")),
        ("per_layer_config", json!({"0": {"head_dim": 8}})),
        ("attention_bias", json!(true)),
        ("rope_parameters", json!({"chunked_attention": {"rope_theta": 1.0}})),
        ("global_head_dim", json!(7)),
        ("num_global_key_value_heads", json!(3)),
        ("layer_types", json!(["full_attention", "sliding_attention"])),
        ("final_logit_softcapping", json!(-1.0)),
    ];
    for (key, value) in cases {
        let mut extra = json!({"attention_k_eq_v": true});
        extra[key] = value;
        let message = spec(&extra).unwrap_err().to_string();
        assert!(message.contains(key), "{message} should name {key}");
    }
}
