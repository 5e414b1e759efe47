//! Published vocabularies from `tokenizer.json` and from GGUF, against what Hugging Face's `tokenizers` gives;
//! recorded by `golden/record_vocabularies.py`, and against llama.cpp's own vectors where its source is at hand.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is test code, helpers included")]

mod common;

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use common::{golden, ids, text};
use kindling_models::Tokenizer;
use kindling_models::dialect::{Answers, Dialect, ToolCalls};
use kindling_models::gguf::GgufHeader;
use serde_json::Value;

fn from_gguf(path: &Path) -> Tokenizer {
    let header = GgufHeader::read(&std::fs::read(path).unwrap()).unwrap();
    Tokenizer::from_gguf(&header.metadata).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn stream(tokenizer: &Arc<Tokenizer>, ids: &[u32], skip_special: bool) -> String {
    let mut stream = if skip_special { tokenizer.stream() } else { tokenizer.stream_with_special() };
    let mut out: String = ids.iter().map(|id| stream.push(*id)).collect();
    out.push_str(&stream.finish());
    out
}

/// Whole and token by token. SentencePiece's byte fallback writes one U+FFFD for every byte of a broken character,
/// which a stream cannot know in time: those streams are not compared.
fn check_decode(place: &str, tokenizer: &Arc<Tokenizer>, row: &Value, decoded: &str, is_byte_level: bool) -> usize {
    let ids = ids(&row["ids"]);
    let skipped = row["decoded_skip_special"].as_str().unwrap_or(decoded);
    let mut compared = 0;
    for (expected, skip_special) in [(decoded, false), (skipped, true)] {
        assert_eq!(tokenizer.decode(&ids, skip_special), expected, "{place}: ids {ids:?}");
        if is_byte_level || !expected.contains('\u{fffd}') {
            assert_eq!(stream(tokenizer, &ids, skip_special), expected, "{place}: stream of ids {ids:?}");
            compared += 1;
        }
    }
    compared
}

fn check_one(place: &str, tokenizer: &Arc<Tokenizer>, file: &Value, is_byte_level: bool) {
    let cases = file["cases"].as_array().unwrap();
    let mut streams = 0;
    for case in cases {
        let input = text(&case["text"]);
        let expected = ids(&case["ids"]);
        let or_ids = |key: &str| case.get(key).map_or_else(|| expected.clone(), ids);
        assert_eq!(tokenizer.encode(input, false, true).unwrap(), expected, "{place}: {input:?}");
        assert_eq!(tokenizer.encode(input, false, false).unwrap(), or_ids("ids_plain"), "{place} plain: {input:?}");
        assert_eq!(tokenizer.encode(input, true, true).unwrap(), or_ids("ids_with_bos"), "{place} BOS: {input:?}");
        let decoded = case["decoded"].as_str().unwrap_or(input);
        streams += check_decode(place, tokenizer, case, decoded, is_byte_level);
    }
    let sequences = file["decode"].as_array().unwrap();
    for sequence in sequences {
        streams += check_decode(place, tokenizer, sequence, text(&sequence["decoded"]), is_byte_level);
    }
    println!("{place}: {} texts, {} sequences, {streams} streams", cases.len(), sequences.len());
    assert!(cases.len() > 120 && sequences.len() > 90 && streams > 300);
}

fn check(name: &str, is_byte_level: bool) {
    let folder = golden(&format!("vocabularies/{name}"));
    let file = common::read_json(&folder.join("tokenize.json"));
    let json = Tokenizer::from_json(&std::fs::read(folder.join("tokenizer.json")).unwrap()).unwrap();
    check_one(&format!("{name} tokenizer.json"), &Arc::new(json), &file, is_byte_level);
    check_one(&format!("{name} gguf"), &Arc::new(from_gguf(&folder.join("vocab.gguf"))), &file, is_byte_level);
}

#[test]
fn qwen2_is_as_recorded() {
    check("qwen2", true);
}

#[test]
fn qwen35_is_as_recorded() {
    check("qwen35", true);
}

#[test]
fn o200k_is_as_recorded() {
    check("o200k", true);
}

#[test]
fn tekken_is_as_recorded() {
    check("tekken", true);
}

#[test]
fn mistral_v3_is_as_recorded() {
    check("mistral_v3", false);
}

#[test]
fn sentence_piece_without_a_first_space_is_as_recorded() {
    check("spm_no_prefix", false);
}

#[test]
fn gemma4_is_as_recorded() {
    check("gemma4", false);
}

/// `models/` in llama.cpp's source, or a printed skip.
fn llama_cpp_models() -> Option<OsString> {
    const VARIABLE: &str = "KINDLING_GGML_VOCABS";
    let folder = std::env::var_os(VARIABLE);
    if folder.is_none() {
        println!("SKIPPED: set {VARIABLE} to the folder models/ in llama.cpp's source to run this test");
    }
    folder
}

#[test]
fn published_templates_tell_the_dialect() {
    let Some(folder) = llama_cpp_models() else { return };
    let tokenizer = from_gguf(&golden("vocabularies/qwen2/vocab.gguf"));
    let cases = [
        ("openai-gpt-oss-120b", Answers::Harmony, ToolCalls::Harmony),
        ("Qwen-Qwen2.5-7B-Instruct", Answers::Plain, ToolCalls::Hermes),
        ("Qwen-Qwen3-0.6B", Answers::Think, ToolCalls::Hermes),
        ("Qwen-QwQ-32B", Answers::Think, ToolCalls::Hermes),
        ("Qwen3.5-4B", Answers::Think, ToolCalls::QwenXml),
        ("Qwen3-Coder", Answers::Plain, ToolCalls::QwenXml),
        ("meta-llama-Llama-3.1-8B-Instruct", Answers::Plain, ToolCalls::LlamaJson),
        ("meta-llama-Llama-3.2-3B-Instruct", Answers::Plain, ToolCalls::LlamaJson),
        ("mistralai-Mistral-Nemo-Instruct-2407", Answers::Plain, ToolCalls::Mistral),
        ("Mistral-Small-3.2-24B-Instruct-2506", Answers::Plain, ToolCalls::Mistral),
        ("mistralai-Ministral-3-14B-Reasoning-2512", Answers::MistralThink, ToolCalls::Mistral),
        ("google-gemma-2-2b-it", Answers::Plain, ToolCalls::None),
        ("google-gemma-4-31B-it", Answers::GemmaChannels, ToolCalls::Gemma),
        ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", Answers::Think, ToolCalls::DeepSeek),
    ];
    for (name, answers, tool_calls) in cases {
        let source = std::fs::read_to_string(Path::new(&folder).join(format!("templates/{name}.jinja"))).unwrap();
        let found = Dialect::detect("LlamaForCausalLM", &source, &tokenizer);
        assert_eq!(found, Dialect { answers, tool_calls }, "{name}");
    }
}

/// Whole vocabularies and vectors of llama.cpp: `models/ggml-vocab-NAME.gguf` with `.inp` and `.out` in its source.
#[test]
fn whole_vocabularies_give_the_ids_that_llama_cpp_expects() {
    let Some(folder) = llama_cpp_models() else { return };
    let names =
        ["llama-bpe", "qwen2", "qwen35", "gpt-2", "starcoder", "refact", "command-r", "llama-spm", "phi-3", "gemma-4"];
    let mut wrong = Vec::new();
    for name in names {
        let path = |end: &str| Path::new(&folder).join(format!("ggml-vocab-{name}.gguf{end}"));
        let tokenizer = from_gguf(&path(""));
        let inputs = std::fs::read_to_string(path(".inp")).unwrap();
        let outputs = std::fs::read_to_string(path(".out")).unwrap();
        let inputs: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
        let outputs: Vec<&str> = outputs.lines().collect();
        for (input, output) in inputs.iter().zip(&outputs) {
            // llama.cpp leaves marks apart where the publisher's NFC normalizer joins them to their letters.
            if name == "qwen35" && input.contains(|character| ('\u{300}'..='\u{36f}').contains(&character)) {
                println!("left out for {name}: {input:?}");
                continue;
            }
            let expected: Vec<u32> = output.split_whitespace().map(|id| id.parse().unwrap()).collect();
            let found = tokenizer.encode(input, false, false).unwrap();
            if found != expected {
                wrong.push(format!("{name}: {input:?} gives {found:?}, not {expected:?}"));
            }
        }
        println!("{name}: {} texts, {} tokens", outputs.len(), tokenizer.vocab_size());
        assert!(outputs.len() > 40, "{name} has only {} texts", outputs.len());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
