//! Figures of published models, as they stand in their `config.json`; keys that say nothing of memory are left out.
//!
//! From `src/aiconfigurator/model_configs/` of <https://github.com/ai-dynamo/aiconfigurator> at commit
//! 095f58a51c4ca8e61b66ec108d86f223f8d559ce, where nothing else is said.
#![allow(dead_code, reason = "each test binary uses its part")]

use serde_json::{Map, Value, json};

fn config(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(config) => config,
        _ => Map::new(),
    }
}

/// `Qwen--Qwen3-8B_config.json`.
pub fn qwen3_8b() -> Map<String, Value> {
    config(json!({
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 4096, "intermediate_size": 12288, "max_position_embeddings": 40960, "max_window_layers": 36,
        "num_attention_heads": 32, "num_hidden_layers": 36, "num_key_value_heads": 8, "rms_norm_eps": 1e-6,
        "rope_scaling": null, "rope_theta": 1_000_000, "sliding_window": null, "tie_word_embeddings": false,
        "torch_dtype": "bfloat16", "use_sliding_window": false, "vocab_size": 151936
    }))
}

/// `Qwen--Qwen3-32B_config.json`.
pub fn qwen3_32b() -> Map<String, Value> {
    config(json!({
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 5120, "intermediate_size": 25600, "max_position_embeddings": 40960, "max_window_layers": 64,
        "num_attention_heads": 64, "num_hidden_layers": 64, "num_key_value_heads": 8, "rms_norm_eps": 1e-6,
        "rope_scaling": null, "rope_theta": 1_000_000, "sliding_window": null, "tie_word_embeddings": false,
        "torch_dtype": "bfloat16", "use_sliding_window": false, "vocab_size": 151936
    }))
}

/// `meta-llama--Llama-3.3-70B-Instruct_config.json`, at commit f577ab8432dfc9970fea27853a24861a6d3076cf.
pub fn llama_3_3_70b() -> Map<String, Value> {
    config(json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "hidden_act": "silu", "hidden_size": 8192,
        "intermediate_size": 28672, "max_position_embeddings": 131072, "mlp_bias": false, "num_attention_heads": 64,
        "num_hidden_layers": 80, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
            "rope_type": "llama3"
        },
        "rope_theta": 500_000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 128256
    }))
}

/// `Qwen--Qwen3-30B-A3B_config.json`.
pub fn qwen3_30b_a3b() -> Map<String, Value> {
    config(json!({
        "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false, "decoder_sparse_step": 1, "head_dim": 128,
        "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 6144, "max_position_embeddings": 40960,
        "max_window_layers": 48, "mlp_only_layers": [], "moe_intermediate_size": 768, "norm_topk_prob": true,
        "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
        "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "rope_scaling": null, "rope_theta": 1_000_000.0,
        "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_sliding_window": false,
        "vocab_size": 151936
    }))
}

/// `mistralai--Mixtral-8x7B-v0.1_config.json`.
pub fn mixtral_8x7b() -> Map<String, Value> {
    config(json!({
        "architectures": ["MixtralForCausalLM"], "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "num_local_experts": 8, "rms_norm_eps": 1e-5, "rope_theta": 1_000_000.0,
        "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 32000
    }))
}

/// `openai--gpt-oss-20b_config.json` and `openai--gpt-oss-120b_config.json`, which differ in layers and experts alone.
/// In both `layer_types` alternates, a window first.
pub fn gpt_oss(layers: usize, experts: u64) -> Map<String, Value> {
    let kinds: Vec<&str> = (0..layers).map(|index| ["sliding_attention", "full_attention"][index % 2]).collect();
    config(json!({
        "architectures": ["GptOssForCausalLM"], "attention_bias": true, "head_dim": 64, "hidden_act": "silu",
        "hidden_size": 2880, "initial_context_length": 4096, "intermediate_size": 2880, "layer_types": kinds,
        "max_position_embeddings": 131072, "num_attention_heads": 64, "num_experts_per_tok": 4,
        "num_hidden_layers": layers, "num_key_value_heads": 8, "num_local_experts": experts,
        "quantization_config": {
            "modules_to_not_convert": [
                "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"
            ],
            "quant_method": "mxfp4"
        },
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096,
            "rope_type": "yarn", "truncate": false
        },
        "rope_theta": 150_000, "sliding_window": 128, "swiglu_limit": 7.0, "tie_word_embeddings": false,
        "vocab_size": 201088
    }))
}

/// `deepseek-ai--DeepSeek-V3_config.json`.
pub fn deepseek_v3() -> Map<String, Value> {
    config(json!({
        "architectures": ["DeepseekV3ForCausalLM"], "first_k_dense_replace": 3, "hidden_size": 7168,
        "intermediate_size": 18432, "kv_lora_rank": 512, "max_position_embeddings": 163840,
        "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_routed_experts": 256, "n_shared_experts": 1,
        "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128,
        "num_nextn_predict_layers": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
        "quantization_config": {
            "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]
        },
        "tie_word_embeddings": false, "v_head_dim": 128, "vocab_size": 129280
    }))
}

