//! The pairs themselves: ours and llama.cpp in turns, on the same file, with as many threads, in one run.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;
use serde_json::Value;

use crate::bench::foreign_cpu::Watch;
use crate::bench::llama_cpp::{Format, Speeds, Tools};
use crate::bench::peer_server::PeerServer;
use crate::bench::start::Starts;
use crate::bench::summary::{Pair, Summary};
use crate::shell::{command, read};

/// Streams of the test with many of them.
const STREAMS: usize = 16;
/// Tokens of their prompts and of their answers.
const STREAM_CONTEXT: usize = 64;
const STREAM_GENERATE: usize = 128;
/// Tokens that two agents share.
const SHARED_PREFIX: usize = 1000;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Prefill of 512 tokens and decode of one stream, in process on both sides, for every format.
    Steps,
    /// Sixteen streams over HTTP.
    Streams,
    /// The second request with the same 1,000 tokens before it.
    Prefix,
    /// From the start of the process to the first token, warm and cold.
    Start,
}

/// Both sides and how often they are measured.
pub struct Pairs {
    /// Our program.
    pub kindling: PathBuf,
    /// Theirs.
    pub tools: Tools,
    /// The sample as shipped.
    pub model: PathBuf,
    /// Threads that compute, on both sides.
    pub threads: usize,
    /// Pairs of each figure.
    pub runs: usize,
}

impl Pairs {
    /// Measures some parts, or all if none is named, and prints each figure as soon as it is known.
    ///
    /// # Errors
    /// If a program fails.
    pub fn run(&self, parts: &[Part], formats: &[Format]) -> anyhow::Result<()> {
        let formats = if formats.is_empty() { &Format::ALL[..] } else { formats };
        let is_asked = |part| parts.is_empty() || parts.contains(&part);
        let commit = read(&mut command("git", &["rev-parse", "--short", "HEAD"])).unwrap_or_default();
        println!("commit {commit}, {} pairs, {} threads; median (minimum to maximum)", self.runs, self.threads);
        if is_asked(Part::Steps) {
            for format in formats {
                self.steps(*format)?;
            }
        }
        if is_asked(Part::Streams) {
            self.streams()?;
        }
        if is_asked(Part::Prefix) {
            self.prefix()?;
        }
        if is_asked(Part::Start) {
            self.starts()?;
        }
        Ok(())
    }

    /// Steps alone on both sides: no sampling, no text, no HTTP.
    fn steps(&self, format: Format) -> anyhow::Result<()> {
        let model = self.tools.model(&self.model, format, self.threads)?;
        let mut prefill = Summary::new(format!("prefill of 512, {}", format.name()), "tok/s");
        let mut decode = Summary::new(format!("decode of 128, {}", format.name()), "tok/s");
        let mut memory = Vec::new();
        for run in 0..self.runs {
            let watch = Watch::start(&[])?;
            let ((ours, ratio), theirs) =
                in_turns(run, || self.our_steps(&model), || self.tools.bench(&model, self.threads))?;
            let foreign = watch.stop()?;
            prefill.push(Pair { ours: ours.prefill, theirs: theirs.prefill, foreign });
            decode.push(Pair { ours: ours.decode, theirs: theirs.decode, foreign });
            memory.extend(ratio);
        }
        println!("{}\n{}", prefill.line(), decode.line());
        memory.sort_by(f64::total_cmp);
        if let Some(median) = memory.get(memory.len() / 2) {
            println!(
                "{:28} ours {:.0} % of what memory gives",
                format!("decode of 128, {}", format.name()),
                median * 1e2
            );
        }
        Ok(())
    }

    /// And our decode's share of the memory's bandwidth, which is measured each time too.
    fn our_steps(&self, model: &Path) -> anyhow::Result<(Speeds, Option<f64>)> {
        let args = ["--raw", "--contexts", "1,512", "--concurrency", "1", "--generate", "128"];
        let report = self.bench(model, &args)?;
        let rate = |context: u64, figure: &str| median(row(&report, context, 1)?, &["ours", figure]);
        let speeds =
            Speeds { prefill: rate(512, "prefill_tokens_per_second")?, decode: rate(1, "decode_tokens_per_second")? };
        let ratio = row(&report, 1, 1)?["bandwidth_ratio"]["median"].as_f64();
        Ok((speeds, ratio))
    }

    fn streams(&self) -> anyhow::Result<()> {
        let mut all = Summary::new(format!("{STREAMS} streams over HTTP, all"), "tok/s");
        let mut decode = Summary::new(format!("{STREAMS} streams over HTTP, decode"), "tok/s");
        let (streams, context) = (STREAMS.to_string(), STREAM_CONTEXT.to_string());
        let generate = STREAM_GENERATE.to_string();
        let args = ["--contexts", &context, "--concurrency", &streams, "--generate", &generate, "--shared-prefix", "0"];
        self.against_server([STREAMS, 512], &args, |report, foreign| {
            let row = row(report, STREAM_CONTEXT as u64, STREAMS as u64)?;
            let pair = |figure: &str| {
                anyhow::Ok(Pair {
                    ours: median(row, &["ours", figure])?,
                    theirs: median(row, &["peer", figure])?,
                    foreign,
                })
            };
            all.push(pair("total_tokens_per_second")?);
            // A server that queues some of the streams has no such rate.
            if let Ok(pair) = pair("decode_tokens_per_second") {
                decode.push(pair);
            }
            Ok(())
        })?;
        println!("{}\n{}", all.line(), decode.line());
        Ok(())
    }

