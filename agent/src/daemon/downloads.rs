//! Brings models into the node's cache, one after the other; whoever asks is told at once how far it is. What nobody
//! names goes again.

mod rate;
mod tidy;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kindling_envelope::Bytes;
use kindling_proto::v1::ensure_model_response::State;
use kindling_proto::v1::{EnsureModelResponse, KeepOnlyRequest, KeepOnlyResponse};
use nix::sys::statvfs::statvfs;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch as channel};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::desk::Snapshot;
use super::keep::{self, CacheFigures, Keeper};
use crate::cache::Cache;
use crate::download::{self, DownloadError, Downloader, Progress, Settings};
use crate::hub::Hub;
use crate::source::HubSource;
use crate::with_sources;
use rate::Rate;

/// Stays free on the disk of the cache: a full disk is a broken node.
const SPARE: Bytes = Bytes::mib(512);
/// Between two tries, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A failed download that nobody asked for any more is not tried again.
const INTEREST: Duration = Duration::from_secs(600);

/// Why a model can't be brought.
#[derive(Debug, thiserror::Error)]
pub enum EnsureError {
    /// The download.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// There is no room.
    #[error(
        "{source_name} needs {needed} more on the disk of {folder} of {node}, of which {free} are free and {SPARE} stay \
         so: {} are missing; make room, or move the cache to a larger disk", (*needed + SPARE).saturating_sub(*free)
    )]
    NoSpace {
        /// Which model.
        source_name: String,
        /// What is still to come.
        needed: Bytes,
        /// What is free.
        free: Bytes,
        /// Where.
        folder: String,
        /// On which node.
        node: String,
    },
    /// Nobody knows whether there is room.
    #[error("the free space of {folder} can't be read: {cause}")]
    Space {
        /// Where.
        folder: String,
        /// Why.
        cause: io::Error,
    },
}

/// Where models are brought to, and from where.
#[derive(Debug, Clone)]
pub struct Store {
    /// The node's cache.
    pub cache: Cache,
    /// Where models come from.
    pub hub: Hub,
    /// How long files stay that no LocalModel names.
    pub keep_unnamed: Duration,
    /// The node's name, for messages.
    pub node_name: String,
    /// What runs on this node, of which nothing is taken away.
    pub node: channel::Receiver<Snapshot>,
}

/// All downloads of this node, and what is taken away.
pub struct Downloads {
    shared: Arc<Shared>,
}

struct Shared {
    downloader: Downloader,
    keep_unnamed: Duration,
    node_name: String,
    node: channel::Receiver<Snapshot>,
    keeper: Mutex<Keeper>,
    figures: Arc<CacheFigures>,
    free: fn(&Path) -> io::Result<Bytes>,
    turn: Arc<Semaphore>,
    jobs: Mutex<HashMap<Job, Tracked>>,
    shutdown: CancellationToken,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Job {
    source: HubSource,
    files: Vec<String>,
}

/// How far one is.
struct Tracked {
    response: EnsureModelResponse,
    asked: Instant,
}

impl Downloads {
    /// Until the token is cancelled.
    pub fn new(store: Store, shutdown: CancellationToken) -> Self {
        Self::with_free_space(store, shutdown, free_space)
    }

    fn with_free_space(store: Store, shutdown: CancellationToken, free: fn(&Path) -> io::Result<Bytes>) -> Self {
        let Store { cache, hub, keep_unnamed, node_name, node } = store;
        let downloader = Downloader { cache, hub, settings: Settings::default() };
        let (keeper, figures, jobs) = (Mutex::default(), Arc::default(), Mutex::new(HashMap::new()));
        let turn = Arc::new(Semaphore::new(1));
        let shared = Shared { downloader, keep_unnamed, node_name, node, keeper, figures, free, turn, jobs, shutdown };
        Self { shared: Arc::new(shared) }
    }

    /// How the cache stands, from now on.
    pub fn figures(&self) -> Arc<CacheFigures> {
        self.shared.figures.clone()
    }

    /// Counts what is in the cache.
    pub async fn count(&self) {
        let shared = self.shared.clone();
        // a panic in there has been reported by the panic hook already
        let _ = tokio::task::spawn_blocking(move || shared.count()).await;
    }

    /// Takes a list of all that LocalModels name, and removes what none has named for long enough.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a list that is not complete or not understood; `FAILED_PRECONDITION` if the cache can't be
    /// read or written.
    pub async fn keep_only(&self, request: KeepOnlyRequest) -> Result<KeepOnlyResponse, Status> {
        let named = keep::check(request.models, request.is_complete)?;
        let shared = self.shared.clone();
        let tidied = tokio::task::spawn_blocking(move || shared.tidy(named)).await;
        tidied.map_err(|_| Status::internal("cleaning the cache failed"))?
    }

    /// Says how far a model is, and brings nothing.
    ///
    /// # Errors
    /// As [`Downloads::ensure`].
    pub fn look(&self, source: &HubSource, files: &[String]) -> Result<EnsureModelResponse, Status> {
        let job = Job::new(source, files);
        self.shared.keeper().asked((job.source.clone(), job.files.clone()));
        if let Some(present) = self.present(&job)? {
            return Ok(present);
        }
        let under_way = self.shared.jobs().get(&job).map(|tracked| tracked.response.clone());
        Ok(under_way.unwrap_or(EnsureModelResponse { state: State::Absent.into(), ..EnsureModelResponse::default() }))
    }

