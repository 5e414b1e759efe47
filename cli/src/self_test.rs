//! `kindling self-test`: what other commands run in a process of its own, since a kernel with a fault may end it.

use std::io::Write;

use anyhow::Context;
use kindling_agent::cache::Cache;
use kindling_cuda::{GpuError, Said, SelfTests, probe, self_test};

/// Check the kernels of a GPU, a line of JSON each; other commands run it by themselves
#[derive(clap::Args)]
pub struct Args {
    /// The driver's number of the device.
    device: usize,
    /// Checks to leave out at the beginning.
    first: usize,
}

/// Runs `kindling self-test`.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    let mut written = Ok(());
    let mut say = |said: Said| {
        let line = serde_json::to_string(&said).map_err(std::io::Error::from);
        let now = line.and_then(|line| writeln!(stdout, "{line}").and_then(|()| stdout.flush()));
        written = std::mem::replace(&mut written, Ok(())).and(now);
    };
    let gpu = probe().and_then(|gpus| gpus.into_iter().nth(args.device).ok_or(GpuError::NoDevice));
    match gpu.and_then(|gpu| gpu.load()) {
        Ok(loaded) => self_test(loaded, args.first, &mut say),
        Err(error) => say(Said::Impossible(error.to_string())),
    }
    written.context("write what was checked")
}

/// How the other commands run it. What passed is noted beside the models, where there is a place for that.
pub fn in_child() -> anyhow::Result<SelfTests> {
    let program = std::env::current_exe().context("find this program")?;
    let tests = SelfTests::by(program, &["self-test"]);
    Ok(match Cache::of_user() {
        Ok(cache) => tests.noted_in(cache.root().join("self-tests")),
        Err(_) => tests,
    })
}
