//! Heads of files on a hub: how few requests they take, and what is said of servers that refuse, lie or lack ranges.
#![allow(clippy::unwrap_used, reason = "this is test code")]

mod common;

use std::time::Duration;

use common::{FakeHub, Flaw, RemoteFile, golden, repository, safetensors};
use kindling_agent::hub::{Hub, Traffic};
use kindling_envelope::{Bytes, Device, KvDtype, Pool, Serving};
use kindling_facts::{Facts, FactsError, ModelSource, read};

const SERVING: Serving = Serving {
    context: 100,
    concurrency: 3,
    pool: Pool::Contexts(2),
    max_batched_tokens: 64,
    kv_dtype: KvDtype::Bf16,
    device: Device::Cpu,
};

fn said(error: &FactsError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

async fn local(name: &str) -> Facts {
    read(&ModelSource::Path(golden(name)), &Hub::new("http://127.0.0.1:9", None)).await.unwrap()
}

fn assert_same(remote: &Facts, local: &Facts) {
    assert_eq!((&remote.architecture, &remote.cache), (&local.architecture, &local.cache));
    assert_eq!((&remote.stored, &remote.runnable), (&local.stored, &local.runnable));
    assert_eq!((remote.parameters, &remote.quantization), (local.parameters, &local.quantization));
    assert_eq!(remote.model(&SERVING, Some(2)).unwrap(), local.model(&SERVING, Some(2)).unwrap());
}

#[tokio::test]
async fn heads_from_a_hub_say_what_the_files_say() {
    for name in ["tiny_llama", "tiny_qwen3_moe_fused", "tiny_gpt_oss", "tiny_gemma4", "tiny_qwen3_next"] {
        let (fake, hub) = FakeHub::of(&golden(name)).start().await;
        let facts = read(&repository(&[]), &hub).await.unwrap();
        assert_same(&facts, &local(name).await);
        let requests = fake.requests.lock().unwrap().clone();
        // The listing, the configuration, and the weights behind a redirect; neither tokenizer nor goldens.
        assert_eq!(facts.traffic.requests, 4, "{requests:?}");
        assert_eq!(requests.len(), 4, "{requests:?}");
    }
}

#[tokio::test]
async fn a_gguf_file_is_read_from_a_repository_and_from_an_address() {
    let bytes = std::fs::read(golden("tiny_qwen3/model.gguf")).unwrap();
    let files = [("model.gguf".to_owned(), RemoteFile::whole(bytes))];
    let (fake, hub) = FakeHub::with(files).start().await;
    let local = local("tiny_qwen3/model.gguf").await;
    assert_same(&read(&repository(&["model.gguf"]), &hub).await.unwrap(), &local);
    let facts = read(&ModelSource::Url(format!("{}?signature=secret", fake.url("model.gguf"))), &hub).await.unwrap();
    assert_same(&facts, &local);
    assert_eq!(facts.traffic.requests, 1);
}

/// The head of a tiny GGUF file with a vocabulary of `num_bytes` in front.
fn with_long_head(num_bytes: usize) -> Vec<u8> {
    let plain = std::fs::read(golden("tiny_qwen3/model.gguf")).unwrap();
    let key = b"tokenizer.ggml.filler";
    let pair = |len: usize| {
        let mut pair = (key.len() as u64).to_le_bytes().to_vec();
        pair.extend(key);
        pair.extend(9u32.to_le_bytes()); // an array
        pair.extend(0u32.to_le_bytes()); // of u8
        pair.extend((len as u64).to_le_bytes());
        pair.resize(pair.len() + len, 1);
        pair
    };
    // Tensors lie at multiples of 32 behind the head: what is put in must not shift them against it.
    let len = (num_bytes..).find(|len| pair(*len).len().is_multiple_of(32)).unwrap();
    let pairs = u64::from_le_bytes(*plain[16..].first_chunk().unwrap());
    [&plain[..16], &(pairs + 1).to_le_bytes(), &pair(len), &plain[24..]].concat()
}

#[tokio::test]
async fn long_gguf_heads_are_read_in_a_few_growing_ranges() {
    for (mib, ranges) in [(1, 1), (5, 2)] {
        let files = [("model.gguf".to_owned(), RemoteFile::whole(with_long_head(mib << 20)))];
        let (fake, hub) = FakeHub::with(files).start().await;
        let facts = read(&ModelSource::Url(fake.url("model.gguf")), &hub).await.unwrap();
        assert_same(&facts, &local("tiny_qwen3/model.gguf").await);
        let requests = fake.requests.lock().unwrap().clone();
        assert_eq!((facts.traffic.requests, requests.len()), (ranges, ranges as usize), "{requests:?}");
        assert!(facts.traffic.bytes >= (mib << 20) as u64, "{:?}", facts.traffic);
    }
}

/// A large Llama, one layer in each shard: 40 of them.
fn sharded() -> FakeHub {
    let (hidden, heads, kv_heads, inner, vocabulary, layers) = (4096u64, 32u64, 8u64, 14_336u64, 128_256u64, 40u64);
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "num_hidden_layers": layers, "vocab_size": vocabulary,
        "max_position_embeddings": 131_072, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "hidden_act": "silu",
        "tie_word_embeddings": false,
    });
    let file = |value: &serde_json::Value| RemoteFile::whole(serde_json::to_vec(value).unwrap());
    let mut files =
        vec![("config.json".to_owned(), file(&config)), ("README.md".to_owned(), RemoteFile::whole(vec![0; 9]))];
    let mut weight_map = serde_json::Map::new();
    for layer in 0..layers {
        let shard = format!("model-{:05}-of-{layers:05}.safetensors", layer + 1);
        let tensor =
            |name: &str, shape: &[u64]| (format!("model.layers.{layer}.{name}.weight"), "BF16", shape.to_vec());
        let mut tensors = vec![
            tensor("self_attn.q_proj", &[hidden, hidden]),
            tensor("self_attn.k_proj", &[kv_heads * 128, hidden]),
            tensor("self_attn.v_proj", &[kv_heads * 128, hidden]),
            tensor("self_attn.o_proj", &[hidden, hidden]),
            tensor("mlp.gate_proj", &[inner, hidden]),
            tensor("mlp.up_proj", &[inner, hidden]),
            tensor("mlp.down_proj", &[hidden, inner]),
            tensor("input_layernorm", &[hidden]),
            tensor("post_attention_layernorm", &[hidden]),
        ];
        if layer == 0 {
            tensors.push(("model.embed_tokens.weight".to_owned(), "BF16", vec![vocabulary, hidden]));
            tensors.push(("lm_head.weight".to_owned(), "BF16", vec![vocabulary, hidden]));
            tensors.push(("model.norm.weight".to_owned(), "BF16", vec![hidden]));
        }
        weight_map.extend(tensors.iter().map(|(name, ..)| (name.clone(), shard.clone().into())));
        files.push((shard, safetensors(&tensors)));
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": weight_map });
    files.push(("model.safetensors.index.json".to_owned(), file(&index)));
    FakeHub::with(files)
}

