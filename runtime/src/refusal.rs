//! Why a request is not served, classified once into gRPC statuses.

use kindling_proto::{REFUSED_FIELD, STRUCTURED_OUTPUT};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::admission::AdmissionError;
use crate::error::{RuntimeError, error_chain};
use crate::grammar::GrammarError;

/// A request that is refused before anything is computed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// A field has a value that it cannot have.
    #[error("{field} is {value}, {expected}")]
    Field {
        /// Name in the contract.
        field: &'static str,
        /// What was sent.
        value: String,
        /// What would be right, as a clause: `it must be …`.
        expected: String,
    },
    /// No input, or one without any token.
    #[error("prompt is empty")]
    EmptyPrompt,
    /// No room for a single generated token.
    #[error("prompt has {prompt_tokens} tokens, the maximum context length is {max_model_len} tokens")]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens of prompt and output together.
        max_model_len: usize,
    },
    /// No room for it whatever its tokens are.
    #[error(
        "prompt has {bytes} bytes, the maximum context length of {max_model_len} tokens is at most {max_bytes} bytes"
    )]
    TextTooLong {
        /// Of the text.
        bytes: usize,
        /// If every token were the longest one.
        max_bytes: usize,
        /// Tokens of prompt and output together.
        max_model_len: usize,
    },
    /// The model's answers in chats have marks in them that are not read yet.
    #[error("this model answers chats in {answers}, which is not supported yet: only text completion is")]
    Dialect {
        /// What is in its answers.
        answers: &'static str,
    },
    /// The checkpoint has no chat template.
    #[error("this model has no chat template: send text or token ids")]
    NoChatTemplate,
    /// The template refuses these messages, or fails on them.
    #[error("{0}")]
    Template(String),
    /// The form asked for cannot be used.
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    /// The tokenizer failed.
    #[error("{0}")]
    Tokenizer(String),
    /// Too many requests, or one of the same name.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    /// Weights are still being read.
    #[error("model is loading, {loaded} of {total} MiB read")]
    Loading {
        /// MiB read so far.
        loaded: u64,
        /// MiB in all.
        total: u64,
    },
    /// No new requests are taken.
    #[error("the runtime is draining and takes no new requests")]
    Draining,
    /// The model cannot be served.
    #[error("{}", error_chain(.0))]
    Failed(RuntimeError),
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::Field { .. } | Refusal::EmptyPrompt | Refusal::NoChatTemplate => Code::InvalidArgument,
            Refusal::Template(_) | Refusal::Dialect { .. } => Code::InvalidArgument,
            Refusal::Admission(AdmissionError::DuplicateName { .. }) => Code::InvalidArgument,
            Refusal::Grammar(GrammarError::Form { .. }) => Code::InvalidArgument,
            Refusal::Grammar(GrammarError::Busy) => Code::ResourceExhausted,
            Refusal::PromptTooLong { .. } | Refusal::TextTooLong { .. } => Code::OutOfRange,
            Refusal::Admission(AdmissionError::Full { .. }) => Code::ResourceExhausted,
            Refusal::Loading { .. } | Refusal::Draining => Code::Unavailable,
            Refusal::Grammar(GrammarError::Impossible(_)) | Refusal::Tokenizer(_) | Refusal::Failed(_) => {
                Code::Internal
            }
        };
        let mut status = Self::new(code, refusal.to_string());
        if let Refusal::Grammar(GrammarError::Form { .. }) = refusal {
            let field = MetadataValue::from_static(STRUCTURED_OUTPUT);
            status.metadata_mut().insert(REFUSED_FIELD, field);
        }
        status
    }
}
