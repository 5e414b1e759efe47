//! From the start of a process to its first token, with the model's file in memory and without.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::bench::llama_cpp::Tools;
use crate::bench::peer_server::{PeerServer, bench_folder};
use crate::shell::{command, run};

/// What both servers call the model.
const MODEL: &str = "bench";

/// Both servers, to be started again and again.
pub struct Starts<'a> {
    kindling: &'a Path,
    tools: &'a Tools,
    model: &'a Path,
    yaml: PathBuf,
    threads: usize,
}

impl<'a> Starts<'a> {
    /// Writes the LocalModel that `kindling up` reads.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn new(kindling: &'a Path, tools: &'a Tools, model: &'a Path, threads: usize) -> anyhow::Result<Self> {
        let yaml = bench_folder()?.join("localmodel.yaml");
        let text = serde_json::json!({
            "apiVersion": "kindling.dev/v1alpha1", "kind": "LocalModel", "metadata": {"name": MODEL},
            "spec": {"source": {"hostPath": {"path": model}}},
        });
        std::fs::write(&yaml, text.to_string()).with_context(|| format!("write {}", yaml.display()))?;
        Ok(Self { kindling, tools, model, yaml, threads })
    }

    /// Ours.
    ///
    /// # Errors
    /// If it gives no token.
    pub fn ours(&self, is_cold: bool) -> anyhow::Result<Duration> {
        self.page_cache(is_cold)?;
        PeerServer::kindling(self.kindling, &self.yaml, self.threads)?.first_token(MODEL)
    }

    /// Theirs, with as many slots as `kindling up` computes at once.
    ///
    /// # Errors
    /// If it gives no token.
    pub fn theirs(&self, is_cold: bool) -> anyhow::Result<Duration> {
        self.page_cache(is_cold)?;
        let program = self.tools.program("llama-server");
        PeerServer::llama(&program, self.model, self.threads, [4, 2048])?.first_token(MODEL)
    }

    /// Puts the model's file into the page cache, or asks the kernel to forget it.
    fn page_cache(&self, is_cold: bool) -> anyhow::Result<()> {
        if is_cold {
            let input = format!("if={}", self.model.display());
            return run(&mut command("dd", &[&input, "iflag=nocache", "count=0", "status=none"]));
        }
        std::io::copy(&mut std::fs::File::open(self.model)?, &mut std::io::sink()).context("read the model's file")?;
        Ok(())
    }
}
