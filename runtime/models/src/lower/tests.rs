use std::collections::HashSet;

use kindling_kernels::{
    Activation, Backend, BufferId, CacheGroupKind, DType, KvType, Limits, Op, Plan, ReferenceBackend, RouteRule, Step,
    StepSequence, TensorDesc, TensorScale, WeightError, WeightSource, WeightSpec,
};

use crate::architecture::{Checkpoint, Description, detect};
use crate::gguf::synthetic::{SyntheticGguf, llama};
use crate::gguf::{GgufHeader, GgufWeights};
use crate::spec::{Experts, FeedForward, Linear, Mixer, ModelSpec, Moe, Norm, SharedExpert};

fn lower(file: &SyntheticGguf) -> (Plan, Vec<String>) {
    let bytes = file.file();
    let header = GgufHeader::read(&bytes).unwrap();
    let names = header.tensors.iter().map(|tensor| tensor.desc.name.clone()).collect();
    let weights = GgufWeights::new(Box::new(bytes), header.tensors).unwrap();
    let checkpoint = Checkpoint { description: Description::Gguf(&header.metadata), weights: &weights };
    let plan = detect(&checkpoint).unwrap().spec(&checkpoint).unwrap().lower();
    for weight in &plan.weights {
        assert_eq!(weights.describe(&weight.name).unwrap().shape, weight.shape, "{}", weight.name);
    }
    (plan, names)
}

#[test]
fn every_tensor_is_one_weight() {
    for file in [llama(), llama().tensor("output.weight", &[4, 32], 8).tensor("rope_freqs.weight", &[8], 0)] {
        let (plan, mut names) = lower(&file);
        let mut used: Vec<String> = plan.weights.iter().map(|weight| weight.name.clone()).collect();
        names.sort();
        used.sort();
        assert_eq!(used, names);
    }
}

#[test]
fn layers_share_a_handful_of_buffers() {
    let (plan, _) = lower(&llama());
    let names: Vec<&str> = plan.buffers.iter().map(|buffer| buffer.name.as_str()).collect();
    let expected = ["hidden", "normed", "query", "key", "value", "attended", "gate", "up", "last hidden", "logits"];
    assert_eq!(names, expected);
    assert_eq!(plan.ops.len(), 1 + 2 * 16 + 3);
    assert_eq!(plan.cache_groups.len(), 1);
    assert_eq!(plan.cache_groups[0].num_layers, 2);
    assert_eq!((plan.vocab_size, plan.max_position), (4, 64));
}

#[test]
fn widths_agree_and_nothing_is_read_before_it_is_written() {
    let (plan, _) = lower(&llama().tensor("blk.0.attn_q.bias", &[32], 0));
    let mut written = HashSet::new();
    let width = |id: BufferId| plan.buffers[id.0].width;
    let shape = |weight: kindling_kernels::WeightId| plan.weights[weight.0].shape.clone();
    let mut layers = Vec::new();
    for op in &plan.ops {
        let (reads, writes): (Vec<BufferId>, Vec<BufferId>) = match op {
            Op::EmbedTokens { weight, output } => {
                assert_eq!(shape(*weight), [plan.vocab_size, width(*output)]);
                (vec![], vec![*output])
            }
            Op::RmsNorm { input, weight, output, .. } => {
                let weight = weight.map(&shape);
                assert_eq!((weight, width(*output)), (Some(vec![width(*input)]), width(*input)));
                (vec![*input], vec![*output])
            }
            Op::Linear { input, weight, bias, output } => {
                assert_ne!(input, output);
                assert_eq!(shape(*weight), [width(*output), width(*input)]);
                assert!(bias.is_none_or(|bias| shape(bias) == [width(*output)]));
                (vec![*input], vec![*output])
            }
            Op::Rotary { buffer, num_heads, head_dim, table } => {
                assert_eq!(width(*buffer), num_heads * head_dim);
                assert!(plan.rotaries[table.0].rotary_dim <= *head_dim);
                (vec![*buffer], vec![*buffer])
            }
            Op::KvCacheAppend { key, value, group, layer, .. } => {
                layers.push((*group, *layer));
                let group = &plan.cache_groups[group.0];
                assert_eq!((width(*key), width(*value)), (group.num_kv_heads * group.head_dim, width(*key)));
                (vec![*key, *value], vec![])
            }
            Op::PagedAttention { query, output, num_heads, group, layer, .. } => {
                assert_eq!(layers.last(), Some(&(*group, *layer)), "the layer's own cache is read");
                assert_eq!(width(*query), num_heads * plan.cache_groups[group.0].head_dim);
                assert_ne!(query, output);
                (vec![*query], vec![*output])
            }
            Op::GatedActivation { gate, up, output, .. } => (vec![*gate, *up], vec![*output]),
            Op::Add { input, output } => (vec![*input, *output], vec![*output]),
            Op::GatherLogitRows { input, output } => (vec![*input], vec![*output]),
            other => panic!("{} is not in this plan", other.name()),
        };
        for buffer in reads {
            assert!(written.contains(&buffer), "{op:?} reads {} first", plan.buffers[buffer.0].name);
        }
        written.extend(writes);
    }
    assert_eq!(layers.len(), 2);
    assert_eq!(layers.iter().collect::<HashSet<_>>().len(), 2);
    assert!(written.contains(&plan.logits));
}

