//! The gRPC inference service around the engine.
//!
//! A [`Runtime`] loads one model on a thread that then computes for all requests; services check what clients send,
//! make prompts into tokens and tokens into text. `kindling runtime` serves it on sockets ([`serve`]), `kindling up`
//! in process ([`Runtime::connect_in_process`]).
//!
//! This crate knows no HTTP API, no Kubernetes and no arithmetic.

pub mod config;
pub mod error;
pub mod memory;
mod runtime;
mod server;

mod admission;
mod decode_reads;
mod health;
mod load;
mod loaded_model;
pub mod metrics;
pub mod raw;
mod shared;
mod summary;
mod throttle;

mod prompt;
mod reasoning;
mod refusal;
mod service;
mod validate;

mod engine_loop;
pub mod grammar;
mod live_request;
mod outbox;
pub mod script;
mod step;
mod stop_strings;
mod text;

pub use config::{BackendKind, RuntimeConfig};
pub use decode_reads::DecodeReads;
pub use error::{LoadError, RuntimeError, ServeError, error_chain};
pub use kindling_kernels::KvType;
pub use kindling_models::{ModelFacts, Remainder};
pub use raw::RawModel;
pub use runtime::Runtime;
pub use script::{Script, ScriptError};
pub use server::{Listeners, serve};
pub use summary::{Summary, facts};
