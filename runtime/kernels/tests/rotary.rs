//! `rotary`: cpu against reference, and both against the definition.

mod common;

use common::op_plans::scaled_rotary;
use common::{MemoryWeights, Part, assert_all_close, cpu_backends, limits, run, step};
use kindling_kernels::{Plan, ReferenceBackend, RopeScaling, RotaryStyle};

fn rotary(style: RotaryStyle, head_dim: usize, rotary_dim: usize) -> (Plan, MemoryWeights) {
    scaled_rotary(RopeScaling::Linear { factor: 2.0 }, style, head_dim, rotary_dim)
}

#[test]
fn matches_reference_exactly_for_both_styles() {
    for style in [RotaryStyle::Half, RotaryStyle::Interleaved] {
        for (head_dim, rotary_dim) in [(64, 64), (80, 32), (128, 128), (10, 6)] {
            let model = rotary(style, head_dim, rotary_dim);
            let tokens: Vec<u32> = (0..17).collect();
            let step = step(&[Part { tokens: &tokens, context_len: 100, blocks: &[0; 8] }], 0);
            let expected = run(&ReferenceBackend, &model, &limits(), &step);
            for (isa, backend) in cpu_backends() {
                assert_eq!(run(&backend, &model, &limits(), &step), expected, "{style:?} {head_dim} on {isa}");
            }
        }
    }
}

#[test]
fn position_zero_changes_nothing_and_length_is_kept() {
    let model = rotary(RotaryStyle::Half, 64, 64);
    let at = |context_len| {
        let step = step(&[Part { tokens: &[5], context_len, blocks: &[0; 16] }], 0);
        run(&ReferenceBackend, &model, &limits(), &step)
    };
    let (still, turned) = (at(0), at(77));
    assert_ne!(still, turned);
    let length = |values: &[f32]| values.iter().map(|x| x * x).sum::<f32>();
    assert!((length(&still) / length(&turned) - 1.0).abs() < 1e-5);
}

#[test]
fn yarn_sharpens_as_in_the_reference() {
    let scaling = RopeScaling::Yarn {
        factor: 32.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_context: 4096.0,
        attention_factor: 1.3465736,
        truncate: false,
    };
    let model = scaled_rotary(scaling, RotaryStyle::Half, 64, 64);
    let tokens: Vec<u32> = (0..17).collect();
    let step = step(&[Part { tokens: &tokens, context_len: 100, blocks: &[0; 8] }], 0);
    assert_all_close(&model, (&limits(), &step), 1e-6, "YaRN");
}