    fn present(&self, job: &Job) -> Result<Option<EnsureModelResponse>, Status> {
        let present = download::present(&self.shared.downloader.cache, &job.source, &job.files)
            .map_err(|error| Status::failed_precondition(with_sources(&error)))?;
        Ok(present.map(|present| EnsureModelResponse {
            state: State::Present.into(),
            bytes: present.bytes,
            total_bytes: present.bytes,
            digest: present.digest,
            ..EnsureModelResponse::default()
        }))
    }

    /// Starts bringing a model, unless that is under way or done, and says how far it is.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` if the cache can't be read.
    pub fn ensure(&self, source: &HubSource, files: &[String]) -> Result<EnsureModelResponse, Status> {
        let job = Job::new(source, files);
        self.shared.keeper().asked((job.source.clone(), job.files.clone()));
        if let Some(present) = self.present(&job)? {
            return Ok(present);
        }
        let mut jobs = self.shared.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tracked) = jobs.get_mut(&job) {
            tracked.asked = Instant::now();
            return Ok(tracked.response.clone());
        }
        // Taken here, so that what is said now is what comes.
        let turn = self.shared.turn.clone().try_acquire_owned().ok();
        let state = if turn.is_some() { State::Downloading } else { State::Queued };
        let response = EnsureModelResponse { state: state.into(), ..EnsureModelResponse::default() };
        jobs.insert(job.clone(), Tracked { response: response.clone(), asked: Instant::now() });
        let shared = self.shared.clone();
        // Hashing and writing block, and nothing may hold up the watch over the memory.
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let shutdown = shared.shutdown.clone();
            runtime.block_on(shutdown.run_until_cancelled(shared.bring(job, turn)))
        });
        Ok(response)
    }
}

impl Job {
    fn new(source: &HubSource, files: &[String]) -> Self {
        let mut files = files.to_vec();
        files.sort();
        files.dedup();
        Self { source: source.clone(), files }
    }
}

impl Shared {
    /// Tries until it is there, or nobody wants it any more.
    async fn bring(&self, job: Job, mut turn: Option<OwnedSemaphorePermit>) {
        let mut pause = FIRST_PAUSE;
        while let Err(error) = self.try_once(&job, turn.take()).await {
            let message = with_sources(&error);
            tracing::warn!(source = %job.source, message, "a download failed");
            self.update(&job, |response| {
                response.state = State::Failed.into();
                response.bytes_per_second = 0;
                response.message = message;
            });
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            let asked = self.jobs().get(&job).map(|tracked| tracked.asked.elapsed());
            if asked.is_none_or(|ago| ago > INTEREST) {
                break;
            }
        }
        // what is there is found in the cache from here on
        self.jobs().remove(&job);
        self.count();
    }

    async fn try_once(&self, job: &Job, turn: Option<OwnedSemaphorePermit>) -> Result<(), EnsureError> {
        let _turn = match turn {
            Some(turn) => turn,
            // It is never closed.
            None => match self.turn.clone().acquire_owned().await {
                Ok(turn) => turn,
                Err(_) => return Ok(()),
            },
        };
        self.update(job, |response| response.state = State::Downloading.into());
        let plan = self.downloader.plan(&job.source, &job.files).await?;
        if let Some(needed) = plan.disk {
            self.check_space(job, Bytes(needed))?;
        }
        let total = plan.to_come.map_or(0, |to_come| plan.there + to_come);
        let mut rate = Rate::new(Instant::now());
        let mut file: Option<(String, u64)> = None;
        let mut bytes = plan.there;
        self.update(job, |response| (response.bytes, response.total_bytes) = (bytes, total));
        let mut progress = |progress: Progress| {
            let before = match &file {
                Some((name, before)) if *name == progress.file => *before,
                // what was kept of this file is in the sum already
                _ => progress.kept_bytes,
            };
            // a file that starts from its beginning again takes away what it had
            bytes = (bytes + progress.bytes).saturating_sub(before);
            let new = progress.bytes.saturating_sub(before);
            file = Some((progress.file, progress.bytes));
            if let Some(per_second) = rate.add(Instant::now(), new) {
                self.update(job, |response| (response.bytes, response.bytes_per_second) = (bytes, per_second));
            }
        };
        self.downloader.carry_out(&plan, &mut progress).await?;
        Ok(())
    }

    /// Whether there is room; makes some where that is possible. Blocks.
    fn check_space(&self, job: &Job, needed: Bytes) -> Result<(), EnsureError> {
        let cache = &self.downloader.cache;
        let folder = || cache.root().display().to_string();
        let free = || (self.free)(cache.root()).map_err(|cause| EnsureError::Space { folder: folder(), cause });
        let is_enough = |free: Bytes| needed == Bytes(0) || needed + SPARE <= free;
        let mut found = free()?;
        if !is_enough(found) {
            self.make_room((needed + SPARE).saturating_sub(found).0);
            found = free()?;
        }
        if !is_enough(found) {
            let (source_name, node) = (job.source.to_string(), self.node_name.clone());
            return Err(EnsureError::NoSpace { source_name, needed, free: found, folder: folder(), node });
        }
        Ok(())
    }

    fn update(&self, job: &Job, change: impl FnOnce(&mut EnsureModelResponse)) {
        if let Some(tracked) = self.jobs().get_mut(job) {
            change(&mut tracked.response);
        }
    }

    fn jobs(&self) -> std::sync::MutexGuard<'_, HashMap<Job, Tracked>> {
        // nothing that could panic happens under the lock
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Free for users other than root, on the disk of a folder that may not exist yet.
fn free_space(folder: &Path) -> io::Result<Bytes> {
    let existing = folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let found = statvfs(existing)?;
    Ok(Bytes(found.fragment_size()).times(found.blocks_available()))
}

#[cfg(test)]
mod tests;
