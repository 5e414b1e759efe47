//! The CustomResourceDefinition and its YAML, generated from the Rust types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use crate::LocalModel;

/// Where the generated YAML lies, from the root of the repository.
pub const CRD_YAML_PATH: &str = "crds/localmodels.kindling.dev.yaml";

/// Where the chart's template of it lies, from the root of the repository.
pub const CHART_CRD_YAML_PATH: &str = "charts/kindling/templates/localmodels.kindling.dev.yaml";

/// The CustomResourceDefinition of LocalModel.
pub fn crd() -> CustomResourceDefinition {
    let mut value = serde_json::to_value(LocalModel::crd()).expect("a CRD should serialise");
    to_kubernetes_schema(&mut value);
    serde_json::from_value(value).expect("a CRD should still be one without nullable")
}

/// The CustomResourceDefinition of LocalModel as the YAML file in `crds/`.
pub fn crd_yaml() -> String {
    to_yaml(&crd())
}

/// The same as the chart's template: `helm uninstall` must not delete every LocalModel with it.
pub fn chart_crd_yaml() -> String {
    let mut crd = crd();
    let keep = ("helm.sh/resource-policy".to_owned(), "keep".to_owned());
    crd.metadata.annotations.get_or_insert_default().extend([keep]);
    to_yaml(&crd)
}

/// Every file that is generated from this crate: its path from the root of the repository, and its text.
pub fn generated_files() -> [(&'static str, String); 2] {
    [(CRD_YAML_PATH, crd_yaml()), (CHART_CRD_YAML_PATH, chart_crd_yaml())]
}

fn to_yaml(crd: &CustomResourceDefinition) -> String {
    let yaml = serde_norway::to_string(crd).expect("a CRD should serialise");
    format!("# Generated from crds/src by `cargo xtask codegen`; do not edit.\n{yaml}")
}

/// Removes what a CRD should not say: `nullable` (an explicit null then counts as unset, also for CEL's `has`) and
/// the integer formats that Kubernetes does not know and warns about.
fn to_kubernetes_schema(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("nullable") == Some(&Value::Bool(true)) {
                map.remove("nullable");
            }
            if matches!(map.get("format").and_then(Value::as_str), Some("uint32" | "uint64" | "uint")) {
                map.insert("format".to_owned(), Value::from("int64"));
            }
            map.values_mut().for_each(to_kubernetes_schema);
        }
        Value::Array(items) => items.iter_mut().for_each(to_kubernetes_schema),
        _ => {}
    }
}

pub(crate) fn node_selector_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": { "type": "string", "maxLength": 63 },
    })
}

pub(crate) fn tolerations_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 32,
        "items": {
            "type": "object",
            "properties": {
                "effect": { "type": "string", "enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"] },
                "key": { "type": "string", "maxLength": 317 },
                "operator": { "type": "string", "enum": ["Exists", "Equal"] },
                "tolerationSeconds": { "type": "integer", "format": "int64", "minimum": 0 },
                "value": { "type": "string", "maxLength": 63 },
            },
        },
    })
}

pub(crate) fn conditions_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": { "type": "string", "maxLength": 316 },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
                "reason": { "type": "string", "maxLength": 1024, "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$" },
                "message": { "type": "string", "maxLength": 32768 },
                "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0 },
                "lastTransitionTime": { "type": "string", "format": "date-time" },
            },
        },
    })
}
