//! The OpenAI API as a client sees it, against a fake runtime behind real gRPC.

#[path = "common/fake_runtime.rs"]
mod fake_runtime;
#[path = "common/harness.rs"]
mod harness;
#[path = "../../runtime/tests/common/tiny_model.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "a test may panic, and uses some of it")]
mod tiny_model;

mod openai_activation;
mod openai_chat;
mod openai_cluster;
mod openai_completions;
mod openai_copies;
mod openai_errors;
mod openai_hang_ups;
mod openai_models;
mod openai_parameters;
mod openai_scripted;
mod openai_structured;
