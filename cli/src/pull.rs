//! `kindling pull`: make sure that a model is in a cache. Also what a pod runs before the runtime starts.

use std::path::PathBuf;

use kindling_agent::cache::Cache;
use kindling_agent::download;
use kindling_agent::hub::Hub;
use kindling_agent::source::HubSource;

use crate::bars::Bytes;
use crate::{interrupt, logging};

/// Where Kubernetes reads why a container ended.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// Download a model into the cache, or see that it is there.
#[derive(clap::Args)]
pub struct Args {
    /// Repository on the hub, org/name.
    #[arg(long, value_name = "ORG/NAME")]
    hf_repo: String,
    /// Branch, tag or commit.
    #[arg(long, default_value = "main")]
    revision: String,
    /// Only this file; may be given several times. Without it, what the repository's kind implies.
    #[arg(long = "file", value_name = "FILE")]
    files: Vec<String>,
    /// Folder of the cache [default: ~/.cache/kindling]
    #[arg(long, env = "KINDLING_CACHE", value_name = "FOLDER")]
    cache: Option<PathBuf>,
}

/// Runs `kindling pull`.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let Args { hf_repo, revision, files, cache } = args;
    logging::start("info");
    // In a pod this is process 1, which no signal ends by itself.
    let interrupted = interrupt::token()?;
    let pulled = async {
        let source = HubSource::new(&hf_repo, &revision)?;
        let cache = cache.map_or_else(Cache::of_user, |folder| Ok(Cache::at(folder)))?;
        pull(&cache, &source, &files).await
    };
    let result = tokio::select! {
        result = pulled => result,
        () = interrupted.cancelled() => Err(anyhow::anyhow!("interrupted; the next try resumes")),
    };
    if let Err(error) = &result {
        // Only in a pod is this file there; the reason is on standard error in any case.
        if std::path::Path::new(TERMINATION_LOG).exists() {
            let _ = std::fs::write(TERMINATION_LOG, format!("{error:#}"));
        }
    }
    result
}

/// Brings a model into a cache, with a bar per file.
///
/// # Errors
/// [`download::DownloadError`] with what to do about it.
pub async fn pull(cache: &Cache, source: &HubSource, files: &[String]) -> anyhow::Result<()> {
    let mut current: Option<(String, Bytes)> = None;
    let result = download::pull(cache, &Hub::from_environment(), source, files, &mut |progress| {
        if current.as_ref().is_none_or(|(file, _)| *file != progress.file) {
            if let Some((_, bar)) = current.take() {
                bar.finish();
            }
            current = Some((progress.file.clone(), Bytes::new(&progress.file)));
        }
        if let Some((_, bar)) = &mut current {
            bar.set(progress.bytes, progress.total_bytes);
        }
    })
    .await;
    if let Some((_, bar)) = current {
        bar.finish();
    }
    Ok(result?)
}
