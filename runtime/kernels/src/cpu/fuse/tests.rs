use super::{LinearOp, Stage, StageEpilogue, fuse};
use crate::{Activation, BufferId, BufferSpec, Op, Plan, Rows, WeightId};

/// A plan of `ops` over buffers of width 32; fusing looks at no more.
fn plan(ops: Vec<Op>) -> Plan {
    let buffer = BufferSpec { name: String::new(), width: 32, rows: Rows::Tokens };
    Plan {
        weights: Vec::new(),
        buffers: vec![buffer; 8],
        rotaries: Vec::new(),
        cache_groups: Vec::new(),
        ops,
        logits: BufferId(0),
        vocab_size: 32,
        max_position: 32,
    }
}

fn linear(input: usize, weight: usize, output: usize) -> Op {
    Op::Linear { input: BufferId(input), weight: WeightId(weight), bias: None, output: BufferId(output) }
}

fn part(weight: usize, output: usize) -> LinearOp {
    LinearOp { weight: WeightId(weight), bias: None, output: BufferId(output) }
}

fn gated(gate: usize, up: usize, output: usize) -> Op {
    let (gate, up, output) = (BufferId(gate), BufferId(up), BufferId(output));
    Op::GatedActivation { gate, up, activation: Activation::Silu, output }
}

fn add(input: usize, output: usize) -> Op {
    Op::Add { input: BufferId(input), output: BufferId(output) }
}

fn stage(input: usize, parts: Vec<LinearOp>, epilogue: StageEpilogue) -> Stage {
    Stage::Linear { input: BufferId(input), parts, epilogue }
}

#[test]
fn linear_layers_with_one_input_become_one_stage() {
    let stages = fuse(&plan(vec![linear(0, 0, 1), linear(0, 1, 2), linear(0, 2, 3)]));
    assert_eq!(stages, [stage(0, vec![part(0, 1), part(1, 2), part(2, 3)], StageEpilogue::None)]);
}

#[test]
fn linear_layers_with_different_inputs_stay_apart() {
    assert_eq!(fuse(&plan(vec![linear(0, 0, 1), linear(1, 1, 2)])).len(), 2);
    assert_eq!(fuse(&plan(vec![linear(0, 0, 1), linear(0, 1, 1)])).len(), 2, "the second output overwrites the first");
}

#[test]
fn the_gate_follows_its_two_layers() {
    let stages = fuse(&plan(vec![linear(0, 0, 1), linear(0, 1, 2), gated(1, 2, 1)]));
    let epilogue = StageEpilogue::Gate(Activation::Silu, BufferId(1));
    assert_eq!(stages, [stage(0, vec![part(0, 1), part(1, 2)], epilogue)]);
}

#[test]
fn a_gate_of_other_buffers_or_into_the_input_stays_apart() {
    assert_eq!(fuse(&plan(vec![linear(0, 0, 1), linear(0, 1, 2), gated(2, 1, 1)])).len(), 2);
    assert_eq!(fuse(&plan(vec![linear(0, 0, 1), linear(0, 1, 2), gated(1, 2, 0)])).len(), 2);
}

#[test]
fn an_addition_follows_the_layer_that_it_adds() {
    let stages = fuse(&plan(vec![linear(0, 0, 1), add(1, 2)]));
    assert_eq!(stages, [stage(0, vec![part(0, 1)], StageEpilogue::Add(BufferId(2)))]);
}

#[test]
fn nothing_follows_an_epilogue() {
    assert_eq!(fuse(&plan(vec![linear(0, 0, 1), add(1, 2), linear(0, 1, 3)])).len(), 2);
    assert_eq!(fuse(&plan(vec![linear(0, 0, 1), add(1, 0)])).len(), 2, "it would write the stage's input");
}
