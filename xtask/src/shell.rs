//! Runs commands where everyone can see them, and says which one failed.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// The repository's root, wherever `cargo xtask` was called. Cargo says it at run time: of two clones that share a build
/// folder, one may run the program that the other compiled.
pub fn root() -> PathBuf {
    let told = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    told.parent().map(Path::to_owned).unwrap_or_default()
}

/// Where programs of this user keep what can be made again.
///
/// # Errors
/// If there is no home folder.
pub fn user_cache() -> anyhow::Result<PathBuf> {
    match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) if !cache.is_empty() => Ok(PathBuf::from(cache)),
        _ => Ok(std::env::home_dir().context("find the home folder")?.join(".cache")),
    }
}

/// A command in the repository's root.
pub fn command(program: impl AsRef<OsStr>, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(root());
    command
}

/// `cargo` with the toolchain that runs xtask.
pub fn cargo(args: &[&str]) -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), args)
}

/// Prints and runs a command.
///
/// # Errors
/// If it cannot be started or ends with anything but 0.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    println!("+ {}", line(command));
    let status = command.status().with_context(|| format!("start {}", line(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", line(command));
    }
    Ok(())
}

/// Prints and runs a command, and passes on those lines of its standard output that `shows` holds for.
///
/// # Errors
/// As [`run`].
pub fn run_reading(command: &mut Command, shows: &mut dyn FnMut(&str) -> bool) -> anyhow::Result<()> {
    println!("+ {}", line(command));
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("start {}", line(command)))?;
    let stdout = child.stdout.take().context("standard output should be piped")?;
    for text in BufReader::new(stdout).lines() {
        let text = text.context("read the command's output")?;
        if shows(&text) {
            println!("{text}");
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{}` ended with {status}", line(command));
    }
    Ok(())
}

/// The standard output of a command that is quick and must succeed.
///
/// # Errors
/// As [`run`], with what it wrote to standard error.
pub fn read(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("start {}", line(command)))?;
    if !output.status.success() {
        bail!("`{}` ended with {}: {}", line(command), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