/// The synthetic llama with what other families add.
fn with_extras() -> ModelSpec {
    let bytes = llama().file();
    let header = GgufHeader::read(&bytes).unwrap();
    let weights = GgufWeights::new(Box::new(bytes), header.tensors).unwrap();
    let checkpoint = Checkpoint { description: Description::Gguf(&header.metadata), weights: &weights };
    let mut spec = detect(&checkpoint).unwrap().spec(&checkpoint).unwrap();
    spec.embedding_scale = Some(8.0);
    spec.final_logit_softcap = Some(30.0);
    let whole = |name: &str, shape: &[usize]| WeightSpec::whole(name, shape.to_vec());
    let linear = |name: &str, shape: &[usize]| Linear { weight: whole(name, shape), bias: None };
    let layer = &mut spec.layers[1];
    layer.post_mixer_norm = Some(Norm { weight: None, ..layer.mixer_norm.clone() });
    layer.post_feed_forward_norm = Some(Norm { offset: 1.0, ..layer.mixer_norm.clone() });
    let FeedForward::Gated(dense) = layer.feed_forward.clone() else { panic!("llama is dense") };
    layer.feed_forward = FeedForward::Moe(Box::new(Moe {
        router: linear("router", &[4, 32]),
        rule: RouteRule::TopKSoftmax,
        top_k: 2,
        experts: Experts {
            gate_proj: whole("gates", &[4, 16, 32]),
            up_proj: whole("ups", &[4, 16, 32]),
            down_proj: whole("downs", &[4, 32, 16]),
            biases: None,
        },
        activation: Activation::Silu,
        shared: Some(SharedExpert { dense: *dense, gate: Some(linear("shared gate", &[1, 32])) }),
    }));
    let Mixer::Attention(attention) = &mut layer.mixer else { panic!("should be attention") };
    attention.window = Some(4);
    attention.rotary = None;
    spec
}

/// Every weight is 1/16.
struct Sixteenths(Plan);

impl WeightSource for Sixteenths {
    fn describe(&self, name: &str) -> Option<TensorDesc> {
        let WeightSpec { name, shape, .. } = self.0.weights.iter().find(|weight| weight.name == name)?.clone();
        let num_bytes = shape.iter().product::<usize>() * 4;
        Some(TensorDesc { name, dtype: DType::F32, shape, num_bytes, scale: TensorScale::One })
    }

    fn read_rows(&self, _: &str, _: std::ops::Range<usize>, out: &mut [u8]) -> Result<(), WeightError> {
        out.chunks_exact_mut(4).for_each(|element| element.copy_from_slice(&0.0625f32.to_le_bytes()));
        Ok(())
    }
}

#[test]
fn extras_stand_where_they_belong_and_the_plan_holds_together() {
    let plan = with_extras().lower();
    let names: Vec<&str> = plan.ops.iter().map(Op::name).collect();
    assert_eq!(names[..3], ["embed_tokens", "scale", "rms_norm"]);
    assert_eq!(names[names.len() - 2..], ["linear", "soft_cap"]);
    let second_layer = &names[2 + 16..names.len() - 4];
    let expected = [
        "rms_norm",
        "linear",
        "linear",
        "linear",
        "kv_cache_append",
        "paged_attention",
        "linear",
        "rms_norm",
        "add",
        "rms_norm",
        "linear",
        "moe_route",
        "moe_experts",
        "linear",
        "linear",
        "linear",
        "gated_activation",
        "linear",
        "sigmoid_gate_rows",
        "add",
        "rms_norm",
        "add",
    ];
    assert_eq!(second_layer, expected);
    assert_eq!(plan.cache_groups.len(), 2);
    assert_eq!(plan.cache_groups[1].kind, CacheGroupKind::Window { window: 4 });
    let limits = Limits {
        max_tokens_per_step: 4,
        max_sequences: 1,
        max_logits_per_step: 1,
        max_context: 4,
        block_size: 4,
        num_blocks: vec![1, 1],
        kv_type: KvType::F8E4M3,
        num_threads: 1,
    };
    let source = Sixteenths(plan.clone());
    let mut model = ReferenceBackend.prepare(&plan, &source, &limits, &mut |_| {}).unwrap();
    let block_tables = vec![vec![0], vec![0]];
    let sequence = StepSequence { query_start: 0, query_len: 2, context_len: 0, block_tables };
    let mut step = Step { token_ids: vec![1, 2], positions: vec![[0; 3], [1; 3]], ..Step::default() };
    (step.sequences, step.logit_indices) = (vec![sequence], vec![1]);
    let mut logits = Vec::new();
    model.execute(&step, &mut logits).unwrap();
    // All elements of the last hidden row are alike, its norm makes them 1/16 each.
    let expected = 30.0 * (32.0f32 / 256.0 / 30.0).tanh();
    assert!(logits.iter().all(|logit| (logit - expected).abs() < 1e-5), "{logits:?}, expected {expected}");
}
