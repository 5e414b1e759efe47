//! Where the model is that a person names.

use std::path::Path;

use anyhow::{Context, bail};
use kindling_agent::cache::Cache;
use kindling_agent::manifest::Manifest;
use kindling_agent::source::HubSource;
use kindling_facts::ModelSource;

/// A model and what it is called in the answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// Where it is.
    pub place: ModelSource,
    /// As the person may know it.
    pub name: String,
}

/// An address, a path that exists, or a repository: from the cache if it is there, else from the hub.
///
/// # Errors
/// If it can be none of these.
pub fn find(model: &str, files: &[String], cache: &Cache) -> anyhow::Result<Source> {
    let is_url = model.starts_with("http://") || model.starts_with("https://");
    let path = Path::new(model);
    if is_url || path.exists() {
        let ([] | [_]) = files else { bail!("--file can be given once for {model}") };
        let place = match files.first() {
            None if is_url => ModelSource::Url(model.to_owned()),
            Some(_) if is_url => bail!("--file means a file of a repository or of a folder, {model} is an address"),
            file => ModelSource::Path(file.map_or_else(|| path.to_owned(), |file| path.join(file))),
        };
        // Signatures in the query are nobody's business.
        return Ok(Source { place, name: model.split('?').next().unwrap_or(model).to_owned() });
    }
    // `./model.gguf` and `/models/model.gguf` are meant as paths: the hub would only confuse.
    if model.starts_with(['.', '/']) {
        bail!("{model} does not exist");
    }
    let named = if model.starts_with("hf:") { model.to_owned() } else { format!("hf:{model}") };
    let source = named.parse::<HubSource>().with_context(|| {
        format!("{model} does not exist, and is no name of a model on the hub (ORG/NAME or ORG/NAME@REVISION)")
    })?;
    of_hub(source, files, cache)
}

/// A repository: as far as the cache has all of it, from there.
///
/// # Errors
/// If the cache cannot be read.
pub fn of_hub(source: HubSource, files: &[String], cache: &Cache) -> anyhow::Result<Source> {
    let folder = cache.folder(&source);
    let manifest = Manifest::read(&folder).with_context(|| format!("read the manifest in {}", folder.display()))?;
    let all_there = manifest.files.keys().all(|name| manifest.holds(&folder, name));
    let only_gguf = manifest.files.len() == 1 && manifest.files.keys().all(|name| name.ends_with(".gguf"));
    let cached = match files {
        [] if all_there && (manifest.complete || only_gguf) => Some(folder),
        [file] if manifest.holds(&folder, file) => Some(folder.join(file)),
        _ => None,
    };
    let name = source.to_string();
    Ok(match cached {
        Some(path) => Source { place: ModelSource::Path(path), name: format!("{name}, from the cache") },
        None => Source { place: ModelSource::Hub { source, files: files.to_vec() }, name },
    })
}
