//! What the kernels are asked to compute: small plans of one op each, with random weights, at odd sizes.

use kindling_kernels::made_up::plans::{self, PlanBuilder, norm, scaled_rotary};
use kindling_kernels::made_up::{MemoryWeights, Part, Rng, rows_step, step};
use kindling_kernels::{
    Activation, BufferId, CacheGroupKind, DType, DeltaNetShape, KvType, Limits, Op, Plan, RopeScaling, RotaryStyle,
    RouteRule, Rows, Step,
};

use crate::launch::Activations;

/// Activations are rounded to BF16, as are weights that are whole numbers with a scale: 3.0e-3 at most was measured for
/// linear layers, 4.3e-3 for experts, 2.0e-3 for attention (`tests/linear.rs`, `small_ops.rs`, `paged_attention.rs`).
const ROUNDED: f64 = 1e-2;
/// All in f32, in another order of sums: 7.8e-7 at most was measured.
const EXACT: f64 = 3e-6;
/// Of a cache.
const NUM_BLOCKS: usize = 32;
const DTYPES: [DType; 15] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::F8E4M3,
    DType::F8E4M3Block128,
    DType::Q8_0,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
    DType::NVFP4,
    DType::MXFP4,
];

/// One thing that is computed on the device and by `reference`.
pub(super) struct Case {
    pub what: String,
    pub plan: Plan,
    pub weights: MemoryWeights,
    pub limits: Limits,
    pub step: Step,
    pub tolerance: f64,
    /// What the device is asked to round to.
    pub activations: Activations,
    /// What `reference` computes with instead, to round as the device does.
    pub rounded: Option<MemoryWeights>,
    /// Kernels with these beginnings are what it is about.
    about: &'static [&'static str],
}

impl Case {
    /// Whether the check says something about a kernel, or only uses it.
    pub(super) fn is_about(&self, kernel: &str) -> bool {
        self.about.iter().any(|beginning| kernel.starts_with(beginning))
    }
}

/// A plan and its weights.
type Model = (Plan, MemoryWeights);

fn case(
    about: &'static [&'static str],
    (what, tolerance): (String, f64),
    (plan, weights): Model,
    step: impl FnOnce(&Plan) -> Step,
) -> Case {
    let limits = Limits {
        max_tokens_per_step: 320,
        max_sequences: 4,
        max_logits_per_step: 320,
        max_context: 512,
        block_size: 16,
        num_blocks: vec![NUM_BLOCKS; plan.cache_groups.len()],
        kv_type: KvType::Wide,
        num_threads: 1,
    };
    let step = step(&plan);
    Case { what, plan, weights, limits, step, tolerance, activations: Activations::Bf16, rounded: None, about }
}

/// So many rows of different tokens.
fn rows(count: usize) -> impl FnOnce(&Plan) -> Step {
    move |plan| rows_step(count, plan.vocab_size, plan.cache_groups.len())
}

/// All of them for a device, always in the same order.
pub(super) fn all(has_fp4: bool) -> Vec<Case> {
    let mut cases = small_ops();
    cases.extend(linear());
    if has_fp4 {
        cases.extend([3, 33, 70].map(linear_fp4));
    }
    cases.extend(experts());
    cases.extend(attention());
    cases.extend(recurrent());
    cases
}

const fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 | DType::F16 => EXACT,
        _ => ROUNDED,
    }
}

