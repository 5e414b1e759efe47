//! The Kubernetes API of Kindling: `LocalModel` as Rust types, the names and labels around it, its conditions.
//!
//! Everyone who reads or writes LocalModels uses these types: the operator writes their status, the gateway reads
//! it. `localmodels.kindling.dev.yaml` beside this crate is generated from them by [`crd_yaml`]. This crate talks to
//! no cluster and decides nothing.

mod condition;
mod crd;
mod local_model;
mod names;
mod status;

pub use condition::{ConditionStatus, ConditionType};
pub use crd::{CHART_CRD_YAML_PATH, CRD_YAML_PATH, chart_crd_yaml, crd, crd_yaml, generated_files};
pub use local_model::{
    Device, Gateway, HfSource, HostPathSource, KvCache, LocalModel, LocalModelSpec, Placement, Serving, Source,
};
pub use names::{
    API_GROUP, DIGEST_ANNOTATION, FETCH_CONTAINER, GRPC_PORT, GRPC_PORT_NAME, MANAGER, METRICS_PORT, METRICS_PORT_NAME,
    MODEL_LABEL, RUNTIME_CONTAINER,
};
pub use status::{Acceleration, LocalModelStatus, MemoryStatus, ModelFacts};
