//! Where cargo puts the `kindling` binary.

use std::path::PathBuf;

use anyhow::{Context, bail};

use crate::shell::{cargo, read};

/// The folder that cargo builds into.
///
/// # Errors
/// If cargo's metadata cannot be read.
pub fn target_folder() -> anyhow::Result<PathBuf> {
    let metadata = read(&mut cargo(&["metadata", "--format-version=1", "--no-deps", "--offline"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("read cargo's metadata")?;
    metadata["target_directory"].as_str().map(PathBuf::from).context("cargo's metadata has no target_directory")
}

/// Path of the binary of a profile (`debug`, `release`); it must have been built.
///
/// # Errors
/// As [`target_folder`], or if the binary is not there.
pub fn path(profile: &str) -> anyhow::Result<PathBuf> {
    let path = target_folder()?.join(profile).join("kindling");
    if !path.is_file() {
        bail!("{} is not there; build it first", path.display());
    }
    Ok(path)
}
