//! `kindling doctor` and `kindling up` on devices whose kernels have faults: the stand-in for libcuda, compiled from kernels in
//! which a line was changed. The self-test must find each, and end with an answer whatever a kernel does.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is test code")]

#[path = "../../runtime/cuda/tests/stand_in/compile.rs"]
mod stand_in;
mod tiny;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use kindling_cuda::{Check, Gpu, GpuError, SelfTests, image};
use serde_json::Value;

/// A line of a kernel, what it is changed to, and a kernel that must be named.
struct Fault {
    name: &'static str,
    file: &'static str,
    line: &'static str,
    changed: &'static str,
    kernel: &'static str,
}

const FAULTS: [Fault; 11] = [
    Fault {
        name: "nibbles swapped",
        file: "tiles.cuh",
        line: "a[step][0] = pack_bf16(low.value(of_low & 15, column), low.value(of_low >> 4 & 15, column));",
        changed: "a[step][0] = pack_bf16(low.value(of_low >> 4 & 15, column), low.value(of_low & 15, column));",
        kernel: "linear_nvfp4_8",
    },
    Fault {
        name: "the scale of the next sixteen",
        file: "tiles.cuh",
        line: "e4m3_to_float(word >> (column / 16 * 8) & 255)",
        changed: "e4m3_to_float(word >> ((column / 16 ^ 1) * 8) & 255)",
        kernel: "linear_nvfp4_32",
    },
    Fault {
        name: "registers of a fragment swapped",
        file: "tiles.cuh",
        line: "a[step][reg + 1] = pack_bf16(high0, high1);",
        changed: "a[step][reg ^ 3] = pack_bf16(high0, high1);",
        kernel: "linear_fp8_8",
    },
    Fault {
        name: "activations of the next lane",
        file: "linear_many.cuh",
        line: "both = staged[place][unit(row, half * 4 + lane % 4)];",
        changed: "both = staged[place][unit(row, half * 4 + (lane + 1) % 4)];",
        kernel: "linear_nvfp4_64",
    },
    Fault {
        name: "rows of other experts",
        file: "moe.cuh",
        line: "order[next + __popc(all & ((1u << lane) - 1))] = start + lane;",
        changed: "order[next + __popc(all & ((1u << lane) - 1))] = start + (lane ^ 1);",
        kernel: "moe_group",
    },
    Fault {
        name: "a rotation the other way round",
        file: "rotary.cuh",
        line: "*first = x * cosine - y * sine;",
        changed: "*first = x * cosine + y * sine;",
        kernel: "rotary",
    },
    Fault {
        name: "rows of the next token",
        file: "elementwise.cuh",
        line: "output[i] *= sigmoid(gates[i / width]);",
        changed: "output[i] *= sigmoid(gates[i / width ^ 1]);",
        kernel: "sigmoid_gate_rows",
    },
    Fault {
        name: "values of other positions",
        file: "paged_attention.cuh",
        line: "const unsigned position = start + 2 * t + i % 2 + i / 2 * 8;",
        changed: "const unsigned position = start + 2 * t + (i + 1) % 2 + i / 2 * 8;",
        kernel: "paged_attention_bf16_16",
    },
    Fault {
        name: "no number",
        file: "rms_norm.cuh",
        line: "sqrtf(total / (float)group_width + eps)",
        changed: "sqrtf(-total / (float)group_width - eps)",
        kernel: "rms_norm",
    },
    Fault {
        name: "a crash",
        file: "elementwise.cuh",
        line: "output[i] += input[i];",
        changed: "*(volatile float *)nullptr = output[i] + input[i];",
        kernel: "add",
    },
    Fault {
        name: "no end",
        file: "elementwise.cuh",
        line: "buffer[i] = cap * tanhf(buffer[i] / cap);",
        changed: "for (volatile unsigned never = 0; never < 1;) buffer[i] = cap;",
        kernel: "soft_cap",
    },
];

/// Where kernels with a fault are, and of which the stand-in for libcuda was compiled.
fn device(fault: Option<&Fault>) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/cuda");
    let Some(fault) = fault else { return stand_in::compile(&root, &root.join("kernels"), target) };
    let kernels = target.join(format!("kernels-{}-{}", fault.name.replace(' ', "-"), std::process::id()));
    std::fs::create_dir_all(&kernels).unwrap();
    for entry in root.join("kernels").read_dir().unwrap() {
        let entry = entry.unwrap();
        let mut text = std::fs::read_to_string(entry.path()).unwrap();
        if entry.file_name() == fault.file {
            assert_eq!(text.matches(fault.line).count(), 1, "{}: one such line is in {}", fault.name, fault.file);
            text = text.replace(fault.line, fault.changed);
        }
        std::fs::write(kernels.join(entry.file_name()), text).unwrap();
    }
    let library = stand_in::compile(&root, &kernels, target);
    std::fs::remove_dir_all(kernels).unwrap();
    library
}

/// The self-test on a device, by the program as it is; its library is found in a folder.
fn self_tests(library: &Path) -> SelfTests {
    let path = format!("LD_LIBRARY_PATH={}", library.parent().unwrap().display());
    let arguments = [path.as_str(), env!("CARGO_BIN_EXE_kindling"), "self-test"];
    SelfTests::by("/usr/bin/env".into(), &arguments).within(Duration::from_secs(60))
}