fn linear() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in DTYPES {
        for count in [3, 33, 70] {
            let what = format!("linear {dtype}, {count} rows");
            let model = plans::linear(dtype, (37, 768), count == 3);
            cases.push(case(&["linear_"], (what, tolerance(dtype)), model, rows(count)));
        }
        let mut builder = PlanBuilder::new(256);
        let weight = builder.weight(dtype, &[256, 256], 1.0);
        let output = builder.buffer(256, Rows::Tokens);
        builder.plan.ops.push(Op::EmbedTokens { weight, output });
        let what = format!("look-up {dtype}");
        cases.push(case(&["embed_tokens"], (what, ROUNDED), builder.finish(output), rows(33)));
    }
    // A router's matrix is not rounded.
    let mut builder = PlanBuilder::new(37);
    let input = builder.input(160);
    let weight = builder.weight(DType::BF16, &[37, 160], 0.5);
    let [logits, routes] = [(); 2].map(|()| builder.buffer(37, Rows::Tokens));
    builder.plan.ops.push(Op::Linear { input, weight, bias: None, output: logits });
    let rule = RouteRule::SoftmaxTopK { normalise: true };
    builder.plan.ops.push(Op::MoeRoute { logits, rule, top_k: 4, output: routes });
    let model = builder.finish(logits);
    cases.push(case(&["linear_bf16"], ("linear BF16 of a router".to_owned(), EXACT), model, rows(9)));
    cases
}

/// Activations are rounded as the device rounds them, so that only sums differ.
fn linear_fp4(count: usize) -> Case {
    let model = plans::linear(DType::NVFP4, (37, 784), true);
    let what = format!("linear NVFP4 by FP4, {count} rows");
    let mut case = case(&["linear_fp4", "quantise_fp4"], (what, EXACT), model, rows(count));
    let mut rounded = case.weights.clone();
    rounded.round_to_nvfp4("weight 0");
    case.activations = Activations::Fp4;
    case.rounded = Some(rounded);
    case
}

fn experts() -> Vec<Case> {
    let rules = [
        RouteRule::SoftmaxTopK { normalise: false },
        RouteRule::SoftmaxTopK { normalise: true },
        RouteRule::TopKSoftmax,
    ];
    let routes = rules.map(|rule| {
        let mut builder = PlanBuilder::new(60);
        let (logits, output) = (builder.input(60), builder.buffer(60, Rows::Tokens));
        builder.plan.ops.push(Op::MoeRoute { logits, rule, top_k: 4, output });
        case(&["moe_route"], (format!("routes {rule:?}"), EXACT), builder.finish(output), rows(33))
    });
    let dtypes = [DType::F32, DType::BF16, DType::F8E4M3, DType::Q4_1, DType::Q8_0, DType::NVFP4, DType::MXFP4];
    let experts = dtypes.map(|dtype| {
        let model = plans::experts(dtype, true, (5, 2));
        // Those whose matrices are the simplest stand for what chooses and sums, and for groups, which rows in f32 have not.
        let about: &[_] = match dtype {
            DType::F32 => &["moe_pick", "moe_sum", "linear_"],
            DType::BF16 => &["moe_group", "linear_"],
            _ => &["linear_"],
        };
        case(about, (format!("experts {dtype}"), tolerance(dtype)), model, rows(33))
    });
    routes.into_iter().chain(experts).collect()
}

fn attention() -> Vec<Case> {
    let mut cases = Vec::new();
    let kinds = [CacheGroupKind::Full, CacheGroupKind::Window { window: 100 }];
    let shapes = [((9, 3, 64), kinds[0]), ((8, 1, 128), kinds[1]), ((2, 2, 256), kinds[0]), ((2, 1, 512), kinds[0])];
    for (heads, kind) in shapes {
        for kv_type in [KvType::Wide, KvType::F8E4M3] {
            let model = plans::attention_with(heads, kind, true);
            let what = format!("attention {heads:?} {kind:?} {kv_type:?}");
            // More than a span of positions, and a second sequence.
            let of_two = |plan: &Plan| {
                let mut rng = Rng(11);
                let tokens: Vec<u32> = (0..290).map(|_| rng.below(plan.vocab_size) as u32).collect();
                let blocks = rng.permutation(NUM_BLOCKS);
                let first = Part { tokens: &tokens[..269], context_len: 0, blocks: &blocks[..18] };
                let second = Part { tokens: &tokens[269..], context_len: 0, blocks: &blocks[18..] };
                step(&[first, second], 1)
            };
            let mut case = case(&["paged_attention", "kv_cache_append"], (what, ROUNDED), model, of_two);
            case.limits.kv_type = kv_type;
            cases.push(case);
        }
    }
    cases
}

