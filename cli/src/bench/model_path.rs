//! Which weights `kindling bench MODEL` means: a path, or a model of the cache by its hub's name.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use kindling_agent::cache::Cache;
use kindling_agent::manifest::Manifest;
use kindling_agent::source::HubSource;

/// A path that exists is taken as it is; else the model is looked for in the cache, where `kindling up` finds it too.
/// Nothing is downloaded: a benchmark that begins with a download is rarely meant.
///
/// # Errors
/// Says where was looked, and how the model gets into the cache.
pub fn resolve(model: &str, file: Option<&str>, cache: &Cache) -> anyhow::Result<PathBuf> {
    let path = Path::new(model);
    if path.exists() {
        return Ok(file.map_or_else(|| path.to_owned(), |file| path.join(file)));
    }
    let named = if model.starts_with("hf:") { model.to_owned() } else { format!("hf:{model}") };
    // `./model.gguf` and `/models/model.gguf` are meant as paths: the cache would only confuse.
    let is_path = model.starts_with(['.', '/']) || model.matches('/').count() != 1;
    let source = if is_path { None } else { named.parse::<HubSource>().ok() };
    let Some(source) = source else {
        bail!("{model} does not exist, and it is no name of a model in the cache (ORG/REPO or hf:ORG/REPO@REVISION)");
    };
    let folder = cache.folder(&source);
    let manifest = Manifest::read(&folder).with_context(|| format!("read the manifest in {}", folder.display()))?;
    if manifest.files.is_empty() {
        let root = cache.root().display();
        bail!(
            "{model} does not exist, and {source} is not in the cache at {root}; `kindling cache list` tells what is, \
             `kindling pull --hf-repo {}` brings it",
            source.repo()
        );
    }
    match file {
        Some(file) if !manifest.holds(&folder, file) => {
            let names: Vec<&str> = manifest.files.keys().map(String::as_str).collect();
            bail!("{source} has no file {file:?} in the cache; it has: {}", names.join(", "))
        }
        Some(file) => Ok(folder.join(file)),
        None => Ok(folder),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (Cache, tempfile::TempDir) {
        let scratch = tempfile::Builder::new().prefix("kindling-bench-").tempdir().unwrap();
        let root = scratch.path();
        let file = root.join("a.gguf");
        std::fs::write(&file, b"bytes").unwrap();
        let cache = Cache::at(root.join("cache"));
        cache.import(&file, &"hf:org/repo".parse().unwrap(), &mut |_| ()).unwrap();
        (cache, scratch)
    }

    #[test]
    fn a_repository_in_the_cache_is_its_folder_or_a_file_of_it() {
        let (cache, _scratch) = cache();
        let folder = cache.root().join("models/hf/org/repo/main");
        assert_eq!(resolve("org/repo", None, &cache).unwrap(), folder);
        assert_eq!(resolve("hf:org/repo@main", Some("a.gguf"), &cache).unwrap(), folder.join("a.gguf"));
        let said = resolve("org/repo", Some("b.gguf"), &cache).unwrap_err().to_string();
        assert!(said.contains("b.gguf") && said.contains("a.gguf"), "{said}");
    }

    #[test]
    fn what_is_nowhere_is_said_with_the_way_out() {
        let (cache, _scratch) = cache();
        let said = resolve("org/other", None, &cache).unwrap_err().to_string();
        assert!(said.contains("org/other") && said.contains("kindling pull --hf-repo org/other"), "{said}");
        let said = resolve("/no/such/model.gguf", None, &cache).unwrap_err().to_string();
        assert!(said.starts_with("/no/such/model.gguf does not exist"), "{said}");
        let said = resolve("./model.gguf", None, &cache).unwrap_err().to_string();
        assert!(said.contains("./model.gguf does not exist"), "{said}");
    }
}
