//! One request on its way, from tokens to messages for its client.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kindling_engine::{FinishReason as Ended, Logprobs, PlannedSequence, Sampled};
use kindling_models::Tokenizer;
use kindling_proto::v1::delta::Kind;
use kindling_proto::v1::generate_response::Event;
use kindling_proto::v1::{Delta, Finish, FinishReason, PromptInfo, TokenLogprob, TopLogprob, Usage};
use tonic::Status;

use crate::admission::Admitted;
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::reasoning::{Parts, Reading, ReasoningSplit};
use crate::text::OutputText;

/// A request between its first step and its last message.
pub struct LiveRequest {
    admitted: Admitted,
    outbox: Outbox,
    tokenizer: Arc<Tokenizer>,
    prompt_info: PromptInfo,
    is_prompt_told: bool,
    arrived: Instant,
    sequences: Vec<LiveSequence>,
    /// Made, but not sent yet.
    pending: Vec<Event>,
}

/// What a request brings along.
pub struct Arrival {
    /// Its place.
    pub admitted: Admitted,
    /// To its client.
    pub outbox: Outbox,
    /// Completions wanted.
    pub num_sequences: u32,
    /// What the client is told of its prompt, all but the cached tokens.
    pub prompt_info: PromptInfo,
    /// End a completion.
    pub stop_strings: Vec<String>,
    /// How the answers begin.
    pub reading: Reading,
    /// When it came.
    pub arrived: Instant,
}

struct LiveSequence {
    text: OutputText,
    split: ReasoningSplit,
    completion_tokens: u32,
    reasoning_tokens: u32,
    draft_tokens: u32,
    accepted_draft_tokens: u32,
    first_step: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    is_finished: bool,
}

/// Why a completion ended, in the contract's words.
struct Ending {
    reason: FinishReason,
    stop_string: Option<String>,
    stop_token_id: Option<u32>,
}

impl LiveSequence {
    /// The text of a token as reasoning, content or both, in this order; at least one, which may be empty.
    fn parted(&mut self, text: &str, is_end: bool) -> Vec<Kind> {
        let was_reasoning = self.split.is_reasoning();
        let Parts { mut reasoning, mut content } = self.split.push(text);
        if is_end {
            let rest = self.split.finish();
            reasoning.push_str(&rest.reasoning);
            content.push_str(&rest.content);
        }
        let is_reasoning = was_reasoning || self.split.is_reasoning();
        self.reasoning_tokens += u32::from(is_reasoning);
        let mut kinds = Vec::new();
        if !reasoning.is_empty() || (is_reasoning && content.is_empty()) {
            kinds.push(Kind::Reasoning(reasoning));
        }
        if !content.is_empty() || kinds.is_empty() {
            kinds.push(Kind::Content(content));
        }
        kinds
    }
}

impl LiveRequest {
    /// Has no tokens yet.
    pub fn new(arrival: Arrival, tokenizer: &Arc<Tokenizer>) -> Self {
        let Arrival { admitted, outbox, num_sequences, prompt_info, stop_strings, reading, arrived } = arrival;
        let sequence = |_| LiveSequence {
            text: OutputText::new(tokenizer, &stop_strings),
            split: ReasoningSplit::new(reading),
            completion_tokens: 0,
            reasoning_tokens: 0,
            draft_tokens: 0,
            accepted_draft_tokens: 0,
            first_step: None,
            first_token: None,
            last_token: None,
            is_finished: false,
        };
        let sequences = (0..num_sequences).map(sequence).collect();
        let (tokenizer, pending) = (Arc::clone(tokenizer), Vec::new());
        Self { admitted, outbox, tokenizer, prompt_info, is_prompt_told: false, arrived, sequences, pending }
    }

    /// Name for logs.
    pub fn name(&self) -> &str {
        &self.admitted.name
    }

