//! What each family makes of configs, right and wrong ones. Numbers are compared in `tests/golden_tiny_models.rs`.

use kindling_kernels::{DType, RopeScaling, TensorDesc, TensorScale, WeightError, WeightSource};
use serde_json::{Value, json};

use crate::architecture::{Checkpoint, Description, SpecError, detect};
use crate::gguf::synthetic::{SyntheticGguf, llama};
use crate::gguf::{GgufHeader, GgufWeights};
use crate::spec::{Attention, FeedForward, Mixer, ModelSpec};

/// Tensors that are known by name and type only.
struct Named(&'static [(&'static str, DType)]);

impl WeightSource for Named {
    fn describe(&self, name: &str) -> Option<TensorDesc> {
        let (name, dtype) = self.0.iter().find(|(known, _)| *known == name)?;
        let (name, dtype, shape) = ((*name).to_owned(), *dtype, vec![32]);
        Some(TensorDesc { name, dtype, shape, num_bytes: dtype.bytes_for(32)?, scale: TensorScale::One })
    }

    fn read_rows(&self, name: &str, _: std::ops::Range<usize>, _: &mut [u8]) -> Result<(), WeightError> {
        Err(WeightError::Missing { name: name.to_owned() })
    }
}

const NO_WEIGHTS: Named = Named(&[]);

