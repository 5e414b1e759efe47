//! SentencePiece vocabularies of the BPE kind: pieces with scores, of which the merges are made.
//!
//! SentencePiece merges the pair whose piece has the best score; `tokenizers` wants merges in order. The order is that
//! of `transformers`' converters: by score, then by the length of the parts, longest first.
//!
//! # Source
//! `generate_merges` in `convert_slow_tokenizer.py` of <https://github.com/huggingface/transformers>.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::{TYPE_BYTE, TYPE_CONTROL, TYPE_UNKNOWN, missing};
use crate::gguf::Metadata;
use crate::tokenizer::TokenizerError;
use crate::tokenizer::document::{inconsistent, unsupported};

/// Every cut of a piece is looked up; the longest known pieces are runs of 128 spaces.
const MAX_PIECE_CHARS: usize = 256;
/// The largest known vocabularies of 262,144 pieces make 600,000.
const MAX_MERGES: usize = 1_500_000;

/// Normalizer, pre-tokenizer and decoder of text whose spaces are written as U+2581.
pub(super) struct Shape {
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    pub decoder: Value,
}

/// `adds_space`: whether a space is put before the text, and taken off again in decoding.
pub(super) fn shape(adds_space: bool) -> Shape {
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    let back = json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "});
    let mut decoders = vec![back, json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    let mut normalizer = replace.clone();
    if adds_space {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        let prepend = json!({"type": "Prepend", "prepend": "\u{2581}"});
        normalizer = json!({"type": "Sequence", "normalizers": [prepend, replace]});
    }
    let decoder = json!({"type": "Sequence", "decoders": decoders});
    Shape { normalizer, pre_tokenizer: Value::Null, decoder }
}

/// The model of a document; `merges` as the file has them, or to be made of the scores.
pub(super) fn model(metadata: &Metadata, tokens: &[String], vocab: Value) -> Result<Value, TokenizerError> {
    let types = metadata.integers("tokenizer.ggml.token_type")?.ok_or_else(|| missing("tokenizer.ggml.token_type"))?;
    let merges = match metadata.strings("tokenizer.ggml.merges")? {
        Some(merges) => json!(merges),
        None => from_scores(metadata, tokens, types)?,
    };
    let unknown = tokens.iter().zip(types).find(|(_, kind)| **kind == TYPE_UNKNOWN).map(|(token, _)| token);
    let has_byte = |byte: u8| tokens.iter().any(|token| *token == format!("<0x{byte:02X}>"));
    if unknown.is_none() && !(0..=255).all(has_byte) {
        let problem = "it has neither a token for each byte nor one for what is unknown";
        return Err(inconsistent(problem.to_owned()));
    }
    Ok(json!({
        "type": "BPE", "unk_token": unknown, "fuse_unk": true, "byte_fallback": true, "vocab": vocab, "merges": merges,
    }))
}

/// Keys whose effect is not built.
pub(super) fn check(metadata: &Metadata) -> Result<(), TokenizerError> {
    if metadata.bool("tokenizer.ggml.remove_extra_whitespaces")? == Some(true) {
        return Err(unsupported("tokenizer.ggml.remove_extra_whitespaces", "true", "only false is"));
    }
    Ok(())
}

struct Merge<'a> {
    score: f64,
    /// In characters, the first part and the second.
    lengths: (usize, usize),
    parts: (&'a str, &'a str),
}

fn from_scores(metadata: &Metadata, tokens: &[String], types: &[i64]) -> Result<Value, TokenizerError> {
    let scores = metadata.floats("tokenizer.ggml.scores")?.ok_or_else(|| missing("tokenizer.ggml.scores"))?;
    if scores.len() != tokens.len() || types.len() != tokens.len() {
        let (scores, types, tokens) = (scores.len(), types.len(), tokens.len());
        return Err(inconsistent(format!(
            "tokenizer.ggml.scores has {scores} entries, token_type {types}, tokenizer.ggml.tokens {tokens}"
        )));
    }
    // What steers, and what stands for a byte, is no text: it is never made by merging.
    let is_text = |kind: i64| !matches!(kind, TYPE_CONTROL | TYPE_UNKNOWN | TYPE_BYTE);
    let ids: HashMap<&str, usize> = tokens
        .iter()
        .zip(types)
        .enumerate()
        .filter(|(_, (_, kind))| is_text(**kind))
        .map(|(id, (token, _))| (token.as_str(), id))
        .collect();
    let mut merges = Vec::new();
    for (id, token) in tokens.iter().enumerate().filter(|(id, _)| is_text(types[*id])) {
        let score = scores[id];
        if !score.is_finite() {
            return Err(inconsistent(format!("token {token:?} has the score {score}")));
        }
        push_cuts(&mut merges, token, score, &ids)?;
    }
    // Stable: what is equal here stays in the order of ids.
    merges.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| b.lengths.cmp(&a.lengths)));
    let mut seen = HashSet::with_capacity(merges.len());
    merges.retain(|merge| seen.insert(merge.parts));
    Ok(merges.iter().map(|merge| json!([merge.parts.0, merge.parts.1])).collect())
}

/// All ways to make `token` of two others, in the order of their ids.
fn push_cuts<'a>(
    merges: &mut Vec<Merge<'a>>,
    token: &'a str,
    score: f64,
    ids: &HashMap<&str, usize>,
) -> Result<(), TokenizerError> {
    let num_chars = token.chars().count();
    if num_chars > MAX_PIECE_CHARS {
        return Err(inconsistent(format!("a piece has {num_chars} characters, at most {MAX_PIECE_CHARS} are allowed")));
    }
    let mut cuts = Vec::new();
    for (length, (place, _)) in token.char_indices().enumerate().skip(1) {
        let parts = token.split_at(place);
        if let (Some(left), Some(right)) = (ids.get(parts.0), ids.get(parts.1)) {
            cuts.push((*left, *right, Merge { score, lengths: (length, num_chars - length), parts }));
        }
    }
    cuts.sort_by_key(|(left, right, _)| (*left, *right));
    merges.extend(cuts.into_iter().map(|(_, _, merge)| merge));
    if merges.len() > MAX_MERGES {
        return Err(inconsistent(format!("its pieces make more than {MAX_MERGES} merges")));
    }
    Ok(())
}
