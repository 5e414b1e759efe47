//! `cargo xtask demo`: from a fresh clone to a streamed answer, then a server that stays until Ctrl-C.

use std::io::{BufRead, BufReader, Write};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::shell::{cargo, command, run};
use crate::{binary, sample};

const QUESTION: &str = "Give me three tips for growing tomatoes.";
const SAMPLE: &str = "deploy/samples/smollm2.yaml";
/// A debug-sized machine under load loads the sample in seconds; this is for the truly stuck.
const READY_WITHIN: Duration = Duration::from_secs(120);

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

    let mut up = command(&kindling, &["up", "-f", SAMPLE, "--listen", &listen]);
    println!("+ kindling up -f {SAMPLE} --listen {listen}");
    let mut server = up.spawn().context("start kindling up")?;
    let told = tell(&mut server, &listen, &interrupted);
    if told.is_ok() && !once && !interrupted.load(Ordering::SeqCst) {
        println!("\nKindling stays up. Ask it something:\n\n{}\n\nCtrl-C stops it.", curl(&listen));
        let status = server.wait()?;
        return if status.success() || interrupted.load(Ordering::SeqCst) {
            Ok(())
        } else {
            bail!("kindling up ended with {status}")
        };
    }
    stop(&mut server)?;
    if interrupted.load(Ordering::SeqCst) { Ok(()) } else { told }
}

fn tell(server: &mut Child, listen: &str, interrupted: &AtomicBool) -> anyhow::Result<()> {
    wait_ready(server, listen, interrupted)?;
    if interrupted.load(Ordering::SeqCst) {
        return Ok(());
    }
    println!("\n> {QUESTION}\n");
    let answer = ask(listen)?;
    println!(
        "\n\nTTFT {:.0} ms, {} tokens at {:.1} tok/s (client side, streaming)",
        answer.first_token.as_secs_f64() * 1e3,
        answer.num_tokens,
        (answer.num_tokens.saturating_sub(1)) as f64 / answer.decode.as_secs_f64().max(1e-9),
    );
    Ok(())
}

fn wait_ready(server: &mut Child, listen: &str, interrupted: &AtomicBool) -> anyhow::Result<()> {
    let started = Instant::now();
    let agent = agent();
    while started.elapsed() < READY_WITHIN {
        if let Some(status) = server.try_wait()? {
            bail!("kindling up ended with {status} before it was ready");
        }
        let ready = agent.get(format!("http://{listen}/readyz")).call().is_ok_and(|answer| answer.status() == 200);
        if ready || interrupted.load(Ordering::SeqCst) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("kindling up was not ready after {} s", READY_WITHIN.as_secs())
}

/// What was measured while the answer streamed in.
struct Answer {
    first_token: Duration,
    decode: Duration,
    num_tokens: u64,
}

/// Asks the question, prints the answer as it comes.
fn ask(listen: &str) -> anyhow::Result<Answer> {
    let started = Instant::now();
    let url = format!("http://{listen}/v1/chat/completions");
    let response = agent().post(url).send_json(request_body(true)).context("ask the model")?;
    let (mut first, mut last, mut num_tokens) = (None, started, 0);
    for line in BufReader::new(response.into_body().into_reader()).lines() {
        let line = line.context("read the answer")?;
        let Some(data) = line.strip_prefix("data: ").filter(|data| *data != "[DONE]") else { continue };
        let chunk: serde_json::Value = serde_json::from_str(data).context("read a piece of the answer")?;
        if let Some(error) = chunk.get("error") {
            bail!("the model failed: {error}");
        }
        if let Some(text) = chunk["choices"][0]["delta"]["content"].as_str().filter(|text| !text.is_empty()) {
            last = Instant::now();
            first.get_or_insert(last);
            print!("{text}");
            std::io::stdout().flush()?;
        }
        num_tokens = chunk["usage"]["completion_tokens"].as_u64().unwrap_or(num_tokens);
    }
    let first = first.context("the model answered nothing")?;
    Ok(Answer { first_token: first - started, decode: last - first, num_tokens })
}

fn request_body(is_stream: bool) -> serde_json::Value {
    serde_json::json!({
        "model": "smollm2",
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 160,
        "temperature": 0,
        "stream": is_stream,
        "stream_options": {"include_usage": true},
    })
}

fn curl(listen: &str) -> String {
    let body = r#"{"model": "smollm2", "messages": [{"role": "user", "content": "Why is the sky blue?"}]}"#;
    format!("  curl http://{listen}/v1/chat/completions -H 'content-type: application/json' \\\n    -d '{body}'")
}

/// Asks our own child to end, as Ctrl-C would.
fn stop(server: &mut Child) -> anyhow::Result<()> {
    if server.try_wait()?.is_none() {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(server.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).context("stop kindling up")?;
    }
    let status = server.wait()?;
    if !status.success() {
        bail!("kindling up ended with {status}");
    }
    Ok(())
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().timeout_connect(Some(Duration::from_secs(5))).build().into()
}
