//! `cargo xtask test`: everything that needs no root and changes nothing outside the repository and the user's cache.
//! `--system` adds what installs packages and makes a Kubernetes node. What is skipped is said aloud, with the reason.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Instant;

use anyhow::{Context, bail, ensure};

use crate::server::Server;
use crate::shell::{cargo, command, run, run_reading};
use crate::{binary, cluster, cuda, sample};

/// What a test prints when it cannot run here.
const SKIP_MARK: &str = "SKIPPED:";

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Args {
    /// Also what needs root and a machine that may be changed: installs packages, makes a Kubernetes node.
    #[arg(long)]
    system: bool,
}

/// What happened so far.
#[derive(Default)]
struct Report {
    num_passed: usize,
    num_failed: usize,
    skips: Vec<String>,
    failures: Vec<String>,
}

/// Runs `cargo xtask test`.
pub fn run_test(args: Args) -> anyhow::Result<()> {
    let Args { system } = args;
    let started = Instant::now();
    let mut report = Report::default();
    // Before anything is built: the kernels are compiled where there is a compiler.
    report.step("CUDA compiler", |report| match cuda::install() {
        Err(error) if !system => {
            report.skip(&format!("kernels for GPUs, whose compiler can't be had: {error:#}"));
            Ok(())
        }
        other => other,
    });
    report.step("format", |_| run(&mut cargo(&["fmt", "--all", "--check"])));
    report.step("clippy", |_| {
        run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))
    });
    // The whole workspace at once everywhere: another selection has other features and builds dependencies again.
    report.step("build", |_| run(&mut cargo(&["test", "--workspace", "--no-run", "--quiet"])));
    report.step("sample model", |report| prepare_sample(report, system));
    report.step("tests", |report| {
        let mut tests = cargo(&["test", "--no-fail-fast", "--workspace"]);
        tests.args(["--exclude", "kindling-e2e", "--", "--show-output"]);
        if system {
            tests.env("KINDLING_REQUIRE_MODEL", "1").env("KINDLING_REQUIRE_NVCC", "1");
            tests.env("KINDLING_REQUIRE_HELM", "1").env("KINDLING_HELM", cluster::helm()?);
        }
        report.cargo_test(&mut tests)
    });
    if system {
        // The stories mostly wait; what is emulated meanwhile leaves them the processor.
        let arm = Aside::start("arm");
        report.step("system", system_tests);
        report.step("arm", |report| arm?.finish(report));
    } else {
        report.skip(
            "the cluster stories and the kernels on Arm: they need root and a machine that may be changed (`cargo xtask test --system`)",
        );
    }
    report.finish(started)
}

fn prepare_sample(report: &mut Report, system: bool) -> anyhow::Result<()> {
    let imported = sample::import(&binary::path("debug")?, None);
    match imported {
        Err(error) if !system => {
            report.skip(&format!("tests on the sample model, which cannot be had: {error:#}"));
            Ok(())
        }
        other => other.map(drop),
    }
}

/// The stories that need a node, from the release binary, on a cluster of our own or the caller's.
fn system_tests(report: &mut Report) -> anyhow::Result<()> {
    run(&mut cargo(&["build", "--release", "--package", "kindling"]))?;
    report.step("demo", |_| run(&mut this(&["demo", "--once", "--listen", "127.0.0.1:18080"])));
    report.step("conformance", conformance);
    let kindling = binary::path("release")?.display().to_string();
    let two_nodes = "the story of two nodes: one of them is ended, and this cluster belongs to somebody";
    if std::env::var_os("KINDLING_KUBECONFIG").is_some() {
        report.skip(two_nodes);
        return report.cargo_test(&mut e2e(&kindling, &ONE_NODE));
    }
    // A cluster that was there before belongs to the developer and stays.
    let is_ours = this(&["cluster", "status"]).output().is_ok_and(|output| !output.status.success());
    if !is_ours {
        report.skip(two_nodes);
        return on_cluster(report, &kindling, "1", &ONE_NODE);
    }
    let one = on_cluster(report, &kindling, "1", &ONE_NODE);
    run(&mut this(&["cluster", "down"]))?;
    let two = on_cluster(report, &kindling, "2", &["two_nodes"]);
    let down = run(&mut this(&["cluster", "down"]));
    one.and(two).and(down)
}

/// The stories that a cluster of one node is enough for.
const ONE_NODE: [&str; 7] = ["serve", "refusals", "recovery", "memory", "crashes", "downloads", "random_sets"];

fn on_cluster(report: &mut Report, kindling: &str, nodes: &str, stories: &[&str]) -> anyhow::Result<()> {
    run(&mut this(&["cluster", "up", "--nodes", nodes, "--image-binary", kindling]))?;
    report.cargo_test(&mut e2e(kindling, stories))
}

fn e2e(kindling: &str, stories: &[&str]) -> Command {
    let mut tests = cargo(&["test", "--no-fail-fast", "--workspace"]);
    for story in stories {
        tests.args(["--test", story]);
    }
    tests.args(["--", "--show-output", "--test-threads=1"]);
    tests.env("KINDLING_REQUIRE_CLUSTER", "1").env("KINDLING_BINARY", kindling);
    tests
}

