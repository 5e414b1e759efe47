//! Reconciles LocalModels into pods.
//!
//! Reads top to bottom: [`run`] waits for the lease, then [`controller`] brings the cluster to what each LocalModel
//! asks for: dereference, validate, build, apply, observe, and a status computed from what was seen. All state is in
//! the cluster; an operator that is restarted, or absent while a model loads, loses nothing. This crate loads no
//! model and knows no architecture: facts about a model come from its runtime.

mod config;
pub mod controller;

pub mod admission;
pub mod agents;
pub mod apply;
mod backoff;
pub mod build;
pub mod dereference;
pub mod facts;
mod learned;
mod named;
pub mod observe;
pub mod placement;
pub mod validate;

mod events;
pub mod reason;
pub mod status;

mod http;
mod lease;
pub mod metrics;
mod run;
pub mod runtime_info;

pub use config::{OperatorConfig, WebhookConfig};
pub use run::{RunError, run};
