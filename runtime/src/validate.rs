//! From what a client sent to what the engine can do, or a refusal naming the field: pure.

use std::fmt::Display;

use kindling_engine::{CacheScope, SamplingParams};
use kindling_proto::v1::structured_output::Kind;
use kindling_proto::v1::{GenerateRequest, PrefixCache, Sampling, Stopping, StructuredOutput};

use crate::grammar::Form;
use crate::refusal::Refusal;

/// Completions of one prompt.
pub const MAX_SEQUENCES: u32 = 8;
/// Top log-probabilities per token, as OpenAI has it.
pub const MAX_LOGPROBS: u32 = 20;
/// Stop strings per request; OpenAI allows 4.
pub const MAX_STOP_STRINGS: usize = 16;
/// Bytes of one stop string: so much text may be held back.
pub const MAX_STOP_STRING_BYTES: usize = 1024;
/// Stop tokens per request: each is compared with each generated token.
pub const MAX_STOP_TOKENS: usize = 1024;
/// Bytes of salt and keys of the prefix cache: they are kept and hashed with each request.
pub const MAX_CACHE_KEY_BYTES: usize = 64 * 1024;

/// What a request asks for beside its prompt, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// Completions wanted.
    pub num_sequences: u32,
    /// Tokens per completion, if limited.
    pub max_tokens: Option<usize>,
    /// Not empty, not too many.
    pub stop_strings: Vec<String>,
    /// Within the vocabulary.
    pub stop_token_ids: Vec<u32>,
    /// Go on past the model's own end.
    pub ignore_eos: bool,
    /// Whom it shares cached prefixes with, if with anyone.
    pub prefix_cache: Option<CacheScope>,
    /// How to choose tokens.
    pub sampling: SamplingParams,
    /// What the output must look like; checked when it is compiled.
    pub form: Option<Form>,
}

/// Checks everything but the prompt. `fresh_seed` is used where none is given.
///
/// # Errors
/// [`Refusal::Field`] naming the field and its value.
pub fn generation(request: &GenerateRequest, vocab_size: usize, fresh_seed: u64) -> Result<Generation, Refusal> {
    if request.n > MAX_SEQUENCES {
        return refuse("n", request.n, format!("at most {MAX_SEQUENCES} are possible"));
    }
    let logprobs = request.logprobs;
    if let Some(count) = logprobs.filter(|count| *count > MAX_LOGPROBS) {
        return refuse("logprobs", count, format!("at most {MAX_LOGPROBS} are possible"));
    }
    let no_sampling = Sampling::default();
    let sampling = sampling(request.sampling.as_ref().unwrap_or(&no_sampling), vocab_size, fresh_seed)?;
    let no_stopping = Stopping::default();
    let stopping = request.stopping.as_ref().unwrap_or(&no_stopping);
    check_stopping(stopping, vocab_size)?;
    Ok(Generation {
        num_sequences: request.n.max(1),
        max_tokens: stopping.max_tokens.map(|count| count as usize),
        stop_strings: stopping.stop_strings.clone(),
        stop_token_ids: stopping.stop_token_ids.clone(),
        ignore_eos: stopping.ignore_eos,
        prefix_cache: prefix_cache(request.prefix_cache.as_ref())?,
        sampling: SamplingParams { logprobs: logprobs.map(|count| count as usize), ..sampling },
        form: request.structured_output.as_ref().map(form).transpose()?,
    })
}

fn form(structured_output: &StructuredOutput) -> Result<Form, Refusal> {
    Ok(match &structured_output.kind {
        Some(Kind::JsonSchema(schema)) => Form::JsonSchema(schema.clone()),
        Some(Kind::JsonObject(_)) => Form::JsonObject,
        Some(Kind::Regex(regex)) => Form::Regex(regex.clone()),
        Some(Kind::Choice(choice)) => Form::Choice(choice.choices.clone()),
        Some(Kind::Grammar(grammar)) => Form::Lark(grammar.clone()),
        // From a newer client: to ignore it would break its promise.
        None => return refuse("structured_output", "of no known kind", "it must be of one".to_owned()),
    })
}

/// Checks that there may ever be room for so many sequences; to wait for it would be in vain.
///
/// # Errors
/// [`Refusal::Field`] naming `n`.
pub fn fits(num_sequences: u32, num_places: usize) -> Result<(), Refusal> {
    if num_sequences as usize > num_places {
        return refuse("n", num_sequences, format!("at most {num_places} are possible"));
    }
    Ok(())
}

