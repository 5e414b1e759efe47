//! The CUDA compiler, from Python packages: where `runtime/cuda/build.rs` looks for it.

use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Context;

use crate::shell::{command, read, root, run, user_cache};

/// The pins, which the build script reads too.
const TOOLCHAIN: &str = "runtime/cuda/toolchain.txt";

/// Installs what is missing of it; 276 MiB, once.
///
/// # Errors
/// If pip is missing or offline.
pub fn install() -> anyhow::Result<()> {
    let list = root().join(TOOLCHAIN);
    let text = std::fs::read_to_string(&list).with_context(|| format!("read {TOOLCHAIN}"))?;
    let pins: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let folder = folder(&pins)?;
    let nvcc = folder.join("nvidia/cu13/bin/nvcc");
    let done = folder.join("installed.txt");
    if nvcc.is_file() && std::fs::read_to_string(&done).is_ok_and(|installed| installed == text) {
        println!("CUDA compiler: {}", nvcc.display());
        return Ok(());
    }
    println!("CUDA compiler: installing with pip (276 MiB, once)");
    let python = ["python3", "python"]
        .into_iter()
        .find(|name| read(&mut command(name, &["-m", "pip", "--version"])).is_ok())
        .context("nvcc comes from Python packages: install python3 with pip, then try again")?;
    let arguments = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-cache-dir"];
    let mut install = command(python, &arguments);
    install.args(["--upgrade", "--target"]).arg(&folder).args(&pins);
    run(&mut install).context("install the CUDA compiler")?;
    anyhow::ensure!(nvcc.is_file(), "pip installed no {}", nvcc.display());
    std::fs::write(&done, &text)?;
    // The build script could not watch what was not there.
    std::fs::File::options().append(true).open(&list)?.set_modified(SystemTime::now())?;
    println!("CUDA compiler: {}", nvcc.display());
    Ok(())
}

/// By the version of nvcc.
fn folder(pins: &[&str]) -> anyhow::Result<PathBuf> {
    let version = pins.iter().find_map(|pin| pin.strip_prefix("nvidia-cuda-nvcc==")).context("nvcc is not pinned")?;
    Ok(user_cache()?.join("kindling/cuda").join(version))
}
