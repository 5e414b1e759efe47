//! What the compiler made: within its budget of registers and shared memory, and with the instructions that it is there for.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is test code")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use kindling_cuda::image::{self, Usage};

/// What a block of GB10 may ask for.
const SHARED_PER_BLOCK: u32 = 101_376;

fn is_without_kernels(what: &str) -> bool {
    if !image::is_there() {
        assert!(std::env::var_os("KINDLING_REQUIRE_NVCC").is_none(), "built without CUDA: no nvcc was there");
        println!("SKIPPED: {what}: built without CUDA, no nvcc was there (`cargo xtask setup`)");
    }
    !image::is_there()
}

fn budget_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/budget.tsv")
}

fn line(usage: &Usage) -> String {
    let Usage { kernel, target, registers, spilled, shared } = usage;
    format!("{kernel}\t{target}\t{registers}\t{spilled}\t{shared}\n")
}

/// `KINDLING_REWRITE=1` writes what is used now as the budget.
#[test]
fn every_kernel_stays_within_its_budget() {
    if is_without_kernels("the budget of kernels") {
        return;
    }
    let used = image::usage();
    let head = "kernel\ttarget\tregisters\tspilled bytes\tshared bytes\n";
    if std::env::var_os("KINDLING_REWRITE").is_some() {
        let text: String = std::iter::once(head.to_owned()).chain(used.iter().map(line)).collect();
        std::fs::write(budget_path(), text).unwrap();
    }
    let text = std::fs::read_to_string(budget_path()).unwrap();
    let mut budget: BTreeMap<(&str, &str), [u32; 3]> = BTreeMap::new();
    for row in text.lines().skip(1) {
        let cells: Vec<&str> = row.split('\t').collect();
        budget.insert((cells[0], cells[1]), [2, 3, 4].map(|column| cells[column].parse().unwrap()));
    }
    for usage in &used {
        let allowed = budget.remove(&(usage.kernel.as_str(), usage.target.as_str()));
        let allowed = allowed.unwrap_or_else(|| panic!("no budget for {} on {}", usage.kernel, usage.target));
        let found = [usage.registers, usage.spilled, usage.shared];
        let is_within = found.iter().zip(&allowed).all(|(found, allowed)| found <= allowed);
        assert!(is_within, "{} on {}: {found:?} beyond {allowed:?}", usage.kernel, usage.target);
        assert!(usage.shared <= SHARED_PER_BLOCK, "{}", usage.kernel);
    }
    assert!(budget.is_empty(), "nothing uses the budget of {:?}", budget.keys());
}

#[test]
fn matrices_are_multiplied_in_hardware() {
    if is_without_kernels("instructions of kernels") {
        return;
    }
    let sass = disassemble();
    let holds = |target: &str, kernel: &str, instruction: &str| {
        let of_target = sass.iter().filter(|(found, ..)| found == target);
        let of_kernel = of_target.filter(|(_, function, _)| function == kernel);
        of_kernel.into_iter().any(|(.., text)| text.contains(instruction))
    };
    for target in ["sm_121a", "sm_120f"] {
        for kernel in ["mma_probe_nvfp4", "linear_fp4_8", "linear_fp4_32", "linear_fp4_64"] {
            assert!(holds(target, kernel, "OMMA.SF.16864.F32.E2M1.E2M1.UE4M3.4X"), "{kernel} for {target}");
        }
    }
    for target in ["sm_121a", "sm_120f", "sm_90"] {
        for kernel in
            ["mma_probe_bf16", "linear_nvfp4_8", "linear_nvfp4_64", "paged_attention_bf16_16", "paged_attention_fp8_32"]
        {
            assert!(holds(target, kernel, "HMMA.16816.F32.BF16"), "{kernel} for {target}");
        }
    }
    assert!(!holds("sm_90", "mma_probe_nvfp4", ""), "H100 has no FP4");
}

/// Target, function and instructions of all machine code.
fn disassemble() -> Vec<(String, String, String)> {
    let pins = include_str!("../toolchain.txt");
    let version = pins.lines().find_map(|line| line.strip_prefix("nvidia-cuda-nvcc==")).unwrap();
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| std::env::home_dir().unwrap().join(".cache"));
    let cuobjdump = cache.join("kindling/cuda").join(version).join("nvidia/cu13/bin/cuobjdump");
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels.fatbin");
    std::fs::write(&file, image::FATBIN).unwrap();
    let output = Command::new(&cuobjdump).arg("-sass").arg(&file).output();
    let output = output.unwrap_or_else(|error| panic!("start {}: {error}", cuobjdump.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (mut found, mut target) = (Vec::new(), String::new());
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some(name) = line.trim().strip_prefix("arch = ") {
            target = name.to_owned();
        } else if let Some(name) = line.trim().strip_prefix("Function : ") {
            found.push((target.clone(), name.to_owned(), String::new()));
        } else if let Some((.., text)) = found.last_mut() {
            text.push_str(line);
        }
    }
    found
}