/// 2 * (40 * (2 * 4096^2 + 2 * 1024 * 4096 + 3 * 14336 * 4096 + 2 * 4096) + 2 * 128256 * 4096 + 4096).
const SHARDED_BYTES: u64 = 19_550_314_496;

/// Time is not what is checked, but what it is made of: 83 requests, most of them at once, 50 ms each.
#[tokio::test]
async fn a_sharded_checkpoint_takes_two_requests_a_shard_and_many_at_once() {
    let mut hub = sharded();
    hub.delay = Duration::from_millis(50);
    let (fake, hub) = hub.start().await;
    let start = std::time::Instant::now();
    let facts = read(&repository(&[]), &hub).await.unwrap();
    println!("{:?} for 40 shards at 50 ms", start.elapsed());
    assert_eq!((facts.stored.loaded, facts.stored.files), (Bytes(SHARDED_BYTES), 40));
    assert_eq!(facts.runnable, Ok(()));
    assert_eq!(facts.parameters, Some(SHARDED_BYTES / 2));
    let requests = fake.requests.lock().unwrap().clone();
    assert_eq!(requests.len(), 1 + 2 + 2 * 40, "{requests:?}");
    assert!((8..=16).contains(&fake.peak()), "{} at a time", fake.peak());
    assert!(facts.traffic.bytes < 40 * (200 << 10), "{:?}", facts.traffic);
    assert_eq!(hub.traffic(), Traffic { requests: 83, bytes: facts.traffic.bytes });
}

