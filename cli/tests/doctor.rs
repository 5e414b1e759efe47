//! `kindling doctor` with drivers of many kinds, played by a stand-in for libcuda: the whole way from the driver's first answer
//! to the texts. What is wrong with kernels is in `self_test.rs`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is test code")]

#[path = "../../runtime/cuda/tests/stand_in/compile.rs"]
mod stand_in;
mod tiny;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use kindling_cuda::image;
use serde_json::Value;

/// The folder of the stand-in.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/cuda");
        let library = stand_in::compile(&root, &root.join("kernels"), Path::new(env!("CARGO_TARGET_TMPDIR")));
        library.parent().unwrap().to_owned()
    })
}

fn doctor(arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kindling"));
    command.arg("doctor").args(arguments).env("LD_LIBRARY_PATH", folder());
    command.envs(settings.iter().copied()).output().unwrap()
}

/// What is found with such a driver.
fn gpu(settings: &[(&str, &str)]) -> Value {
    let output = doctor(&["--only-gpu"], settings);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Why the device of such a driver can't be used.
fn refusal(settings: &[(&str, &str)]) -> String {
    let found = gpu(settings);
    let text = found["devices"][0]["failure"].as_str().or_else(|| found["failure"].as_str());
    text.unwrap_or_else(|| panic!("it can be used: {found}")).to_owned()
}

/// Whether what is tested needs kernels that this build lacks; said aloud.
fn is_without_kernels(what: &str) -> bool {
    if !image::is_there() {
        assert!(std::env::var_os("KINDLING_REQUIRE_NVCC").is_none(), "built without CUDA: no nvcc was there");
        println!("SKIPPED: {what}: built without CUDA, no nvcc was there (`cargo xtask setup`)");
    }
    !image::is_there()
}

#[test]
fn without_a_driver_that_is_the_answer() {
    if Path::new("/dev/nvidiactl").exists() {
        println!("SKIPPED: no driver: this machine has one");
        return;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_kindling"));
    let output = command.args(["doctor", "--only-gpu"]).env_remove("LD_LIBRARY_PATH").output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["failure"], "no NVIDIA driver: libcuda.so.1 could not be loaded");
}

#[test]
fn drivers_that_have_no_device_or_do_not_start_are_named() {
    for (settings, expected) in [
        (("STAND_IN_DEVICES", "0"), "the NVIDIA driver has no device"),
        (("STAND_IN_FAIL", "cuInit=100"), "the NVIDIA driver has no device"),
        (("STAND_IN_FAIL", "cuInit=803"), "the NVIDIA driver refuses to start: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"),
    ] {
        assert_eq!(refusal(&[settings]), expected);
    }
}

#[test]
fn each_device_is_described_and_given_its_code() {
    if is_without_kernels("code for devices") {
        return;
    }
    for (compute, code) in [("121", "sm_121a"), ("120", "sm_120f"), ("90", "sm_90")] {
        let found = gpu(&[("STAND_IN_COMPUTE", compute), ("STAND_IN_DEVICES", "2")]);
        assert_eq!(found["devices"].as_array().unwrap().len(), 2);
        let device = &found["devices"][1];
        assert_eq!((&device["code"], &device["failure"]), (&code.into(), &Value::Null), "{device}");
        assert_eq!(device["name"], "Stand-in 1");
        assert_eq!(device["totalBytes"], 119_u64 << 30);
        assert_eq!(device["sharesMemory"], compute == "121");
    }
}

#[test]
fn a_device_that_can_not_be_used_says_why() {
    if is_without_kernels("devices that can't be used") {
        return;
    }
    for (settings, expected) in [
        (("STAND_IN_COMPUTE", "89"), "Stand-in 0 has compute capability 8.9, and this program has code for sm_121a"),
        (("STAND_IN_DRIVER", "12040"), "is too old: it knows CUDA 12.4, and the kernels need 13.0"),
        (("STAND_IN_FAIL", "cuDevicePrimaryCtxRetain=2"), "the GPU has no memory left to open the device"),
        (("STAND_IN_FAIL", "cuModuleLoadData=209"), "and this program has code for sm_121a"),
        (("STAND_IN_FAIL", "cuModuleLoadData=200"), "refuses to load the kernels: CUDA_ERROR_INVALID_IMAGE"),
    ] {
        let refusal = refusal(&[settings]);
        assert!(refusal.contains(expected), "{settings:?}: {refusal}");
    }
}

#[test]
fn a_driver_that_crashes_ends_only_its_own_check_and_the_report_is_written() {
    let report = folder().join("report.json");
    let path = report.to_str().unwrap();
    let output = doctor(&["--report", path], &[("STAND_IN_FAIL", "cuInit=0")]);
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{errors}");
    assert!(said.contains("GPU         none: the driver or a kernel ended the check: signal: 6"), "{said}");
    assert!(said.contains("models      are computed by: cpu"), "{said}");
    let written: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    assert_eq!(written["path"], "cpu");
    let text = written.to_string();
    assert!(!text.contains(env!("CARGO_MANIFEST_DIR")), "{text}");
}

/// How fast a model can be is told for what would compute it.
#[test]
fn a_gpu_that_works_computes_models_as_fast_as_it_reads() {
    if is_without_kernels("a GPU that works") {
        return;
    }
    let model = tiny::model("doctor");
    let output = doctor(&[model.path().to_str().unwrap(), "--output", "json"], &[]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["path"], "cuda", "{said}");
    let rate = said["gpu"]["devices"][0]["readBytesPerSecond"].as_f64().unwrap();
    let model = &said["model"];
    let most = rate / model["bytesPerToken"].as_f64().unwrap();
    assert!((model["mostTokensPerSecond"].as_f64().unwrap() / most - 1.0).abs() < 1e-9, "{said}");
    assert_eq!(model["refusedByGpu"], Value::Null, "{said}");
}

#[test]
fn whoever_only_describes_leaves_the_device_alone() {
    if is_without_kernels("a description of a device") {
        return;
    }
    let fails = [("STAND_IN_FAIL", "cuDevicePrimaryCtxRetain=2")];
    let output = doctor(&["--only-gpu=describe"], &fails);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let device = &found["devices"][0];
    assert_eq!((&device["code"], &device["failure"]), (&"sm_121a".into(), &Value::Null), "{found}");
    assert!(refusal(&fails).contains("the GPU has no memory left to open the device"));
}
