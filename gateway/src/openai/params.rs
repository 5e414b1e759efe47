//! The parameters that chat and text completions share, and what the runtime gets of them.
//!
//! Names and ranges are OpenAI's, plus vLLM's extensions. Unknown fields are accepted; what is known and can't be
//! honoured is refused.

use std::collections::{BTreeMap, HashMap};

use kindling_proto::v1::{Sampling, Stopping};
use serde::Deserialize;
use serde_json::Value;

use super::object::Object;
use super::one_or_many::StringOr;
use super::structured_output::{Form, ResponseFormat, StructuredOutputs, form};
use crate::error::ApiError;

const MAX_STOPS: usize = 4;
/// As many as the runtime makes of one prompt.
const MAX_CHOICES: u32 = 8;
const PENALTIES: std::ops::RangeInclusive<f32> = -2.0..=2.0;

/// As on the wire. Every field may be absent or null.
#[derive(Deserialize, Debug, Default)]
#[serde(default)]
pub struct Params {
    pub model: Option<String>,
    stream: Option<bool>,
    stream_options: Option<Object<StreamOptions>>,
    n: Option<u32>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    min_tokens: Option<u32>,
    stop: Option<StringOr<String>>,
    stop_token_ids: Option<Vec<u32>>,
    ignore_eos: Option<bool>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    min_p: Option<f32>,
    seed: Option<i64>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    repetition_penalty: Option<f32>,
    logit_bias: Option<HashMap<String, f32>>,
    response_format: Option<Object<ResponseFormat>>,
    structured_outputs: Option<Object<StructuredOutputs>>,
    guided_json: Option<Value>,
    guided_regex: Option<String>,
    guided_choice: Option<Vec<String>>,
    guided_grammar: Option<String>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct StreamOptions {
    include_usage: Option<bool>,
}

/// Parameters that can be carried out.
pub struct Valid {
    pub model: String,
    pub is_stream: bool,
    pub include_usage: bool,
    pub n: u32,
    pub sampling: Sampling,
    pub stopping: Stopping,
    pub form: Option<Form>,
}

impl Params {
    /// Checks every range.
    ///
    /// # Errors
    /// A 400 that names the field, its value and its range.
    pub fn validate(mut self) -> Result<Valid, ApiError> {
        let model = match &self.model {
            Some(model) if !model.is_empty() => model.clone(),
            _ => return Err(ApiError::invalid("model", "is required: the name of the model to use")),
        };
        let n = self.n.unwrap_or(1);
        check("n", n, (1..=MAX_CHOICES).contains(&n), "from 1 to 8")?;
        Ok(Valid {
            model,
            is_stream: self.stream.unwrap_or(false),
            include_usage: self.stream_options.as_ref().and_then(|options| options.0.include_usage).unwrap_or(false),
            n,
            sampling: self.sampling()?,
            stopping: self.stopping()?,
            form: self.form()?,
        })
    }

    /// What the output must look like, by whatever name it was asked for.
    fn form(&mut self) -> Result<Option<Form>, ApiError> {
        let guided = StructuredOutputs {
            json: self.guided_json.take(),
            regex: self.guided_regex.take(),
            choice: self.guided_choice.take(),
            grammar: self.guided_grammar.take(),
            ..StructuredOutputs::default()
        };
        form(self.response_format.take(), self.structured_outputs.take(), guided)
    }

    fn sampling(&self) -> Result<Sampling, ApiError> {
        in_range("temperature", self.temperature, 0.0..=2.0, "from 0 to 2")?;
        in_range("top_p", self.top_p, f32::MIN_POSITIVE..=1.0, "above 0 and at most 1")?;
        in_range("min_p", self.min_p, 0.0..=1.0, "from 0 to 1")?;
        in_range("presence_penalty", self.presence_penalty, PENALTIES, "from -2 to 2")?;
        in_range("frequency_penalty", self.frequency_penalty, PENALTIES, "from -2 to 2")?;
        in_range("repetition_penalty", self.repetition_penalty, f32::MIN_POSITIVE..=f32::MAX, "above 0")?;
        let top_k = self.top_k.unwrap_or(0);
        check("top_k", top_k, top_k >= -1 && top_k <= u32::MAX.into(), "-1 or 0 for all tokens, else a count")?;
        Ok(Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k.map(|top_k| u32::try_from(top_k).unwrap_or(0)),
            seed: self.seed.map(i64::cast_unsigned),
            min_p: self.min_p,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            repetition_penalty: self.repetition_penalty,
            logit_bias: self.logit_bias()?,
        })
    }

    fn logit_bias(&self) -> Result<BTreeMap<u32, f32>, ApiError> {
        let entry = |(token, bias): (&String, &f32)| {
            let id =
                token.parse().map_err(|_| ApiError::invalid("logit_bias", format!("'{token}' is not a token id")))?;
            check("logit_bias", bias, (-100.0..=100.0).contains(bias), "from -100 to 100")?;
            Ok((id, *bias))
        };
        self.logit_bias.iter().flatten().map(entry).collect()
    }

    fn stopping(&self) -> Result<Stopping, ApiError> {
        let (field, max_tokens) = match self.max_completion_tokens {
            Some(tokens) => ("max_completion_tokens", Some(tokens)),
            None => ("max_tokens", self.max_tokens),
        };
        check(field, 0, max_tokens != Some(0), "at least 1")?;
        let ignore_eos = self.ignore_eos.unwrap_or(false);
        // With ignore_eos nothing but max_tokens ends the text, so a minimum asks for nothing more.
        if self.min_tokens.unwrap_or(0) > 0 && !ignore_eos {
            return Err(ApiError::invalid("min_tokens", "is not supported yet without ignore_eos"));
        }
        let stop_strings = match &self.stop {
            None => Vec::new(),
            Some(StringOr::One(stop)) => vec![stop.clone()],
            Some(StringOr::Many(stops)) => stops.clone(),
        };
        check("stop", format!("{} sequences", stop_strings.len()), stop_strings.len() <= MAX_STOPS, "at most 4")?;
        if stop_strings.iter().any(String::is_empty) {
            return Err(ApiError::invalid("stop", "a stop sequence must not be empty"));
        }
        let stop_token_ids = self.stop_token_ids.clone().unwrap_or_default();
        Ok(Stopping { max_tokens, stop_strings, stop_token_ids, ignore_eos })
    }
}

fn in_range(
    field: &str,
    value: Option<f32>,
    range: std::ops::RangeInclusive<f32>,
    words: &str,
) -> Result<(), ApiError> {
    value.map_or(Ok(()), |value| check(field, value, range.contains(&value), words))
}

/// Says no in one form: `temperature: 9 is out of range: it must be from 0 to 2`.
pub fn check(field: &str, value: impl std::fmt::Display, is_valid: bool, words: &str) -> Result<(), ApiError> {
    if is_valid {
        return Ok(());
    }
    Err(ApiError::invalid(field, format!("{value} is out of range: it must be {words}")))
}