/// Whether what is tested needs kernels that this build lacks; said aloud.
fn is_without_kernels() -> bool {
    if !image::is_there() {
        assert!(std::env::var_os("KINDLING_REQUIRE_NVCC").is_none(), "built without CUDA: no nvcc was there");
        println!("SKIPPED: self-tests: built without CUDA, no nvcc was there (`cargo xtask setup`)");
    }
    !image::is_there()
}

fn failed(checks: &[Check]) -> Vec<&Check> {
    checks.iter().filter(|check| check.failure.is_some()).collect()
}

#[test]
fn each_fault_is_found_and_its_kernel_named() {
    if is_without_kernels() {
        return;
    }
    let all = self_tests(&device(None)).run_now(0).unwrap();
    assert_eq!(failed(&all), [] as [&Check; 0]);
    for fault in &FAULTS {
        // What never ends is given less time.
        let patience = Duration::from_secs(if fault.name == "no end" { 8 } else { 60 });
        let checks = self_tests(&device(Some(fault))).within(patience).run_now(0).unwrap();
        let found = failed(&checks);
        for check in &found {
            println!("{}: {} ({}): {:?}", fault.name, check.what, check.kernels.join(", "), check.failure);
        }
        assert!(found.iter().any(|check| check.kernels.iter().any(|kernel| kernel == fault.kernel)), "{}", fault.name);
        assert!(checks.len() == all.len(), "{}: the others are checked too", fault.name);
        assert!(found.len() * 2 < checks.len(), "{}: what has no fault passes", fault.name);
    }
}

#[test]
fn what_passed_is_noted_for_this_device_and_driver() {
    if is_without_kernels() {
        return;
    }
    let library = device(None);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("self-tests-{}", std::process::id()));
    let gpu = Gpu {
        ordinal: 0,
        name: "Stand-in".into(),
        compute: (12, 1),
        total_bytes: 1,
        is_integrated: true,
        multiprocessors: 48,
        l2_bytes: 1,
        shared_per_block_bytes: 1,
        driver: (13, 0),
    };
    let first = self_tests(&library).noted_in(folder.clone()).run(&gpu).unwrap();
    // Whoever asks again gets the note: this child could not even be started.
    let noted = |gpu: &Gpu| {
        let tests = SelfTests::by("/usr/bin/env".into(), &["false"]).noted_in(folder.clone());
        tests.run(gpu)
    };
    assert_eq!(noted(&gpu).unwrap(), first);
    let other = Gpu { driver: (13, 1), ..gpu };
    assert!(matches!(noted(&other), Err(GpuError::SelfTest(_))));
    std::fs::remove_dir_all(folder).unwrap();
}

/// The device can be used, but not for what needs that kernel.
#[test]
fn a_model_that_needs_a_faulty_kernel_is_not_computed_by_that_gpu() {
    if is_without_kernels() {
        return;
    }
    let fault = FAULTS.iter().find(|fault| fault.kernel == "rms_norm").unwrap();
    let library = device(Some(fault));
    let model = tiny::model("faulty");
    let kindling = |arguments: &[&str]| -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kindling"));
        command.args(arguments).env("LD_LIBRARY_PATH", library.parent().unwrap());
        // What devices without the fault passed is noted elsewhere.
        command.env("XDG_CACHE_HOME", model.path()).output().unwrap()
    };
    let path = model.path().to_str().unwrap();
    let failure = "the self-test of rms_norm: ";

    let output = kindling(&["doctor", path, "--output", "json"]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["path"], "cuda", "{said}");
    let refused = said["model"]["refusedByGpu"].as_str().unwrap_or_default();
    assert!(refused.starts_with(&format!("it fails {failure}")), "{said}");

    let yaml = format!(
        "apiVersion: kindling.dev/v1alpha1\nkind: LocalModel\nmetadata: {{name: tiny}}\nspec:\n  source: {{hostPath: {{path: {path}}}}}\n  \
         placement: {{device: Cuda}}\n"
    );
    let file = model.path().join("localmodel.yaml");
    std::fs::write(&file, yaml).unwrap();
    for arguments in [
        ["up", "--listen", "127.0.0.1:0", "-f", file.to_str().unwrap()].as_slice(),
        &["runtime", "--backend", "cuda", "--listen", "127.0.0.1:0", "--model-path", path],
    ] {
        let output = kindling(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(failure), "{arguments:?}: {said}");
    }
}

#[test]
fn what_can_not_be_checked_is_no_answer_about_kernels() {
    if is_without_kernels() {
        return;
    }
    let library = device(None);
    let path = format!("LD_LIBRARY_PATH={}", library.parent().unwrap().display());
    for (setting, expected) in [
        ("STAND_IN_MEMORY=100", "the GPU has no memory left to run a self-test"),
        ("STAND_IN_DEVICES=0", "the NVIDIA driver has no device"),
        ("STAND_IN_FAIL=cuInit=0", "it ended the process: signal: 6"),
        ("STAND_IN_FAIL=cuLaunchKernel=700", "5 processes were lost to it; the last one: "),
    ] {
        let arguments = [path.as_str(), setting, env!("CARGO_BIN_EXE_kindling"), "self-test"];
        let error = SelfTests::by("/usr/bin/env".into(), &arguments).run_now(0).unwrap_err().to_string();
        assert!(error.contains(expected), "{setting}: {error}");
    }
    let error = SelfTests::by("/nowhere/kindling".into(), &[]).run_now(0).unwrap_err().to_string();
    assert!(error.contains("/nowhere/kindling could not be started: No such file or directory"), "{error}");
}
