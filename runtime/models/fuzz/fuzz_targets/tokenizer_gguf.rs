//! Any bytes as the vocabulary of a GGUF file and a text for it.
//!
//! First byte: model; second: pre-tokenizer; third: flags. Then lines: `m left right` is a merge, the last is the text,
//! the others are tokens, a digit for the type and a letter for the score before them.
#![no_main]

use std::sync::Arc;

use kindling_models::Tokenizer;
use kindling_models::gguf::GgufHeader;
use libfuzzer_sys::fuzz_target;

const MODELS: [&str; 4] = ["gpt2", "llama", "gemma4", "other"];
const PRES: [&str; 9] =
    ["gpt-2", "smollm", "command-r", "llama-bpe", "qwen2", "qwen35", "gpt-4o", "tekken", "other"];

fuzz_target!(|data: &[u8]| {
    let [model, pre, flags, rest @ ..] = data else { return };
    let rest = String::from_utf8_lossy(rest);
    let (vocabulary, text) = rest.rsplit_once('\n').unwrap_or(("", &rest));
    let (mut tokens, mut types, mut scores, mut merges) = (vec![], vec![], vec![], vec![]);
    for line in vocabulary.split('\n') {
        if let Some(merge) = line.strip_prefix("m ") {
            merges.push(string(merge));
        } else if let [kind, score, ..] = line.as_bytes() {
            tokens.push(string(line.get(2..).unwrap_or("?")));
            types.push(i32::from(kind.wrapping_sub(b'0')).to_le_bytes().to_vec());
            scores.push((-f32::from(*score)).to_le_bytes().to_vec());
        }
    }
    let mut pairs = vec![
        ("model", 8, string(MODELS[usize::from(*model) % MODELS.len()])),
        ("pre", 8, string(PRES[usize::from(*pre) % PRES.len()])),
        ("tokens", 9, array(8, &tokens)),
        ("token_type", 9, array(5, &types)),
        ("scores", 9, array(6, &scores)),
        ("bos_token_id", 4, vec![1, 0, 0, 0]),
        ("eos_token_id", 4, vec![2, 0, 0, 0]),
        ("add_bos_token", 7, vec![flags & 1]),
        ("add_eos_token", 7, vec![flags >> 1 & 1]),
        ("add_space_prefix", 7, vec![flags >> 2 & 1]),
    ];
    if flags & 8 == 0 {
        pairs.push(("merges", 9, array(8, &merges)));
    }
    let header = GgufHeader::read(&gguf(&pairs)).expect("a well-formed head should be read");
    let Ok(tokenizer) = Tokenizer::from_gguf(&header.metadata) else { return };
    let tokenizer = Arc::new(tokenizer);
    let mut stream = tokenizer.stream();
    for id in tokenizer.encode(text, true, flags & 16 != 0).expect("an accepted vocabulary should encode any text") {
        assert!((id as usize) < tokenizer.vocab_size(), "an id should be within the vocabulary");
        stream.push(id);
    }
    stream.finish();
});

fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

fn array(kind: u32, elements: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend((elements.len() as u64).to_le_bytes());
    bytes.extend(elements.concat());
    bytes
}

fn gguf(pairs: &[(&str, u32, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(0u64.to_le_bytes());
    bytes.extend((pairs.len() as u64).to_le_bytes());
    for (key, kind, value) in pairs {
        bytes.extend(string(&format!("tokenizer.ggml.{key}")));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(value);
    }
    bytes
}
