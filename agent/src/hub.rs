//! The Hugging Face hub over HTTP: which files a revision has, which of them a runtime needs.
//!
//! Own code rather than `hf-hub`: the cache's layout, progress and resuming are ours, and the two calls are small.

use serde::Deserialize;

use crate::source::{HubSource, check_file_name};

/// A hub and the token for it.
#[derive(Debug, Clone)]
pub struct Hub {
    endpoint: String,
    token: Option<String>,
    client: reqwest::Client,
}

/// Why the hub did not give what was asked.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Nothing answered.
    #[error(
        "cannot reach {endpoint}: {}; import the files by hand with `kindling cache import FILE --as {source_name}`",
        deepest(cause)
    )]
    Unreachable {
        /// Address of the hub.
        endpoint: String,
        /// What was asked for.
        source_name: String,
        /// The failed request. Not a `source`: its innermost words are in the text, the others repeat the address.
        cause: reqwest::Error,
    },
    /// The hub refused.
    #[error("{source_name}: {reason} ({url} answered {status})")]
    Refused {
        /// What was asked for.
        source_name: String,
        /// In words.
        reason: &'static str,
        /// The address.
        url: String,
        /// HTTP status.
        status: u16,
    },
    /// The answer was no listing.
    #[error("{url} answered with something that is no listing of a repository")]
    Listing {
        /// The address.
        url: String,
        /// Why it could not be understood.
        source: reqwest::Error,
    },
    /// The repository does not say by itself which files make the model.
    #[error("{source_name} holds {found}; name one under spec.source.hf.files: {}", names.join(", "))]
    Ambiguous {
        /// What was asked for.
        source_name: String,
        /// What makes the choice impossible.
        found: String,
        /// The candidates.
        names: Vec<String>,
    },
    /// A file that was asked for is not in the repository.
    #[error("{source_name} has no file {file:?}; it holds: {}", names.join(", "))]
    NoSuchFile {
        /// What was asked for.
        source_name: String,
        /// The file.
        file: String,
        /// What there is.
        names: Vec<String>,
    },
}

#[derive(Deserialize)]
struct Listing {
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Hub {
    /// The hub that `HF_ENDPOINT` names (else Hugging Face's), with the token in `HF_TOKEN` if there is one.
    pub fn from_environment() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        Self::new(&endpoint, variable("HF_TOKEN"))
    }

    /// A hub at this address.
    pub fn new(endpoint: &str, token: Option<String>) -> Self {
        // Fails only if a provider is installed already, which is just as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .user_agent(concat!("kindling/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(std::time::Duration::from_secs(15))
            .read_timeout(std::time::Duration::from_secs(60))
            .build()
            .expect("a client of constant settings should build");
        Self { endpoint: endpoint.trim_end_matches('/').to_owned(), token, client }
    }

    /// The files that make the model: those asked for, else what the repository's kind implies.
    ///
    /// # Errors
    /// [`HubError`] if the hub cannot be reached, refuses, or leaves a choice to the user.
    pub async fn files(&self, source: &HubSource, asked: &[String]) -> Result<Vec<String>, HubError> {
        let url = format!("{}/api/models/{}/revision/{}", self.endpoint, source.repo(), source.revision());
        let response = self.get(&url, source, 0).await?;
        let listing: Listing =
            response.json().await.map_err(|error| HubError::Listing { url: url.clone(), source: error })?;
        let names: Vec<String> = listing.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        select(source, asked, names)
    }

    /// Starts reading a file from an offset.
    pub(crate) async fn open(
        &self,
        source: &HubSource,
        file: &str,
        offset: u64,
    ) -> Result<reqwest::Response, HubError> {
        let url = format!("{}/{}/resolve/{}/{file}", self.endpoint, source.repo(), source.revision());
        self.get(&url, source, offset).await
    }

