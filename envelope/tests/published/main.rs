//! What published models keep of the tokens before, against calculations by hand; and that it never falls.
#![allow(clippy::unwrap_used, reason = "this is test code")]

mod configs;

use kindling_envelope::facts::{DescribeError, Described};
use kindling_envelope::{Activations, Bytes, CacheLayers, Device, KvDtype, Model, Pool, Serving};
use serde_json::{Map, Value, json};

/// Four sequences of 32768 tokens each, 2048 in a step.
const SERVING: Serving = Serving {
    context: 32_768,
    concurrency: 4,
    pool: Pool::EverySequence,
    max_batched_tokens: 2048,
    kv_dtype: KvDtype::Bf16,
    device: Device::Cuda,
};

fn check(config: &Map<String, Value>, max_context: u64, layers: &[CacheLayers], bytes: u64) {
    let described = Described::from_config(config).unwrap();
    let name = &described.architecture;
    assert_eq!((described.max_context, described.cache.as_slice()), (max_context, layers), "{name}");
    let sum: Bytes = described.cache.iter().map(|layers| layers.bytes(&SERVING)).sum();
    assert_eq!(sum, Bytes(bytes), "{name}");
    let halved: Bytes =
        described.cache.iter().map(|layers| layers.bytes(&Serving { kv_dtype: KvDtype::Fp8, ..SERVING })).sum();
    let of_states = |layers: &CacheLayers| matches!(layers, CacheLayers::State { .. });
    let states: Bytes = described.cache.iter().filter(|layers| of_states(layers)).map(|l| l.bytes(&SERVING)).sum();
    assert_eq!(halved.0, states.0 + (bytes - states.0) / 2, "{name}: states stay in f32");
}

fn full(layers: u64, kv_heads: u64, head_dim: u64) -> CacheLayers {
    CacheLayers::Full { layers, kv_heads, head_dim }
}

/// 2 (keys, values) * layers * heads * dimension * 2 bytes * 131072 tokens.
#[test]
fn full_attention() {
    // 147,456 bytes a token.
    check(&configs::qwen3_8b(), 40_960, &[full(36, 8, 128)], 147_456 * 131_072);
    // 262,144.
    check(&configs::qwen3_32b(), 40_960, &[full(64, 8, 128)], 262_144 * 131_072);
    // 327,680; a head is 8192 / 64 wide.
    check(&configs::llama_3_3_70b(), 131_072, &[full(80, 8, 128)], 327_680 * 131_072);
    // 98,304.
    check(&configs::qwen3_30b_a3b(), 40_960, &[full(48, 4, 128)], 98_304 * 131_072);
    // 131,072; a head is 4096 / 32 wide.
    check(&configs::mixtral_8x7b(), 32_768, &[full(32, 8, 128)], 131_072 * 131_072);
}

/// A window is itself, a step and a block for each sequence: ceil((window + 2048) / 16) + 1 blocks of 16.
#[test]
fn windows() {
    // 128 + 2048 + 16 = 2192 tokens, four times; 2 * 12 * 8 * 64 * 2 = 24,576 bytes a token of either kind.
    let window = |layers| CacheLayers::Window { layers, kv_heads: 8, head_dim: 64, window: 128 };
    check(&configs::gpt_oss(24, 32), 131_072, &[window(12), full(12, 8, 64)], 24_576 * (131_072 + 4 * 2192));
    check(&configs::gpt_oss(36, 128), 131_072, &[window(18), full(18, 8, 64)], 36_864 * (131_072 + 4 * 2192));
    // 1024 + 2048 + 16 = 3088 tokens. 52 layers with a window, 10 without: 2 * 16 * 128 * 2 = 8192 bytes each.
    let window = CacheLayers::Window { layers: 52, kv_heads: 16, head_dim: 128, window: 1024 };
    let bytes = 8192 * (10 * 131_072 + 52 * 4 * 3088);
    check(&configs::gemma_3_27b(), 131_072, &[window, full(10, 16, 128)], bytes);
    // 25 layers of 8 heads of 256 (8192 bytes), 5 of 2 heads of 512 (4096 bytes).
    let window = CacheLayers::Window { layers: 25, kv_heads: 8, head_dim: 256, window: 1024 };
    let bytes = 25 * 8192 * 4 * 3088 + 5 * 4096 * 131_072;
    check(&configs::gemma_4_26b_a4b(), 262_144, &[window, full(5, 2, 512)], bytes);
    // Chunks: 8192 + 2048 + 16 = 10,256 tokens in 36 layers, all in 12; 2 * 8 * 128 * 2 = 4096 bytes each.
    let chunks = CacheLayers::Window { layers: 36, kv_heads: 8, head_dim: 128, window: 8192 };
    let bytes = 4096 * (36 * 4 * 10_256 + 12 * 131_072);
    check(&configs::llama_4_scout(), 10_485_760, &[chunks, full(12, 8, 128)], bytes);
}

