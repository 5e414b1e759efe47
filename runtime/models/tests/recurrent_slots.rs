//! What a recurrent group's slots are for, on golden models: states that go on, begin anew, and are kept for others.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is test code, helpers included")]

mod common;

use common::golden_model::{GoldenModel, Running};
use kindling_kernels::{CacheGroupKind, ReferenceBackend, SlotCopy};

const FOLDERS: [&str; 3] = ["tiny_qwen3_next", "tiny_qwen3_5", "tiny_qwen3_5_moe"];
/// Three blocks of four.
const BORDER: usize = 12;
/// A slot that no sequence has.
const SPARE: u32 = 0;

fn prepared(folder: &str) -> (GoldenModel, Running) {
    let golden = GoldenModel::open(folder, "");
    let running = golden.prepare(&ReferenceBackend).unwrap();
    (golden, running)
}

fn copy(golden: &GoldenModel, from: u32, to: u32) -> Vec<SlotCopy> {
    let groups = golden.opened.spec.lower().cache_groups;
    let is_recurrent = |kind| matches!(kind, CacheGroupKind::Recurrent { .. });
    let group = groups.iter().position(|group| is_recurrent(group.kind)).expect("a hybrid should have such a group");
    vec![SlotCopy { group, from, to }]
}

/// The golden prompt's first tokens, then others.
fn other_continuation(tokens: &[u32]) -> Vec<u32> {
    tokens[..BORDER].iter().chain(tokens[BORDER..].iter().rev()).copied().collect()
}

#[test]
fn however_a_prompt_is_cut_the_logits_are_the_same_bit_for_bit() {
    for folder in FOLDERS {
        let (golden, mut running) = prepared(folder);
        let whole = running.whole(&golden.tokens);
        let each: Vec<usize> = (1..golden.tokens.len()).collect();
        for cuts in [&[1][..], &[2], &[3], &[BORDER], &[5, 6, 17], &each] {
            assert_eq!(running.chunked(&golden.tokens, cuts), whole, "{folder} cut at {cuts:?}");
        }
        assert_eq!(running.batched(&golden.tokens, 7), whole, "{folder} beside another sequence");
    }
}

#[test]
fn a_snapshot_goes_on_in_another_slot_as_if_all_had_been_computed_there() {
    for folder in FOLDERS {
        let (golden, mut running) = prepared(folder);
        let tokens = golden.tokens.clone();
        let other = other_continuation(&tokens);
        let (whole, whole_other) = (running.whole(&tokens), prepared(folder).1.whole(&other));
        running.shared_blocks = BORDER / 4;

        running.copies[1] = copy(&golden, Running::slot(0), SPARE);
        assert_eq!(running.step(&[(0, 0, &tokens[..BORDER])]), whole[..BORDER], "{folder} up to the snapshot");
        let onwards = running.step(&[(0, BORDER, &tokens[BORDER..])]);
        assert_eq!(onwards, whole[BORDER..], "{folder} is not changed by being copied");

        running.copies[0] = copy(&golden, SPARE, Running::slot(1));
        let restored = running.step(&[(1, BORDER, &other[BORDER..])]);
        assert_eq!(restored, whole_other[BORDER..], "{folder} restored");

        let used = running.step(&[(1, BORDER, &other[BORDER..])]);
        assert_ne!(used, whole_other[BORDER..], "{folder}: without restoring, the slot's own state should be felt");
    }
}

#[test]
fn a_restored_sequence_and_the_one_it_was_taken_from_run_in_one_step() {
    for folder in FOLDERS {
        let (golden, mut running) = prepared(folder);
        let tokens = golden.tokens.clone();
        let other = other_continuation(&tokens);
        let (whole, whole_other) = (running.whole(&tokens), prepared(folder).1.whole(&other));
        running.shared_blocks = BORDER / 4;
        running.step(&[(0, 0, &tokens[..BORDER])]);
        // The copy is done before sequence 0 changes its state in the same step.
        running.copies[0] = copy(&golden, Running::slot(0), Running::slot(1));
        let both = running.step(&[(0, BORDER, &tokens[BORDER..]), (1, BORDER, &other[BORDER..])]);
        let (first, second) = both.split_at(tokens.len() - BORDER);
        assert_eq!((first, second), (&whole[BORDER..], &whole_other[BORDER..]), "{folder}");
    }
}
