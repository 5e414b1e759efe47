//! The one binary of Kindling: every role is a subcommand, one file each. This file holds the list.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod agent;
mod bars;
mod bench;
mod cache;
mod cluster;
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
mod up;

/// Serves language models, on this machine or on Kubernetes.
#[derive(Parser)]
#[command(name = "kindling", version, propagate_version = true, disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Up(up::Args),
    #[command(subcommand)]
    Cache(cache::Command),
    Pull(pull::Args),
    Fit(fit::Args),
    Ps(ps::Args),
    Quantize(quantize::Args),
    Runtime(runtime::Args),
    Gateway(gateway::Args),
    Bench(bench::Args),
    Operator(operator::Args),
    Agent(agent::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    exit::code(match Args::parse().command {
        Command::Up(args) => up::run(args).await,
        Command::Cache(command) => cache::run(command),
        Command::Pull(args) => pull::run(args).await,
        Command::Fit(args) => return fit::run(args).await,
        Command::Ps(args) => return ps::run(args).await,
        Command::Quantize(args) => quantize::run(args).await,
        Command::Runtime(args) => runtime::run(args).await,
        Command::Gateway(args) => gateway::run(args).await,
        Command::Bench(args) => bench::run(args).await,
        Command::Operator(args) => operator::run(args).await,
        Command::Agent(args) => agent::run(args).await,
    })
}