/// 61 layers of 512 + 64 elements, kept once: 70,272 bytes a token.
#[test]
fn a_latent() {
    check(&configs::deepseek_v3(), 163_840, &[CacheLayers::Latent { layers: 61, width: 576 }], 70_272 * 131_072);
}

/// Eight slots of f32: two for each sequence.
#[test]
fn states() {
    // 32 * 128 values by 128 keys, and three taps of 4096 + 2 * 16 * 128 channels: 524,288 + 3 * 8192 elements.
    let state = CacheLayers::State { layers: 36, elements: 524_288 + 24_576 };
    // 12 layers of attention: 2 * 12 * 2 * 256 * 2 = 24,576 bytes a token.
    let bytes = 36 * 548_864 * 4 * 8 + 24_576 * 131_072;
    check(&configs::qwen3_next_80b_a3b(), 262_144, &[state, full(12, 2, 256)], bytes);
    // 64 * 64 values by 128, and three taps of 4096 + 2 * 8 * 128 channels: 524,288 + 3 * 6144. 23 M, 6 *, 23 E.
    let state = CacheLayers::State { layers: 23, elements: 524_288 + 18_432 };
    // 2 * 6 * 2 * 128 * 2 = 6144 bytes a token.
    let bytes = 23 * 542_720 * 4 * 8 + 6144 * 131_072;
    check(&configs::nemotron_3_nano(), 262_144, &[state, full(6, 2, 128)], bytes);
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let said = |change: &dyn Fn(&mut Map<String, Value>)| {
        let mut config = configs::qwen3_8b();
        change(&mut config);
        Described::from_config(&config).unwrap_err()
    };
    let unknown = said(&|config| drop(config.insert("architectures".into(), json!(["NewForCausalLM"]))));
    assert!(matches!(&unknown, DescribeError::Unknown { architecture, .. } if architecture == "NewForCausalLM"));
    assert!(unknown.to_string().contains("Qwen3ForCausalLM"), "{unknown}");
    for (key, expected) in [
        ("architectures", "the architecture is not known"),
        ("num_hidden_layers", "num_hidden_layers is missing"),
        ("max_position_embeddings", "max_position_embeddings is missing"),
    ] {
        let said = said(&|config| drop(config.remove(key))).to_string();
        assert!(said.contains(expected), "{said}");
    }
    for value in [json!(-1), json!("many"), json!(1u64 << 60), json!(1.5)] {
        let said = said(&|config| drop(config.insert("num_hidden_layers".into(), value.clone()))).to_string();
        assert!(said.contains("num_hidden_layers"), "{value}: {said}");
    }
    let said = said(&|config| drop(config.insert("layer_types".into(), json!(["full_attention"])))).to_string();
    assert!(said.contains("layer_types of Qwen3ForCausalLM is a list of 1, there are 36 layers"), "{said}");
}

/// Of MTP heads nothing is loaded: they are named, or stand behind the last layer.
#[test]
fn heads_that_guess_ahead_are_not_loaded() {
    let described = Described::from_config(&configs::deepseek_v3()).unwrap();
    assert!(described.is_loaded("model.layers.60.mlp.gate.weight") && described.is_loaded("lm_head.weight"));
    assert!(!described.is_loaded("model.layers.61.eh_proj.weight") && !described.is_loaded("mtp.fc.weight"));
}

