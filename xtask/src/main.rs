//! `cargo xtask`: every command a developer or CI runs, in Rust, needing only cargo.
//!
//! One file per command; this one holds the list.

use clap::{Parser, Subcommand};

mod cluster;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Kindling's developer commands")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make, inspect or take down a throwaway Kubernetes on this machine.
    Cluster(cluster::Args),
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Cluster(args) => cluster::run(args),
    }
}
