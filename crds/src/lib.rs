//! The Kubernetes API of Kindling: `LocalModel` and `NodeEnvelope` as Rust types, the names and labels around them,
//! the conditions.
//!
//! Everyone who reads or writes them uses these types: the operator writes the status of LocalModels and the spec of
//! NodeEnvelopes, the agents write the status of NodeEnvelopes, the gateway reads LocalModels. The YAML files beside
//! this crate are generated from the types: [`generated_files`]. This crate talks to
//! no cluster and decides nothing.

mod check;
mod condition;
mod crd;
mod local_model;
mod names;
mod node_envelope;
mod serving;
mod status;

pub use check::check;
pub use condition::{ConditionStatus, ConditionType};
pub use crd::{crd, crds, generated_files};
pub use local_model::{
    Activation, Device, Gateway, HfSource, HostPathSource, Lifecycle, LocalModel, LocalModelSpec, Memory, MemoryPolicy,
    Placement, Remainder, Source, Weights,
};
pub use names::{
    AGENT_AUDIENCE, AGENT_PORT, API_GROUP, DIGEST_ANNOTATION, GRPC_PORT, GRPC_PORT_NAME, MANAGER, METRICS_PORT,
    METRICS_PORT_NAME, MODEL_LABEL, RUNTIME_CONTAINER, TERMS_ANNOTATION, use_lease_name,
};
pub use node_envelope::{
    Holder, MeasuredTerms, NodeDisplay, NodeEnvelope, NodeEnvelopeSpec, NodeEnvelopeStatus, NodeGpu, NodeMemory,
    Pressure, Reservation, ReservationState,
};
pub use serving::{KvCache, KvCacheType, Serving};
pub use status::{
    Acceleration, CopyStatus, DownloadStatus, EnvelopeStatus, LearnedTerms, LocalModelStatus, MemoryStatus, ModelFacts,
    PredictedTerms,
};
