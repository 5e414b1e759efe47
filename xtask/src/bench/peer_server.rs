//! `llama-server` and `kindling up` as children that are asked over HTTP.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::shell::{command, root};

/// Between two attempts to get an answer: short against the times that are measured.
const TRY_EVERY: Duration = Duration::from_millis(2);
/// A slow, loaded machine needs seconds; this is for the truly stuck.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

/// A server that is killed when dropped.
pub struct PeerServer {
    child: Child,
    /// `http://host:port`.
    pub url: String,
    started: Instant,
    log: PathBuf,
}

impl PeerServer {
    /// `llama-server` with room for `slots` streams of `context` tokens each.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn llama(program: &Path, model: &Path, threads: usize, [slots, context]: [usize; 2]) -> anyhow::Result<Self> {
        let port = free_port()?;
        let mut server = command(program, &["--host", "127.0.0.1", "--port", &port.to_string()]);
        server.args(["-t", &threads.to_string(), "-np", &slots.to_string(), "-c", &(slots * context).to_string()]);
        Self::start(server.arg("-m").arg(model), port)
    }

    /// `kindling up` with the LocalModel of a file.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn kindling(program: &Path, yaml: &Path, threads: usize) -> anyhow::Result<Self> {
        let port = free_port()?;
        let mut server = command(program, &["up", "--listen", &format!("127.0.0.1:{port}")]);
        Self::start(server.args(["--threads", &threads.to_string()]).arg("-f").arg(yaml), port)
    }

    fn start(server: &mut Command, port: u16) -> anyhow::Result<Self> {
        let log = bench_folder()?.join("server.log");
        let file = File::create(&log).with_context(|| format!("make {}", log.display()))?;
        let server = server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let started = Instant::now();
        let child = server.spawn().context("start a server")?;
        Ok(Self { child, url: format!("http://127.0.0.1:{port}"), started, log })
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Tries until the first token of an answer is there, and tells how long after the start that was.
    ///
    /// # Errors
    /// If the server ends, or never answers.
    pub fn first_token(&mut self, model: &str) -> anyhow::Result<Duration> {
        let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(ANSWER_WITHIN)).build().into();
        let body = json!({"model": model, "prompt": "Once upon a time", "max_tokens": 4, "temperature": 0,
                          "stream": true});
        while self.started.elapsed() < ANSWER_WITHIN {
            if let Some(status) = self.child.try_wait()? {
                let said = std::fs::read_to_string(&self.log).unwrap_or_default();
                bail!("the server at {} ended with {status} before it answered; it said: {}", self.url, last(&said));
            }
            // Refused connections and "loading" are the same here: not yet.
            if let Ok(answer) = agent.post(format!("{}/v1/completions", self.url)).send_json(&body) {
                for line in BufReader::new(answer.into_body().into_reader()).lines() {
                    if is_text(&line.context("read an answer")?) {
                        return Ok(self.started.elapsed());
                    }
                }
                bail!("{} answered without text", self.url);
            }
            std::thread::sleep(TRY_EVERY);
        }
        bail!("{} did not answer within {} s", self.url, ANSWER_WITHIN.as_secs())
    }
}

impl Drop for PeerServer {
    fn drop(&mut self) {
        // Nothing of it is kept; if it has ended already, there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the files of a measurement go.
///
/// # Errors
/// If it cannot be made.
pub fn bench_folder() -> anyhow::Result<PathBuf> {
    let folder = root().join("target/bench");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    Ok(folder)
}

/// The last lines of what a program wrote.
fn last(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

/// Whether a line of a stream carries text.
fn is_text(line: &str) -> bool {
    let data = line.strip_prefix("data: ").and_then(|data| serde_json::from_str::<Value>(data).ok());
    data.is_some_and(|event| event["choices"][0]["text"].as_str().is_some_and(|text| !text.is_empty()))
}

/// A port that was free a moment ago.
fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_a_log_is_told() {
        assert_eq!(last("1\n2\n3\n4\n5\n6\n"), "2\n3\n4\n5\n6");
        assert_eq!(last(""), "");
    }

    #[test]
    fn only_text_counts_as_a_first_token() {
        assert!(is_text(r#"data: {"choices": [{"text": " and"}]}"#));
        for line in [r#"data: {"choices": [{"text": ""}]}"#, "data: [DONE]", ": keep-alive", ""] {
            assert!(!is_text(line), "{line}");
        }
    }
}
