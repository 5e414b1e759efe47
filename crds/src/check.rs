//! Checks a LocalModel against the generated schema where no API server does it: `kindling up`.
//!
//! Knows the keywords that our own schema uses. The rules across fields (CEL) are few; [`check`] repeats them in words
//! that a test compares with the schema's.

use regex::Regex;
use serde_json::Value;

use crate::crd;

/// Checks types, bounds, patterns, unknown and missing fields, and the rules across fields.
///
/// # Errors
/// One line for each fault, with the path of the field, as `kubectl apply` would say it.
pub fn check(object: &Value) -> Result<(), String> {
    let crd = crd();
    let schema = crd.spec.versions.first().and_then(|version| version.schema.as_ref()?.open_api_v3_schema.as_ref());
    let schema = serde_json::to_value(schema).expect("a schema should serialise");
    let mut faults = Vec::new();
    match object["metadata"]["name"].as_str() {
        None => faults.push("metadata.name: required".to_owned()),
        Some(name) if !is_model_name(name) => faults.push(format!("metadata.name: {name:?} {MODEL_NAME_RULE}")),
        Some(_) => {}
    }
    check_value(&object["spec"], &schema["properties"]["spec"], "spec", &mut faults);
    check_across(&object["spec"], &mut faults);
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

const MODEL_NAME_RULE: &str = "must be at most 40 lower-case letters, digits and hyphens, beginning with a letter";

fn is_model_name(name: &str) -> bool {
    let pattern = Regex::new("^[a-z]([-a-z0-9]*[a-z0-9])?$").expect("a constant pattern should compile");
    name.len() <= 40 && pattern.is_match(name)
}

/// The rules that the schema states in CEL.
fn check_across(spec: &Value, faults: &mut Vec<String>) {
    let source = &spec["source"];
    if source.is_object() && source["hf"].is_null() == source["hostPath"].is_null() {
        faults.push("spec.source: give exactly one of hf and hostPath".to_owned());
    }
    let serving = &spec["serving"];
    if let (Some(context), Some(tokens)) = (serving["contextLength"].as_u64(), serving["kvCache"]["tokens"].as_u64())
        && tokens < context
    {
        faults.push(format!("spec.serving.kvCache.tokens: {tokens} must be at least contextLength ({context})"));
    }
    let lifecycle = &spec["lifecycle"];
    if !lifecycle["keepAlive"].is_null() && lifecycle["activation"] != "OnDemand" {
        faults.push("spec.lifecycle.keepAlive: only means something with activation OnDemand".to_owned());
    }
}

fn check_value(value: &Value, schema: &Value, path: &str, faults: &mut Vec<String>) {
    if value.is_null() {
        return;
    }
    let expected = schema["type"].as_str().unwrap_or_default();
    let found = kind_of(value);
    if found != expected && !(expected == "number" && found == "integer") {
        faults.push(format!("{path}: is of type {found}, must be {expected}"));
        return;
    }
    match value {
        Value::Object(fields) => check_object(fields, schema, path, faults),
        Value::Array(items) => check_array(items, schema, path, faults),
        Value::String(text) => check_text(text, schema, path, faults),
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or(f64::NAN);
            let least = beyond(number, &schema["minimum"], |found, bound| found < bound, "at least");
            let most = beyond(number, &schema["maximum"], |found, bound| found > bound, "at most");
            faults.extend(least.into_iter().chain(most).map(|fault| format!("{path}: {fault}")));
        }
        _ => {}
    }
}

fn check_array(items: &[Value], schema: &Value, path: &str, faults: &mut Vec<String>) {
    let fault = beyond(items.len() as f64, &schema["maxItems"], |found, bound| found > bound, "items, at most");
    faults.extend(fault.map(|fault| format!("{path}: {fault}")));
    let is_set = schema["x-kubernetes-list-type"] == "set";
    for (index, item) in items.iter().enumerate() {
        check_value(item, &schema["items"], &format!("{path}[{index}]"), faults);
        if is_set && items[..index].contains(item) {
            faults.push(format!("{path}[{index}]: {item} is there already"));
        }
    }
}

fn check_object(fields: &serde_json::Map<String, Value>, schema: &Value, path: &str, faults: &mut Vec<String>) {
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if fields.get(name).is_none_or(Value::is_null) {
            faults.push(format!("{path}.{name}: required"));
        }
    }
    let most = &schema["maxProperties"];
    let fault = beyond(fields.len() as f64, most, |found, bound| found > bound, "entries, at most");
    faults.extend(fault.map(|fault| format!("{path}: {fault}")));
    for (name, value) in fields {
        let path = format!("{path}.{name}");
        match (schema["properties"].get(name), schema.get("additionalProperties")) {
            (Some(schema), _) | (None, Some(schema)) => check_value(value, schema, &path, faults),
            (None, None) => faults.push(format!("{path}: unknown field{}", did_you_mean(name, schema))),
        }
    }
}

