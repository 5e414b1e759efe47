//! The OpenAI API as a client sees it, against a fake runtime behind real gRPC.

#[path = "common/fake_runtime.rs"]
mod fake_runtime;
#[path = "common/harness.rs"]
mod harness;

mod openai_chat;
mod openai_cluster;
mod openai_completions;
mod openai_errors;
mod openai_hang_ups;
mod openai_models;
mod openai_parameters;
