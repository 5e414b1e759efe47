//! `cargo xtask gpu`: the kernels on a GPU, correctness first, then timings. A machine without one packs everything into one
//! archive, which travels with the repository to a machine that has one, and needs no Rust, no network and no CUDA there.

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
/// Where they are packed; git ignores it.
const FOLDER: &str = "target/gpu";
const ARCHIVE: &str = "programs.tar.gz";
/// Where they are gathered before.
const GATHERED: &str = "target/gpu-programs";
/// NVIDIA's tool that looks at every access of a kernel, as a Python package.
const SANITIZER: &str = "nvidia-cuda-sanitizer-api==13.0.85";
/// What runs them there.
const CHECK: &str = "runtime/cuda/tests/gpu_check.sh";

/// Runs `cargo xtask gpu`.
pub fn run_gpu() -> anyhow::Result<()> {
    crate::cuda::install()?;
    let [folder, packed] = [GATHERED, FOLDER].map(|folder| root().join(folder));
    for folder in [&folder, &packed] {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let mut programs = build("test", &["--no-run"], &TESTS.map(|name| ["--test", name]).concat())?;
    // `cargo test` would make a test of it.
    programs.extend(build("build", &[], &["--example", BENCH])?);
    for name in TESTS.iter().chain([&BENCH]) {
        let program = programs.get(*name).with_context(|| format!("cargo built no {name}"))?;
        copy(program, &folder.join(name))?;
    }
    bring_sanitizer(&folder.join("sanitizer"))?;
    let archive = packed.join(ARCHIVE);
    let paths = [archive.to_str(), folder.to_str()].map(|path| path.context("the repository's path should be text"));
    let [archive_path, folder_path] = paths;
    run(&mut command("tar", &["-czf", archive_path?, "-C", folder_path?, "."]))?;
    println!("{}: {} MB", archive.display(), std::fs::metadata(&archive)?.len() / 1_000_000);
    if !Path::new("/dev/nvidiactl").exists() {
        println!("no GPU here: take the repository with {FOLDER} to a machine that has one, and run there");
        println!("sh {CHECK}");
        return Ok(());
    }
    run(&mut command("sh", &[CHECK]))
}

/// Programs by name. Without the compiler's messages of what it did, only where it left things.
fn build(how: &str, more: &[&str], names: &[&str]) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let arguments = [&[how, "--release", "-p", "kindling-cuda", "--message-format=json"], more, names].concat();
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