/// `Qwen--Qwen3-Next-80B-A3B-Thinking_config.json`, at commit 1b7cfb10a6fa06880ad7911db5ddb949882ff76a.
pub fn qwen3_next_80b_a3b() -> Map<String, Value> {
    config(json!({
        "architectures": ["Qwen3NextForCausalLM"], "decoder_sparse_step": 1, "full_attention_interval": 4,
        "head_dim": 256, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 5120,
        "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16,
        "linear_num_value_heads": 32, "linear_value_head_dim": 128, "max_position_embeddings": 262144,
        "mlp_only_layers": [], "moe_intermediate_size": 512, "norm_topk_prob": true, "num_attention_heads": 16,
        "num_experts": 512, "num_experts_per_tok": 10, "num_hidden_layers": 48, "num_key_value_heads": 2,
        "partial_rotary_factor": 0.25, "rms_norm_eps": 1e-6, "rope_scaling": null, "rope_theta": 10_000_000,
        "shared_expert_intermediate_size": 512, "tie_word_embeddings": false, "vocab_size": 151936
    }))
}

/// `nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16_config.json`.
pub fn nemotron_3_nano() -> Map<String, Value> {
    config(json!({
        "architectures": ["NemotronHForCausalLM"], "conv_kernel": 4, "expand": 2, "head_dim": 128, "hidden_size": 2688,
        "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME", "intermediate_size": 1856,
        "mamba_head_dim": 64, "mamba_num_heads": 64, "mamba_ssm_cache_dtype": "float32",
        "max_position_embeddings": 262144, "moe_intermediate_size": 1856, "moe_shared_expert_intermediate_size": 3712,
        "n_groups": 8, "n_routed_experts": 128, "n_shared_experts": 1, "num_attention_heads": 32,
        "num_experts_per_tok": 6, "num_hidden_layers": 52, "num_key_value_heads": 2, "ssm_state_size": 128,
        "tie_word_embeddings": false, "use_conv_bias": true, "vocab_size": 131072
    }))
}

/// `google--gemma-4-26B-A4B_config.json`; its `layer_types` has a full layer after each five with a window.
pub fn gemma_4_26b_a4b() -> Map<String, Value> {
    let kind = |index: usize| if index % 6 == 5 { "full_attention" } else { "sliding_attention" };
    let kinds: Vec<&str> = (0..30).map(kind).collect();
    config(json!({
        "architectures": ["Gemma4ForConditionalGeneration"],
        "text_config": {
            "attention_k_eq_v": true, "enable_moe_block": true, "global_head_dim": 512, "head_dim": 256,
            "hidden_size": 2816, "intermediate_size": 2112, "layer_types": kinds, "max_position_embeddings": 262144,
            "moe_intermediate_size": 704, "num_attention_heads": 16, "num_experts": 128,
            "num_global_key_value_heads": 2, "num_hidden_layers": 30, "num_key_value_heads": 8,
            "num_kv_shared_layers": 0, "sliding_window": 1024, "tie_word_embeddings": true, "vocab_size": 262144
        }
    }))
}

/// `_VARIANT_GEMMA_3_27B` in `src/transformers/models/gemma3/convert_gemma3_weights.py` of
/// <https://github.com/huggingface/transformers> at commit 0d7e95d96b4e187c651e2b2406ed98ed40d74963; what it leaves out is
/// left to the defaults, the context of 131072 among it.
pub fn gemma_3_27b() -> Map<String, Value> {
    config(json!({
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": {
            "vocab_size": 262_144, "hidden_size": 5376, "intermediate_size": 21504, "num_attention_heads": 32,
            "num_hidden_layers": 62, "num_key_value_heads": 16, "head_dim": 128, "sliding_window": 1024
        }
    }))
}

/// `meta-llama--Llama-4-Scout-17B-16E-Instruct_config.json`.
pub fn llama_4_scout() -> Map<String, Value> {
    config(json!({
        "architectures": ["Llama4ForConditionalGeneration"],
        "text_config": {
            "attention_chunk_size": 8192, "head_dim": 128, "hidden_size": 5120, "interleave_moe_layer_step": 1,
            "intermediate_size": 8192, "intermediate_size_mlp": 16384, "max_position_embeddings": 10485760,
            "num_attention_heads": 40, "num_experts_per_tok": 1, "num_hidden_layers": 48, "num_key_value_heads": 8,
            "num_local_experts": 16, "use_qk_norm": true, "vocab_size": 202048
        }
    }))
}
