//! The gRPC inference service around the engine.
//!
//! A [`Runtime`] loads one model on a thread that then computes for all requests; services check what clients send,
//! make prompts into tokens and tokens into text. `kindling runtime` serves it on sockets ([`serve`]), `kindling up`
//! in process ([`Runtime::connect_in_process`]).
//!
//! This crate knows no HTTP API, no Kubernetes and no arithmetic.

pub mod config;
pub mod error;
mod runtime;
mod server;

mod admission;
mod health;
mod load;
mod loaded_model;
pub mod metrics;
mod shared;
mod throttle;

mod prompt;
mod reasoning;
mod refusal;
mod service;
mod validate;

mod engine_loop;
mod live_request;
mod outbox;
mod step;
mod stop_strings;
mod text;

pub use config::{BackendKind, RuntimeConfig};
pub use error::{LoadError, RuntimeError, ServeError, error_chain};
pub use runtime::Runtime;
pub use server::{Listeners, serve};
