//! `POST /v1/completions`.

mod chunks;
mod completion;

use axum::extract::{Request, State};
use axum::response::Response;
use serde::Deserialize;

use super::call::{self, Incoming};
use super::params::check;
use super::prompt::{self, Prompt};
use super::sse;
use crate::error::ApiError;
use crate::router::App;

/// OpenAI's own limit for this endpoint.
const MAX_LOGPROBS: u32 = 5;

/// The endpoint's own fields, as on the wire.
#[derive(Deserialize, Debug)]
struct Body {
    #[serde(default)]
    prompt: Option<Prompt>,
    #[serde(default)]
    logprobs: Option<u32>,
    #[serde(default)]
    echo: Option<bool>,
    #[serde(default)]
    best_of: Option<u32>,
    #[serde(default)]
    suffix: Option<String>,
}

/// Continues a text, or several, as one object or as a stream.
pub async fn create(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let Incoming { params, own, record } = call::receive::<Body>(&app, request).await?;
    own.refuse_unsupported(params.n)?;
    let Body { prompt, logprobs, .. } = own;
    let prompt = prompt.ok_or_else(|| ApiError::invalid("prompt", "is required"))?;
    let incoming = Incoming { params, own: prompt::inputs(prompt)?, record };
    let answer = call::start(&app, incoming, "cmpl-", logprobs)?;
    if answer.is_stream {
        let chunks = chunks::TextChunks::new(answer.num_choices, logprobs.is_some());
        sse::respond(answer, chunks).await
    } else {
        completion::collect(answer, logprobs.is_some()).await
    }
}

impl Body {
    fn refuse_unsupported(&self, n: u32) -> Result<(), ApiError> {
        let logprobs = self.logprobs.unwrap_or(0);
        check("logprobs", logprobs, logprobs <= MAX_LOGPROBS, "from 0 to 5")?;
        if self.echo == Some(true) {
            return Err(ApiError::invalid("echo", "is not supported yet"));
        }
        if self.best_of.is_some_and(|best_of| best_of != n) {
            return Err(ApiError::invalid("best_of", "is not supported unless it equals n"));
        }
        if self.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
            return Err(ApiError::invalid("suffix", "is not supported"));
        }
        Ok(())
    }
}
