//! A GGUF vocabulary as the `tokenizer.json` that it was made from.
//!
//! # Source
//! Keys: `docs/gguf.md` of <https://github.com/ggml-org/ggml>. The pre-tokenizers are those of the publishers'
//! `tokenizer.json` files that the names in `tokenizer.ggml.pre` stand for.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::{SpecialTokens, TokenizerError};
use crate::gguf::Metadata;

/// Values of `tokenizer.ggml.token_type`.
const TYPE_UNKNOWN: i64 = 2;
const TYPE_CONTROL: i64 = 3;
const TYPE_USER_DEFINED: i64 = 4;

const LLAMA3_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2_SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What a name in `tokenizer.ggml.pre` stands for.
struct PreTokenization {
    normalizer: Value,
    pre_tokenizer: Value,
    ignore_merges: bool,
    add_bos: bool,
}

/// Builds the document.
pub(super) fn document(metadata: &Metadata) -> Result<Value, TokenizerError> {
    match metadata.string("tokenizer.ggml.model")? {
        Some("gpt2") => {}
        found => {
            return Err(TokenizerError::Unsupported {
                part: "tokenizer.ggml.model",
                found: found.unwrap_or("(missing)").to_owned(),
                supported: "only gpt2 (byte-level BPE) is",
            });
        }
    }
    let tokens = metadata.strings("tokenizer.ggml.tokens")?.ok_or_else(|| missing("tokenizer.ggml.tokens"))?;
    let merges = metadata.strings("tokenizer.ggml.merges")?.ok_or_else(|| missing("tokenizer.ggml.merges"))?;
    let rules = pre_tokenization(metadata.string("tokenizer.ggml.pre")?)?;
    let add_bos = metadata.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(rules.add_bos);
    let add_eos = metadata.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
    let before = special(metadata, add_bos, "tokenizer.ggml.bos_token_id", tokens)?;
    let after = special(metadata, add_eos, "tokenizer.ggml.eos_token_id", tokens)?;
    Ok(json!({
        "version": "1.0",
        "added_tokens": added_tokens(metadata, tokens)?,
        "normalizer": rules.normalizer,
        "pre_tokenizer": rules.pre_tokenizer,
        "post_processor": post_processor(before, after),
        "decoder": byte_level(true),
        "model": {
            "type": "BPE",
            "ignore_merges": rules.ignore_merges,
            "vocab": vocab(tokens)?,
            "merges": merges,
        },
    }))
}

/// The roles that the file names.
pub(super) fn special_tokens(metadata: &Metadata) -> Result<SpecialTokens, TokenizerError> {
    let tokens = metadata.strings("tokenizer.ggml.tokens")?.unwrap_or_default();
    let name = |key: &str| Ok::<_, TokenizerError>(special(metadata, true, key, tokens)?.map(|(name, _)| name));
    Ok(SpecialTokens {
        bos: name("tokenizer.ggml.bos_token_id")?,
        eos: name("tokenizer.ggml.eos_token_id")?,
        eot: name("tokenizer.ggml.eot_token_id")?,
        unk: name("tokenizer.ggml.unknown_token_id")?,
        pad: name("tokenizer.ggml.padding_token_id")?,
    })
}

fn missing(key: &str) -> TokenizerError {
    TokenizerError::Inconsistent { problem: format!("metadata {key} is missing") }
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn split(pattern: &str) -> Value {
    let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]})
}

