//! Counting tokens and the time between them, for usage, timings and metrics.

use std::sync::Arc;
use std::time::Instant;

use kindling_proto::v1::{PromptInfo, Usage};

use crate::observe::Record;

/// Counts over all choices of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    pub prompt_tokens: u32,
    pub cached_tokens: u32,
    pub completion_tokens: u32,
    pub reasoning_tokens: u32,
    /// Guessed ahead, and how many of these were right.
    pub draft_tokens: u32,
    pub accepted_draft_tokens: u32,
    /// The longest of the choices: they run side by side.
    pub prefill_seconds: f64,
    pub decode_seconds: f64,
}

/// The running count. What it has seen goes to the metrics even if the client leaves in between.
pub struct Tokens {
    record: Arc<Record>,
    totals: Totals,
    /// Prompts whose numbers are in the totals; the choices of one prompt all repeat them.
    counted_prompts: Vec<u32>,
    /// When each choice last grew.
    last_content: Vec<Option<Instant>>,
    has_content: bool,
    prompt_seen: u32,
    generated_seen: u32,
}

impl Tokens {
    pub fn new(record: Arc<Record>, num_choices: u32) -> Self {
        Self {
            record,
            totals: Totals::default(),
            counted_prompts: Vec::new(),
            last_content: vec![None; num_choices as usize],
            has_content: false,
            prompt_seen: 0,
            generated_seen: 0,
        }
    }

    pub fn prompt(&mut self, info: &PromptInfo) {
        self.prompt_seen += info.prompt_tokens;
    }

    pub fn delta(&mut self, choice: u32, num_tokens: usize, has_text: bool) {
        self.generated_seen += num_tokens as u32;
        if !has_text {
            return;
        }
        let Record { metrics, started, route, .. } = &*self.record;
        let labels = [*route, self.record.model()];
        let now = Instant::now();
        if !self.has_content {
            self.has_content = true;
            metrics.time_to_first_token.with_label_values(&labels).observe((now - *started).as_secs_f64());
        }
        if let Some(before) = self.last_content[choice as usize].replace(now) {
            metrics.inter_token_latency.with_label_values(&labels).observe((now - before).as_secs_f64());
        }
    }

    pub fn finish(&mut self, prompt: u32, usage: Usage) {
        let totals = &mut self.totals;
        if !self.counted_prompts.contains(&prompt) {
            self.counted_prompts.push(prompt);
            totals.prompt_tokens += usage.prompt_tokens;
            totals.cached_tokens += usage.cached_tokens;
        }
        totals.completion_tokens += usage.completion_tokens;
        totals.reasoning_tokens += usage.reasoning_tokens;
        totals.draft_tokens += usage.draft_tokens;
        totals.accepted_draft_tokens += usage.accepted_draft_tokens;
        totals.prefill_seconds = totals.prefill_seconds.max(usage.prefill_seconds);
        totals.decode_seconds = totals.decode_seconds.max(usage.decode_seconds);
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        let labels = [self.record.model()];
        let metrics = &self.record.metrics;
        let prompt_tokens = self.prompt_seen.max(self.totals.prompt_tokens);
        let generated = self.generated_seen.max(self.totals.completion_tokens);
        metrics.prompt_tokens.with_label_values(&labels).inc_by(prompt_tokens.into());
        metrics.generation_tokens.with_label_values(&labels).inc_by(generated.into());
    }
}