fn prefix_cache(prefix_cache: Option<&PrefixCache>) -> Result<Option<CacheScope>, Refusal> {
    let Some(PrefixCache { bypass, salt, extra_keys }) = prefix_cache else { return Ok(Some(CacheScope::default())) };
    let num_bytes = extra_keys.iter().chain([salt]).map(String::len).sum::<usize>();
    if num_bytes > MAX_CACHE_KEY_BYTES {
        let size = format!("{num_bytes} bytes long in all");
        return refuse("prefix_cache", size, format!("at most {MAX_CACHE_KEY_BYTES} are possible"));
    }
    Ok((!bypass).then(|| CacheScope { salt: salt.clone(), extra_keys: extra_keys.clone() }))
}

fn sampling(sampling: &Sampling, vocab_size: usize, fresh_seed: u64) -> Result<SamplingParams, Refusal> {
    let within = |field, value: Option<f32>, default, expected: &str, is_right: fn(f32) -> bool| {
        let value = value.unwrap_or(default);
        if value.is_finite() && is_right(value) {
            Ok(value)
        } else {
            refuse(field, value, format!("it must be {expected}"))
        }
    };
    let symmetric = |value: f32| (-2.0..=2.0).contains(&value);
    for (token, bias) in &sampling.logit_bias {
        check_token("logit_bias token id", *token, vocab_size)?;
        within("logit_bias", Some(*bias), 0.0, "from -100 to 100", |bias| (-100.0..=100.0).contains(&bias))?;
    }
    Ok(SamplingParams {
        temperature: within("temperature", sampling.temperature, 1.0, "0 or greater", |value| value >= 0.0)?,
        top_p: within("top_p", sampling.top_p, 1.0, "greater than 0 and at most 1", |p| p > 0.0 && p <= 1.0)?,
        top_k: sampling.top_k.filter(|count| *count > 0).map(|count| count as usize),
        min_p: within("min_p", sampling.min_p, 0.0, "from 0 to 1", |value| (0.0..=1.0).contains(&value))?,
        presence_penalty: within("presence_penalty", sampling.presence_penalty, 0.0, "from -2 to 2", symmetric)?,
        frequency_penalty: within("frequency_penalty", sampling.frequency_penalty, 0.0, "from -2 to 2", symmetric)?,
        repetition_penalty: within(
            "repetition_penalty",
            sampling.repetition_penalty,
            1.0,
            "greater than 0",
            |value| value > 0.0,
        )?,
        logit_bias: sampling.logit_bias.iter().map(|(token, bias)| (*token, *bias)).collect(),
        seed: sampling.seed.unwrap_or(fresh_seed),
        logprobs: None,
    })
}

fn check_stopping(stopping: &Stopping, vocab_size: usize) -> Result<(), Refusal> {
    if stopping.max_tokens == Some(0) {
        return refuse("max_tokens", 0, "it must be at least 1".to_owned());
    }
    let Stopping { stop_strings, stop_token_ids, .. } = stopping;
    if stop_strings.len() > MAX_STOP_STRINGS {
        return refuse(
            "number of stop_strings",
            stop_strings.len(),
            format!("at most {MAX_STOP_STRINGS} are possible"),
        );
    }
    if stop_token_ids.len() > MAX_STOP_TOKENS {
        return refuse(
            "number of stop_token_ids",
            stop_token_ids.len(),
            format!("at most {MAX_STOP_TOKENS} are possible"),
        );
    }
    for stop in stop_strings {
        if stop.is_empty() {
            return refuse("a stop string", "\"\"", "it must not be empty".to_owned());
        }
        if stop.len() > MAX_STOP_STRING_BYTES {
            let size = format!("{} bytes long", stop.len());
            return refuse("a stop string", size, format!("at most {MAX_STOP_STRING_BYTES} are possible"));
        }
    }
    stop_token_ids.iter().try_for_each(|token| check_token("stop_token_ids", *token, vocab_size))
}

/// Checks a token id against the vocabulary.
///
/// # Errors
/// [`Refusal::Field`] naming `field`.
pub fn check_token(field: &'static str, token: u32, vocab_size: usize) -> Result<(), Refusal> {
    if (token as usize) < vocab_size {
        return Ok(());
    }
    refuse(field, token, format!("the vocabulary has {vocab_size} tokens"))
}

