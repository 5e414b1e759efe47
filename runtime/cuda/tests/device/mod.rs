//! The device that tests run on: a real one where there is one, else the stand-in that runs the same kernels on the
//! processor, compiled by the C++ compiler.
#![allow(dead_code, reason = "every test uses a part of it")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is test code, helpers included")]

#[path = "../stand_in/compile.rs"]
mod stand_in;

use std::path::Path;
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
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let library = stand_in::compile(root, &root.join("kernels"), Path::new(env!("CARGO_TARGET_TMPDIR")));
        // SAFETY: the stand-in does nothing when it is opened.
        #[allow(unsafe_code, reason = "foreign code is opened")]
        let opened = unsafe { libloading::Library::new(library) };
        opened.unwrap()
    });
}
