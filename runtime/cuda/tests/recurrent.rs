//! Recurrent layers on the device against reference: states over steps, in slots that are cleared, copied and shared by nobody.
#![allow(clippy::print_stdout, reason = "what was compared is worth reading")]

#[path = "../../kernels/tests/common/mod.rs"]
mod common;
mod device;

use common::plans::delta_net;
use common::{Part, assert_close, limits, prepare, step};
use kindling_kernels::{Backend, DeltaNetShape, PreparedModel, ReferenceBackend, SlotCopy, Step};

/// Another order of f32 sums.
const TOLERANCE: f64 = 5e-6;

const SHAPES: [DeltaNetShape; 4] = [
    DeltaNetShape { num_key_heads: 2, num_value_heads: 4, key_dim: 128, value_dim: 128, conv_kernel: 4 },
    DeltaNetShape { num_key_heads: 1, num_value_heads: 3, key_dim: 40, value_dim: 50, conv_kernel: 3 },
    DeltaNetShape { num_key_heads: 3, num_value_heads: 3, key_dim: 256, value_dim: 7, conv_kernel: 8 },
    DeltaNetShape { num_key_heads: 1, num_value_heads: 2, key_dim: 1, value_dim: 1, conv_kernel: 1 },
];

fn tokens(len: u32, vocab_size: usize) -> Vec<u32> {
    (0..len).map(|token| token * 7 % vocab_size as u32).collect()
}

/// Two sequences, cut into such steps; the rows of the first one, then those of the other.
fn in_steps(model: &mut dyn PreparedModel, vocab_size: usize, cuts: &[usize]) -> Vec<f32> {
    let (all, width) = (tokens(60, vocab_size), vocab_size);
    let (first, second) = all.split_at(30);
    let (mut rows, mut logits, mut done) = ([Vec::new(), Vec::new()], Vec::new(), 0);
    for cut in cuts {
        let part = |tokens, slot| Part { tokens, context_len: done, blocks: slot };
        let parts = [part(&first[done..done + cut], &[3]), part(&second[done..done + cut], &[1])];
        model.execute(&step(&parts, 1), &mut logits).expect("it should compute");
        rows[0].extend_from_slice(&logits[..cut * width]);
        rows[1].extend_from_slice(&logits[cut * width..]);
        done += cut;
    }
    rows.concat()
}

#[test]
fn matches_reference_and_gives_the_same_bits_however_it_is_cut() {
    let Some(backend) = device::backend() else { return };
    for shape in SHAPES {
        let (plan, weights) = delta_net(shape);
        let run = |backend: &dyn Backend, cuts: &[usize]| {
            let mut model = prepare(backend, &plan, &weights, &limits());
            in_steps(&mut *model, plan.vocab_size, cuts)
        };
        let whole = run(&backend, &[30]);
        assert_close(&whole, &run(&ReferenceBackend, &[30]), TOLERANCE, &format!("{shape:?}"));
        for cuts in [&[1; 30][..], &[7, 1, 2, 20], &[29, 1]] {
            assert_eq!(run(&backend, cuts), whole, "{shape:?} cut at {cuts:?}");
        }
    }
}

/// A snapshot is what the slot was, before and after steps; a slot that is used again starts from nothing.
#[test]
fn slots_are_copied_and_cleared() {
    let Some(backend) = device::backend() else { return };
    let (plan, weights) = delta_net(SHAPES[1]);
    let all = tokens(20, plan.vocab_size);
    let run = |backend: &dyn Backend| {
        let mut model = prepare(backend, &plan, &weights, &limits());
        let (mut rows, mut logits) = (Vec::new(), Vec::new());
        let copy = |from, to| vec![SlotCopy { group: 0, from, to }];
        let step_at = |tokens, context_len, slot: u32| step(&[Part { tokens, context_len, blocks: &[slot] }], 1);
        let steps = [
            Step { copies_after: copy(0, 4), ..step_at(&all[..9], 0, 0) },
            step_at(&all[9..], 9, 0),
            // The same again, from the snapshot, in another slot.
            Step { copies_before: copy(4, 2), ..step_at(&all[9..], 9, 2) },
            // And anew in a slot that was used.
            step_at(&all[..9], 0, 0),
        ];
        for step in &steps {
            model.execute(step, &mut logits).expect("it should compute");
            rows.push(logits.clone());
        }
        rows
    };
    let (found, expected) = (run(&backend), run(&ReferenceBackend));
    assert_eq!((&found[1], &found[0]), (&found[2], &found[3]));
    assert_close(&found.concat(), &expected.concat(), TOLERANCE, "snapshots");
}
