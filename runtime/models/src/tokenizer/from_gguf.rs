//! A GGUF vocabulary as the `tokenizer.json` that it was made from.
//!
//! # Source
//! Keys: `docs/gguf.md` of <https://github.com/ggml-org/ggml>.

mod pre_tokenization;
mod sentence_piece;

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::{SpecialTokens, TokenizerError};
use crate::gguf::Metadata;
use pre_tokenization::byte_level;

/// Values of `tokenizer.ggml.token_type`.
const TYPE_UNKNOWN: i64 = 2;
const TYPE_CONTROL: i64 = 3;
const TYPE_USER_DEFINED: i64 = 4;
const TYPE_BYTE: i64 = 6;

/// Builds the document.
pub(crate) fn document(metadata: &Metadata) -> Result<Value, TokenizerError> {
    let tokens = || metadata.strings("tokenizer.ggml.tokens")?.ok_or_else(|| missing("tokenizer.ggml.tokens"));
    match metadata.string("tokenizer.ggml.model")? {
        Some("gpt2") => byte_level_document(metadata, tokens()?),
        // gemma4 has merges, llama has scores only; both write text alike.
        Some("llama") => sentence_piece_document(metadata, tokens()?, true),
        Some("gemma4") => sentence_piece_document(metadata, tokens()?, false),
        found => Err(TokenizerError::Unsupported {
            part: "tokenizer.ggml.model",
            found: found.unwrap_or("(missing)").to_owned(),
            supported: "only gpt2 (byte-level BPE), llama (SentencePiece BPE) and gemma4 are",
        }),
    }
}

fn byte_level_document(metadata: &Metadata, tokens: &[String]) -> Result<Value, TokenizerError> {
    let merges = metadata.strings("tokenizer.ggml.merges")?.ok_or_else(|| missing("tokenizer.ggml.merges"))?;
    let rules = pre_tokenization::pre_tokenization(metadata.string("tokenizer.ggml.pre")?)?;
    Ok(json!({
        "version": "1.0",
        "added_tokens": added_tokens(metadata, tokens)?,
        "normalizer": rules.normalizer,
        "pre_tokenizer": rules.pre_tokenizer,
        "post_processor": post_processor(metadata, tokens, rules.add_bos)?,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE",
            "ignore_merges": rules.ignore_merges,
            "vocab": vocab(tokens)?,
            "merges": merges,
        },
    }))
}

fn sentence_piece_document(metadata: &Metadata, tokens: &[String], adds_space: bool) -> Result<Value, TokenizerError> {
    sentence_piece::check(metadata)?;
    let shape = sentence_piece::shape(metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(adds_space));
    Ok(json!({
        "version": "1.0",
        "added_tokens": added_tokens(metadata, tokens)?,
        "normalizer": shape.normalizer,
        "pre_tokenizer": shape.pre_tokenizer,
        "post_processor": post_processor(metadata, tokens, true)?,
        "decoder": shape.decoder,
        "model": sentence_piece::model(metadata, tokens, vocab(tokens)?)?,
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

/// Puts BOS before a text and EOS after it, where the file asks for them or, saying nothing, `adds_bos` does.
fn post_processor(metadata: &Metadata, tokens: &[String], adds_bos: bool) -> Result<Value, TokenizerError> {
    let adds_bos = metadata.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(adds_bos);
    let adds_eos = metadata.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
    let before = special(metadata, adds_bos, "tokenizer.ggml.bos_token_id", tokens)?;
    let after = special(metadata, adds_eos, "tokenizer.ggml.eos_token_id", tokens)?;
    if before.is_none() && after.is_none() {
        return Ok(Value::Null);
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
    Ok(json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": specials}))
}

#[cfg(test)]
mod tests;
