//! The OpenAI API: one endpoint a file, and what they share.

pub mod chat;
pub mod completions;
mod call;
mod logprobs;
mod message;
pub mod models;
mod one_or_many;
mod params;
mod prompt;
mod sse;
mod usage;