fn pre_tokenization(name: Option<&str>) -> Result<PreTokenization, TokenizerError> {
    let plain = PreTokenization {
        normalizer: Value::Null,
        pre_tokenizer: byte_level(true),
        ignore_merges: false,
        add_bos: false,
    };
    match name {
        Some("gpt-2") => Ok(plain),
        None | Some("default") => {
            tracing::warn!(
                "the file does not say how text is split before BPE (tokenizer.ggml.pre): taking gpt-2's way"
            );
            Ok(plain)
        }
        Some("smollm") => {
            let digits = json!({"type": "Digits", "individual_digits": true});
            let pre_tokenizer = json!({"type": "Sequence", "pretokenizers": [digits, byte_level(true)]});
            Ok(PreTokenization { pre_tokenizer, ..plain })
        }
        Some("llama-bpe" | "llama3" | "llama-v3") => {
            Ok(PreTokenization { pre_tokenizer: split(LLAMA3_SPLIT), ignore_merges: true, add_bos: true, ..plain })
        }
        Some("qwen2") => {
            Ok(PreTokenization { normalizer: json!({"type": "NFC"}), pre_tokenizer: split(QWEN2_SPLIT), ..plain })
        }
        Some(other) => Err(TokenizerError::Unsupported {
            part: "tokenizer.ggml.pre",
            found: other.to_owned(),
            supported: "only gpt-2, default, smollm, llama-bpe and qwen2 are",
        }),
    }
}

fn vocab(tokens: &[String]) -> Result<Value, TokenizerError> {
    let mut vocab = Map::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        if vocab.insert(token.clone(), json!(id)).is_some() {
            let problem = format!("token {token:?} is in tokenizer.ggml.tokens twice, again as id {id}");
            return Err(TokenizerError::Inconsistent { problem });
        }
    }
    Ok(Value::Object(vocab))
}

fn added_tokens(metadata: &Metadata, tokens: &[String]) -> Result<Value, TokenizerError> {
    let Some(types) = metadata.integers("tokenizer.ggml.token_type")? else { return Ok(json!([])) };
    if types.len() != tokens.len() {
        let problem =
            format!("tokenizer.ggml.token_type has {} entries, tokenizer.ggml.tokens {}", types.len(), tokens.len());
        return Err(TokenizerError::Inconsistent { problem });
    }
    let unknown = metadata.unsigned("tokenizer.ggml.unknown_token_id")?;
    let mut seen = HashSet::new();
    let added = tokens.iter().zip(types).enumerate().filter_map(|(id, (token, kind))| {
        let is_special = *kind == TYPE_CONTROL || (*kind == TYPE_UNKNOWN && unknown == Some(id as u64));
        let is_added = is_special || *kind == TYPE_USER_DEFINED;
        // An empty name would match everywhere.
        (is_added && !token.is_empty() && seen.insert(token)).then(|| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": is_special,
            })
        })
    });
    Ok(Value::Array(added.collect()))
}

/// Name and id of the token that `key` names, if it is wanted and there.
fn special(
    metadata: &Metadata,
    is_wanted: bool,
    key: &str,
    tokens: &[String],
) -> Result<Option<(String, u64)>, TokenizerError> {
    let Some(id) = metadata.unsigned(key)?.filter(|_| is_wanted) else { return Ok(None) };
    match usize::try_from(id).ok().and_then(|id| tokens.get(id)) {
        Some(token) => Ok(Some((token.clone(), id))),
        None => {
            let problem = format!("{key} is {id}, but the vocabulary has {} tokens", tokens.len());
            Err(TokenizerError::Inconsistent { problem })
        }
    }
}

fn post_processor(before: Option<(String, u64)>, after: Option<(String, u64)>) -> Value {
    if before.is_none() && after.is_none() {
        return Value::Null;
    }
    let mut specials = Map::new();
    let mut single = Vec::new();
    let mut place = |single: &mut Vec<Value>, token: Option<(String, u64)>| {
        if let Some((name, id)) = token {
            single.push(json!({"SpecialToken": {"id": name, "type_id": 0}}));
            let entry = json!({"id": name, "ids": [id], "tokens": [name]});
            specials.insert(name, entry);
        }
    };
    place(&mut single, before);
    single.push(json!({"Sequence": {"id": "A", "type_id": 0}}));
    place(&mut single, after);
    let mut pair = single.clone();
    pair.push(json!({"Sequence": {"id": "B", "type_id": 1}}));
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": specials})
}