fn config(class: &str, extra: Value) -> Value {
    let mut config = json!({
        "architectures": [class], "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5, "num_experts": 8, "num_local_experts": 8, "moe_intermediate_size": 32,
    });
    for (key, value) in extra.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn spec(class: &str, extra: Value, weights: &dyn WeightSource) -> Result<ModelSpec, SpecError> {
    let config = config(class, extra);
    let description = Description::ConfigJson(config.as_object().unwrap());
    let checkpoint = Checkpoint { description, weights };
    detect(&checkpoint)?.spec(&checkpoint)
}

fn made(class: &str, extra: Value) -> ModelSpec {
    spec(class, extra, &NO_WEIGHTS).unwrap()
}

fn attentions(spec: &ModelSpec) -> Vec<&Attention> {
    spec.layers
        .iter()
        .map(|layer| {
            let Mixer::Attention(attention) = &layer.mixer else { panic!("should be attention") };
            attention.as_ref()
        })
        .collect()
}

fn windows(spec: &ModelSpec) -> Vec<Option<usize>> {
    attentions(spec).iter().map(|attention| attention.window).collect()
}

const MISTRAL: &str = "MistralForCausalLM";
const QWEN2: &str = "Qwen2ForCausalLM";
const QWEN3: &str = "Qwen3ForCausalLM";
const QWEN3_MOE: &str = "Qwen3MoeForCausalLM";
const GPT_OSS: &str = "GptOssForCausalLM";

#[test]
fn each_class_is_claimed_by_its_own_family() {
    for class in ["LlamaForCausalLM", MISTRAL, QWEN2, QWEN3, QWEN3_MOE, GPT_OSS] {
        assert_eq!(made(class, json!({})).architecture, class);
    }
}

#[test]
fn biases_and_head_norms_are_the_familys() {
    for (class, extra, qkv, output, norms) in [
        (MISTRAL, json!({}), false, false, false),
        (QWEN2, json!({}), true, false, false),
        (QWEN3, json!({}), false, false, true),
        (QWEN3, json!({"attention_bias": true}), true, true, true),
        (QWEN3_MOE, json!({}), false, false, true),
        (GPT_OSS, json!({}), true, true, false),
    ] {
        let spec = made(class, extra);
        let attention = attentions(&spec)[0];
        assert_eq!((attention.q_proj.bias.is_some(), attention.v_proj.bias.is_some()), (qkv, qkv), "{class}");
        assert_eq!(attention.o_proj.bias.is_some(), output, "{class}");
        assert_eq!((attention.q_norm.is_some(), attention.k_norm.is_some()), (norms, norms), "{class}");
        assert_eq!(attention.sinks.is_some(), class == GPT_OSS);
    }
}

#[test]
fn what_a_config_leaves_out_is_the_familys_default() {
    let head_dim = |class| attentions(&made(class, json!({})))[0].head_dim;
    assert_eq!([MISTRAL, QWEN2, QWEN3, QWEN3_MOE, GPT_OSS].map(head_dim), [16, 16, 128, 128, 64]);
    let gpt_oss = made(GPT_OSS, json!({}));
    assert_eq!(gpt_oss.rotaries[0].theta, 150_000.0);
    let scaling = gpt_oss.rotaries[0].scaling;
    let is_default = matches!(scaling, Some(RopeScaling::Yarn { factor: 32.0, truncate: false, .. }));
    assert!(is_default, "{scaling:?}");
}

#[test]
fn windows_follow_the_familys_rule() {
    let (all, none) = (vec![Some(4096); 4], vec![None; 4]);
    assert_eq!(windows(&made(MISTRAL, json!({}))), all);
    assert_eq!(windows(&made(MISTRAL, json!({"sliding_window": null}))), none);
    assert_eq!(windows(&made(QWEN2, json!({"sliding_window": 8}))), none);
    let by_depth = json!({"sliding_window": 8, "use_sliding_window": true, "max_window_layers": 3});
    assert_eq!(windows(&made(QWEN2, by_depth)), [None, None, None, Some(8)]);
    let by_list = json!({"sliding_window": 8, "use_sliding_window": true, "layer_types":
        ["sliding_attention", "full_attention", "full_attention", "full_attention"]});
    assert_eq!(windows(&made(QWEN3, by_list)), [Some(8), None, None, None]);
    assert_eq!(windows(&made(QWEN3_MOE, json!({"use_sliding_window": true}))), all);
    assert_eq!(windows(&made(GPT_OSS, json!({}))), [Some(128), None, Some(128), None]);
    assert_eq!(made(GPT_OSS, json!({})).lower().cache_groups.len(), 2);
}

#[test]
fn experts_are_where_the_config_says() {
    let kinds = |extra| -> Vec<bool> {
        made(QWEN3_MOE, extra).layers.iter().map(|layer| matches!(layer.feed_forward, FeedForward::Moe(_))).collect()
    };
    assert_eq!(kinds(json!({})), [true; 4]);
    assert_eq!(kinds(json!({"decoder_sparse_step": 2})), [false, true, false, true]);
    assert_eq!(kinds(json!({"mlp_only_layers": [0, 3]})), [false, true, true, false]);
}

#[test]
fn experts_are_named_as_the_file_has_them() {
    let first = |spec: &ModelSpec| match &spec.layers[0].feed_forward {
        FeedForward::Moe(moe) => moe.experts.clone(),
        FeedForward::Gated(_) => panic!("the first layer has experts"),
    };
    let separate = first(&made(QWEN3_MOE, json!({})));
    assert_eq!((separate.up_proj.rows.len(), separate.up_proj.shape.as_slice()), (8, [8, 32, 64].as_slice()));
    assert_eq!(separate.up_proj.rows[7].tensor, "model.layers.0.mlp.experts.7.up_proj.weight");
    let weights = Named(&[("model.layers.0.mlp.experts.gate_up_proj", DType::BF16)]);
    let fused = first(&spec(QWEN3_MOE, json!({}), &weights).unwrap());
    let range = &fused.up_proj.rows[1];
    assert_eq!((range.first, range.step, range.count), (96, 1, 32));
    let interleaved = first(&made(GPT_OSS, json!({})));
    let range = &interleaved.up_proj.rows[0];
    assert_eq!((range.first, range.step, range.count), (1, 2, 8 * 160));
    assert_eq!(interleaved.biases.unwrap()[1].name, "model.layers.0.mlp.experts.gate_up_proj_bias[1::2]");
}

#[test]
fn scales_of_the_cache_are_used_in_both_spellings() {
    let scales = |weights: &Named| attentions(&spec(QWEN3, json!({}), weights).unwrap())[0].kv_scales.clone();
    assert_eq!(scales(&NO_WEIGHTS), None);
    let modelopt = scales(&Named(&[("model.layers.0.self_attn.k_proj.k_scale", DType::F32)])).unwrap();
    assert_eq!(modelopt[1].name, "model.layers.0.self_attn.v_proj.v_scale");
    let compressed = scales(&Named(&[("model.layers.0.self_attn.k_scale", DType::F32)])).unwrap();
    assert_eq!(compressed[1].name, "model.layers.0.self_attn.v_scale");
}

#[test]
fn wrong_configs_are_refused_by_key() {
    let cases = [
        (MISTRAL, json!({"layer_types": ["full_attention"]}), "layer_types [\"full_attention\"] is not supported"),
        (MISTRAL, json!({"sliding_window": 0}), "sliding_window is 0"),
        (QWEN2, json!({"hidden_act": "gelu"}), "hidden_act gelu is not supported"),
        (QWEN2, json!({"layer_types": ["full_attention"]}), "the length of layer_types is 1, there are 4 layers"),
        (QWEN2, json!({"layer_types": ["chunked_attention"]}), "config.json does not describe a Qwen2ForCausalLM"),
        (QWEN3, json!({"layer_types": vec!["sliding_attention"; 4]}), "sliding_window is 0"),
        (QWEN3, json!({"rope_scaling": {"rope_type": "dynamic"}}), "rope_scaling type dynamic is not supported"),
        (QWEN3_MOE, json!({"num_experts_per_tok": 9}), "num_experts_per_tok is 9, 1 to 8 is possible"),
        (QWEN3_MOE, json!({"num_experts": 0}), "num_experts is 0"),
        (QWEN3_MOE, json!({"decoder_sparse_step": 0}), "decoder_sparse_step is 0"),
        (QWEN3_MOE, json!({"moe_intermediate_size": 0}), "moe_intermediate_size is 0"),
        (QWEN3_MOE, json!({"layer_types": []}), "layer_types [] is not supported"),
        (GPT_OSS, json!({"num_experts_per_tok": 0}), "num_experts_per_tok is 0"),
        (GPT_OSS, json!({"sliding_window": null}), "sliding_window is 0"),
        (GPT_OSS, json!({"swiglu_limit": -1.0}), "swiglu_limit is -1"),
    ];
    for (class, extra, part) in cases {
        let message = spec(class, extra.clone(), &NO_WEIGHTS).expect_err(part).to_string();
        assert!(message.contains(part), "{class} {extra}: {message:?} lacks {part:?}");
    }
}

#[test]
fn plain_experts_of_gpt_oss_are_refused_since_they_are_transposed() {
    let weights = Named(&[("model.layers.0.mlp.experts.gate_up_proj", DType::BF16)]);
    let message = spec(GPT_OSS, json!({}), &weights).unwrap_err().to_string();
    assert!(message.starts_with("model.layers.0.mlp.experts.gate_up_proj as BF16 is not supported"), "{message}");
}

/// The synthetic llama under another architecture's name.
fn renamed(architecture: &str) -> SyntheticGguf {
    let mut file = llama().without("general.architecture").text("general.architecture", architecture);
    for (key, _, _) in &mut file.pairs {
        if let Some(rest) = key.strip_prefix("llama.") {
            *key = format!("{architecture}.{rest}");
        }
    }
    file
}

fn from_gguf(file: &SyntheticGguf) -> Result<ModelSpec, SpecError> {
    let bytes = file.file();
    let header = GgufHeader::read(&bytes).unwrap();
    let weights = GgufWeights::new(Box::new(bytes), header.tensors).unwrap();
    let checkpoint = Checkpoint { description: Description::Gguf(&header.metadata), weights: &weights };
    detect(&checkpoint)?.spec(&checkpoint)
}

#[test]
fn gguf_names_lead_to_the_families() {
    let experts = |name: &str| {
        renamed(name)
            .number(&format!("{name}.expert_count"), 4)
            .number(&format!("{name}.expert_used_count"), 2)
            .number(&format!("{name}.expert_feed_forward_length"), 32)
    };
    let gpt_oss = experts("gpt-oss").number("gpt-oss.attention.sliding_window", 128);
    for (file, class) in [
        (renamed("qwen2"), QWEN2),
        (renamed("qwen3"), QWEN3),
        (experts("qwen3moe"), QWEN3_MOE),
        (gpt_oss.clone(), GPT_OSS),
    ] {
        assert_eq!(from_gguf(&file).unwrap().architecture, class);
    }
    let cases = [
        (renamed("qwen2").number("qwen2.attention.sliding_window", 8), "qwen2.attention.sliding_window 8 is not"),
        (renamed("qwen3moe"), "metadata qwen3moe.expert_count is missing"),
        (experts("qwen3moe").number("qwen3moe.expert_shared_count", 1), "qwen3moe.expert_shared_count 1 is not"),
        (experts("gpt-oss"), "metadata gpt-oss.attention.sliding_window is missing"),
        (gpt_oss.number("gpt-oss.attention.sliding_window_pattern", 6), "sliding_window_pattern given is not"),
    ];
    for (file, part) in cases {
        let message = from_gguf(&file).expect_err(part).to_string();
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[test]
fn yarn_in_gguf_multiplies_its_own_factor_with_what_follows_from_the_scaling() {
    let yarn = |file: SyntheticGguf| {
        let file = file
            .text("qwen2.rope.scaling.type", "yarn")
            .float("qwen2.rope.scaling.factor", 4.0)
            .number("qwen2.rope.scaling.original_context_length", 32);
        match from_gguf(&file).unwrap().rotaries[0].scaling {
            Some(RopeScaling::Yarn { attention_factor, original_context, truncate, .. }) => {
                assert_eq!((original_context, truncate), (32.0, true));
                attention_factor
            }
            other => panic!("{other:?}"),
        }
    };
    let plain = 0.1 * 4f32.ln() + 1.0;
    assert_eq!(yarn(renamed("qwen2")), plain);
    assert_eq!(yarn(renamed("qwen2").float("qwen2.rope.scaling.attn_factor", 2.0)), 2.0 * plain);
    assert_eq!(yarn(renamed("qwen2").float("qwen2.rope.scaling.yarn_log_multiplier", 1.0)), 1.0);
    assert_eq!(yarn(renamed("qwen2").float("qwen2.rope.scaling.yarn_attn_factor", 1.5)), 1.5);
}
