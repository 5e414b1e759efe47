//! The one binary of Kindling: every role is a subcommand, one file each. The list is in `command.rs`.

use std::process::ExitCode;

use clap::Parser;

mod agent;
mod bars;
mod bench;
mod cache;
mod cluster;
mod command;
mod device;
mod doctor;
mod exit;
mod fit;
mod gateway;
mod interrupt;
mod local_models;
mod logging;
mod operator;
mod ps;
mod pull;
mod quantize;
mod runtime;
mod self_test;
mod up;

/// Serves language models, on this machine or on Kubernetes.
#[derive(Parser)]
#[command(name = "kindling", version, propagate_version = true, disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    command: command::Command,
}

#[tokio::main]
async fn main() -> ExitCode {
    Args::parse().command.run().await
}
