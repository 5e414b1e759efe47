//! The device that tests run on: a real one where there is one, else the stand-in that runs the same kernels on the
//! processor, compiled by the C++ compiler.
#![allow(dead_code, reason = "every test uses a part of it")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is test code, helpers included")]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use kindling_cuda::{CudaBackend, Loaded, image, probe};

/// A backend, or nothing where the program was built without kernels, which is said aloud.
pub fn backend() -> Option<CudaBackend> {
    loaded().map(CudaBackend::on)
}

/// A device that has the kernels.
pub fn loaded() -> Option<Loaded> {
    if !image::is_there() {
        assert!(std::env::var_os("KINDLING_REQUIRE_NVCC").is_none(), "built without CUDA: no nvcc was there");
        println!("SKIPPED: kernels: built without CUDA, no nvcc was there (`cargo xtask setup`)");
        return None;
    }
    if !is_real() && Command::new("c++").arg("--version").output().is_err() {
        assert!(std::env::var_os("KINDLING_REQUIRE_NVCC").is_none(), "no C++ compiler (c++)");
        println!("SKIPPED: kernels: no GPU, and no C++ compiler (c++) for the stand-in");
        return None;
    }
    if !is_real() {
        assert!(std::env::var_os("KINDLING_REQUIRE_GPU").is_none(), "there is no GPU");
        open_stand_in();
    }
    Some(probe().unwrap()[0].load().unwrap())
}

/// Whether there is a device.
pub fn is_real() -> bool {
    Path::new("/dev/nvidiactl").exists()
}

/// Whoever asks for libcuda after this gets the stand-in: it has that name, and is there already.
fn open_stand_in() {
    static LIBRARY: OnceLock<libloading::Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        // SAFETY: the stand-in does nothing when it is opened.
        #[allow(unsafe_code, reason = "foreign code is opened")]
        let opened = unsafe { libloading::Library::new(compile_stand_in()) };
        opened.unwrap()
    });
}

/// The library, compiled if nobody did so for these sources.
fn compile_stand_in() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (sources, kernels) = (root.join("tests/stand_in"), root.join("kernels"));
    let mut files: Vec<PathBuf> = [&sources, &kernels]
        .iter()
        .flat_map(|folder| folder.read_dir().unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut hasher = DefaultHasher::new();
    files.iter().for_each(|file| std::fs::read(file).unwrap().hash(&mut hasher));
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("libcuda-{:016x}.so", hasher.finish()));
    if library.exists() {
        return library;
    }
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
        .arg(&kernels)
        .arg("-I")
        .arg(&sources)
        .arg(sources.join("device.cpp"))
        .arg(&object)
        .arg("-lpthread"));
    std::fs::remove_file(object).unwrap();
    std::fs::rename(own, &library).unwrap();
    library
}
