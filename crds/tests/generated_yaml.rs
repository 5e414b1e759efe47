//! The committed YAML is what the types generate. `KINDLING_REWRITE=1 cargo test -p kindling-api` rewrites it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use serde_json::Value;

#[test]
fn committed_yaml_is_current() {
    for (path, expected) in kindling_api::generated_files() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
        if std::env::var_os("KINDLING_REWRITE").is_some() {
            std::fs::write(&path, &expected).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == expected, "{} is not current: run `cargo xtask codegen`", path.display());
    }
}

#[test]
fn chart_template_holds_nothing_that_helm_would_expand() {
    for (path, text) in kindling_api::generated_files() {
        assert!(!text.contains("{{"), "{path}");
    }
}

#[test]
fn every_string_and_list_of_the_spec_is_bounded() {
    for crd in kindling_api::crds() {
        let crd = serde_json::to_value(crd).unwrap();
        let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        check("spec", spec);
    }
}

fn check(path: &str, schema: &Value) {
    match schema["type"].as_str() {
        Some("string") => {
            let is_bounded = ["maxLength", "enum"].iter().any(|key| schema.get(key).is_some());
            assert!(is_bounded, "{path} has no maxLength");
        }
        Some("integer") => {
            assert!(schema.get("minimum").is_some(), "{path} has no minimum");
            let is_time = path.ends_with("tolerationSeconds");
            assert!(is_time || schema.get("maximum").is_some(), "{path} has no maximum");
        }
        Some("array") => {
            assert!(schema.get("maxItems").is_some(), "{path} has no maxItems");
            check(&format!("{path}[]"), &schema["items"]);
        }
        _ => {}
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        assert!(
            path.ends_with("tolerations[]") || property.get("description").is_some(),
            "{path}.{name} is not described"
        );
        check(&format!("{path}.{name}"), property);
    }
}

#[test]
fn schema_holds_no_null_and_no_format_that_kubernetes_warns_about() {
    for (path, yaml) in kindling_api::generated_files() {
        assert!(!yaml.contains("nullable"), "{path}: null must count as unset");
        assert!(!yaml.contains("format: uint"), "{path}: Kubernetes knows int32 and int64");
        assert!(!yaml.contains("type: number"), "{path}: no floats");
    }
}
