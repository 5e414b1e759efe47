//! Models as data: weight readers, one file per architecture, tokenizer, chat template.
//!
//! [`open`] turns a checkpoint into a [`ModelSpec`], which is lowered to a `kindling_kernels::Plan`, and what is
//! needed to talk to it: a [`Tokenizer`] and a [`ChatTemplate`]. Everything here takes files that nobody has
//! vouched for; damaged ones are refused with the name and place of what is wrong.
//!
//! This crate computes nothing and knows no requests, no network, no Kubernetes.

pub mod read_at;

pub mod gguf;
pub mod safetensors;

pub mod spec;

pub mod architecture;
pub mod decoder;
pub mod gemma4;
pub mod gpt_oss;
pub mod llama;
pub mod mistral;
pub mod qwen2;
pub mod qwen3;
pub mod qwen3_5;
pub mod qwen3_moe;
pub mod qwen3_next;

mod element_slices;
mod lower;

pub mod chat_template;
pub mod dialect;
pub mod tokenizer;

mod open;
mod stored;

pub mod perplexity;
pub mod quantize;
pub mod remainder;

pub use chat_template::{ChatTemplate, Message, RenderInput, TemplateError, map_texts};
pub use dialect::Dialect;
pub use open::{ModelFacts, OpenError, OpenModel, OpenWeights, open, open_weights};
pub use remainder::Remainder;
pub use spec::ModelSpec;
pub use stored::{StoredCheckpoint, StoredDescription, StoredTensor, read_stored};
pub use tokenizer::{SpecialTokens, TokenStream, Tokenizer, TokenizerError};
