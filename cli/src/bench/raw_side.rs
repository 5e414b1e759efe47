//! The backend's steps alone: no sampling, no text, no gRPC.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::bail;
use kindling_runtime::RawModel;
use tokio_util::sync::CancellationToken;

use crate::bench::record::Record;
use crate::bench::side::Work;

/// A model driven by hand, on whichever thread has it.
#[derive(Clone)]
pub struct RawSide {
    model: Arc<Mutex<RawModel>>,
    /// Asked before every step: the thread that computes cannot be interrupted otherwise.
    interrupted: CancellationToken,
}

impl RawSide {
    /// Of a prepared model.
    pub fn new(model: RawModel, interrupted: CancellationToken) -> Self {
        Self { model: Arc::new(Mutex::new(model)), interrupted }
    }

    /// Token ids of a text, with what the tokenizer adds by itself.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn tokenize(&self, text: &str) -> anyhow::Result<Vec<u32>> {
        Ok(self.model.lock().unwrap_or_else(PoisonError::into_inner).tokenize(text)?)
    }

    /// As [`crate::bench::side::Side::run`].
    pub async fn run(&self, work: &Work) -> anyhow::Result<Vec<Record>> {
        let prompts: Vec<Vec<u32>> = work.prompts.iter().map(|prompt| prompt.token_ids.clone()).collect();
        let sizes: Vec<usize> = prompts.iter().map(Vec::len).collect();
        let (model, interrupted, max_tokens) = (Arc::clone(&self.model), self.interrupted.clone(), work.max_tokens);
        let computed = tokio::task::spawn_blocking(move || {
            let mut model = model.lock().unwrap_or_else(PoisonError::into_inner);
            let started = Instant::now();
            model.generate(prompts, max_tokens, &|| interrupted.is_cancelled()).map(|times| (started, times))
        });
        let (started, times) = computed.await??;
        let Some(times) = times else { bail!("interrupted") };
        let record = |(times, size): (Vec<Instant>, usize)| Record {
            started,
            prompt_tokens: size as u64,
            cached_tokens: None,
            completion_tokens: times.len() as u64,
            pieces: times.into_iter().map(|at| (at, 1.0)).collect(),
        };
        Ok(times.into_iter().zip(sizes).map(record).collect())
    }
}
