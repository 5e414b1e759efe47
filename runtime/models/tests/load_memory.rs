//! What loading the sample model costs beside the weights that stay, measured in a process of its own.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is test code, helpers included")]
#![cfg(target_os = "linux")]

mod common;

use std::process::Command;

use common::sample_gguf;
use kindling_kernels::{Backend, CpuBackend, KvType, Limits, WeightSource};
use kindling_models::open_weights;

const CHILD: &str = "KINDLING_LOAD_MEMORY_CHILD";
const MIB: usize = 1 << 20;

/// `VmRSS` or `VmHWM` in bytes.
fn memory(key: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// Prepares the model, and prints the peak above what was there before and what stays by plan.
fn child() {
    let Some(path) = sample_gguf() else { return };
    let model = open_weights(&path).unwrap();
    let plan = model.spec.lower();
    let limits = Limits {
        max_tokens_per_step: 64,
        max_sequences: 1,
        max_logits_per_step: 1,
        max_context: 256,
        block_size: 16,
        num_blocks: vec![16; plan.cache_groups.len()],
        kv_type: KvType::Wide,
        num_threads: 8,
    };
    let source: &dyn WeightSource = &*model.weights;
    let before = memory("VmRSS:");
    let mut last = 0;
    let prepared = CpuBackend::default()
        .prepare(&plan, source, &limits, &mut |progress| {
            assert!(progress.loaded_bytes > last, "progress should only grow");
            last = progress.loaded_bytes;
        })
        .unwrap();
    let peak = memory("VmHWM:") - before;
    let held = prepared.memory();
    println!("measured {peak} {} {}", held.weight_bytes, held.kv_cache_bytes + held.activation_bytes);
}

#[test]
fn loading_holds_little_beside_the_weights() {
    if std::env::var_os(CHILD).is_some() {
        return child();
    }
    if sample_gguf().is_none() {
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "loading_holds_little_beside_the_weights", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let measured = text.lines().find_map(|line| line.split_once("measured ").map(|(_, figures)| figures.to_owned()));
    let measured =
        measured.unwrap_or_else(|| panic!("the child said: {text} {}", String::from_utf8_lossy(&output.stderr)));
    let figures: Vec<usize> = measured.split_whitespace().map(|figure| figure.parse().unwrap()).collect();
    let [peak, weights, rest] = figures[..] else { panic!("{measured}") };
    println!("peak {peak} bytes above the start, weights {weights}, cache and activations {rest}");
    // The figure counts whole pages that were there before and are not any more; it must at least hold the weights.
    assert!(peak > weights / 2, "the measurement is wrong: {measured}");
    let allowed = weights + rest + (weights / 10).max(64 * MIB);
    assert!(peak <= allowed, "peak {peak}, allowed {allowed}");
}
