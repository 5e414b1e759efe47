//! `embed_tokens`: rows from the packed matrix are exactly those of the file.

mod common;

use common::plans::PlanBuilder;
use common::{DTYPES, LONG_DTYPES, Part, cpu_backends, limits, run, step};
use kindling_kernels::{Op, ReferenceBackend, Rows};

#[test]
fn rows_are_exactly_the_stored_ones_for_every_type() {
    let short = DTYPES.iter().flat_map(|dtype| [32, 96, 576].map(|width| (*dtype, width)));
    for (dtype, width) in short.chain(LONG_DTYPES.map(|dtype| (dtype, 512))) {
        let mut builder = PlanBuilder::new(width);
        let (weight, output) = (builder.weight(dtype, &[width, width], 1.0), builder.buffer(width, Rows::Tokens));
        builder.plan.ops.push(Op::EmbedTokens { weight, output });
        let model = builder.finish(output);
        let tokens: Vec<u32> = (0..33).map(|row| (row * 5 % width) as u32).collect();
        let step = step(&[Part { tokens: &tokens, context_len: 0, blocks: &[0, 1, 2] }], 0);
        let expected = run(&ReferenceBackend, &model, &limits(), &step);
        for (isa, backend) in cpu_backends() {
            assert_eq!(run(&backend, &model, &limits(), &step), expected, "{dtype} {width} on {isa}");
        }
    }
}
