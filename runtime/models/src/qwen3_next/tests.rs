use kindling_kernels::{CacheGroupKind, RowRange, TensorDesc, WeightError, WeightSource, WeightSpec};
use serde_json::{Value, json};

use crate::architecture::{Checkpoint, Description, SpecError, detect};
use crate::spec::{FeedForward, Mixer, ModelSpec};

struct NoWeights;

impl WeightSource for NoWeights {
    fn describe(&self, _: &str) -> Option<TensorDesc> {
        None
    }

    fn read_rows(&self, name: &str, _: std::ops::Range<usize>, _: &mut [u8]) -> Result<(), WeightError> {
        Err(WeightError::Missing { name: name.to_owned() })
    }
}

const NEXT: &str = "Qwen3NextForCausalLM";

fn spec(class: &str, extra: &Value) -> Result<ModelSpec, SpecError> {
    let mut config = json!({
        "architectures": [class], "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 32, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6, "head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "linear_key_head_dim": 3, "linear_value_head_dim": 5, "num_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 16, "shared_expert_intermediate_size": 24,
    });
    for (key, value) in extra.as_object().unwrap() {
        config[key] = value.clone();
    }
    let description = Description::ConfigJson(config.as_object().unwrap());
    let checkpoint = Checkpoint { description, weights: &NoWeights };
    detect(&checkpoint)?.spec(&checkpoint)
}

/// First row and count of each range.
fn ranges(weight: &WeightSpec) -> Vec<(usize, usize)> {
    weight.rows.iter().map(|RowRange { first, count, .. }| (*first, *count)).collect()
}

#[test]
fn rows_of_fused_projections_go_where_they_belong() {
    let spec = spec(NEXT, &json!({})).unwrap();
    let Mixer::GatedDeltaNet(net) = &spec.layers[0].mixer else { panic!("should be a delta net") };
    // A key head's share: a query of 3, a key of 3, two values of 5, two z of 5.
    let expected = [(0, 3), (26, 3), (3, 3), (29, 3), (6, 10), (32, 10)];
    assert_eq!((ranges(&net.qkv_proj.weight), net.qkv_proj.out_features()), (expected.to_vec(), 32));
    assert_eq!(ranges(&net.z_proj.weight), [(16, 10), (42, 10)]);
    assert_eq!(ranges(&net.beta_proj.weight), [(0, 2), (4, 2)]);
    assert_eq!(ranges(&net.alpha_proj.weight), [(2, 2), (6, 2)]);
    let Mixer::Attention(attention) = &spec.layers[3].mixer else { panic!("should be attention") };
    assert_eq!(ranges(&attention.q_proj.weight), [(0, 8), (16, 8)]);
    assert_eq!(ranges(&attention.gate_proj.as_ref().unwrap().weight), [(8, 8), (24, 8)]);
    assert_eq!(spec.rotaries[0].rotary_dim, 2, "a quarter of the head is the default");
    assert_eq!((spec.final_norm.offset, net.norm.offset), (1.0, 0.0));
}

#[test]
fn delta_nets_share_a_recurrent_group_and_attention_has_its_own() {
    let groups = spec(NEXT, &json!({"num_hidden_layers": 9})).unwrap().lower().cache_groups;
    let kinds: Vec<_> = groups.iter().map(|group| (group.kind, group.num_layers)).collect();
    // 4 heads of 3 by 5, and three rows of 32 channels.
    assert_eq!(kinds, [(CacheGroupKind::Recurrent { state_len: 60 + 96 }, 7), (CacheGroupKind::Full, 2)]);
}

#[test]
fn layers_are_as_listed_or_as_many_apart_and_dense_where_said() {
    let listed = json!({"num_hidden_layers": 2, "layer_types": ["full_attention", "linear_attention"]});
    let is_attention = |spec: &ModelSpec| -> Vec<bool> {
        spec.layers.iter().map(|layer| matches!(layer.mixer, Mixer::Attention(_))).collect()
    };
    assert_eq!(is_attention(&spec(NEXT, &listed).unwrap()), [true, false]);
    let every_second = spec(NEXT, &json!({"full_attention_interval": 2, "mlp_only_layers": [1]})).unwrap();
    assert_eq!(is_attention(&every_second), [false, true, false, true]);
    let is_dense = |layer: &crate::spec::Layer| matches!(layer.feed_forward, FeedForward::Gated(_));
    assert_eq!(every_second.layers.iter().map(is_dense).collect::<Vec<_>>(), [false, true, false, false]);
}

#[test]
fn what_is_wrong_or_not_built_is_refused_by_name() {
    let cases = [
        ("attention_bias", json!(true)),
        ("attn_output_gate", json!(false)),
        ("layer_types", json!(["full_attention"])),
        ("full_attention_interval", json!(0)),
        ("linear_num_key_heads", json!(3)),
        ("linear_value_head_dim", json!(0)),
        ("linear_conv_kernel_dim", json!(1000)),
        ("partial_rotary_factor", json!(0.4)),
        ("num_experts_per_tok", json!(5)),
        ("shared_expert_intermediate_size", json!(0)),
        ("rope_parameters", json!({"mrope_section": [1, 1, 1]})),
    ];
    for (key, value) in cases {
        let message = spec(NEXT, &json!({key: value})).unwrap_err().to_string();
        assert!(message.contains(key), "{message} should name {key}");
    }
    // There the sections are known to mean nothing for text.
    let sections = json!({"rope_parameters": {"mrope_section": [1, 1, 1], "rope_theta": 5000.0}});
    assert_eq!(spec("Qwen3_5MoeForCausalLM", &sections).unwrap().rotaries[0].theta, 5000.0);
}
