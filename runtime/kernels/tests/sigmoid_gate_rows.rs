//! `sigmoid_gate_rows`: cpu against reference.

mod common;

use common::plans::PlanBuilder;
use common::{assert_all_close, limits, rows_step};
use kindling_kernels::Op;

/// Another exponential.
const TOLERANCE: f64 = 5e-7;

#[test]
fn matches_reference() {
    for width in [1, 7, 96, 576] {
        let mut builder = PlanBuilder::new(width);
        let (gate, output) = (builder.input(1), builder.input(width));
        builder.plan.ops.push(Op::Scale { buffer: gate, factor: 8.0, weight: None });
        builder.plan.ops.push(Op::SigmoidGateRows { gate, output });
        let model = builder.finish(output);
        assert_all_close(&model, (&limits(), &rows_step(17, width, 0)), TOLERANCE, &format!("{width}"));
    }
}
