//! `soft_cap`: cpu against reference.

mod common;

use common::plans::PlanBuilder;
use common::{assert_all_close, limits, rows_step};
use kindling_kernels::Op;

/// Another tangent: what is lost is relative to the cap, so the bound is for inputs of that order.
const TOLERANCE: f64 = 5e-7;

#[test]
fn matches_reference_below_and_beyond_the_cap() {
    for (width, factor) in [(7, 1.0), (96, 30.0), (100, 300.0), (33, 1e6)] {
        let mut builder = PlanBuilder::new(width);
        let buffer = builder.input(width);
        builder.plan.ops.push(Op::Scale { buffer, factor, weight: None });
        builder.plan.ops.push(Op::SoftCap { buffer, cap: 2.5 });
        let model = builder.finish(buffer);
        assert_all_close(&model, (&limits(), &rows_step(17, width, 0)), TOLERANCE, &format!("{width} times {factor}"));
    }
}
