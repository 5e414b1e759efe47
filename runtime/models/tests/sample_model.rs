//! The sample model, SmolLM2-135M-Instruct as Q4_1 GGUF, where it is present.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is test code, helpers included")]

mod common;

use std::collections::HashSet;

use common::{golden, ids, read_json, sample_gguf, text};
use kindling_kernels::RotaryStyle;
use kindling_models::gguf::GgufHeader;
use kindling_models::read_at::FileBytes;
use kindling_models::{Message, RenderInput, open};

#[test]
fn it_opens_with_its_facts() {
    let Some(path) = sample_gguf() else { return };
    let model = open(&path).unwrap();
    let facts = &model.facts;
    assert_eq!(facts.architecture, "LlamaForCausalLM");
    assert_eq!((facts.parameters, facts.weight_bytes), (134_515_008, 66_355_200 + 30_081_024 + 140_544));
    assert_eq!((facts.quantization.as_str(), facts.context_length, facts.vocab_size), ("Q4_1", 8192, 49_152));
    let rotary = &model.spec.rotaries[0];
    assert_eq!((rotary.style, rotary.theta, rotary.rotary_dim), (RotaryStyle::Interleaved, 100_000.0, 64));
    assert_eq!(model.spec.final_norm.eps, 1e-5);
    assert_eq!(model.tokenizer.end_of_generation(), [0, 2]);
}

#[test]
fn each_of_its_272_tensors_is_used_exactly_once() {
    let Some(path) = sample_gguf() else { return };
    let header = GgufHeader::read(&FileBytes::open(&path).unwrap()).unwrap();
    let plan = open(&path).unwrap().spec.lower();
    let there: HashSet<&str> = header.tensors.iter().map(|tensor| tensor.desc.name.as_str()).collect();
    let used: HashSet<&str> = plan.weights.iter().map(|weight| weight.name.as_str()).collect();
    assert_eq!((plan.weights.len(), there.len()), (272, 272));
    assert_eq!(used, there);
    assert_eq!(plan.buffers.len(), 10);
    assert_eq!(plan.cache_groups[0].num_layers, 30);
}

#[test]
fn its_tokenizer_and_template_are_as_recorded() {
    let Some(path) = sample_gguf() else { return };
    let model = open(&path).unwrap();
    let file = read_json(&golden("smollm2/tokenize.json"));
    for case in file["cases"].as_array().unwrap() {
        let input = text(&case["text"]);
        assert_eq!(model.tokenizer.encode(input, false, true).unwrap(), ids(&case["ids"]), "{input:?}");
        let plain = case.get("ids_plain").unwrap_or(&case["ids"]);
        assert_eq!(model.tokenizer.encode(input, true, false).unwrap(), ids(plain), "plain {input:?}");
    }
    let template = model.chat_template.unwrap();
    let file = read_json(&golden("smollm2/chat_template.json"));
    assert_eq!(template.source(), text(&file["template"]));
    for case in file["cases"].as_array().unwrap() {
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let input = RenderInput {
            messages: &messages,
            tools_json: None,
            kwargs: Default::default(),
            add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
        };
        assert_eq!(template.render(&input).unwrap(), text(&case["expected"]), "{}", case["name"]);
    }
}
