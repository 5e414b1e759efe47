//! How a command ends: its errors on standard error, and what the shell sees.

use std::process::ExitCode;

/// 0, or 1 after an error was printed with all its causes.
pub fn code(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
