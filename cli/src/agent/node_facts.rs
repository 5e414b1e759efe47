//! What the node's agent says about a model: its heads, read by the same reader that the runtime has.

use futures::future::BoxFuture;
use kindling_agent::cache::Cache;
use kindling_agent::daemon::service::ReadFacts;
use kindling_agent::daemon::source::LocalSource;
use kindling_agent::hub::{Hub, HubError};
use kindling_envelope::{Activations, CacheLayers, Device, KvDtype, Model, Pool, Serving};
use kindling_facts::{Facts, FactsError, ModelSource};
use kindling_proto::v1::cache_layers::{Full, Kind, Latent, State, Window};
use kindling_proto::v1::{
    CacheLayers as LayersMessage, DescribeModelResponse, Device as AskedDevice, PlannedActivations,
    Remainder as AskedRemainder, ServingSettings,
};
use kindling_runtime::config::DEFAULT_MAX_CONTEXT;
use kindling_runtime::{Remainder, RuntimeConfig, error_chain};
use tonic::Status;

use crate::fit::source::of_hub;

/// Reads from this node's cache what is there, and from the hub what is not.
pub struct NodeFacts {
    cache: Cache,
}

impl NodeFacts {
    /// Of this cache.
    pub fn new(cache: Cache) -> Self {
        Self { cache }
    }

    async fn describe(&self, source: LocalSource, asked: ServingSettings) -> Result<DescribeModelResponse, Status> {
        let place = match source {
            LocalSource::Hub { source, files } => {
                let found = of_hub(source, &files, &self.cache);
                found.map_err(|error| Status::failed_precondition(format!("{error:#}")))?.place
            }
            LocalSource::Path(path) => ModelSource::Path(path),
        };
        let facts = kindling_facts::read(&place, &Hub::from_environment()).await.map_err(|error| status(&error))?;
        let facts = facts.with_remainder(match asked.remainder() {
            AskedRemainder::Unspecified => Remainder::Keep,
            AskedRemainder::Fp8 => Remainder::Fp8,
        });
        let serving = serving(&asked, facts.max_context)?;
        let model = facts.model(&serving, None).map_err(|error| Status::failed_precondition(error_chain(&error)))?;
        Ok(response(&facts, &model, serving.device))
    }
}

impl ReadFacts for NodeFacts {
    fn read(
        &self,
        source: LocalSource,
        serving: ServingSettings,
    ) -> BoxFuture<'_, Result<DescribeModelResponse, Status>> {
        Box::pin(self.describe(source, serving))
    }
}

/// As the operator will have it served.
fn serving(asked: &ServingSettings, max_context: u64) -> Result<Serving, Status> {
    let defaults = RuntimeConfig::new("");
    let context = asked.context_length.map_or_else(|| max_context.min(DEFAULT_MAX_CONTEXT as u64), u64::from);
    if context > max_context {
        let text = format!("spec.serving.contextLength {context} is more than the model's {max_context} tokens");
        return Err(Status::invalid_argument(text));
    }
    Ok(Serving {
        context,
        concurrency: asked.max_concurrency.map_or(defaults.max_concurrency as u64, u64::from),
        pool: asked.kv_tokens.map_or(Pool::Contexts(2), |tokens| Pool::Tokens(u64::from(tokens))),
        max_batched_tokens: asked.max_batched_tokens.map_or(defaults.max_batched_tokens as u64, u64::from),
        kv_dtype: KvDtype::Bf16,
        device: match asked.device() {
            AskedDevice::Unspecified | AskedDevice::Cpu => Device::Cpu,
            AskedDevice::Cuda => Device::Cuda,
        },
    })
}

fn response(facts: &Facts, model: &Model, device: Device) -> DescribeModelResponse {
    DescribeModelResponse {
        architecture: facts.architecture.clone(),
        parameters: facts.parameters.unwrap_or(0),
        quantization: facts.quantization.clone(),
        stored_weight_bytes: facts.stored.loaded.0,
        resident_weight_bytes: model.weights.0,
        largest_tensor_bytes: model.largest_tensor.0,
        vocabulary: model.vocabulary.unwrap_or(0),
        max_context: u32::try_from(model.max_context).unwrap_or(u32::MAX),
        cache_layers: model.cache.iter().map(layers).collect(),
        activations: match model.activations {
            Activations::Planned { fixed, per_token, per_sequence } => Some(PlannedActivations {
                fixed_bytes: fixed.0,
                per_token_bytes: per_token.0,
                per_sequence_bytes: per_sequence.0,
            }),
            Activations::Unplanned => None,
        },
        not_runnable: facts.refusal(device).unwrap_or_default(),
        digest: String::new(),
    }
}

fn layers(layers: &CacheLayers) -> LayersMessage {
    let (layers, kind) = match *layers {
        CacheLayers::Full { layers, kv_heads, head_dim } => (layers, Kind::Full(Full { kv_heads, head_dim })),
        CacheLayers::Window { layers, kv_heads, head_dim, window } => {
            (layers, Kind::Window(Window { kv_heads, head_dim, window }))
        }
        CacheLayers::Latent { layers, width } => (layers, Kind::Latent(Latent { width })),
        CacheLayers::State { layers, elements } => (layers, Kind::State(State { elements })),
    };
    LayersMessage { layers, kind: Some(kind) }
}

/// What asking again may change is told apart from what it does not.
fn status(error: &FactsError) -> Status {
    let text = error_chain(error);
    match error {
        FactsError::Hub(HubError::Refused { status: 404, .. } | HubError::NoSuchFile { .. }) => Status::not_found(text),
        FactsError::Hub(HubError::Refused { status: 401 | 403, .. }) => Status::permission_denied(text),
        FactsError::Hub(HubError::Ambiguous { .. }) => Status::invalid_argument(text),
        FactsError::Hub(_) | FactsError::Range(_) | FactsError::Temporary(_) | FactsError::Stopped => {
            Status::unavailable(text)
        }
        FactsError::Open(_)
        | FactsError::Describe { .. }
        | FactsError::Source(_)
        | FactsError::Head { .. }
        | FactsError::Split { .. }
        | FactsError::NotWeights { .. } => Status::failed_precondition(text),
    }
}
