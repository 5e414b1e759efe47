//! Stories against a real cluster, told through kubectl, helm and HTTP, as a user would.
//!
//! A story gets a [`Stage`]: a cluster with Kindling installed and a namespace of its own, which is removed at the
//! end; on failure the state of its objects is printed. The cluster is the one of `cargo xtask cluster up`, or the one
//! that `KINDLING_KUBECONFIG` names. This crate knows nothing of Kindling but what users see.

// Stories are tests: what they see is printed, and a broken expectation ends them.
#![allow(clippy::print_stdout)]

mod chat;
mod cluster;
mod kubectl;
mod process;
mod simulator;
mod stage;
mod wait;

pub use chat::{Answer, Gateway};
pub use cluster::{Cluster, ClusterNode, sample_file};
pub use kubectl::Kubectl;
pub use process::{Process, processes_of_pod};
pub use simulator::{Machine, Simulated, Simulator};
pub use stage::{Stage, story};
pub use wait::{Patience, until};