    async fn get(&self, url: &str, source: &HubSource, offset: u64) -> Result<reqwest::Response, HubError> {
        let mut request = self.client.get(url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if offset > 0 {
            request = request.header("range", format!("bytes={offset}-"));
        }
        let response = request.send().await.map_err(|error| HubError::Unreachable {
            endpoint: self.endpoint.clone(),
            source_name: source.to_string(),
            cause: error,
        })?;
        let status = response.status().as_u16();
        let reason = match status {
            200 | 206 => return Ok(response),
            401 | 403 => {
                "no access: the repository is private, gated or misspelt; set HF_TOKEN to a token that may read it"
            }
            404 => "no such repository, revision or file",
            429 => "the hub asks for fewer requests; try again later",
            _ => "the hub failed",
        };
        Err(HubError::Refused { source_name: source.to_string(), reason, url: url.to_owned(), status })
    }
}

/// Chooses files: what was asked for; else safetensors with their companions; else the only GGUF.
fn select(source: &HubSource, asked: &[String], names: Vec<String>) -> Result<Vec<String>, HubError> {
    let source_name = source.to_string();
    // A listing is foreign data: names that could leave the folder are as good as absent.
    let names: Vec<String> = names.into_iter().filter(|name| check_file_name(name).is_ok()).collect();
    if !asked.is_empty() {
        return match asked.iter().find(|file| !names.contains(file)) {
            Some(file) => Err(HubError::NoSuchFile { source_name, file: file.clone(), names }),
            None => Ok(asked.to_vec()),
        };
    }
    if names.iter().any(|name| name == "config.json") && names.iter().any(|name| is_shard(name)) {
        return Ok(names.into_iter().filter(|name| is_shard(name) || is_companion(name)).collect());
    }
    let ggufs: Vec<String> = names.iter().filter(|name| name.ends_with(".gguf")).cloned().collect();
    match ggufs.len() {
        1 => Ok(ggufs),
        0 => Err(HubError::Ambiguous { source_name, found: "neither safetensors nor GGUF files".to_owned(), names }),
        count => Err(HubError::Ambiguous { source_name, found: format!("{count} GGUF files"), names: ggufs }),
    }
}

fn is_shard(name: &str) -> bool {
    !name.contains('/') && name.ends_with(".safetensors")
}

fn is_companion(name: &str) -> bool {
    matches!(
        name,
        "config.json"
            | "generation_config.json"
            | "model.safetensors.index.json"
            | "tokenizer.json"
            | "tokenizer_config.json"
            | "special_tokens_map.json"
            | "chat_template.jinja"
            | "chat_template.json"
    )
}

/// The innermost cause: the outer ones of an HTTP client only repeat the address.
fn deepest(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(asked: &[&str], names: &[&str]) -> Result<Vec<String>, String> {
        let source = "hf:org/repo".parse().expect("source");
        let own = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        select(&source, &own(asked), own(names)).map_err(|error| error.to_string())
    }

    #[test]
    fn safetensors_come_with_config_and_tokenizer_and_nothing_else() {
        let files = chosen(&[], &["config.json", "model.safetensors", "tokenizer.json", "README.md", "onnx/m.onnx"]);
        assert_eq!(files.expect("files"), ["config.json", "model.safetensors", "tokenizer.json"]);
    }

    #[test]
    fn several_ggufs_need_a_choice_and_the_error_lists_them() {
        let error = chosen(&[], &["a.Q4_0.gguf", "a.Q8_0.gguf"]).expect_err("ambiguous");
        assert!(error.contains("2 GGUF files") && error.contains("a.Q4_0.gguf, a.Q8_0.gguf"), "{error}");
        assert_eq!(chosen(&["a.Q8_0.gguf"], &["a.Q4_0.gguf", "a.Q8_0.gguf"]).expect("asked"), ["a.Q8_0.gguf"]);
    }

    #[test]
    fn a_listing_cannot_name_files_outside_the_folder() {
        let error = chosen(&[], &["../../etc/model.gguf"]).expect_err("nothing left");
        assert!(error.contains("neither safetensors nor GGUF"), "{error}");
    }
}
