//! How many tokens, how fast: `usage` as OpenAI has it, `timings` as llama.cpp has it.

use serde::Serialize;

use crate::generate::Totals;

/// OpenAI's `usage`.
#[derive(Serialize)]
pub struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[derive(Serialize)]
struct PromptDetails {
    cached_tokens: u32,
}

#[derive(Serialize)]
struct CompletionDetails {
    reasoning_tokens: u32,
    /// These two only where tokens were guessed ahead. Unlike OpenAI's, the rejected ones cost nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted_prediction_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected_prediction_tokens: Option<u32>,
}

impl From<&Totals> for Usage {
    fn from(totals: &Totals) -> Self {
        let Totals { draft_tokens: drafted, accepted_draft_tokens: accepted, .. } = *totals;
        Self {
            prompt_tokens: totals.prompt_tokens,
            completion_tokens: totals.completion_tokens,
            total_tokens: totals.prompt_tokens + totals.completion_tokens,
            prompt_tokens_details: PromptDetails { cached_tokens: totals.cached_tokens },
            completion_tokens_details: CompletionDetails {
                reasoning_tokens: totals.reasoning_tokens,
                accepted_prediction_tokens: (drafted > 0).then_some(accepted),
                rejected_prediction_tokens: (drafted > 0).then_some(drafted.saturating_sub(accepted)),
            },
        }
    }
}

/// llama.cpp's `timings`, from which Open WebUI shows tokens per second. Measured in the runtime.
/// `prompt_n` counts the tokens that were computed, `cache_n` those that the prefix cache had.
#[derive(Serialize)]
pub struct Timings {
    cache_n: u32,
    prompt_n: u32,
    prompt_ms: f64,
    prompt_per_token_ms: f64,
    prompt_per_second: f64,
    predicted_n: u32,
    predicted_ms: f64,
    predicted_per_token_ms: f64,
    predicted_per_second: f64,
}

impl From<&Totals> for Timings {
    fn from(totals: &Totals) -> Self {
        let prompt_n = totals.prompt_tokens.saturating_sub(totals.cached_tokens);
        let (prompt_s, predicted_s) = (totals.prefill_seconds, totals.decode_seconds);
        Self {
            cache_n: totals.cached_tokens,
            prompt_n,
            prompt_ms: rounded(prompt_s * 1e3),
            prompt_per_token_ms: ratio(prompt_s * 1e3, prompt_n.into()),
            prompt_per_second: ratio(prompt_n.into(), prompt_s),
            predicted_n: totals.completion_tokens,
            predicted_ms: rounded(predicted_s * 1e3),
            predicted_per_token_ms: ratio(predicted_s * 1e3, totals.completion_tokens.into()),
            predicted_per_second: ratio(totals.completion_tokens.into(), predicted_s),
        }
    }
}

/// 0 where nothing was measured: JSON has no infinity.
fn ratio(above: f64, below: f64) -> f64 {
    if below > 0.0 { rounded(above / below) } else { 0.0 }
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_finite_even_if_nothing_was_measured() {
        let timings = serde_json::to_value(Timings::from(&Totals::default())).unwrap();
        assert!(timings.as_object().unwrap().values().all(|value| value.as_f64() == Some(0.0)));
    }

    #[test]
    fn guessed_tokens_are_told_only_where_there_are_any() {
        let details = |draft_tokens, accepted_draft_tokens| {
            let totals = Totals { draft_tokens, accepted_draft_tokens, ..Totals::default() };
            let usage = serde_json::to_value(Usage::from(&totals)).unwrap();
            usage["completion_tokens_details"].to_string()
        };
        assert_eq!(details(0, 0), r#"{"reasoning_tokens":0}"#);
        assert_eq!(
            details(9, 7),
            r#"{"reasoning_tokens":0,"accepted_prediction_tokens":7,"rejected_prediction_tokens":2}"#
        );
    }

    #[test]
    fn cached_tokens_do_not_count_as_computed() {
        let totals = Totals {
            prompt_tokens: 100,
            cached_tokens: 60,
            prefill_seconds: 0.5,
            completion_tokens: 10,
            decode_seconds: 2.0,
            ..Totals::default()
        };
        let timings = Timings::from(&totals);
        assert_eq!((timings.prompt_n, timings.prompt_per_second, timings.predicted_per_second), (40, 80.0, 5.0));
    }
}
