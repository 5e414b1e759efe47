//! What the operator's tests share.
#![allow(dead_code, missing_docs)]

pub mod fake_agents;
pub mod fake_api;

use std::path::PathBuf;

use kindling_operator::OperatorConfig;

pub fn config() -> OperatorConfig {
    OperatorConfig {
        namespace: None,
        runtime_image: "registry.example/kindling:0.1.0".to_owned(),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        runtime_resources: None,
        runtime_read_bytes_per_second: None,
        gpu_runtime_class_name: Some("nvidia".to_owned()),
        cache_host_path: PathBuf::from("/var/lib/kindling/cache"),
        allowed_host_path_prefixes: vec![PathBuf::from("/srv/models")],
        agent_token_file: PathBuf::from("/var/run/secrets/kindling/token"),
        lease_name: "kindling-operator".to_owned(),
        lease_namespace: "kindling".to_owned(),
        identity: "test".to_owned(),
        metrics_listen: ([127, 0, 0, 1], 0).into(),
        webhook: None,
    }
}
