//! `cargo xtask demo`: from a fresh clone to a streamed answer, then a server that stays until Ctrl-C.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};

use crate::server::Server;
use crate::shell::{cargo, run};
use crate::{binary, sample};

const QUESTION: &str = "How do plants make food?";
const MAX_TOKENS: u32 = 160;

/// Arguments of `cargo xtask demo`.
#[derive(clap::Args)]
pub struct Args {
    /// Where the gateway listens.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: String,
    /// End after the answer instead of staying up (for tests).
    #[arg(long)]
    once: bool,
}

/// Runs `cargo xtask demo`.
pub fn run_demo(args: Args) -> anyhow::Result<()> {
    let Args { listen, once } = args;
    run(&mut cargo(&["build", "--release", "--package", "kindling"]))?;
    let kindling = binary::path("release")?;
    sample::import(&kindling, None)?;

    // Ctrl-C reaches the whole process group: the server ends itself, and this process waits for it.
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    ctrlc::set_handler(move || flag.store(true, Ordering::SeqCst)).context("watch for Ctrl-C")?;
    let is_interrupted = || interrupted.load(Ordering::SeqCst);

    let mut server = Server::start(&kindling, &listen)?;
    server.wait_ready(&is_interrupted)?;
    if !is_interrupted() {
        match tell(&server) {
            Err(_) if is_interrupted() => {}
            other => other?,
        }
    }
    if once {
        return server.stop();
    }
    if !is_interrupted() {
        println!("\nKindling stays up. Ask it something:\n\n{}\n\nCtrl-C stops it.", curl(&listen));
    }
    let status = server.wait()?;
    if status.success() { Ok(()) } else { bail!("kindling up ended with {status}") }
}

/// Asks the question, prints the answer as it comes, then what was measured.
fn tell(server: &Server) -> anyhow::Result<()> {
    println!("\n> {QUESTION}\n");
    let answer = server.ask(QUESTION, MAX_TOKENS, &mut |text| {
        print!("{text}");
        // A closed standard output ends this program at the next line anyway.
        let _ = std::io::stdout().flush();
    })?;
    println!(
        "\n\nTTFT {:.0} ms for {} prompt tokens, then {} tokens at {:.1} tok/s (as a streaming client sees it)",
        answer.first_token.as_secs_f64() * 1e3,
        answer.prompt_tokens,
        answer.completion_tokens,
        answer.tokens_per_second(),
    );
    Ok(())
}

fn curl(listen: &str) -> String {
    let body = r#"{"model": "smollm2", "messages": [{"role": "user", "content": "Why is the sky blue?"}]}"#;
    format!("  curl http://{listen}/v1/chat/completions -H 'content-type: application/json' \\\n    -d '{body}'")
}
