//! `cargo xtask test`: everything that needs no root and changes nothing outside the repository and the user's cache.
//! `--system` adds what installs packages and makes a Kubernetes node. What is skipped is said aloud, with the reason.

mod report;

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Instant;

use anyhow::{Context, ensure};

use crate::server::Server;
use crate::shell::{cargo, command, run, run_reading};
use crate::{binary, cluster, cuda, sample};
use report::Report;

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Args {
    /// Also what needs root and a machine that may be changed: installs packages, makes a Kubernetes node.
    #[arg(long)]
    system: bool,
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
    let checked = run_reading(&mut command("python3", &script), &mut |line| {
        report.count_plain(line);
        true
    });
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
        report.read_cargo(said.lines());
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
