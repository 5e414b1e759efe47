//! `cargo xtask gpu`: the kernels on a GPU, correctness first, then timings. A machine without one builds everything into one
//! folder, which travels with the repository to a machine that has one, and needs no Rust, no network and no CUDA there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::shell::{cargo, command, read, root, run};

/// The tests that compute on a device.
const TESTS: [&str; 10] = [
    "self_test",
    "graphs",
    "linear",
    "linear_fp4",
    "paged_attention",
    "small_ops",
    "recurrent",
    "tiny_models",
    "sample_model",
    "soak",
];
const BENCH: &str = "gpu_bench";
/// Where they are gathered; git ignores it.
const FOLDER: &str = "target/gpu";
/// NVIDIA's tool that looks at every access of a kernel, as a Python package.
const SANITIZER: &str = "nvidia-cuda-sanitizer-api==13.0.85";
/// What runs them there.
const CHECK: &str = "runtime/cuda/tests/gpu_check.sh";

/// Runs `cargo xtask gpu`.
pub fn run_gpu() -> anyhow::Result<()> {
    crate::cuda::install()?;
    let folder = root().join(FOLDER);
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let programs = build()?;
    for name in TESTS.iter().chain([&BENCH]) {
        let program = programs.get(*name).with_context(|| format!("cargo built no {name}"))?;
        copy(program, &folder.join(name))?;
    }
    bring_sanitizer(&folder.join("sanitizer"))?;
    if !Path::new("/dev/nvidiactl").exists() {
        println!("no GPU here: take the repository with {FOLDER} to a machine that has one, and run there");
        println!("sh {CHECK}");
        return Ok(());
    }
    run(&mut command("sh", &[CHECK]))
}

/// Programs by name. Without the compiler's messages of what it did, only where it left things.
fn build() -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut arguments = vec!["test", "--release", "-p", "kindling-cuda", "--no-run", "--message-format=json"];
    arguments.extend(TESTS.iter().flat_map(|name| ["--test", *name]));
    arguments.extend(["--example", BENCH]);
    let mut programs = BTreeMap::new();
    for line in read(&mut cargo(&arguments))?.lines() {
        let message: serde_json::Value = serde_json::from_str(line).context("read what cargo says")?;
        if let (Some(name), Some(program)) = (message["target"]["name"].as_str(), message["executable"].as_str()) {
            programs.insert(name.to_owned(), PathBuf::from(program));
        }
    }
    Ok(programs)
}

/// Its programs and libraries side by side, 27 MB.
fn bring_sanitizer(folder: &Path) -> anyhow::Result<()> {
    if folder.join("compute-sanitizer").is_file() {
        return Ok(());
    }
    let installed = folder.with_file_name("sanitizer-package");
    let target = installed.to_str().context("the repository's path should be text")?;
    let arguments = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", target];
    run(command("python3", &arguments).arg(SANITIZER)).context("install NVIDIA's sanitizer")?;
    std::fs::create_dir_all(folder)?;
    for part in ["lib", "bin"] {
        for entry in std::fs::read_dir(installed.join("nvidia/cu13").join(part))? {
            let path = entry?.path();
            if let Some(name) = path.file_name().filter(|_| path.is_file()) {
                std::fs::rename(&path, folder.join(name))?;
            }
        }
    }
    Ok(std::fs::remove_dir_all(installed)?)
}

/// Without what only a debugger reads: it has to travel.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    let path = to.to_str().context("the repository's path should be text")?;
    run(&mut command("strip", &[path]))
}
