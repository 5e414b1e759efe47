//! Compiles the stand-in for libcuda, with kernels that run on the processor. For tests of several crates.
#![allow(clippy::unwrap_used, reason = "this is test code, helpers included")]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// `libcuda.so` in a folder of its own below `target`, compiled if nobody did so for these sources. `root` is the folder of
/// the crate that has the stand-in, `kernels` a folder of kernels.
pub fn compile(root: &Path, kernels: &Path, target: &Path) -> PathBuf {
    let sources = root.join("tests/stand_in");
    let mut files: Vec<PathBuf> = [&sources, kernels]
        .iter()
        .flat_map(|folder| folder.read_dir().unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut hasher = DefaultHasher::new();
    files.iter().for_each(|file| std::fs::read(file).unwrap().hash(&mut hasher));
    let folder = target.join(format!("stand-in-{:016x}", hasher.finish()));
    let library = folder.join("libcuda.so");
    if library.exists() {
        return library;
    }
    std::fs::create_dir_all(&folder).unwrap();
    let own = library.with_extension(std::process::id().to_string());
    let object = own.with_extension("o");
    let run = |command: &mut Command| assert!(command.status().expect("a C++ compiler").success(), "{command:?}");
    let warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"];
    run(Command::new("cc")
        .args(["-O2", "-fPIC", "-c", "-o"])
        .arg(&object)
        .args(warnings)
        .arg(sources.join("libcuda.c")));
    run(Command::new("c++")
        .args(["-std=c++17", "-O2", "-fPIC", "-shared", "-Wl,-soname,libcuda.so", "-Wl,-z,defs", "-o"])
        .arg(&own)
        .args(warnings)
        .arg("-I")
        .arg(kernels)
        .arg("-I")
        .arg(&sources)
        .arg(sources.join("device.cpp"))
        .arg(&object)
        .arg("-lpthread"));
    std::fs::remove_file(object).unwrap();
    std::fs::rename(own, &library).unwrap();
    library
}
