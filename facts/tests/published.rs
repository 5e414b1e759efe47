//! Heads of published models, rebuilt from their configurations (not downloaded), and what is read from them: totals
//! against the sizes that their publishers give.
#![allow(clippy::unwrap_used, reason = "this is test code")]

mod common;
#[path = "../../envelope/tests/published/configs.rs"]
mod configs;

use std::path::PathBuf;

use common::safetensors;
use kindling_agent::hub::Hub;
use kindling_envelope::{Activations, Bytes, Device, KvDtype, Pool, Serving};
use kindling_facts::{Facts, ModelSource, read};
use serde_json::{Map, Value};

type Tensor = (String, &'static str, Vec<u64>);

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Facts of a folder with this configuration and one file of these tensors, whose bytes are holes.
async fn facts(name: &str, config: &Map<String, Value>, tensors: &[Tensor]) -> Facts {
    let folder = Folder(std::env::temp_dir().join(format!("kindling-published-{name}-{}", std::process::id())));
    std::fs::create_dir_all(&folder.0).unwrap();
    std::fs::write(folder.0.join("config.json"), serde_json::to_vec(config).unwrap()).unwrap();
    let head = safetensors(tensors);
    let path = folder.0.join("model.safetensors");
    std::fs::write(&path, &head.head).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(head.total_bytes).unwrap();
    let nobody = Hub::new("http://127.0.0.1:9", None);
    read(&ModelSource::Path(folder.0.clone()), &nobody).await.unwrap()
}

fn figure(config: &Map<String, Value>, key: &str) -> u64 {
    config[key].as_u64().unwrap()
}

/// What comes before and behind the layers.
fn ends(config: &Map<String, Value>) -> Vec<Tensor> {
    let (vocabulary, hidden) = (figure(config, "vocab_size"), figure(config, "hidden_size"));
    vec![
        ("model.embed_tokens.weight".to_owned(), "BF16", vec![vocabulary, hidden]),
        ("lm_head.weight".to_owned(), "BF16", vec![vocabulary, hidden]),
        ("model.norm.weight".to_owned(), "BF16", vec![hidden]),
    ]
}

/// The attention of one layer, with both of its norms.
fn attention(config: &Map<String, Value>, layer: u64) -> Vec<Tensor> {
    let (hidden, heads) = (figure(config, "hidden_size"), figure(config, "num_attention_heads"));
    let head_dim = config.get("head_dim").map_or(hidden / heads, |dim| dim.as_u64().unwrap());
    let kv_dim = figure(config, "num_key_value_heads") * head_dim;
    let tensor = |name: &str, shape: &[u64]| (format!("model.layers.{layer}.{name}"), "BF16", shape.to_vec());
    vec![
        tensor("input_layernorm.weight", &[hidden]),
        tensor("post_attention_layernorm.weight", &[hidden]),
        tensor("self_attn.q_proj.weight", &[heads * head_dim, hidden]),
        tensor("self_attn.k_proj.weight", &[kv_dim, hidden]),
        tensor("self_attn.v_proj.weight", &[kv_dim, hidden]),
        tensor("self_attn.o_proj.weight", &[hidden, heads * head_dim]),
    ]
}

fn gated(prefix: &str, names: [&str; 3], (hidden, inner): (u64, u64)) -> Vec<Tensor> {
    let tensor = |name: &str, shape: [u64; 2]| (format!("{prefix}.{name}.weight"), "BF16", shape.to_vec());
    vec![tensor(names[0], [inner, hidden]), tensor(names[1], [inner, hidden]), tensor(names[2], [hidden, inner])]
}

const GATED: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

/// Llama, and Qwen3 with its norms of heads.
fn dense(config: &Map<String, Value>) -> Vec<Tensor> {
    let mut all = ends(config);
    for layer in 0..figure(config, "num_hidden_layers") {
        all.extend(attention(config, layer));
        all.extend(head_norms(config, layer));
        let sizes = (figure(config, "hidden_size"), figure(config, "intermediate_size"));
        all.extend(gated(&format!("model.layers.{layer}.mlp"), GATED, sizes));
    }
    all
}

fn head_norms(config: &Map<String, Value>, layer: u64) -> Vec<Tensor> {
    let norm = |name: &str| {
        (format!("model.layers.{layer}.self_attn.{name}.weight"), "BF16", vec![figure(config, "head_dim")])
    };
    if config["architectures"][0].as_str().unwrap().starts_with("Qwen3") {
        vec![norm("q_norm"), norm("k_norm")]
    } else {
        Vec::new()
    }
}

/// Qwen3-MoE and Mixtral, whose experts have other names.
fn experts(config: &Map<String, Value>) -> Vec<Tensor> {
    let is_qwen = config.contains_key("num_experts");
    let (number, inner, block, names) = match is_qwen {
        true => ("num_experts", "moe_intermediate_size", "mlp", GATED),
        false => ("num_local_experts", "intermediate_size", "block_sparse_moe", ["w1", "w3", "w2"]),
    };
    let (hidden, number, inner) = (figure(config, "hidden_size"), figure(config, number), figure(config, inner));
    let mut all = ends(config);
    for layer in 0..figure(config, "num_hidden_layers") {
        all.extend(attention(config, layer));
        all.extend(head_norms(config, layer));
        all.push((format!("model.layers.{layer}.{block}.gate.weight"), "BF16", vec![number, hidden]));
        for expert in 0..number {
            all.extend(gated(&format!("model.layers.{layer}.{block}.experts.{expert}"), names, (hidden, inner)));
        }
    }
    all
}

/// gpt-oss: biases everywhere, sinks, and experts in blocks of 32 with an exponent each.
fn gpt_oss(config: &Map<String, Value>) -> Vec<Tensor> {
    let (hidden, inner) = (figure(config, "hidden_size"), figure(config, "intermediate_size"));
    let (heads, number) = (figure(config, "num_attention_heads"), figure(config, "num_local_experts"));
    let mut all = ends(config);
    for layer in 0..figure(config, "num_hidden_layers") {
        let biases = attention(config, layer).into_iter().filter(|tensor| tensor.2.len() == 2);
        let biases: Vec<_> =
            biases.map(|(name, kind, shape)| (name.replace(".weight", ".bias"), kind, vec![shape[0]])).collect();
        all.extend(attention(config, layer));
        all.extend(biases);
        let mut add =
            |name: &str, kind, shape: &[u64]| all.push((format!("model.layers.{layer}.{name}"), kind, shape.to_vec()));
        add("self_attn.sinks", "BF16", &[heads]);
        add("mlp.router.weight", "BF16", &[number, hidden]);
        add("mlp.router.bias", "BF16", &[number]);
        add("mlp.experts.gate_up_proj_blocks", "U8", &[number, 2 * inner, hidden / 32, 16]);
        add("mlp.experts.gate_up_proj_scales", "U8", &[number, 2 * inner, hidden / 32]);
        add("mlp.experts.gate_up_proj_bias", "BF16", &[number, 2 * inner]);
        add("mlp.experts.down_proj_blocks", "U8", &[number, hidden, inner / 32, 16]);
        add("mlp.experts.down_proj_scales", "U8", &[number, hidden, inner / 32]);
        add("mlp.experts.down_proj_bias", "BF16", &[number, hidden]);
    }
    all
}

/// DeepSeek-V3: linear layers in E4M3 with a scale for each 128 x 128, and the head that guesses one token more.
fn deepseek(config: &Map<String, Value>) -> Vec<Tensor> {
    let hidden = figure(config, "hidden_size");
    let (heads, q_rank, kv_rank) =
        (figure(config, "num_attention_heads"), figure(config, "q_lora_rank"), figure(config, "kv_lora_rank"));
    let mut all = ends(config);
    for layer in 0..=figure(config, "num_hidden_layers") {
        let mut plain =
            |name: &str, kind, shape: &[u64]| all.push((format!("model.layers.{layer}.{name}"), kind, shape.to_vec()));
        for (name, width) in [("input_layernorm", hidden), ("post_attention_layernorm", hidden)] {
            plain(&format!("{name}.weight"), "BF16", &[width]);
        }
        plain("self_attn.q_a_layernorm.weight", "BF16", &[q_rank]);
        plain("self_attn.kv_a_layernorm.weight", "BF16", &[kv_rank]);
        let mut linear = |name: &str, rows: u64, columns: u64| {
            plain(&format!("{name}.weight"), "F8_E4M3", &[rows, columns]);
            plain(&format!("{name}.weight_scale_inv"), "F32", &[rows.div_ceil(128), columns.div_ceil(128)]);
        };
        linear("self_attn.q_a_proj", q_rank, hidden);
        linear("self_attn.q_b_proj", heads * 192, q_rank);
        linear("self_attn.kv_a_proj_with_mqa", kv_rank + 64, hidden);
        linear("self_attn.kv_b_proj", heads * 256, kv_rank);
        linear("self_attn.o_proj", hidden, heads * 128);
        let mut gated = |prefix: &str, inner| {
            linear(&format!("{prefix}.gate_proj"), inner, hidden);
            linear(&format!("{prefix}.up_proj"), inner, hidden);
            linear(&format!("{prefix}.down_proj"), hidden, inner);
        };
        if layer < figure(config, "first_k_dense_replace") {
            gated("mlp", figure(config, "intermediate_size"));
            continue;
        }
        let (number, inner) = (figure(config, "n_routed_experts"), figure(config, "moe_intermediate_size"));
        gated("mlp.shared_experts", inner);
        (0..number).for_each(|expert| gated(&format!("mlp.experts.{expert}"), inner));
        plain("mlp.gate.weight", "BF16", &[number, hidden]);
        plain("mlp.gate.e_score_correction_bias", "F32", &[number]);
    }
    all
}

const SERVING: Serving = Serving {
    context: 4096,
    concurrency: 4,
    pool: Pool::Contexts(2),
    max_batched_tokens: 512,
    kv_dtype: KvDtype::Bf16,
    device: Device::Cpu,
};

/// `total_size` of `model.safetensors.index.json` in each repository.
#[tokio::test]
async fn models_that_the_runtime_can_run() {
    let (oss_20b, oss_120b) = (configs::gpt_oss(24, 32), configs::gpt_oss(36, 128));
    for (name, config, tensors, total_size) in [
        ("Qwen3-8B", configs::qwen3_8b(), dense as fn(&_) -> _, 16_381_470_720u64),
        ("Qwen3-32B", configs::qwen3_32b(), dense, 65_524_246_528),
        ("Llama-3.3-70B-Instruct", configs::llama_3_3_70b(), dense, 141_107_412_992),
        ("Qwen3-30B-A3B", configs::qwen3_30b_a3b(), experts, 61_064_245_248),
        ("gpt-oss-20b", oss_20b, gpt_oss, 13_761_264_768),
        ("gpt-oss-120b", oss_120b, gpt_oss, 65_248_815_744),
    ] {
        let tensors: Vec<Tensor> = tensors(&config);
        let facts = facts(name, &config, &tensors).await;
        assert_eq!(facts.runnable, Ok(()), "{name}");
        assert_eq!((facts.stored.loaded, facts.stored.not_loaded), (Bytes(total_size), Bytes(0)), "{name}");
        let model = facts.model(&SERVING, Some(8)).unwrap();
        // Norms, sinks and biases are held in f32, panels have no rows beyond these: two bytes more for each of them.
        let vectors = tensors
            .iter()
            .filter(|(name, kind, shape)| *kind == "BF16" && (shape.len() == 1 || name.ends_with("_bias")));
        let widened: u64 = vectors.map(|(_, _, shape)| 2 * shape.iter().product::<u64>()).sum();
        if !name.starts_with("gpt-oss") {
            assert_eq!(model.weights, Bytes(total_size + widened), "{name}");
        }
        assert!(model.weights >= facts.stored.loaded && model.weights.0 < total_size + total_size / 50, "{name}");
        assert!(matches!(model.activations, Activations::Planned { .. }), "{name}");
    }
}

/// `total_size` in its index; no architecture of the runtime claims it.
#[tokio::test]
async fn mixtral() {
    let config = configs::mixtral_8x7b();
    let facts = facts("Mixtral-8x7B", &config, &experts(&config)).await;
    assert_eq!((facts.stored.loaded, facts.parameters), (Bytes(93_405_585_408), Some(46_702_792_704)));
    assert!(facts.runnable.as_ref().unwrap_err().contains("no such architecture yet"), "{:?}", facts.runnable);
    let model = facts.model(&SERVING, Some(8)).unwrap();
    assert_eq!((model.weights, model.activations), (facts.stored.loaded, Activations::Unplanned));
}

/// 671 B parameters without the head that guesses ahead, 671,026,419,200 with the biases of the routers.
#[tokio::test]
async fn deepseek_v3() {
    let config = configs::deepseek_v3();
    let facts = facts("DeepSeek-V3", &config, &deepseek(&config)).await;
    assert_eq!(facts.quantization, "fp8");
    assert!(facts.runnable.is_err() && facts.refusal(Device::Cpu).is_some());
    let (guessing, biases) = (deepseek(&config), 58 * 256);
    let guessing = guessing.iter().filter(|tensor| tensor.0.starts_with("model.layers.61."));
    let bytes = |kind: &str| {
        if kind == "F32" {
            4
        } else if kind == "BF16" {
            2
        } else {
            1
        }
    };
    let guessing: u64 = guessing.map(|(_, kind, shape)| shape.iter().product::<u64>() * bytes(kind)).sum();
    assert_eq!(facts.stored.not_loaded, Bytes(guessing));
    let loaded: Vec<_> =
        deepseek(&config).into_iter().filter(|tensor| !tensor.0.starts_with("model.layers.61.")).collect();
    let elements = |wanted: &str| {
        loaded.iter().filter(|tensor| tensor.1 == wanted).map(|tensor| tensor.2.iter().product::<u64>()).sum::<u64>()
    };
    assert_eq!(elements("F8_E4M3") + elements("BF16") + biases, 671_026_419_200);
    // A scale for 16,384 codes, and what is not in E4M3 at two bytes: nothing else.
    let all = elements("F8_E4M3") + 2 * elements("BF16") + 4 * elements("F32");
    assert_eq!(facts.stored.loaded, Bytes(all));
}
