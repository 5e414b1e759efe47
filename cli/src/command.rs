//! The list of subcommands.

use std::process::ExitCode;

use clap::Subcommand;

use crate::{agent, bench, cache, doctor, exit, fit, gateway, operator, ps, pull, quantize, runtime, self_test, up};

/// What to do.
#[derive(Subcommand)]
pub enum Command {
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
    Doctor(doctor::Args),
    Operator(operator::Args),
    Agent(agent::Args),
    #[command(hide = true)]
    SelfTest(self_test::Args),
}

impl Command {
    /// Does it.
    pub async fn run(self) -> ExitCode {
        exit::code(match self {
            Self::Up(args) => up::run(args).await,
            Self::Cache(command) => cache::run(command),
            Self::Pull(args) => pull::run(args).await,
            Self::Fit(args) => return fit::run(args).await,
            Self::Ps(args) => ps::run(args).await,
            Self::Quantize(args) => quantize::run(args).await,
            Self::Runtime(args) => runtime::run(args).await,
            Self::Gateway(args) => gateway::run(args).await,
            Self::Bench(args) => bench::run(args).await,
            Self::Doctor(args) => doctor::run(args).await,
            Self::Operator(args) => operator::run(args).await,
            Self::Agent(args) => agent::run(args).await,
            Self::SelfTest(args) => self_test::run(&args),
        })
    }
}