fn recurrent() -> Vec<Case> {
    let shapes = [
        DeltaNetShape { num_key_heads: 2, num_value_heads: 4, key_dim: 128, value_dim: 128, conv_kernel: 4 },
        DeltaNetShape { num_key_heads: 1, num_value_heads: 3, key_dim: 40, value_dim: 50, conv_kernel: 3 },
    ];
    let of_two = |plan: &Plan| {
        let tokens: Vec<u32> = (0..29).map(|token| token * 7 % plan.vocab_size as u32).collect();
        let first = Part { tokens: &tokens[..20], context_len: 0, blocks: &[5] };
        step(&[first, Part { tokens: &tokens[20..], context_len: 0, blocks: &[2] }], 1)
    };
    let case = |shape| {
        let what = format!("recurrent {shape:?}");
        case(&["causal_conv", "gated_delta_rule"], (what, EXACT), plans::delta_net(shape), of_two)
    };
    shapes.map(case).into()
}

/// A plan that changes one random buffer, or takes it together with another.
fn changes(width: usize, ops: impl Fn(&mut PlanBuilder, BufferId, BufferId)) -> Model {
    let mut builder = PlanBuilder::new(width);
    let (buffer, other) = (builder.input(width), builder.input(width));
    ops(&mut builder, buffer, other);
    builder.finish(buffer)
}

fn small_ops() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |about, what: String, model| cases.push(case(about, (what, EXACT), model, rows(17)));
    add(&["embed_tokens_f32", "gather"], "gathered rows".to_owned(), changes(77, |_, _, _| ()));
    add(
        &["rms_norm"],
        "norm of 577".to_owned(),
        changes(577, |builder, buffer, _| {
            let weight = builder.weight(DType::F32, &[577], 1.0);
            let op = norm(&builder.plan, (buffer, weight), buffer);
            builder.plan.ops.push(op);
        }),
    );
    let scaling = RopeScaling::Linear { factor: 2.0 };
    for (style, rotary_dim) in [(RotaryStyle::Half, 64), (RotaryStyle::Interleaved, 32)] {
        add(&["rotary"], format!("rotation {style:?}"), scaled_rotary(scaling, style, 64, rotary_dim));
    }
    let clamped = Activation::ClampedSwiglu { alpha: 1.702, limit: 2.5 };
    for activation in [Activation::Silu, Activation::GeluTanh, Activation::Sigmoid, clamped] {
        let model = changes(577, |builder, gate, up| {
            builder.plan.ops.push(Op::Scale { buffer: gate, factor: 6.0, weight: None });
            builder.plan.ops.push(Op::GatedActivation { gate, up, activation, output: gate });
        });
        add(&["gated_activation"], format!("activation {activation:?}"), model);
    }
    let model = changes(577, |builder, buffer, _| {
        let weight = Some(builder.weight(DType::BF16, &[1], 3.0));
        builder.plan.ops.push(Op::Scale { buffer, factor: 24.5, weight });
    });
    add(&["scale"], "scale".to_owned(), model);
    let sum =
        |builder: &mut PlanBuilder, buffer, other| builder.plan.ops.push(Op::Add { input: other, output: buffer });
    add(&["add"], "add".to_owned(), changes(577, sum));
    let cap = |builder: &mut PlanBuilder, buffer, _| builder.plan.ops.push(Op::SoftCap { buffer, cap: 0.7 });
    add(&["soft_cap"], "soft cap".to_owned(), changes(577, cap));
    let model = changes(577, |builder, buffer, _| {
        let gate = builder.input(1);
        builder.plan.ops.push(Op::SigmoidGateRows { gate, output: buffer });
    });
    add(&["sigmoid_gate_rows"], "gate of rows".to_owned(), model);
    cases
}