#[tokio::test]
async fn a_head_longer_than_the_first_range_takes_one_more() {
    let experts =
        (0..4000).map(|index| (format!("model.layers.0.mlp.experts.{index}.{}", "x".repeat(60)), "BF16", vec![1]));
    let tensors: Vec<_> = experts.collect();
    let config = br#"{"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 64, "max_position_embeddings": 77}"#;
    let (fake, hub) = FakeHub::with([
        ("config.json".to_owned(), RemoteFile::whole(config.to_vec())),
        ("model.safetensors".to_owned(), safetensors(&tensors)),
    ])
    .start()
    .await;
    let facts = read(&repository(&[]), &hub).await.unwrap();
    assert_eq!((facts.stored.loaded, facts.max_context), (Bytes(8000), 77));
    let reason = facts.runnable.unwrap_err();
    assert!(reason.contains("config.json") && !reason.contains("kindling-heads"), "{reason}");
    assert_eq!(fake.requests.lock().unwrap().len(), 1 + 1 + 2 * 2);
}

/// Both spellings of NVFP4: a scale that is divided by must not be the 0 of a hole.
#[tokio::test]
async fn scales_that_nobody_has_read_do_not_matter() {
    for (values, global, form) in [("_packed", "_global_scale", "compressed-tensors"), ("", "_scale_2", "modelopt")] {
        let mut tensors = vec![
            ("model.embed_tokens.weight".to_owned(), "BF16", vec![32, 128]),
            ("model.norm.weight".to_owned(), "BF16", vec![128]),
            ("model.layers.0.input_layernorm.weight".to_owned(), "BF16", vec![128]),
            ("model.layers.0.post_attention_layernorm.weight".to_owned(), "BF16", vec![128]),
        ];
        let blocks = ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down"];
        for block in blocks {
            let name = |ending: &str| format!("model.layers.0.{block}_proj.weight{ending}");
            tensors.push((name(values), "U8", vec![128, 64]));
            tensors.push((name("_scale"), "F8_E4M3", vec![128, 8]));
            tensors.push((name(global), "F32", vec![1]));
        }
        let declared = match form {
            "modelopt" => serde_json::json!({ "quant_method": "modelopt", "quant_algo": "NVFP4" }),
            _ => serde_json::json!({ "quant_method": form, "format": "nvfp4-pack-quantized" }),
        };
        let config = serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 128, "intermediate_size": 128,
            "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 1, "vocab_size": 32,
            "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "hidden_act": "silu",
            "tie_word_embeddings": true, "quantization_config": declared,
        });
        let config = RemoteFile::whole(serde_json::to_vec(&config).unwrap());
        let files = [("config.json".to_owned(), config), ("model.safetensors".to_owned(), safetensors(&tensors))];
        let (_, hub) = FakeHub::with(files).start().await;
        let facts = read(&repository(&[]), &hub).await.unwrap();
        assert_eq!((facts.runnable.clone(), facts.quantization.as_str()), (Ok(()), "NVFP4"), "{form}");
        // 0.5625 bytes for each of 7 * 128 * 128 weights, and 7 factors; 32 * 128 and 3 * 128 elements of two bytes.
        assert_eq!(facts.stored.loaded, Bytes(7 * (9216 + 4) + 2 * (4096 + 384)), "{form}");
        // Held: a factor in f32 for each of 7 * 128 rows, norms in f32.
        let held = facts.model(&SERVING, Some(2)).unwrap().weights;
        assert_eq!(held, Bytes(7 * (9216 + 4 * 128) + 2 * 4096 + 4 * 384), "{form}");
    }
}

async fn failure(file: &str, flaw: Flaw) -> String {
    let (_, hub) = sharded().flawed(file, flaw).start().await;
    said(&read(&repository(&[]), &hub).await.unwrap_err())
}

