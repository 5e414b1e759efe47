//! Agents that answer what the test says.

use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use kindling_operator::agents::Agents;
use kindling_proto::v1::ensure_model_response::State;
use kindling_proto::v1::{
    CacheLayers, DescribeModelRequest, DescribeModelResponse, Device, EnsureModelRequest, EnsureModelResponse,
    KeepOnlyRequest, KeepOnlyResponse, PlannedActivations, cache_layers,
};
use tonic::Status;

/// What they answer.
#[derive(Clone)]
pub struct FakeAgents(Arc<Mutex<Answers>>);

struct Answers {
    facts: Result<DescribeModelResponse, Status>,
    weights: EnsureModelResponse,
    not_on_a_gpu: String,
}

impl Default for FakeAgents {
    /// A model of 1 GiB of weights, there already; each token of its KV cache takes 64 KiB.
    fn default() -> Self {
        let full = cache_layers::Full { kv_heads: 8, head_dim: 128 };
        let facts = DescribeModelResponse {
            architecture: "LlamaForCausalLM".to_owned(),
            parameters: 1 << 30,
            quantization: "Q8_0".to_owned(),
            stored_weight_bytes: 1 << 30,
            resident_weight_bytes: 1 << 30,
            largest_tensor_bytes: 1 << 20,
            vocabulary: 65_536,
            max_context: 8192,
            cache_layers: vec![CacheLayers { layers: 16, kind: Some(cache_layers::Kind::Full(full)) }],
            activations: Some(PlannedActivations { fixed_bytes: 0, per_token_bytes: 1 << 10, per_sequence_bytes: 0 }),
            ..DescribeModelResponse::default()
        };
        let weights = EnsureModelResponse { state: State::Present.into(), ..EnsureModelResponse::default() };
        Self(Arc::new(Mutex::new(Answers { facts: Ok(facts), weights, not_on_a_gpu: String::new() })))
    }
}

impl FakeAgents {
    pub fn say_of_facts(&self, answer: Result<DescribeModelResponse, Status>) {
        self.0.lock().unwrap().facts = answer;
    }

    pub fn change_facts(&self, change: impl FnOnce(&mut DescribeModelResponse)) {
        change(self.0.lock().unwrap().facts.as_mut().unwrap());
    }

    /// What a GPU lacks to compute it.
    pub fn lack_on_a_gpu(&self, what: &str) {
        self.0.lock().unwrap().not_on_a_gpu = what.to_owned();
    }

    pub fn say_of_weights(&self, answer: EnsureModelResponse) {
        self.0.lock().unwrap().weights = answer;
    }
}

impl Agents for FakeAgents {
    /// On a GPU the same weights take a MiB more.
    fn describe(&self, _: String, asked: DescribeModelRequest) -> BoxFuture<'_, Result<DescribeModelResponse, Status>> {
        Box::pin(async move {
            let answers = self.0.lock().unwrap();
            let mut facts = answers.facts.clone()?;
            if asked.serving.is_some_and(|serving| serving.device() == Device::Cuda) {
                facts.resident_weight_bytes += 1 << 20;
                facts.not_runnable = answers.not_on_a_gpu.clone();
            }
            Ok(facts)
        })
    }

    fn ensure(&self, _: String, _: EnsureModelRequest) -> BoxFuture<'_, Result<EnsureModelResponse, Status>> {
        Box::pin(async { Ok(self.0.lock().unwrap().weights.clone()) })
    }

    fn keep_only(&self, _: String, _: KeepOnlyRequest) -> BoxFuture<'_, Result<KeepOnlyResponse, Status>> {
        Box::pin(async { Ok(KeepOnlyResponse::default()) })
    }
}
