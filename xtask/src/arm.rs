//! `cargo xtask arm`: the kernels' tests as 64-bit Arm runs them, compiled and emulated on x86-64.
//!
//! Emulation shows that results are right, not how fast they come. Where the tools cannot be had the tests are skipped
//! aloud; `KINDLING_REQUIRE_ARM=1` makes that a failure.

mod toolchain;

use anyhow::{Context, bail, ensure};

use crate::shell::{run, run_reading};
use toolchain::{TARGET, Toolchain};

/// Machines that qemu plays, and the instruction sets that the kernels must find on them.
const MACHINES: [(&str, &str); 3] = [
    ("cortex-a53", "portable, neon"),
    ("neoverse-n1", "portable, neon, neon-dotprod"),
    (FULL, "portable, neon, neon-dotprod, neon-i8mm"),
];

/// The machine that has everything.
const FULL: &str = "max";

/// Arguments of `cargo xtask arm`.
#[derive(clap::Args)]
pub struct Args {
    /// Instead of the tests: build the whole binary for Arm in release and ask it for its version.
    #[arg(long)]
    binary: bool,
}

/// Runs `cargo xtask arm`.
pub fn run_arm(args: Args) -> anyhow::Result<()> {
    let Args { binary } = args;
    if cfg!(target_arch = "aarch64") {
        println!("this machine is Arm: the ordinary tests are the Arm tests");
        return Ok(());
    }
    let toolchain = match toolchain::prepare() {
        Ok(toolchain) => toolchain,
        Err(missing) if std::env::var_os("KINDLING_REQUIRE_ARM").is_some() => {
            return Err(missing.context("the Arm tests cannot run"));
        }
        Err(missing) => {
            println!("SKIPPED: the kernels' tests on Arm: {missing:#}");
            return Ok(());
        }
    };
    println!("Arm: {}", toolchain.version);
    if binary { build_binary(&toolchain) } else { test_kernels(&toolchain) }
}

/// Unit tests on every machine, so that detection is right; the long tests on the one that has all instruction sets,
/// and a whole model on the one that has fewest.
fn test_kernels(toolchain: &Toolchain) -> anyhow::Result<()> {
    for (machine, sets) in MACHINES {
        find_sets(toolchain, machine, sets)?;
    }
    let few = MACHINES[0].0;
    run(&mut toolchain.cargo(&["test", "-p", "kindling-kernels", "--test", "whole_model"], few)?)?;
    run(&mut toolchain.cargo(&["test", "-p", "kindling-kernels", "--no-fail-fast", "--test", "*"], FULL)?)
}

fn find_sets(toolchain: &Toolchain, machine: &str, sets: &str) -> anyhow::Result<()> {
    let mut found = None;
    let mut tests = toolchain.cargo(&["test", "-p", "kindling-kernels", "--lib", "--", "--show-output"], machine)?;
    // A test that expects a panic tells of it; the trace would take minutes of emulation.
    tests.env_remove("RUST_BACKTRACE");
    run_reading(&mut tests, &mut |line| {
        found = line.strip_prefix("instruction sets: ").map(str::to_owned).or(found.take());
        true
    })?;
    let found = found.context("the kernels' tests did not tell their instruction sets")?;
    ensure!(found == sets, "on {machine} the kernels found the instruction sets {found:?} instead of {sets:?}");
    Ok(())
}

fn build_binary(toolchain: &Toolchain) -> anyhow::Result<()> {
    run(&mut toolchain.cargo(&["build", "--release", "-p", "kindling"], FULL)?)?;
    let path = toolchain.target_folder()?.join(TARGET).join("release/kindling");
    if !path.is_file() {
        bail!("{} was not built", path.display());
    }
    run(toolchain.emulator(FULL).arg(&path).arg("--version"))?;
    println!("{}", path.display());
    Ok(())
}