#[tokio::test]
async fn refusals_and_lies_are_named() {
    const SHARD: &str = "model-00007-of-00040.safetensors";
    for (file, flaw, expected) in [
        ("listing", Flaw::Status(401), "HF_TOKEN"),
        ("listing", Flaw::Status(404), "no such repository"),
        (SHARD, Flaw::Status(403), "HF_TOKEN"),
        (SHARD, Flaw::Status(404), "no such repository, revision or file"),
        (SHARD, Flaw::Status(500), "answered 500"),
        ("listing", Flaw::Busy(9, 60), "try again in 60 s"),
        (SHARD, Flaw::Busy(9, 3600), "try again in 3600 s"),
        (SHARD, Flaw::Whole, "does not answer requests for a part"),
        (SHARD, Flaw::OtherRange, "bytes 0 to 131072 with the content-range \"bytes 1-"),
        (SHARD, Flaw::OtherTotal, "with the content-range \"bytes 0-131071/131071\""),
        (SHARD, Flaw::NoRange, "with the content-range \"\""),
        (SHARD, Flaw::CutBody, "with 65536 of 131072 bytes"),
        (SHARD, Flaw::ShortBody, "with 131071 of 131072 bytes"),
        (SHARD, Flaw::LongBody, "with more than the 131072 bytes"),
        (SHARD, Flaw::RedirectsForEver, "redirects to nowhere"),
    ] {
        let said = failure(file, flaw).await;
        assert!(said.contains(expected), "{flaw:?}: {said}");
        assert!(file == "listing" || said.contains(SHARD), "{flaw:?} does not name the file: {said}");
    }
}

/// A guess would be taken for a promise.
#[tokio::test]
async fn a_family_that_nobody_knows_is_refused_by_name() {
    let mut fake = sharded();
    let config = br#"{"architectures": ["NewForCausalLM"], "num_hidden_layers": 40}"#;
    fake.files.insert("config.json".to_owned(), RemoteFile::whole(config.to_vec()));
    let (_, hub) = fake.start().await;
    let said = said(&read(&repository(&[]), &hub).await.unwrap_err());
    assert!(said.contains("no such architecture yet") && said.contains("what NewForCausalLM keeps"), "{said}");
}

#[tokio::test]
async fn a_busy_server_is_asked_again_when_it_says() {
    let (fake, hub) = sharded().flawed("config.json", Flaw::Busy(2, 0)).start().await;
    assert_eq!(read(&repository(&[]), &hub).await.unwrap().stored.loaded, Bytes(SHARDED_BYTES));
    assert_eq!(fake.requests.lock().unwrap().len(), 83 + 2);
}

/// A server without ranges is good enough for small files.
#[tokio::test]
async fn small_files_may_come_whole() {
    let (_, hub) = FakeHub::of(&golden("tiny_llama")).flawed("model.safetensors", Flaw::Whole).start().await;
    assert_same(&read(&repository(&[]), &hub).await.unwrap(), &local("tiny_llama").await);
}

#[tokio::test]
async fn damaged_heads_are_refused_by_name() {
    let short = RemoteFile::whole(vec![1, 2, 3]);
    let lying = RemoteFile { head: u64::MAX.to_le_bytes().to_vec(), total_bytes: 1 << 40 };
    let large = RemoteFile { head: 200_000_000u64.to_le_bytes().to_vec(), total_bytes: 1 << 40 };
    let truncated = RemoteFile { head: 5000u64.to_le_bytes().to_vec(), total_bytes: 100 };
    for (file, expected) in [
        (short, "it has 3 bytes"),
        (lying, "its head would have 18446744073709551615 bytes"),
        (large, "its head would have 200000000 bytes"),
        (truncated, "5000 bytes, of 100 of the file"),
    ] {
        let mut fake = sharded();
        fake.files.insert("model-00003-of-00040.safetensors".to_owned(), file);
        let (_, hub) = fake.start().await;
        let said = said(&read(&repository(&[]), &hub).await.unwrap_err());
        assert!(said.contains(expected) && said.contains("model-00003-of-00040"), "{said}");
    }
    let gguf = RemoteFile::whole(with_long_head(1 << 20)[..1 << 19].to_vec());
    let (fake, hub) = FakeHub::with([("model.gguf".to_owned(), gguf)]).start().await;
    let said = said(&read(&ModelSource::Url(fake.url("model.gguf")), &hub).await.unwrap_err());
    assert!(said.contains("model.gguf") && said.contains("tokenizer.ggml.filler"), "{said}");
}