fn check_text(text: &str, schema: &Value, path: &str, faults: &mut Vec<String>) {
    if let Some(choices) = schema["enum"].as_array()
        && !choices.iter().any(|choice| choice == text)
    {
        let choices: Vec<&str> = choices.iter().filter_map(Value::as_str).collect();
        faults.push(format!("{path}: {text:?} must be one of {}", choices.join(", ")));
    }
    let length = text.chars().count() as f64;
    let fault = beyond(length, &schema["maxLength"], |found, bound| found > bound, "characters, at most");
    faults.extend(fault.map(|fault| format!("{path}: {fault}")));
    if let Some(pattern) = schema["pattern"].as_str() {
        let regex = Regex::new(pattern).expect("patterns of our own schema should compile");
        if !regex.is_match(text) {
            faults.push(format!("{path}: {text:?} must match {pattern}"));
        }
    }
}

/// The fault of a figure beyond a bound of the schema, if it has that bound.
fn beyond(found: f64, bound: &Value, is_beyond: fn(f64, f64) -> bool, words: &str) -> Option<String> {
    let bound = bound.as_f64().filter(|bound| is_beyond(found, *bound))?;
    Some(format!("{found}, must be {words} {bound}"))
}

fn did_you_mean(name: &str, schema: &Value) -> String {
    let known: Vec<&String> =
        schema["properties"].as_object().map(|fields| fields.keys().collect()).unwrap_or_default();
    let near = known.iter().find(|field| field.eq_ignore_ascii_case(name));
    match near {
        Some(field) => format!("; did you mean {field}?"),
        None => format!("; there are: {}", known.iter().map(|field| field.as_str()).collect::<Vec<_>>().join(", ")),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(spec: Value) -> String {
        check(&json!({"metadata": {"name": "m"}, "spec": spec})).err().unwrap_or_default()
    }

    #[test]
    fn the_smallest_local_model_is_fine() {
        assert_eq!(faults(json!({"source": {"hf": {"repo": "org/name"}}})), "");
    }

    #[test]
    fn each_fault_names_its_field() {
        let hf = json!({"hf": {"repo": "org/name"}});
        let labels: serde_json::Map<_, _> = (0..33).map(|index| (format!("label-{index}"), json!("x"))).collect();
        for (spec, expected) in [
            (json!({}), "spec.source: required"),
            (json!({"source": {}}), "spec.source: give exactly one of hf and hostPath"),
            (json!({"source": {"hf": {"repo": "no-slash"}}}), "spec.source.hf.repo: \"no-slash\" must match"),
            (json!({"source": hf, "serving": {"contextlength": 64}}), "did you mean contextLength?"),
            (json!({"source": hf, "serving": {"contextLength": "64"}}), "is of type string, must be integer"),
            (
                json!({"source": hf, "serving": {"contextLength": 1}}),
                "spec.serving.contextLength: 1, must be at least 16",
            ),
            (json!({"source": hf, "placement": {"device": "Gpu"}}), "must be one of Auto, Cuda, Cpu"),
            (json!({"source": hf, "gateway": {"aliases": ["a", "b", "a"]}}), "spec.gateway.aliases[2]: \"a\" is there"),
            (
                json!({"source": hf, "placement": {"nodeSelector": labels}}),
                "spec.placement.nodeSelector: 33, must be entries, at most 32",
            ),
            (json!({"source": hf, "replicas": 33}), "spec.replicas: 33, must be at most 32"),
            (
                json!({"source": hf, "serving": {"contextLength": 64, "kvCache": {"tokens": 32}}}),
                "spec.serving.kvCache.tokens: 32 must be at least contextLength (64)",
            ),
        ] {
            let found = faults(spec.clone());
            assert!(found.contains(expected), "{spec}: {found}");
        }
    }

    #[test]
    fn a_host_path_may_go_through_hidden_folders_and_never_up() {
        for (path, is_fine) in [
            ("/srv/models/a.gguf", true),
            ("/home/ada/.cache/kindling/a.gguf", true),
            ("/home/../etc", false),
            ("/home/./a", false),
            ("/home/...", false),
            ("relative", false),
        ] {
            let found = faults(json!({"source": {"hostPath": {"path": path}}}));
            assert_eq!(found.is_empty(), is_fine, "{path}: {found}");
        }
    }

    #[test]
    fn names_follow_the_rule_of_the_schema() {
        for name in ["", "Upper", "1st", "under_score", &"x".repeat(41)] {
            let object = json!({"metadata": {"name": name}, "spec": {"source": {"hf": {"repo": "org/name"}}}});
            assert!(check(&object).is_err_and(|text| text.contains("metadata.name")), "{name}");
        }
    }

    #[test]
    fn the_rules_repeated_here_are_the_ones_in_the_schema() {
        let yaml = serde_json::to_string(&crate::crd()).unwrap().replace("\"rule\":", "rule: ");
        let count = yaml.matches("rule: ").count();
        assert_eq!(count, KNOWN_RULES, "a rule was added or removed: look at check_across");
        assert!(yaml.contains("[has(self.hf), has(self.hostPath)]"));
        assert!(yaml.contains("self.kvCache.tokens >= self.contextLength"));
    }

    /// The three repeated above, the model's name, and the transition rules, which need an older object.
    const KNOWN_RULES: usize = 6;
}
