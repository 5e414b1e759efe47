//! One test per variant: a model that is accepted, one thing changed.

use std::path::PathBuf;

use kindling_api::{Device, HfSource, HostPathSource, LocalModel};
use kube::api::ObjectMeta;

use super::*;
use crate::dereference::Existing;

fn accepted() -> LocalModel {
    let mut object: LocalModel = serde_json::from_value(serde_json::json!({
        "apiVersion": "kindling.dev/v1alpha1",
        "kind": "LocalModel",
        "metadata": { "name": "smollm2", "namespace": "models", "uid": "1" },
        "spec": { "source": { "hf": { "repo": "org/name" } } },
    }))
    .unwrap();
    object.metadata.generation = Some(1);
    object
}

pub(crate) fn config() -> OperatorConfig {
    OperatorConfig {
        namespace: None,
        runtime_image: "kindling:test".to_owned(),
        image_pull_policy: None,
        runtime_resources: None,
        runtime_read_bytes_per_second: None,
        gpu_runtime_class_name: None,
        cache_host_path: PathBuf::from("/var/lib/kindling/cache"),
        allowed_host_path_prefixes: vec![PathBuf::from("/srv/models")],
        agent_token_file: PathBuf::from("token"),
        lease_name: "kindling-operator".to_owned(),
        lease_namespace: "kindling".to_owned(),
        identity: "test".to_owned(),
        metrics_listen: ([127, 0, 0, 1], 0).into(),
        webhook: None,
    }
}

fn refusal(change: impl FnOnce(&mut LocalModel)) -> ValidateError {
    let mut object = accepted();
    change(&mut object);
    validate(&object, &References::default(), &config()).unwrap_err()
}

fn with_hf(change: impl FnOnce(&mut HfSource)) -> ValidateError {
    refusal(|object| change(object.spec.source.hf.as_mut().unwrap()))
}

fn host_path(path: &str) -> Result<Weights, ValidateError> {
    let mut object = accepted();
    object.spec.source = Source { hf: None, host_path: Some(HostPathSource { path: path.to_owned() }) };
    validate(&object, &References::default(), &config()).map(|model| model.inputs.weights)
}

#[test]
fn accepts_the_smallest_model() {
    let model = validate(&accepted(), &References::default(), &config()).unwrap();
    assert_eq!(model.inputs.weights, Weights::Hub { repo: "org/name".into(), revision: "main".into(), files: vec![] });
}

#[test]
fn rejects_a_name_that_no_service_can_have() {
    for name in ["llama-3.3", "3b", "Llama", "ends-", &"a".repeat(41)] {
        let error = refusal(|object| object.metadata.name = Some(name.to_owned()));
        assert_eq!(error.reason(), Reason::InvalidName, "{name}");
    }
}

#[test]
fn rejects_an_object_without_uid() {
    let name = Some("smollm2".to_owned());
    let error = refusal(|object| object.metadata = ObjectMeta { name, ..ObjectMeta::default() });
    assert_eq!(error, ValidateError::Metadata);
}

#[test]
fn rejects_two_sources_and_none() {
    let two = refusal(|object| object.spec.source.host_path = Some(HostPathSource { path: "/srv/models/a".into() }));
    assert_eq!(two, ValidateError::SourceCount);
    assert_eq!(refusal(|object| object.spec.source.hf = None), ValidateError::SourceCount);
}

#[test]
fn rejects_hub_names_that_lead_elsewhere() {
    for repo in ["name", "org/..", "../name", "a/b/c", "-o/name"] {
        assert_eq!(with_hf(|hf| hf.repo = repo.to_owned()).reason(), Reason::InvalidSource, "{repo}");
    }
    for revision in ["", "..", "refs/pr/1", "--all"] {
        assert_eq!(with_hf(|hf| hf.revision = revision.to_owned()).reason(), Reason::InvalidSource, "{revision}");
    }
    for file in ["/etc/passwd", "a/../b", "--file", ""] {
        assert_eq!(with_hf(|hf| hf.files = vec![file.to_owned()]).reason(), Reason::InvalidSource, "{file}");
    }
}

#[test]
fn accepts_a_host_path_below_an_allowed_folder() {
    let weights = host_path("/srv/models/llama/q4.gguf").unwrap();
    assert_eq!(weights, Weights::HostPath { prefix: "/srv/models".into(), relative: "llama/q4.gguf".into() });
}

#[test]
fn rejects_a_host_path_elsewhere() {
    for path in ["/etc", "/srv/models", "/srv/models-private/a", "/srv/models/../../etc", "srv/models/a", "/"] {
        assert_eq!(host_path(path).unwrap_err().reason(), Reason::HostPathNotAllowed, "{path}");
    }
}

#[test]
fn takes_every_device_for_the_nodes_decide() {
    for (asked, expected) in
        [(Device::Auto, None), (Device::Cpu, Some(Computes::Cpu)), (Device::Cuda, Some(Computes::Cuda))]
    {
        let mut object = accepted();
        object.spec.placement.device = asked;
        let model = validate(&object, &References::default(), &config()).unwrap();
        assert_eq!(model.device, expected);
    }
}

#[test]
fn rejects_a_name_that_somebody_else_has() {
    let pod = References { pods: vec![Existing::None, Existing::Foreign], ..References::default() };
    let service = References { service: Existing::Foreign, ..References::default() };
    let service_account = References { service_account: Existing::Foreign, ..References::default() };
    for references in [pod, service, service_account] {
        let error = validate(&accepted(), &references, &config()).unwrap_err();
        assert_eq!(error.reason(), Reason::NameTaken);
    }
}

#[test]
fn longest_name_leaves_room_for_the_pods_suffix() {
    const { assert!(MAX_NAME_LENGTH + "-31".len() <= 63) }
}
