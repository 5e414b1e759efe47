//! `cargo xtask cluster`: a throwaway Kubernetes on this machine.

/// Arguments of `cargo xtask cluster`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs `cargo xtask cluster`.
pub fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not written yet")
}
