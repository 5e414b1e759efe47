//! `kindling agent`: one on each node. Measures the node's memory, grants it to runtimes, takes it back before the
//! kernel is in trouble, brings weights into the cache.
//!
//! Reads top to bottom: [`run`] starts the tasks. [`memory`] reads the kernel, [`watch`] and [`grants`] decide and are
//! pure, [`desk`] is the one task that asks them and that all others talk to. [`service`] is the gRPC side of it,
//! behind the [`gate`] that knows who calls; [`publish`] tells the cluster, [`metrics`] tells Prometheus;
//! [`gpu`] knows when to look at the GPU; [`downloads`] fills the cache, and takes away what [`keep`] says that nobody names.

pub mod desk;
pub mod downloads;
pub mod gate;
pub mod gpu;
pub mod grants;
mod http;
pub mod keep;
pub mod memory;
pub mod metrics;
pub mod publish;
mod run;
pub mod service;
pub mod source;
pub mod watch;

pub use run::{AgentConfig, Readers, RunError, run, run_with};
