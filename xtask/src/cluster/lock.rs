//! One command at a time changes the cluster: its names and addresses are the machine's.

use std::fs::File;

use anyhow::Context;

const FILE: &str = "/run/kindling-cluster.lock";

/// Waits for its turn; the lock ends with the returned file.
pub fn take() -> anyhow::Result<File> {
    let file = File::create(FILE).with_context(|| format!("create {FILE}"))?;
    if file.try_lock().is_err() {
        println!("waiting for another `cargo xtask cluster`");
        file.lock().with_context(|| format!("lock {FILE}"))?;
    }
    Ok(file)
}
