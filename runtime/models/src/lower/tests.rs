use std::collections::HashSet;

use kindling_kernels::{BufferId, Op, Plan, WeightSource};

use crate::architecture::{Checkpoint, Description, detect};
use crate::gguf::synthetic::{SyntheticGguf, llama};
use crate::gguf::{GgufHeader, GgufWeights};

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
