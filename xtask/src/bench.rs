//! `cargo xtask bench`: how fast the sample model is here, alone or pair by pair with a peer; and what it takes.
//!
//! Measuring itself is `kindling bench`; this builds, prepares files, keeps the order and watches who else computes.

mod foreign_cpu;
mod llama_cpp;
mod pairs;
mod peer_server;
mod start;
mod summary;

use std::path::PathBuf;

use clap::ValueEnum;

use crate::shell::{cargo, command, run};
use crate::{binary, sample};

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Args {
    /// How many times; medians and the spread are printed [default: 5, with a peer 10]
    #[arg(long)]
    runs: Option<usize>,
    /// Measure pair by pair with this program, on the same files.
    #[arg(long)]
    peer: Option<Peer>,
    /// Folder of the peer's programs [default: they are built once, into the cache]
    #[arg(long, value_name = "FOLDER", requires = "peer")]
    peer_bin: Option<PathBuf>,
    /// Threads that compute, on both sides.
    #[arg(long, default_value_t = 2, requires = "peer")]
    threads: usize,
    /// What is measured with the peer [default: all]
    #[arg(long, value_delimiter = ',', requires = "peer")]
    parts: Vec<pairs::Part>,
    /// Compare the memory that is predicted with what a runtime takes, of models with random weights, and nothing else.
    #[arg(long, conflicts_with = "peer")]
    memory: bool,
    /// Which files are measured with the peer [default: all]
    #[arg(long, value_delimiter = ',', requires = "peer")]
    formats: Vec<llama_cpp::Format>,
}

/// Who is measured beside us.
#[derive(Clone, Copy, ValueEnum)]
enum Peer {
    /// Its own tools, built from the source package that its Python bindings ship.
    #[value(name = "llama.cpp")]
    LlamaCpp,
}

/// Runs `cargo xtask bench`.
pub fn run_bench(args: Args) -> anyhow::Result<()> {
    let Args { runs, peer, peer_bin, threads, parts, memory, formats } = args;
    if memory {
        return compare_memory(runs.unwrap_or(3));
    }
    // The whole workspace, as everything else here builds it: another selection compiles dependencies again.
    run(&mut cargo(&["build", "--release", "--workspace"]))?;
    let kindling = binary::path("release")?;
    let model = sample::import(&kindling, None)?;
    match peer {
        None => {
            let runs = runs.unwrap_or(5).to_string();
            run(command(&kindling, &["bench", "--runs", &runs]).arg(model))
        }
        Some(Peer::LlamaCpp) => {
            let tools = llama_cpp::Tools::get(peer_bin)?;
            let pairs = pairs::Pairs { kindling, tools, model, threads, runs: runs.unwrap_or(10).max(1) };
            pairs.run(&parts, &formats)
        }
    }
}

/// Every setting, one process after the other: the tables go to standard output, and what is off ends it.
fn compare_memory(runs: usize) -> anyhow::Result<()> {
    let test = ["test", "--release", "--workspace", "--test", "measured_memory", "--"];
    let all = ["--include-ignored", "--nocapture", "--test-threads", "1"];
    (0..runs.max(1)).try_for_each(|_| run(&mut cargo(&[&test[..], &all[..]].concat())))
}