    /// A step has tokens of a completion; the first one ends its time in the queue.
    pub fn is_scheduled(&mut self, planned: &PlannedSequence, now: Instant, metrics: &Metrics) {
        let sequence = &mut self.sequences[planned.id.index as usize];
        if sequence.first_step.is_some() {
            return;
        }
        sequence.first_step = Some(now);
        metrics.request_queue_seconds.observe((now - self.arrived).as_secs_f64());
        // Of the first completion: what the others find in the cache it has put there itself.
        if planned.id.index == 0 {
            self.prompt_info.cached_tokens = u32::try_from(planned.cached_tokens).unwrap_or(u32::MAX);
        }
        self.tell_prompt();
    }

    /// Tells the client that its request is in, and what is known of its prompt; once.
    pub fn tell_prompt(&mut self) {
        if !std::mem::replace(&mut self.is_prompt_told, true) {
            self.outbox.send(Event::Prompt(self.prompt_info));
        }
    }

    /// Takes in how many tokens were guessed ahead, and how many of them were right.
    pub fn guessed(&mut self, index: u32, num_drafts: usize, num_accepted: usize) {
        let sequence = &mut self.sequences[index as usize];
        sequence.draft_tokens += num_drafts as u32;
        sequence.accepted_draft_tokens += num_accepted as u32;
    }

    /// Takes a token. Returns true if its text holds a stop string, so that the engine must end the completion.
    pub fn token(&mut self, index: u32, sampled: Sampled, ended: Option<Ended>, metrics: &Metrics) -> bool {
        // Guesses that were right come several at a time, also after a stop string.
        if self.sequences[index as usize].is_finished {
            return false;
        }
        let Sampled { token_id, logprobs } = sampled;
        self.measure(index, Instant::now(), metrics);
        let sequence = &mut self.sequences[index as usize];
        let is_stop_token = matches!(ended, Some(Ended::Stop { token_id: Some(_) }));
        let is_last_of_text = matches!(ended, Some(Ended::Length | Ended::Stop { token_id: None }));
        // The token that ends a completion is no part of its text.
        let mut released = if is_stop_token { sequence.text.finish() } else { sequence.text.push(token_id) };
        if is_last_of_text && released.stop.is_none() {
            let rest = sequence.text.finish();
            released.text.push_str(&rest.text);
            released.stop = rest.stop;
        }
        let kinds = sequence.parted(&released.text, released.stop.is_some() || ended.is_some());
        let mut logprobs: Vec<_> =
            logprobs.map(|logprobs| self.token_logprob(token_id, &logprobs)).into_iter().collect();
        let mut token_ids = vec![token_id];
        for kind in kinds {
            // The token goes with the first of the parts that it completes.
            let (token_ids, logprobs) = (std::mem::take(&mut token_ids), std::mem::take(&mut logprobs));
            self.pending.push(Event::Delta(Delta { index, kind: Some(kind), token_ids, logprobs }));
        }
        let is_stop_string = released.stop.is_some();
        let ending = match (released.stop, ended) {
            (Some(stop), _) => Some((FinishReason::Stop, Some(stop), None)),
            (None, Some(Ended::Stop { token_id })) => Some((FinishReason::Stop, None, token_id)),
            (None, Some(Ended::Length)) => Some((FinishReason::Length, None, None)),
            (None, None) => None,
        };
        if let Some((reason, stop_string, stop_token_id)) = ending {
            self.finish(index, Ending { reason, stop_string, stop_token_id }, metrics);
        }
        is_stop_string && ended.is_none()
    }

    /// Sends what was made since the last time; returns `None` once that was the last of it.
    pub fn flush(mut self) -> Option<Self> {
        self.tell_prompt();
        let is_finished = self.sequences.iter().all(|sequence| sequence.is_finished);
        if !is_finished {
            self.pending.drain(..).for_each(|event| self.outbox.send(event));
            return Some(self);
        }
        // The place is free before the client knows: its next request finds it so.
        drop(self.admitted);
        self.pending.drain(..).for_each(|event| self.outbox.send(event));
        self.outbox.close();
        None
    }