fn refuse<T>(field: &'static str, value: impl Display, expected: String) -> Result<T, Refusal> {
    Err(Refusal::Field { field, value: value.to_string(), expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl FnOnce(&mut GenerateRequest)) -> String {
        let mut request = GenerateRequest {
            sampling: Some(Sampling::default()),
            stopping: Some(Stopping::default()),
            ..GenerateRequest::default()
        };
        change(&mut request);
        generation(&request, 100, 1).unwrap_err().to_string()
    }

    fn sampling_refusal(change: impl FnOnce(&mut Sampling)) -> String {
        refusal(|request| change(request.sampling.as_mut().unwrap()))
    }

    fn stopping_refusal(change: impl FnOnce(&mut Stopping)) -> String {
        refusal(|request| change(request.stopping.as_mut().unwrap()))
    }

    #[test]
    fn an_empty_request_gets_the_defaults() {
        let generation = generation(&GenerateRequest::default(), 100, 77).unwrap();
        assert_eq!(generation.num_sequences, 1);
        assert_eq!(generation.max_tokens, None);
        assert_eq!(generation.sampling, SamplingParams { temperature: 1.0, seed: 77, ..SamplingParams::default() });
    }

    #[test]
    fn refuses_sampling_out_of_range() {
        assert_eq!(sampling_refusal(|s| s.temperature = Some(-0.5)), "temperature is -0.5, it must be 0 or greater");
        assert_eq!(sampling_refusal(|s| s.temperature = Some(f32::NAN)), "temperature is NaN, it must be 0 or greater");
        assert_eq!(sampling_refusal(|s| s.top_p = Some(0.0)), "top_p is 0, it must be greater than 0 and at most 1");
        assert_eq!(sampling_refusal(|s| s.min_p = Some(1.5)), "min_p is 1.5, it must be from 0 to 1");
        assert_eq!(
            sampling_refusal(|s| s.presence_penalty = Some(3.0)),
            "presence_penalty is 3, it must be from -2 to 2"
        );
        assert_eq!(
            sampling_refusal(|s| s.frequency_penalty = Some(f32::INFINITY)),
            "frequency_penalty is inf, it must be from -2 to 2"
        );
        assert_eq!(
            sampling_refusal(|s| s.repetition_penalty = Some(0.0)),
            "repetition_penalty is 0, it must be greater than 0"
        );
    }

    #[test]
    fn prefixes_are_shared_within_a_salt_unless_a_request_keeps_out() {
        let shared = |prefix_cache| {
            let request = GenerateRequest { prefix_cache, ..GenerateRequest::default() };
            generation(&request, 100, 1).unwrap().prefix_cache
        };
        assert_eq!(shared(None), Some(CacheScope::default()));
        assert_eq!(shared(Some(PrefixCache { bypass: true, ..PrefixCache::default() })), None);
        let salted = shared(Some(PrefixCache { salt: "tenant".to_owned(), ..PrefixCache::default() }));
        assert_eq!(salted.unwrap().salt, "tenant");
        let long = Some(PrefixCache { salt: "x".repeat(70_000), ..PrefixCache::default() });
        assert_eq!(
            refusal(|r| r.prefix_cache = long),
            "prefix_cache is 70000 bytes long in all, at most 65536 are possible"
        );
    }

    #[test]
    fn refuses_tokens_outside_of_the_vocabulary() {
        let bias = sampling_refusal(|s| s.logit_bias = [(100, 1.0)].into());
        assert_eq!(bias, "logit_bias token id is 100, the vocabulary has 100 tokens");
        let bias = sampling_refusal(|s| s.logit_bias = [(1, 101.0)].into());
        assert_eq!(bias, "logit_bias is 101, it must be from -100 to 100");
        let stop = stopping_refusal(|s| s.stop_token_ids = vec![5, 1000]);
        assert_eq!(stop, "stop_token_ids is 1000, the vocabulary has 100 tokens");
    }

    #[test]
    fn refuses_more_sequences_than_there_are_places() {
        assert_eq!(fits(4, 3).unwrap_err().to_string(), "n is 4, at most 3 are possible");
        fits(3, 3).unwrap();
    }

    #[test]
    fn refuses_what_is_too_much_or_too_little() {
        assert_eq!(refusal(|r| r.n = 9), "n is 9, at most 8 are possible");
        assert_eq!(refusal(|r| r.logprobs = Some(21)), "logprobs is 21, at most 20 are possible");
        assert_eq!(stopping_refusal(|s| s.max_tokens = Some(0)), "max_tokens is 0, it must be at least 1");
        assert_eq!(
            stopping_refusal(|s| s.stop_strings = vec![String::new()]),
            "a stop string is \"\", it must not be empty"
        );
        assert_eq!(
            stopping_refusal(|s| s.stop_strings = vec!["x".to_owned(); 17]),
            "number of stop_strings is 17, at most 16 are possible"
        );
    }
}
