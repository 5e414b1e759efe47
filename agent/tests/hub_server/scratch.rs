//! A cache to download into.

use std::time::Duration;

use kindling_agent::cache::Cache;
use kindling_agent::download::{Downloader, Progress, Settings};
use kindling_agent::hub::Hub;
use kindling_agent::source::HubSource;

use super::{FILE, MIB, Server};

pub fn source() -> HubSource {
    "hf:org/repo".parse().unwrap()
}

impl Server {
    pub fn hub(&self) -> Hub {
        Hub::new(&self.address, Some("token".to_owned()))
    }
}

/// A cache that goes when it is dropped, and what fills it.
pub struct Scratch {
    pub folder: tempfile::TempDir,
    pub settings: Settings,
}

impl Scratch {
    /// In pieces small enough for small files, and without patience.
    pub fn new() -> Self {
        let settings = Settings {
            streams: 4,
            parallel_from_bytes: 4 * MIB as u64,
            request_bytes: 4 * MIB as u64,
            window_bytes: MIB as u64,
            first_pause: Duration::from_millis(20),
            tries: 3,
        };
        Self { folder: tempfile::Builder::new().prefix("kindling-download-").tempdir().unwrap(), settings }
    }

    pub fn once() -> Self {
        let mut scratch = Self::new();
        scratch.settings.tries = 1;
        scratch
    }

    pub fn cache(&self) -> Cache {
        Cache::at(self.folder.path())
    }

    pub fn model(&self) -> std::path::PathBuf {
        self.cache().folder(&source())
    }

    pub fn target(&self) -> std::path::PathBuf {
        self.model().join(FILE)
    }

    pub fn downloader(&self, server: &Server) -> Downloader {
        Downloader { cache: self.cache(), hub: server.hub(), settings: self.settings.clone() }
    }

    pub async fn pull(&self, server: &Server) -> Result<(), String> {
        self.pull_telling(server, &mut |_| ()).await
    }

    pub async fn pull_telling(
        &self,
        server: &Server,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), String> {
        self.downloader(server).pull(&source(), &[], progress).await.map_err(|error| error.to_string())
    }

    /// Names in the model's folder, in order.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.model()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    pub fn assert_whole(&self, content: &[u8]) {
        assert!(std::fs::read(self.target()).unwrap() == content, "the file is not what the server has");
        assert_eq!(self.names(), [".kindling.json", ".kindling.lock", FILE], "nothing else is left");
    }
}
