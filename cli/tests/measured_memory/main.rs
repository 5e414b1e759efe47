//! What is predicted of a model is what its process takes: models with random weights, each with weights and KV cache of at
//! least 512 MiB, served by a real `kindling runtime` within exactly the budget that `kindling fit` says.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is test code, and its table is to be read")]

mod models;
mod process;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use kindling_envelope::Bytes;
use models::{Shape, Stored, llama, qwen3, qwen3_config};
use process::{Cgroup, Process, terms, use_it};
use serde_json::Value;

/// Large enough that shares of a hundredth are more than noise.
const AT_LEAST: u64 = 512 << 20;

const QWEN: Shape = Shape { layers: 6, hidden: 1536, heads: 12, kv_heads: 4, inner: 6144, vocabulary: 65_536 };
const LLAMA_Q8: Shape = Shape { layers: 9, hidden: 2048, heads: 16, kv_heads: 8, inner: 5632, vocabulary: 49_152 };
const LLAMA_Q4: Shape = Shape { layers: 11, hidden: 2048, heads: 16, kv_heads: 8, inner: 8192, vocabulary: 131_072 };

/// How a model is served.
struct Setting {
    name: &'static str,
    context: usize,
    kv_tokens: usize,
    concurrency: usize,
    batched: usize,
    kv_type: &'static str,
}

/// What `kindling fit` says.
struct Predicted {
    weights: u64,
    kv_cache: u64,
    activations: u64,
    runtime: u64,
    load_transient: u64,
}

impl Predicted {
    fn resident(&self) -> u64 {
        self.weights + self.kv_cache + self.activations + self.runtime
    }
}

/// A folder that is removed with its weights.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("measured-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn predict(model: &Path, setting: &Setting) -> Predicted {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kindling"));
    command.arg("fit").arg(model).args(["--memory", "64GiB", "--output", "json"]);
    for (name, figure) in [
        ("--context", setting.context),
        ("--concurrency", setting.concurrency),
        ("--kv-tokens", setting.kv_tokens),
        ("--max-batched-tokens", setting.batched),
    ] {
        command.args([name, &figure.to_string()]);
    }
    command.args(["--kv-type", setting.kv_type]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let figure = |key: &str| said[key].as_u64().unwrap_or_else(|| panic!("{key}: {said}"));
    Predicted {
        weights: figure("weightsBytes"),
        kv_cache: figure("kvCacheBytes"),
        activations: figure("activationsBytes"),
        runtime: figure("runtimeBytes"),
        load_transient: figure("loadTransientBytes"),
    }
}

fn arguments(setting: &Setting, budget: u64) -> Vec<String> {
    let figures = [
        ("--context-length", setting.context as u64),
        ("--max-concurrency", setting.concurrency as u64),
        ("--kv-tokens", setting.kv_tokens as u64),
        ("--max-batched-tokens", setting.batched as u64),
        ("--memory-budget", budget),
    ];
    let figures = figures.iter().flat_map(|(name, figure)| [(*name).to_owned(), figure.to_string()]);
    figures.chain(["--kv-type".to_owned(), setting.kv_type.to_owned()]).collect()
}

/// One line of the table, and whether the difference is at most so many percent.
fn line(setting: &str, term: &str, (predicted, measured): (u64, u64), percent: f64) -> bool {
    let off = (measured as f64 - predicted as f64) / predicted as f64 * 100.0;
    let [said, found] = [predicted, measured].map(|bytes| Bytes(bytes).to_string());
    println!("{setting:<34} {term:<12} {said:>12} {found:>12} {off:>+7.2} %");
    off.abs() <= percent
}

/// Serves a model within exactly the predicted budget, in a group that ends it beyond what is predicted for loading, and
/// compares. What is off is collected in `off`.
async fn compare(model: &Path, setting: &Setting, off: &mut Vec<String>) {
    let predicted = predict(model, setting);
    assert!(predicted.weights >= AT_LEAST && predicted.kv_cache >= AT_LEAST, "{} is too small", setting.name);
    let cgroup = Cgroup::new("compare");
    let allowed = predicted.resident() + predicted.load_transient;
    if let Some(cgroup) = &cgroup {
        cgroup.limit(allowed + LIMIT_MARGIN);
    }
    let started = Instant::now();
    let mut process = Process::start(model, &arguments(setting, predicted.resident()), cgroup.as_ref());
    let mut client = process.ready().await;
    let seconds = started.elapsed().as_secs_f64();
    let at_start = (process.pss(), process.peak());
    use_it(&client, setting.concurrency).await;
    let (measured, peak) = (terms(&mut client).await, process.peak());
    let files = if cfg!(debug_assertions) { OPTIMISED } else { process.pss_of_files() };
    let pss = process.pss() - process.pss_of_files() + files;
    let rest = pss.saturating_sub(measured.weights_bytes + measured.kv_cache_bytes + measured.activations_bytes);
    let mut check = |term: &str, figures, percent| {
        if !line(setting.name, term, figures, percent) {
            off.push(format!("{} of {}: {figures:?} differ by more than {percent} %", term, setting.name));
        }
    };
    check("weights", (predicted.weights, measured.weights_bytes), 5.0);
    check("KV cache", (predicted.kv_cache, measured.kv_cache_bytes), 5.0);
    check("activations", (predicted.activations, measured.activations_bytes), 5.0);
    check("runtime", (predicted.runtime, rest), RUNTIME_PERCENT);
    check("total (PSS)", (predicted.resident(), pss), 3.0);
    if let Some(cgroup) = &cgroup {
        // Beside it are the pages of the program, which belong to the group that read them first.
        check("total (group)", (predicted.resident(), cgroup.anonymous() + files), 3.0);
    }
    let [at_start, at_peak] = [at_start.0, at_start.1].map(Bytes);
    println!(
        "{:<34} ready after {seconds:.2} s, at {at_start}; peak while loading {at_peak}, since {}, granted {}; files {}",
        setting.name,
        Bytes(peak),
        Bytes(allowed),
        Bytes(process.pss_of_files()),
    );
    if peak > allowed {
        off.push(format!("the peak of {} is {}, granted were {}", setting.name, Bytes(peak), Bytes(allowed)));
    }
}

