//! The CustomResourceDefinitions and their YAML, generated from the Rust types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use crate::{LocalModel, NodeEnvelope};

/// The CustomResourceDefinition of LocalModel.
pub fn crd() -> CustomResourceDefinition {
    cleaned(&LocalModel::crd())
}

/// Every CustomResourceDefinition of Kindling.
pub fn crds() -> [CustomResourceDefinition; 2] {
    [crd(), cleaned(&NodeEnvelope::crd())]
}

/// Every file that is generated from this crate: its path from the root of the repository, and its text. Each
/// definition lies in `crds/`, and again as a template of the chart.
pub fn generated_files() -> Vec<(String, String)> {
    let files = crds().into_iter().flat_map(|crd| {
        let name = crd.metadata.name.clone().unwrap_or_default();
        let (plain, template) = (format!("crds/{name}.yaml"), format!("charts/kindling/templates/{name}.yaml"));
        [(plain, to_yaml(&crd)), (template, to_yaml(&kept(crd)))]
    });
    files.collect()
}

/// For the chart: `helm uninstall` must not delete every object of the kind with it.
fn kept(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let keep = ("helm.sh/resource-policy".to_owned(), "keep".to_owned());
    crd.metadata.annotations.get_or_insert_default().extend([keep]);
    crd
}

fn cleaned(crd: &CustomResourceDefinition) -> CustomResourceDefinition {
    let mut value = serde_json::to_value(crd).expect("a CRD should serialise");
    to_kubernetes_schema(&mut value);
    serde_json::from_value(value).expect("a CRD should still be one without nullable")
}

fn to_yaml(crd: &CustomResourceDefinition) -> String {
    let mut value = serde_json::to_value(crd).expect("a CRD should serialise");
    to_whole_numbers(&mut value);
    let yaml = serde_norway::to_string(&value).expect("a CRD should serialise");
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

/// Bounds are floats in the Rust types of a CRD; ours are all whole, and people read them.
fn to_whole_numbers(value: &mut Value) {
    match value {
        Value::Object(map) => map.values_mut().for_each(to_whole_numbers),
        Value::Array(items) => items.iter_mut().for_each(to_whole_numbers),
        Value::Number(number) => {
            if let Some(whole) = number.as_f64().filter(|float| float.fract() == 0.0) {
                *value = Value::from(whole as i64);
            }
        }
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

pub(crate) fn time_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time", "maxLength": 64 })
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