    fn prefix(&self) -> anyhow::Result<()> {
        let mut first = Summary::new("TTFT of 1,000 tokens", "ms");
        let mut second = Summary::new("TTFT of the second request", "ms");
        let mut ratio = Summary::new("second TTFT over first", "");
        let prefix = SHARED_PREFIX.to_string();
        let args = ["--contexts", "16", "--concurrency", "1", "--generate", "2", "--shared-prefix", &prefix];
        self.against_server([4, 2048], &args, |report, foreign| {
            let shared = &report["shared_prefix"];
            let pair = |figure: &str, factor: f64| {
                let side = |side: &str| anyhow::Ok(median(shared, &[side, figure])? * factor);
                anyhow::Ok(Pair { ours: side("ours")?, theirs: side("peer")?, foreign })
            };
            first.push(pair("first_ttft_seconds", 1e3)?);
            second.push(pair("second_ttft_seconds", 1e3)?);
            ratio.push(pair("second_to_first_ratio", 1.0)?);
            Ok(())
        })?;
        println!("{}\n{}\n{}", first.line(), second.line(), ratio.line());
        Ok(())
    }

    /// One `kindling bench --compare` per pair, against one llama-server that stays.
    fn against_server(
        &self,
        slots: [usize; 2],
        args: &[&str],
        mut each: impl FnMut(&Value, crate::bench::foreign_cpu::Foreign) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let program = self.tools.program("llama-server");
        let mut server = PeerServer::llama(&program, &self.model, self.threads, slots)?;
        server.first_token("any")?;
        let mut args = args.to_vec();
        args.extend(["--compare", &server.url, "--no-memory-test"]);
        for _ in 0..self.runs {
            let watch = Watch::start(&[server.id()])?;
            let report = self.bench(&self.model, &args)?;
            each(&report, watch.stop()?)?;
        }
        Ok(())
    }

    fn starts(&self) -> anyhow::Result<()> {
        let starts = Starts::new(&self.kindling, &self.tools, &self.model, self.threads)?;
        for (name, is_cold) in [("start to token, warm", false), ("start to token, cold", true)] {
            let mut summary = Summary::new(name, "ms");
            for run in 0..self.runs {
                let watch = Watch::start(&[])?;
                let (ours, theirs) = in_turns(run, || starts.ours(is_cold), || starts.theirs(is_cold))?;
                let milliseconds = |duration: std::time::Duration| duration.as_secs_f64() * 1e3;
                let (ours, theirs) = (milliseconds(ours), milliseconds(theirs));
                summary.push(Pair { ours, theirs, foreign: watch.stop()? });
            }
            println!("{}", summary.line());
        }
        Ok(())
    }

    /// `kindling bench`, once.
    fn bench(&self, model: &Path, args: &[&str]) -> anyhow::Result<Value> {
        let threads = self.threads.to_string();
        let mut bench = command(&self.kindling, &["bench", "--output", "json", "--runs", "1", "--threads", &threads]);
        serde_json::from_str(&read(bench.args(args).arg(model))?).context("understand kindling bench")
    }
}

/// Both, one right after the other; who is first changes from run to run.
fn in_turns<A, B>(
    run: usize,
    ours: impl FnOnce() -> anyhow::Result<A>,
    theirs: impl FnOnce() -> anyhow::Result<B>,
) -> anyhow::Result<(A, B)> {
    if run.is_multiple_of(2) {
        let ours = ours()?;
        Ok((ours, theirs()?))
    } else {
        let theirs = theirs()?;
        Ok((ours()?, theirs))
    }
}

fn row(report: &Value, context: u64, concurrency: u64) -> anyhow::Result<&Value> {
    let rows = report["rows"].as_array().context("kindling bench gave no rows")?;
    let is_it = |row: &&Value| row["context"] == context && row["concurrency"] == concurrency;
    rows.iter().find(is_it).with_context(|| format!("kindling bench gave no row of {concurrency} x {context} tokens"))
}

fn median(value: &Value, path: &[&str]) -> anyhow::Result<f64> {
    let found = path.iter().fold(value, |value, key| &value[*key]);
    found["median"].as_f64().with_context(|| format!("kindling bench gave no {}", path.join(".")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_first_changes() {
        let order = std::cell::RefCell::new(String::new());
        for run in 0..2 {
            let note = |side: char| {
                order.borrow_mut().push(side);
                Ok(side)
            };
            assert_eq!(in_turns(run, || note('o'), || note('t')).unwrap(), ('o', 't'));
        }
        assert_eq!(order.into_inner(), "otto");
    }

    #[test]
    fn figures_are_found_in_the_report_or_named_as_missing() {
        let report = serde_json::json!({"rows": [
            {"context": 1, "concurrency": 1, "ours": {"rate": {"median": 5.0}, "decode": null}},
        ]});
        let found = row(&report, 1, 1).unwrap();
        assert_eq!(median(found, &["ours", "rate"]).unwrap(), 5.0);
        assert!(median(found, &["ours", "decode"]).unwrap_err().to_string().contains("no ours.decode"));
        assert!(row(&report, 512, 1).unwrap_err().to_string().contains("1 x 512"));
    }
}