    /// Ends what has not ended, by order of an operator or because the runtime ends.
    pub fn abort(mut self, metrics: &Metrics) {
        for index in 0..self.sequences.len() as u32 {
            if !self.sequences[index as usize].is_finished {
                let ending = Ending { reason: FinishReason::Aborted, stop_string: None, stop_token_id: None };
                self.finish(index, ending, metrics);
            }
        }
        let rest = self.flush();
        debug_assert!(rest.is_none(), "all completions should be finished");
    }

    /// Ends with an error.
    pub fn fail(self, error: Status, metrics: &Metrics) {
        self.count_unfinished("error", metrics);
        self.outbox.fail(error);
    }

    /// Ends without a word: the client is gone.
    pub fn hung_up(self, metrics: &Metrics) {
        self.count_unfinished("abort", metrics);
    }

    fn count_unfinished(&self, reason: &str, metrics: &Metrics) {
        let unfinished = self.sequences.iter().filter(|sequence| !sequence.is_finished).count();
        metrics.requests_total.with_label_values(&[reason]).inc_by(unfinished as u64);
    }

    fn measure(&mut self, index: u32, now: Instant, metrics: &Metrics) {
        let sequence = &mut self.sequences[index as usize];
        sequence.completion_tokens += 1;
        metrics.generation_tokens_total.inc();
        match sequence.last_token {
            Some(last) => metrics.inter_token_latency_seconds.observe((now - last).as_secs_f64()),
            None => metrics.time_to_first_token_seconds.observe((now - self.arrived).as_secs_f64()),
        }
        sequence.first_token.get_or_insert(now);
        sequence.last_token = Some(now);
    }

    fn finish(&mut self, index: u32, ending: Ending, metrics: &Metrics) {
        let Ending { reason, stop_string, stop_token_id } = ending;
        let label = match reason {
            FinishReason::Length => "length",
            FinishReason::Aborted => "abort",
            _ => "stop",
        };
        metrics.requests_total.with_label_values(&[label]).inc();
        self.sequences[index as usize].is_finished = true;
        let usage = Some(self.usage(index));
        self.pending.push(Event::Finish(Finish { index, reason: reason.into(), stop_string, stop_token_id, usage }));
    }

    fn usage(&self, index: u32) -> Usage {
        let sequence = &self.sequences[index as usize];
        let between = |from: Option<Instant>, to: Option<Instant>| {
            from.zip(to).map_or(Duration::ZERO, |(from, to)| to.saturating_duration_since(from)).as_secs_f64()
        };
        let queue_end = sequence.first_step.or(Some(Instant::now()));
        Usage {
            prompt_tokens: self.prompt_info.prompt_tokens,
            cached_tokens: self.prompt_info.cached_tokens,
            completion_tokens: sequence.completion_tokens,
            reasoning_tokens: sequence.reasoning_tokens,
            queue_seconds: between(Some(self.arrived), queue_end),
            prefill_seconds: between(sequence.first_step, sequence.first_token),
            decode_seconds: between(sequence.first_token, sequence.last_token),
            draft_tokens: sequence.draft_tokens,
            accepted_draft_tokens: sequence.accepted_draft_tokens,
        }
    }

    fn token_logprob(&self, token_id: u32, logprobs: &Logprobs) -> TokenLogprob {
        let bytes = |token| self.tokenizer.token_bytes(token).map(<[u8]>::to_vec).unwrap_or_default();
        let top = logprobs.top.iter().map(|(token_id, logprob)| TopLogprob {
            token_id: *token_id,
            logprob: *logprob,
            token: bytes(*token_id),
        });
        TokenLogprob { token_id, logprob: logprobs.chosen, token: bytes(token_id), top: top.collect() }
    }
}
