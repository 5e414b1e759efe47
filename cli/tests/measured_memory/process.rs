//! A `kindling runtime` of its own, and what the kernel says that it takes.

use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use kindling_proto::v1::generate_request::Input;
use kindling_proto::v1::get_model_info_response::State;
use kindling_proto::v1::inference_client::InferenceClient;
use kindling_proto::v1::{GenerateRequest, GetModelInfoRequest, MemoryTerms, Sampling, Stopping};
use tonic::transport::Channel;

const LONG: Duration = Duration::from_secs(120);

/// A memory control group of version 1 for one process; the machine may have none that can be written.
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// `None`, aloud, where none can be made.
    pub fn new(name: &str) -> Option<Self> {
        let path = Path::new("/sys/fs/cgroup/memory").join(format!("kindling-measured-{name}-{}", std::process::id()));
        match std::fs::create_dir(&path) {
            Ok(()) => Some(Self(path)),
            Err(error) => {
                println!("SKIPPED: no memory control group, {}: {error}; VmHWM is judged alone", path.display());
                None
            }
        }
    }

    /// The kernel ends a process that needs more.
    pub fn limit(&self, bytes: u64) {
        std::fs::write(self.0.join("memory.limit_in_bytes"), bytes.to_string()).expect("set the limit");
    }

    /// The most that was in use, files that the kernel keeps included.
    pub fn peak(&self) -> u64 {
        let text = std::fs::read_to_string(self.0.join("memory.max_usage_in_bytes")).expect("read the peak");
        text.trim().parse().expect("a number")
    }

    /// Anonymous memory that is in use.
    pub fn anonymous(&self) -> u64 {
        let text = std::fs::read_to_string(self.0.join("memory.stat")).expect("read the group");
        text.lines().find_map(|line| line.strip_prefix("rss ")?.trim().parse().ok()).expect("rss")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel may still be taking the process out of it.
        let deadline = Instant::now() + Duration::from_secs(5);
        while std::fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A runtime that was started.
pub struct Process {
    child: Child,
    address: String,
}

impl Process {
    /// Starts one for a model, in a control group if there is one.
    pub fn start(model: &Path, args: &[String], cgroup: Option<&Cgroup>) -> Self {
        // A port that was free a moment ago.
        let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
        let mut command = match cgroup {
            Some(cgroup) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]).arg(&cgroup.0);
                shell.arg(env!("CARGO_BIN_EXE_kindling"));
                shell
            }
            None => Command::new(env!("CARGO_BIN_EXE_kindling")),
        };
        command.arg("runtime").arg("--model-path").arg(model).args(["--listen", &address.to_string()]).args(args);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("start kindling");
        Self { child, address: format!("http://{address}") }
    }

    /// Waits until it is ready to serve.
    pub async fn ready(&mut self) -> InferenceClient<Channel> {
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(status) = self.child.try_wait().expect("ask for the child") {
                panic!("it ended with {status}: {}", self.said());
            }
            if let Ok(mut client) = InferenceClient::connect(self.address.clone()).await
                && let Ok(info) = client.get_model_info(GetModelInfoRequest {}).await
                && info.get_ref().state() == State::Ready
            {
                return client;
            }
            assert!(Instant::now() < deadline, "it is not ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until it ends by itself; how it ended, the most that it held, and what it said.
    pub fn end(mut self) -> (ExitStatus, u64, String) {
        let (deadline, mut peak) = (Instant::now() + LONG, 0);
        let status = loop {
            peak = peak.max(self.status("VmHWM:").unwrap_or(0));
            if let Some(status) = self.child.try_wait().expect("ask for the child") {
                break status;
            }
            assert!(Instant::now() < deadline, "it goes on");
            std::thread::sleep(Duration::from_millis(1));
        };
        (status, peak, self.said())
    }

    /// The most that it held at any time, in bytes.
    pub fn peak(&self) -> u64 {
        self.status("VmHWM:").expect("VmHWM")
    }

    /// What is its own, and its share of what others have too.
    pub fn pss(&self) -> u64 {
        let rollup = format!("/proc/{}/smaps_rollup", self.child.id());
        kib(&std::fs::read_to_string(rollup).expect("read the rollup"), "Pss:").expect("Pss")
    }

    /// Of that, pages of files: the program itself.
    pub fn pss_of_files(&self) -> u64 {
        let rollup = format!("/proc/{}/smaps_rollup", self.child.id());
        kib(&std::fs::read_to_string(rollup).expect("read the rollup"), "Pss_File:").expect("Pss_File")
    }

    fn status(&self, key: &str) -> Option<u64> {
        kib(&std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?, key)
    }

    fn said(&mut self) -> String {
        let mut said = String::new();
        self.child.stderr.as_mut().expect("piped").read_to_string(&mut said).expect("standard error");
        said
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kib(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// What the runtime measured of itself.
pub async fn terms(client: &mut InferenceClient<Channel>) -> MemoryTerms {
    let info = client.get_model_info(GetModelInfoRequest {}).await.expect("ask the runtime").into_inner();
    info.memory.expect("a loaded model")
}

/// Has it answer some requests at once: sampled ones, with prompts of some hundred tokens.
pub async fn use_it(client: &InferenceClient<Channel>, requests: usize) {
    let answers = (0..requests).map(|number| {
        let mut client = client.clone();
        let text = format!("{number}: {}", "The quick brown fox jumps over the lazy dog. ".repeat(3));
        async move {
            let request = GenerateRequest {
                input: Some(Input::Text(text)),
                sampling: Some(Sampling { temperature: Some(0.8), seed: Some(1), ..Sampling::default() }),
                stopping: Some(Stopping { max_tokens: Some(4), ignore_eos: true, ..Stopping::default() }),
                ..GenerateRequest::default()
            };
            let mut events = client.generate(request).await.expect("generate").into_inner();
            let mut number = 0;
            while events.message().await.expect("an event").is_some() {
                number += 1;
            }
            assert!(number > 1, "an answer should have some events");
        }
    });
    futures::future::join_all(answers).await;
}
