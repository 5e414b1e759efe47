//! Compiles the kernels into one fatbin where an nvcc can be found; else leaves an empty one, and the program says that it
//! was built without CUDA. `KINDLING_NVCC` names another nvcc, or `none`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=KINDLING_NVCC");
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-changed=targets.txt");
    println!("cargo::rerun-if-changed=toolchain.txt");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let (fatbin, usage) = (out.join("kernels.fatbin"), out.join("usage.txt"));
    match find_nvcc() {
        Some(nvcc) => compile(&nvcc, &fatbin, &usage),
        None => [&fatbin, &usage].into_iter().for_each(|path| fs::write(path, []).expect("write into OUT_DIR")),
    }
}

/// The lines of a list that are no comments.
fn list(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// By name, as `cargo xtask setup` installed it, or one on the PATH that is new enough.
fn find_nvcc() -> Option<PathBuf> {
    match env::var("KINDLING_NVCC") {
        Ok(none) if none == "none" => return None,
        Ok(named) if !named.is_empty() => return Some(PathBuf::from(named)),
        _ => {}
    }
    let pins = fs::read_to_string("toolchain.txt").expect("read toolchain.txt");
    let version = list(&pins).find_map(|pin| pin.strip_prefix("nvidia-cuda-nvcc==")).expect("nvcc is pinned");
    let folder = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")));
    let installed = cache.map(|cache| cache.join("kindling/cuda").join(version).join("nvidia/cu13/bin/nvcc"));
    if let Some(nvcc) = installed.filter(|nvcc| nvcc.exists()) {
        // What is not there can't be watched, or every build would begin anew; xtask touches the pins when it has installed
        // it.
        println!("cargo::rerun-if-changed={}", nvcc.display());
        return Some(nvcc);
    }
    let release = release_of("nvcc")?;
    if release < OLDEST {
        println!(
            "cargo::warning=nvcc {}.{} is too old for the kernels; `cargo xtask setup` installs one",
            release.0, release.1
        );
        return None;
    }
    Some(PathBuf::from("nvcc"))
}

/// The first that knows sm_121a and sm_120f, and makes what driver 580 takes.
const OLDEST: (u32, u32) = (13, 0);

/// As it says itself: `release 13.0`; nothing if it can't be started.
fn release_of(nvcc: &str) -> Option<(u32, u32)> {
    let output = Command::new(nvcc).arg("--version").output().ok()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, rest) = said.split_once("release ")?;
    let (major, rest) = rest.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn compile(nvcc: &Path, fatbin: &Path, usage: &Path) {
    let targets = fs::read_to_string("targets.txt").expect("read targets.txt");
    let mut command = Command::new(nvcc);
    command.args([
        "-fatbin",
        "-std=c++17",
        "-O3",
        "-lineinfo",
        "--compress-mode=size",
        "-Werror",
        "all-warnings",
        "-Xptxas",
        "-v",
    ]);
    for target in list(&targets) {
        // Machine code is named after the virtual architecture that it comes from.
        let number = target.trim_start_matches("sm_").trim_start_matches("compute_");
        command.args(["-gencode", &format!("arch=compute_{number},code={target}")]);
    }
    command.arg("-o").arg(fatbin).arg("kernels/kernels.cu");
    let output = command.output().unwrap_or_else(|error| panic!("start {}: {error}", nvcc.display()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{} can't compile the kernels; CUDA 13.0 is needed, `cargo xtask setup` installs it, and KINDLING_NVCC=none builds \
         without:\n{said}",
        nvcc.display()
    );
    fs::write(usage, said.as_bytes()).expect("write into OUT_DIR");
}
