//! A model driven by hand: the engine plans, the backend computes, and nothing else happens. No text, no sampling, no
//! service. What `kindling bench --raw` measures, to be held against tools that measure the same.

use std::sync::Arc;
use std::time::Instant;

use kindling_engine::{AddError, Request, RequestId, Sampled, SamplingParams};
use kindling_kernels::ExecuteError;
use kindling_models::TokenizerError;

use crate::config::RuntimeConfig;
use crate::engine_loop::EngineLoop;
use crate::error::LoadError;
use crate::load::load;
use crate::memory::Ungated;
use crate::shared::Shared;
use crate::step::to_step;
use crate::summary::Summary;

/// A prepared model on the caller's thread.
pub struct RawModel {
    parts: EngineLoop,
    summary: Summary,
    logits: Vec<f32>,
    next_id: u64,
}

/// Why a model could not be driven.
#[derive(Debug, thiserror::Error)]
pub enum RawError {
    /// The engine takes no such prompt.
    #[error("give a prompt to the engine")]
    Add(#[from] AddError),
    /// The backend refused a step.
    #[error("compute a step")]
    Execute(#[from] ExecuteError),
}

impl RawModel {
    /// Opens and prepares a model; returns when it is ready.
    ///
    /// # Errors
    /// [`LoadError`] naming what could not be opened, configured or prepared.
    pub fn open(config: RuntimeConfig) -> Result<Self, LoadError> {
        let backend = config.backend.make(&config);
        let shared = Arc::new(Shared::new(config, Arc::new(Ungated::default()), &*backend));
        let parts = load(&shared, &*backend)?;
        let summary = Summary::new(&shared).expect("a loaded model should have a summary");
        Ok(Self { parts, summary, logits: Vec::new(), next_id: 0 })
    }

    /// What it is and costs.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Token ids of a text, with what the tokenizer adds by itself.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.parts.tokenizer.encode(text, true, true)
    }

    /// Continues all prompts together by `max_tokens` tokens each, and tells when each token came. The tokens are made
    /// up, not chosen from the logits, which are computed all the same. `None` if `is_cancelled` says so, which is
    /// asked before every step.
    ///
    /// # Errors
    /// [`RawError`] if a prompt does not fit or a step is refused; the model cannot be used afterwards.
    pub fn generate(
        &mut self,
        prompts: Vec<Vec<u32>>,
        max_tokens: usize,
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<Vec<Instant>>>, RawError> {
        let first_id = self.next_id;
        let mut times = vec![Vec::with_capacity(max_tokens); prompts.len()];
        for prompt in prompts {
            self.parts.engine.add(request(self.next_id, prompt, max_tokens))?;
            self.next_id += 1;
        }
        while !self.parts.engine.is_idle() {
            if is_cancelled() {
                (first_id..self.next_id).for_each(|id| {
                    self.parts.engine.abort(RequestId(id));
                });
                return Ok(None);
            }
            let plan = self.parts.engine.plan_step();
            self.parts.model.execute(&to_step(&plan), &mut self.logits)?;
            let now = Instant::now();
            let mut sampled = Vec::new();
            for planned in plan.wanting_logits() {
                let index = usize::try_from(planned.id.request.0 - first_id).expect("ids should be few");
                let made_up = (times[index].len() * 31 + index * 7) % self.parts.vocab_size;
                times[index].push(now);
                let token_id = u32::try_from(made_up).expect("a vocabulary should fit 32 bits");
                sampled.push(Ok(Sampled { token_id, logprobs: None }));
            }
            self.parts.engine.complete(&plan, sampled);
        }
        Ok(Some(times))
    }
}

fn request(id: u64, prompt: Vec<u32>, max_tokens: usize) -> Request {
    Request {
        id: RequestId(id),
        prompt: prompt.into(),
        num_sequences: 1,
        max_tokens,
        stop_token_ids: Vec::new(),
        ignore_eos: true,
        priority: 0,
        // Each run is to compute all of it.
        prefix_cache: None,
        speculate: false,
        sampling: SamplingParams::default(),
    }
}
