//! Decoding by graphs: the same bits as kernel by kernel, for every batch and across the lengths at which another graph is
//! taken; and what happens where the driver makes none.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "this is test code; what was compared is worth reading")]

#[path = "../../kernels/tests/common/mod.rs"]
mod common;
mod device;

use std::process::Command;

use common::llama::TINY;
use common::{Part, Rng, prepare, step};
use kindling_kernels::{Backend, ExecuteError, Limits};

/// Decodes sequences of these lengths for some steps; the logits of all steps.
fn decode(backend: &dyn Backend, lengths: &[usize], steps: usize) -> Result<Vec<f32>, ExecuteError> {
    let (plan, weights) = TINY.build();
    let limits = Limits { max_tokens_per_step: 700, max_logits_per_step: 700, max_context: 700, ..common::limits() };
    let limits = Limits { max_sequences: limits.max_sequences.max(lengths.len()), ..limits };
    let limits = Limits { num_blocks: vec![50 * lengths.len()], ..limits };
    let mut model = prepare(backend, &plan, &weights, &limits);
    let mut rng = Rng(5);
    let all_blocks = rng.permutation(50 * lengths.len());
    let blocks: Vec<&[u32]> = all_blocks.chunks(50).collect();
    let (mut all, mut logits) = (Vec::new(), Vec::new());
    for (index, len) in lengths.iter().enumerate() {
        let tokens: Vec<u32> = (0..*len).map(|_| rng.below(100) as u32).collect();
        model.execute(&step(&[Part { tokens: &tokens, context_len: 0, blocks: blocks[index] }], 1), &mut logits)?;
    }
    for round in 0..steps {
        let tokens: Vec<[u32; 1]> = lengths.iter().map(|_| [rng.below(100) as u32]).collect();
        let parts = lengths.iter().enumerate().map(|(index, len)| Part {
            tokens: &tokens[index],
            context_len: len + round,
            blocks: blocks[index],
        });
        // The batch shrinks and grows.
        let parts: Vec<Part<'_>> = parts.skip(round % 2).collect();
        if !parts.is_empty() {
            model.execute(&step(&parts, 1), &mut logits)?;
            all.extend_from_slice(&logits);
        }
    }
    Ok(all)
}

fn compare(lengths: &[usize], steps: usize) {
    let Some(backend) = device::backend() else { return };
    let eager = device::backend().unwrap().eager(true);
    let found = decode(&backend, lengths, steps).unwrap_or_else(|error| panic!("{error}"));
    assert!(!found.is_empty() && found == decode(&eager, lengths, steps).unwrap(), "{lengths:?}");
}

#[test]
fn graphs_change_no_bits() {
    compare(&[3, 12], 4);
}

/// Over a span's end; and with many sequences over the length at which another graph is taken.
#[test]
fn graphs_change_no_bits_when_contexts_grow() {
    compare(&[253, 1, 40], 7);
    let mut many = [2; 35];
    many[20] = 253;
    compare(&many, 6);
}

/// Runs the first of them in a process with such a driver.
fn first_with(failure: &str) -> (bool, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", "graphs_change_no_bits", "--nocapture"]).env("STAND_IN_FAIL", failure);
    let output = output.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

#[test]
fn a_driver_that_makes_no_graphs_gets_kernel_after_kernel() {
    if device::is_real() || device::backend().is_none() {
        println!("SKIPPED: drivers without graphs: only the stand-in can be told to make none");
        return;
    }
    for failure in ["cuStreamBeginCapture_v2=801", "cuStreamEndCapture=901", "cuGraphInstantiateWithFlags=801"] {
        let (passed, said) = first_with(failure);
        assert!(passed, "{failure}: {said}");
    }
    // That there are graphs at all: who can't start them can't decode.
    let (passed, said) = first_with("cuGraphLaunch=719");
    assert!(!passed && said.contains("the NVIDIA driver refuses to start a graph: CUDA_ERROR_LAUNCH_FAILED"), "{said}");
}
