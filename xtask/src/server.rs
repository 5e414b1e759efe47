//! `kindling up` as a child of a developer command: started, waited for, asked, stopped.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::shell::command;

/// The LocalModel that the demo and the conformance tests serve.
pub const SAMPLE: &str = "deploy/samples/smollm2.yaml";
/// A slow, loaded machine needs seconds for the sample; this is for the truly stuck.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// A running `kindling up`. Killed when dropped, unless it was stopped or waited for.
pub struct Server {
    child: Child,
    listen: String,
}

/// What a client saw of one streamed answer.
pub struct Answer {
    /// From the request to the first piece of text.
    pub first_token: Duration,
    /// From the first piece to the last.
    pub decode: Duration,
    /// As the usage says.
    pub prompt_tokens: u64,
    /// As the usage says.
    pub completion_tokens: u64,
}

impl Answer {
    /// Decode speed: every token but the first, over the time after the first.
    pub fn tokens_per_second(&self) -> f64 {
        self.completion_tokens.saturating_sub(1) as f64 / self.decode.as_secs_f64().max(1e-9)
    }
}

impl Server {
    /// Starts serving the sample.
    pub fn start(kindling: &Path, listen: &str) -> anyhow::Result<Self> {
        println!("+ kindling up -f {SAMPLE} --listen {listen}");
        let child =
            command(kindling, &["up", "-f", SAMPLE, "--listen", listen]).spawn().context("start kindling up")?;
        Ok(Self { child, listen: listen.to_owned() })
    }

    /// Waits until it serves; `give_up` ends the wait early, without an error.
    pub fn wait_ready(&mut self, give_up: &dyn Fn() -> bool) -> anyhow::Result<()> {
        let started = Instant::now();
        while started.elapsed() < READY_WITHIN {
            if let Some(status) = self.child.try_wait()? {
                bail!("kindling up ended with {status} before it was ready");
            }
            let url = format!("http://{}/v1/models/smollm2", self.listen);
            let answer = agent().get(url).call().ok().and_then(|answer| answer.into_body().read_json::<Value>().ok());
            // The context is known once the model is loaded.
            if answer.is_some_and(|model| model["max_model_len"].is_u64()) || give_up() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("kindling up was not ready after {} s", READY_WITHIN.as_secs())
    }

    /// Asks, greedily; `each` gets the text as it comes.
    pub fn ask(&self, question: &str, max_tokens: u32, each: &mut dyn FnMut(&str)) -> anyhow::Result<Answer> {
        let body = json!({
            "model": "smollm2", "messages": [{"role": "user", "content": question}],
            "max_tokens": max_tokens, "temperature": 0,
            "stream": true, "stream_options": {"include_usage": true},
        });
        let started = Instant::now();
        let url = format!("http://{}/v1/chat/completions", self.listen);
        let response = agent().post(url).send_json(body).context("ask the model")?;
        let (mut first, mut last, mut usage) = (None, started, Value::Null);
        for line in BufReader::new(response.into_body().into_reader()).lines() {
            let line = line.context("read the answer")?;
            let Some(data) = line.strip_prefix("data: ").filter(|data| *data != "[DONE]") else { continue };
            let chunk: Value = serde_json::from_str(data).context("read a piece of the answer")?;
            if let Some(error) = chunk.get("error") {
                bail!("the model failed: {error}");
            }
            if let Some(text) = chunk["choices"][0]["delta"]["content"].as_str().filter(|text| !text.is_empty()) {
                last = Instant::now();
                first.get_or_insert(last);
                each(text);
            }
            if chunk["usage"].is_object() {
                usage = chunk["usage"].clone();
            }
        }
        let first = first.context("the model answered nothing")?;
        let count = |key: &str| usage[key].as_u64().with_context(|| format!("the usage lacks {key}"));
        Ok(Answer {
            first_token: first - started,
            decode: last - first,
            prompt_tokens: count("prompt_tokens")?,
            completion_tokens: count("completion_tokens")?,
        })
    }

    /// Waits until it ends by itself, e.g. after Ctrl-C reached it too.
    pub fn wait(mut self) -> anyhow::Result<ExitStatus> {
        Ok(self.child.wait()?)
    }

    /// Asks it to end, as Ctrl-C would.
    pub fn stop(mut self) -> anyhow::Result<()> {
        if self.child.try_wait()?.is_none() {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).context("stop kindling up")?;
        }
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { bail!("kindling up ended with {status}") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already ended in the ordinary case; then there is nothing to kill and the error says only that.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().timeout_connect(Some(Duration::from_secs(5))).build().into()
}
