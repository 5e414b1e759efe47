//! Reads LocalModels from a YAML file, for `kindling up`. The same file goes to `kubectl apply`.

use std::path::Path;

use anyhow::{Context, bail};
use kindling_api::LocalModel;
use serde::Deserialize;

/// The LocalModels of a file, in order. Other kinds are refused, as are two of one name.
///
/// # Errors
/// Names the file, the document and the place in it.
pub fn read(path: &Path) -> anyhow::Result<Vec<LocalModel>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    parse(&text).with_context(|| format!("{}", path.display()))
}

fn parse(text: &str) -> anyhow::Result<Vec<LocalModel>> {
    let mut models: Vec<LocalModel> = Vec::new();
    for (index, document) in serde_norway::Deserializer::from_str(text).enumerate() {
        let number = index + 1;
        let value = serde_json::Value::deserialize(document).with_context(|| format!("document {number}"))?;
        if value.is_null() {
            continue;
        }
        let model = model_of(&value).with_context(|| format!("document {number}"))?;
        if models.iter().any(|other| other.metadata.name == model.metadata.name) {
            bail!("document {number}: there is another LocalModel of this name");
        }
        models.push(model);
    }
    if models.is_empty() {
        bail!("holds no LocalModel");
    }
    Ok(models)
}

fn model_of(value: &serde_json::Value) -> anyhow::Result<LocalModel> {
    let text = |key: &str| value[key].as_str().unwrap_or("nothing").to_owned();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if kind != "LocalModel" || version != "kindling.dev/v1alpha1" {
        bail!("apiVersion is {version} and kind is {kind}; `kindling up` takes kindling.dev/v1alpha1 LocalModel alone");
    }
    kindling_api::check(value).map_err(anyhow::Error::msg)?;
    Ok(serde_json::from_value(value.clone())?)
}
