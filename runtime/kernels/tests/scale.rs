//! `scale`: cpu against reference.

mod common;

use common::plans::PlanBuilder;
use common::{assert_all_close, limits, rows_step};
use kindling_kernels::{DType, Op};

/// The order of two multiplications.
const TOLERANCE: f64 = 2e-7;

#[test]
fn matches_reference_with_and_without_a_weight() {
    for (width, has_weight) in [(1, true), (7, false), (96, true), (100, true), (576, false)] {
        let mut builder = PlanBuilder::new(width);
        let buffer = builder.input(width);
        let weight = has_weight.then(|| builder.weight(DType::BF16, &[1], 3.0));
        builder.plan.ops.push(Op::Scale { buffer, factor: 24.5, weight });
        let model = builder.finish(buffer);
        assert_all_close(&model, (&limits(), &rows_step(17, width, 0)), TOLERANCE, &format!("{width} {has_weight}"));
    }
}
