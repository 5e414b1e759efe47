//! The OpenAI API in front of the runtimes: routing, streaming, metrics.
//!
//! Called by `kindling gateway` on a cluster and by `kindling up` in one process; both hand [`serve`] a listener and
//! a [`Discovery`]. This crate knows HTTP, the OpenAI wire format and where runtimes are. It does not know tokens,
//! templates or architectures: those are the runtime's, behind gRPC.

mod activation;
mod backend;
mod body;
mod config;
mod discovery;
mod error;
mod generate;
mod health;
mod metrics;
mod observe;
mod openai;
mod router;
mod serve;

pub use activation::UseWriter;
pub use backend::{Backend, Runtime};
pub use config::{Config, Timeouts};
pub use discovery::{Availability, Cluster, Discovery, OnDemand, Route, StaticRoutes};
pub use serve::{ServeError, serve};
