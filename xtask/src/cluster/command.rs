//! Runs other programs: an error names the command and holds what it said.

use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// A command by its words; the first is the program.
pub fn command<S: AsRef<std::ffi::OsStr>>(words: &[S]) -> Command {
    let (program, arguments) = words.split_first().expect("a command should have a program");
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Runs to the end and returns what it printed.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let shown = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {shown}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{shown} ended with {}: {}", output.status, said.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("read the output of {shown}"))
}

/// Runs to the end while the user sees what it prints.
pub fn show(command: &mut Command) -> anyhow::Result<()> {
    let shown = format!("{command:?}");
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("start {shown}"))?;
    if !status.success() {
        bail!("{shown} ended with {status}");
    }
    Ok(())
}