/// A grant below what is needed: every term is said, and nothing of them was taken.
fn refuse(model: &Path, setting: &Setting) {
    let predicted = predict(model, setting);
    let budget = predicted.resident() - predicted.kv_cache / 8;
    let cgroup = Cgroup::new("refuse");
    let (status, peak, said) = Process::start(model, &arguments(setting, budget), cgroup.as_ref()).end();
    assert!(!status.success(), "{said}");
    let terms = [predicted.weights, predicted.kv_cache, predicted.activations, predicted.runtime];
    let terms = terms.map(|bytes| Bytes(bytes).to_string());
    let budget_said = format!("its memory budget is {}", Bytes(budget));
    let tokens = format!("KV cache of {} tokens", setting.kv_tokens);
    for part in terms.iter().chain([&budget_said, &tokens]) {
        assert!(said.contains(part), "{part}: {said}");
    }
    let of_group = cgroup.as_ref().map_or(0, Cgroup::peak);
    println!(
        "{}: refused within {}, peak {}, of the group {}",
        setting.name,
        Bytes(budget),
        Bytes(peak),
        Bytes(of_group)
    );
    // Not even reading the vocabulary, before anybody is asked, took anything like what was refused.
    let allowed = predicted.runtime + WHILE_READING;
    assert!(peak.max(of_group) <= allowed, "{}: {} of {}", setting.name, Bytes(peak.max(of_group)), Bytes(allowed));
}

/// What reading a vocabulary of 49,152 entries takes beside what stays of it, and pages of files.
const WHILE_READING: u64 = 32 << 20;
/// The pod's limit is so much above what is granted and what loading takes.
const LIMIT_MARGIN: u64 = 64 << 20;

/// Pages of an optimised program: they are part of the prediction, and stand here for those of one that is not.
const OPTIMISED: u64 = 15 << 20;
const RUNTIME_PERCENT: f64 = if cfg!(debug_assertions) { 15.0 } else { 5.0 };

/// Of a program that the kernel has not all of in its page cache, fewer pages are mapped at a time, and the process is
/// smaller by some MiB: a node that runs models has it all.
fn head() {
    std::fs::read(env!("CARGO_BIN_EXE_kindling")).unwrap();
    println!("{:<34} {:<12} {:>12} {:>12} {:>9}", "setting", "term", "predicted", "measured", "off");
}

#[tokio::test]
async fn what_is_predicted_is_what_is_taken() {
    let folder = Folder::new("some");
    let (mut off, file) = (Vec::new(), folder.0.join("llama-q8_0.gguf"));
    head();
    llama(&file, &LLAMA_Q8, Stored::Q80);
    let name = "llama Q8_0, 2 x 8192";
    let setting = Setting { name, context: 8192, kv_tokens: 16_384, concurrency: 2, batched: 256, kv_type: "bf16" };
    compare(&file, &setting, &mut off).await;
    refuse(&file, &setting);
    std::fs::remove_file(&file).unwrap();
    let folder = folder.0.join("qwen3");
    qwen3(&folder, &QWEN);
    let name = "qwen3 BF16, FP8 cache, 8 x 16384";
    let setting = Setting { name, context: 16_384, kv_tokens: 131_072, concurrency: 8, batched: 512, kv_type: "fp8" };
    compare(&folder, &setting, &mut off).await;
    assert!(off.is_empty(), "{off:#?}");
}

/// `cargo xtask bench --memory`.
#[tokio::test]
#[ignore = "takes minutes, and its figures are of an optimised build: `cargo xtask bench --memory` runs it"]
async fn what_is_predicted_is_what_is_taken_in_more_settings() {
    let folder = Folder::new("more");
    let mut off = Vec::new();
    head();
    let file = folder.0.join("llama-q4_1.gguf");
    llama(&file, &LLAMA_Q4, Stored::Q41);
    for setting in [
        Setting {
            name: "llama Q4_1, 8 x 2048",
            context: 2048,
            kv_tokens: 16_384,
            concurrency: 8,
            batched: 512,
            kv_type: "bf16",
        },
        Setting {
            name: "llama Q4_1, 1 x 32768",
            context: 32_768,
            kv_tokens: 32_768,
            concurrency: 1,
            batched: 2048,
            kv_type: "bf16",
        },
    ] {
        compare(&file, &setting, &mut off).await;
    }
    std::fs::remove_file(&file).unwrap();
    let folder = folder.0.join("qwen3");
    qwen3(&folder, &QWEN);
    let name = "qwen3 BF16, 4 x 16384";
    let setting = Setting { name, context: 16_384, kv_tokens: 65_536, concurrency: 4, batched: 512, kv_type: "bf16" };
    compare(&folder, &setting, &mut off).await;
    qwen3_config(&folder, &QWEN, Some((3, 4096)));
    let name = "qwen3 BF16, windows, 2 x 65536";
    let setting = Setting { name, context: 65_536, kv_tokens: 131_072, concurrency: 2, batched: 1024, kv_type: "bf16" };
    compare(&folder, &setting, &mut off).await;
    assert!(off.is_empty(), "{off:#?}");
}
