//! Who is measured: our engine in this process, or an OpenAI server over HTTP, ours or another.

use crate::bench::http_side::HttpSide;
use crate::bench::in_process_side::InProcessSide;
use crate::bench::prompt::Prompt;
use crate::bench::raw_side::RawSide;
use crate::bench::record::Record;

/// Streams that run together.
#[derive(Debug, Clone)]
pub struct Work {
    /// One per stream.
    pub prompts: Vec<Prompt>,
    /// Tokens that each stream generates.
    pub max_tokens: usize,
}

/// Clones ask the same one.
#[derive(Clone)]
pub enum Side {
    /// Through the engine loop and gRPC, without a socket: as `kindling up` does behind its gateway.
    InProcess(InProcessSide),
    /// As any client.
    Http(HttpSide),
    /// The backend's steps alone.
    Raw(RawSide),
}

impl Side {
    /// Runs all streams at the same time; dropped, it ends them.
    ///
    /// # Errors
    /// If one of them fails.
    pub async fn run(&self, work: &Work) -> anyhow::Result<Vec<Record>> {
        match self {
            Self::InProcess(side) => side.run(work).await,
            Self::Http(side) => side.run(work).await,
            Self::Raw(side) => side.run(work).await,
        }
    }
}
