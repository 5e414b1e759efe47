//! `cargo xtask`: every command a developer or CI runs, in Rust, needing only cargo. One file per command.
#![allow(clippy::print_stdout, reason = "a command line tool speaks on standard output")]

use clap::{Parser, Subcommand};

mod arm;
mod bench;
mod binary;
mod cluster;
mod codegen;
mod cuda;
mod debian;
mod demo;
mod gpu;
mod sample;
mod server;
mod setup;
mod shell;
mod test;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Kindling's developer commands")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prepare this clone: the pre-commit hook, the CUDA compiler and the sample model.
    Setup,
    /// Build in release, serve the sample model here, ask it one question, stay up until Ctrl-C.
    Demo(demo::Args),
    /// Run the tests; --system adds those that need root and a machine that may be changed.
    Test(test::Args),
    /// Run the kernels' tests as 64-bit Arm does, on x86-64 under qemu; fetches a second Rust from Debian, once.
    Arm(arm::Args),
    /// Build the kernels' tests and timings for GPUs, and run them if there is one here.
    Gpu,
    /// Write what is generated and committed: code from proto/, YAML from the CRD types.
    Codegen,
    /// Measure the sample model with `kindling bench`; --peer llama.cpp measures it pair by pair with llama.cpp.
    Bench(bench::Args),
    /// Make, inspect or take down a throwaway Kubernetes on this machine.
    Cluster(cluster::Args),
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Setup => setup::run_setup(),
        Command::Demo(args) => demo::run_demo(args),
        Command::Test(args) => test::run_test(args),
        Command::Arm(args) => arm::run_arm(args),
        Command::Gpu => gpu::run_gpu(),
        Command::Codegen => codegen::run_codegen(),
        Command::Bench(args) => bench::run_bench(args),
        Command::Cluster(args) => cluster::run(args),
    }
}
