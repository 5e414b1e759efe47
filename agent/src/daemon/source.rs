//! What a caller means by a source, as far as this node can have it.

use std::io;
use std::path::{Component, Path, PathBuf};

use kindling_proto::v1::model_source::Source;
use kindling_proto::v1::{HubModel, ModelSource};
use tonic::Status;

use crate::source::{HubSource, check_file_name};

/// A source that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LocalSource {
    /// In a hub, and perhaps in the cache.
    Hub {
        /// Repository and revision.
        source: HubSource,
        /// Empty: what the model needs.
        files: Vec<String>,
    },
    /// On this node, below an allowed folder; without symbolic links.
    Path(PathBuf),
}

/// Checks a source. A path must exist, below one of the allowed folders, also where symbolic links lead.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the field, `NOT_FOUND`, or `FAILED_PRECONDITION` if the path can't be read.
pub fn check(source: Option<ModelSource>, allowed_prefixes: &[PathBuf]) -> Result<LocalSource, Status> {
    match source.and_then(|source| source.source) {
        None => Err(Status::invalid_argument("source: is not set")),
        Some(Source::Hub(hub)) => check_model(hub).map(|(source, files)| LocalSource::Hub { source, files }),
        Some(Source::HostPath(path)) => check_path(Path::new(&path), allowed_prefixes).map(LocalSource::Path),
    }
}

/// Of a source in a hub what it names; nothing of a path, which needs no cache and is checked where it is used.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the field.
pub(super) fn check_hub(source: Option<ModelSource>) -> Result<Option<(HubSource, Vec<String>)>, Status> {
    match source.and_then(|source| source.source) {
        None => Err(Status::invalid_argument("source: is not set")),
        Some(Source::Hub(hub)) => check_model(hub).map(Some),
        Some(Source::HostPath(_)) => Ok(None),
    }
}

fn check_model(hub: HubModel) -> Result<(HubSource, Vec<String>), Status> {
    let source = HubSource::new(&hub.repo, &hub.revision)
        .map_err(|error| Status::invalid_argument(format!("source.hub: {error}")))?;
    for file in &hub.files {
        check_file_name(file).map_err(|error| Status::invalid_argument(format!("source.hub.files: {error}")))?;
    }
    Ok((source, hub.files))
}

fn check_path(path: &Path, allowed_prefixes: &[PathBuf]) -> Result<PathBuf, Status> {
    let shown = path.display();
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(Status::invalid_argument(format!("source.host_path: {shown} is not absolute or goes up")));
    }
    let prefix = allowed_prefixes.iter().find(|prefix| path.starts_with(prefix));
    let outside = || {
        Status::invalid_argument(format!("source.host_path: {shown} is below no folder that the administrator allows"))
    };
    let prefix = prefix.ok_or_else(outside)?;
    let real = path.canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Status::not_found(format!("{shown} does not exist on this node")),
        _ => Status::failed_precondition(format!("{shown} can't be read: {error}")),
    })?;
    let real_prefix = prefix.canonicalize().map_err(|_| outside())?;
    if real.starts_with(&real_prefix) { Ok(real) } else { Err(outside()) }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn of_path(path: &Path, allowed: &Path) -> Result<LocalSource, (Code, String)> {
        let source = ModelSource { source: Some(Source::HostPath(path.display().to_string())) };
        check(Some(source), &[allowed.to_owned()]).map_err(|status| (status.code(), status.message().to_owned()))
    }

    #[test]
    fn what_no_cache_can_hold_is_refused_by_field() {
        for (repo, revision, file, field) in [
            ("../etc", "main", "a.gguf", "source.hub: "),
            ("org/repo", "a/b", "a.gguf", "source.hub: "),
            ("org/repo", "main", "../a.gguf", "source.hub.files: "),
        ] {
            let files = vec![file.to_owned()];
            let hub = HubModel { repo: repo.to_owned(), revision: revision.to_owned(), files };
            let status = check(Some(ModelSource { source: Some(Source::Hub(hub)) }), &[]).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().starts_with(field), "{}", status.message());
        }
        assert_eq!(check(None, &[]).unwrap_err().code(), Code::InvalidArgument);
    }

    #[test]
    fn a_path_must_be_there_and_stay_below_what_is_allowed() {
        let scratch = tempfile::Builder::new().prefix("kindling-agent-source-").tempdir().unwrap();
        let root = scratch.path();
        let allowed = root.join("allowed");
        std::fs::create_dir_all(allowed.join("model")).unwrap();
        std::fs::create_dir_all(root.join("secret")).unwrap();
        let _ = std::os::unix::fs::symlink(root.join("secret"), allowed.join("link"));
        let code = |path: PathBuf| of_path(&path, &allowed).unwrap_err().0;
        let model = allowed.join("model").canonicalize().unwrap();
        assert_eq!(of_path(&allowed.join("model"), &allowed), Ok(LocalSource::Path(model)));
        assert_eq!(code(allowed.join("absent")), Code::NotFound);
        for outside in [allowed.join("link"), root.join("secret"), root.join("allowed-not")] {
            let (code, text) = of_path(&outside, &allowed).unwrap_err();
            assert_eq!(code, Code::InvalidArgument);
            assert!(text.contains("below no folder that the administrator allows"), "{text}");
        }
        assert_eq!(code(allowed.join("../secret")), Code::InvalidArgument);
        assert_eq!(code(PathBuf::from("model")), Code::InvalidArgument);
    }
}
