//! The OpenAI API: one endpoint a file, and what they share.

mod call;
pub mod chat;
pub mod completions;
mod logprobs;
mod message;
pub mod models;
mod object;
mod one_or_many;
mod params;
mod prompt;
mod sse;
mod structured_output;
mod usage;
