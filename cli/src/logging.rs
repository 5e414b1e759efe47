//! Where log lines go: standard error, as text on a terminal and as JSON in a pod.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging. `KINDLING_LOG` chooses levels as `RUST_LOG` does, e.g. `info,kindling_gateway=debug`.
pub fn start(default_level: &str) {
    let filter = EnvFilter::try_from_env("KINDLING_LOG").unwrap_or_else(|_| EnvFilter::new(default_level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() { builder.init() } else { builder.json().init() }
}