/// OpenAI's own client and schema against `kindling up`.
fn conformance(report: &mut Report) -> anyhow::Result<()> {
    const LISTEN: &str = "127.0.0.1:18082";
    let mut server = Server::start(&binary::path("release")?, LISTEN)?;
    server.wait_ready(&|| false)?;
    let url = format!("http://{LISTEN}");
    let script = ["gateway/tests/conformance/run.py", "--base-url", &url, "--model", "smollm2"];
    let checked = run_reading(&mut command("python3", &script), &mut |line| report.count_plain(line));
    checked.and(server.stop())
}

/// A step of this program that runs beside others, with what they leave of the processor.
struct Aside {
    child: Child,
    output: PathBuf,
}

impl Aside {
    fn start(step: &str) -> anyhow::Result<Self> {
        let output = std::env::temp_dir().join(format!("kindling-xtask-{step}-{}.log", std::process::id()));
        let file = File::create(&output).with_context(|| format!("create {}", output.display()))?;
        // Not by the link of `this`, which is another program's there.
        let program = format!("/proc/{}/exe", std::process::id());
        let mut nice = command("nice", &["-n", "19", &program, step]);
        let child = nice.stdout(file.try_clone()?).stderr(file).spawn().context("start nice")?;
        Ok(Self { child, output })
    }

    /// Waits for its end, and tells what it said.
    fn finish(mut self, report: &mut Report) -> anyhow::Result<()> {
        let status = self.child.wait()?;
        let said = std::fs::read_to_string(&self.output)?;
        for line in said.lines() {
            println!("{line}");
            report.count_cargo(line);
        }
        std::fs::remove_file(&self.output)?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }
}

/// This program again, for steps that are commands of their own. By the kernel's link: the file that it was started
/// from has been replaced when the tests were built.
fn this(args: &[&str]) -> Command {
    command("/proc/self/exe", args)
}

impl Report {
    fn step(&mut self, name: &str, step: impl FnOnce(&mut Self) -> anyhow::Result<()>) -> bool {
        println!("\n== {name}");
        let started = Instant::now();
        let result = step(self);
        println!("== {name}: {:.0} s", started.elapsed().as_secs_f64());
        if let Err(error) = &result {
            println!("== {name} FAILED: {error:#}");
            self.failures.push(format!("{name}: {error:#}"));
        }
        result.is_ok()
    }

    fn skip(&mut self, reason: &str) {
        println!("{SKIP_MARK} {reason}");
        self.skips.push(reason.to_owned());
    }

    fn cargo_test(&mut self, tests: &mut Command) -> anyhow::Result<()> {
        run_reading(tests, &mut |line| self.count_cargo(line))
    }

    fn count_plain(&mut self, line: &str) {
        if let Some((passed, failed)) = plain_counts(line) {
            self.num_passed += passed;
            self.num_failed += failed;
        }
        self.note_skip(line);
    }

    fn count_cargo(&mut self, line: &str) {
        if let Some((passed, failed)) = line.strip_prefix("test result: ").and_then(cargo_counts) {
            self.num_passed += passed;
            self.num_failed += failed;
        }
        self.note_skip(line);
    }

    fn note_skip(&mut self, line: &str) {
        if let Some((_, reason)) = line.split_once(SKIP_MARK) {
            self.skips.push(reason.trim().to_owned());
        }
    }

    fn finish(mut self, started: Instant) -> anyhow::Result<()> {
        self.skips.sort();
        self.skips.dedup();
        println!("\n== {:.0} s in all", started.elapsed().as_secs_f64());
        for reason in &self.skips {
            println!("{SKIP_MARK} {reason}");
        }
        for failure in &self.failures {
            println!("FAILED: {failure}");
        }
        println!("{} passed, {} failed, {} skipped", self.num_passed, self.num_failed, self.skips.len());
        if self.failures.is_empty() && self.num_failed == 0 { Ok(()) } else { bail!("the tests did not pass") }
    }
}

/// `ok. 12 passed; 0 failed; ...` as cargo's test runner closes.
fn cargo_counts(line: &str) -> Option<(usize, usize)> {
    let number_before = |word: &str| {
        line.split(';')
            .find_map(|part| part.trim().strip_suffix(word)?.split(' ').rfind(|w| !w.is_empty())?.parse().ok())
    };
    Some((number_before("passed")?, number_before("failed")?))
}

/// `12 passed, 0 failed` alone on a line.
fn plain_counts(line: &str) -> Option<(usize, usize)> {
    let (passed, rest) = line.split_once(" passed, ")?;
    let (failed, _) = rest.split_once(" failed")?;
    Some((passed.trim().parse().ok()?, failed.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_cargo_and_from_plain_lines() {
        assert_eq!(cargo_counts("ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out"), Some((12, 0)));
        assert_eq!(cargo_counts("FAILED. 3 passed; 2 failed; 0 ignored"), Some((3, 2)));
        assert_eq!(plain_counts("31 passed, 0 failed"), Some((31, 0)));
        assert_eq!(plain_counts("nothing of the kind"), None);
    }
}