/// The metadata of a GGUF file of the same model says the same.
#[test]
fn gguf_metadata_says_what_the_configuration_says() {
    let cache = |metadata: Value| Described::from_gguf(metadata.as_object().unwrap()).unwrap().cache;
    let same = |config: Map<String, Value>, metadata| {
        assert_eq!(cache(metadata), Described::from_config(&config).unwrap().cache);
    };
    same(
        configs::llama_3_3_70b(),
        json!({
            "general.architecture": "llama", "llama.block_count": 80, "llama.context_length": 131072,
            "llama.embedding_length": 8192, "llama.attention.head_count": 64, "llama.attention.head_count_kv": 8
        }),
    );
    same(
        configs::gpt_oss(24, 32),
        json!({
            "general.architecture": "gpt-oss", "gpt-oss.block_count": 24, "gpt-oss.context_length": 131072,
            "gpt-oss.attention.head_count": 64, "gpt-oss.attention.head_count_kv": 8,
            "gpt-oss.attention.key_length": 64, "gpt-oss.attention.sliding_window": 128
        }),
    );
    same(
        configs::qwen3_next_80b_a3b(),
        json!({
            "general.architecture": "qwen3next", "qwen3next.block_count": 48, "qwen3next.context_length": 262144,
            "qwen3next.attention.head_count": 16, "qwen3next.attention.head_count_kv": 2,
            "qwen3next.attention.key_length": 256, "qwen3next.ssm.conv_kernel": 4, "qwen3next.ssm.state_size": 128,
            "qwen3next.ssm.group_count": 16, "qwen3next.ssm.inner_size": 4096
        }),
    );
    same(
        configs::deepseek_v3(),
        json!({
            "general.architecture": "deepseek2", "deepseek2.block_count": 61, "deepseek2.context_length": 163840,
            "deepseek2.attention.head_count": 128, "deepseek2.attention.kv_lora_rank": 512,
            "deepseek2.rope.dimension_count": 64
        }),
    );
    let pattern = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME";
    let heads: Vec<u64> = pattern.chars().map(|kind| if kind == '*' { 2 } else { 0 }).collect();
    let experts: Vec<u64> = pattern.chars().map(|kind| if kind == 'E' { 1856 } else { 0 }).collect();
    same(
        configs::nemotron_3_nano(),
        json!({
            "general.architecture": "nemotron_h_moe", "nemotron_h_moe.block_count": 52,
            "nemotron_h_moe.context_length": 262144, "nemotron_h_moe.attention.head_count_kv": heads,
            "nemotron_h_moe.feed_forward_length": experts, "nemotron_h_moe.attention.key_length": 128,
            "nemotron_h_moe.ssm.conv_kernel": 4, "nemotron_h_moe.ssm.state_size": 128,
            "nemotron_h_moe.ssm.group_count": 8, "nemotron_h_moe.ssm.inner_size": 4096
        }),
    );
}

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn model(&mut self) -> Model {
        let cache = (0..=self.below(4)).map(|_| {
            let (layers, kv_heads, head_dim) = (1 + self.below(90), 1 + self.below(16), 8 + self.below(256));
            match self.below(4) {
                0 => CacheLayers::Full { layers, kv_heads, head_dim },
                1 => CacheLayers::Window { layers, kv_heads, head_dim, window: 1 + self.below(9000) },
                2 => CacheLayers::Latent { layers, width: 1 + self.below(600) },
                _ => CacheLayers::State { layers, elements: self.below(1 << 20) },
            }
        });
        let cache = cache.collect();
        let [fixed, per_token, per_sequence] = [1 << 30, 1 << 20, 1 << 20].map(|limit| Bytes(self.below(limit)));
        let planned = Activations::Planned { fixed, per_token, per_sequence };
        Model {
            weights: Bytes(self.below(1 << 37)),
            largest_tensor: Bytes(self.below(1 << 31)),
            vocabulary: Some(self.below(1 << 20)).filter(|entries| *entries > 0),
            cache,
            activations: if self.below(2) == 0 { planned } else { Activations::Unplanned },
            max_context: 1 << 20,
        }
    }

    fn serving(&mut self) -> Serving {
        let context = 1 + self.below(1 << 18);
        Serving {
            context,
            concurrency: 1 + self.below(64),
            pool: match self.below(3) {
                0 => Pool::Tokens(context + self.below(1 << 18)),
                1 => Pool::Contexts(1 + self.below(4)),
                _ => Pool::EverySequence,
            },
            max_batched_tokens: 1 + self.below(8192),
            kv_dtype: if self.below(2) == 0 { KvDtype::Bf16 } else { KvDtype::Fp8 },
            device: if self.below(2) == 0 { Device::Cpu } else { Device::Cuda },
        }
    }
}

#[test]
fn more_of_anything_never_takes_less() {
    let mut numbers = Numbers(4);
    for round in 0..20_000 {
        let (model, serving) = (numbers.model(), numbers.serving());
        let needs = |serving: &Serving| model.footprint(serving).resident();
        let more = 1 + numbers.below(4096);
        let larger = [
            Serving { context: serving.context + more, ..serving },
            Serving { concurrency: serving.concurrency + more, ..serving },
            Serving { max_batched_tokens: serving.max_batched_tokens + more, ..serving },
            Serving { pool: Pool::Tokens(serving.pool_tokens() + more), ..serving },
            Serving { kv_dtype: KvDtype::Bf16, ..serving },
        ];
        for larger in larger {
            assert!(needs(&serving) <= needs(&larger), "round {round}: {model:?} {serving:?} {larger:?}");
        }
    }
}
