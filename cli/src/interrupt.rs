//! Ctrl-C and SIGTERM: the first asks everything to end, the second ends at once.

use std::process;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// As a shell reports a process that SIGINT ended.
const INTERRUPTED_EXIT_CODE: i32 = 130;

/// A token that is cancelled by the first signal.
///
/// # Errors
/// If the process cannot watch for signals.
pub fn token() -> anyhow::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let token = CancellationToken::new();
    let cancel = token.clone();
    tokio::spawn(async move {
        either(&mut interrupt, &mut terminate).await;
        cancel.cancel();
        either(&mut interrupt, &mut terminate).await;
        eprintln!("stopping at once");
        process::exit(INTERRUPTED_EXIT_CODE);
    });
    Ok(token)
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
