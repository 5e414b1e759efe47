//! A hub on the node's network, from which the agents of a story download.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use kindling_e2e::{ClusterNode, Patience, Stage, sample_file, until};
use nix::sched::{CloneFlags, setns};
use tokio::runtime::Runtime;

use crate::server::{Asked, FILE, Server, Ways};

/// What the sample model is called in its own head, and how long that is: other bytes there make it another file.
const NAME: (&[u8], usize) = (b"general.name", 31);
/// A request for less reads the head of a file, to know what the model takes.
const HEAD_BYTES: usize = 3 << 20;

/// The agents' hub until this is dropped. It has the sample model in every repository, in bytes that no node has yet.
pub struct Hub<'a> {
    stage: &'a Stage,
    /// What is asked of it.
    pub server: Arc<Server>,
    /// Its only organization; in no cache before.
    org: String,
    _runtime: Runtime,
}

impl<'a> Hub<'a> {
    /// Starts it, and the release with it; `settings` are more of helm's values.
    pub fn start(stage: &'a Stage, ways: Ways, settings: &[&str]) -> Self {
        let runtime = Runtime::new().expect("a runtime for the hub");
        let node = &stage.cluster.nodes()[0];
        let listeners = [0; 2].map(|_| listen_on(node));
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_micros();
        let server = runtime.block_on(Server::start_on(listeners, sample_named(&format!("story {since}")), ways));
        let endpoint = format!("agent.env[0].value={}", server.address);
        let hub = Self { stage, server, org: format!("story-{since}"), _runtime: runtime };
        stage.cluster.helm_install(&[settings, &["agent.env[0].name=HF_ENDPOINT", &endpoint]].concat());
        stage.wait_webhook();
        hub
    }

    /// Applies a model whose weights lie in a repository.
    pub fn apply(&self, model: &str, repo: &str) {
        let yaml = format!(
            "apiVersion: kindling.dev/v1alpha1\nkind: LocalModel\nmetadata: {{name: {model}}}\nspec:\n  source: {{hf: \
             {{repo: {}/{repo}, files: [{FILE}]}}}}\n  serving: {{contextLength: 2048, kvCache: {{tokens: 2048}}}}\n",
            self.org
        );
        self.stage.kubectl().apply(&self.stage.namespace, &yaml).expect("the spec should be accepted");
    }

    /// Folder of a repository in the node's cache, below the cache's own.
    pub fn folder(&self, repo: &str) -> String {
        format!("models/hf/{}/{repo}/main", self.org)
    }

    /// The same as this machine names it.
    pub fn folder_here(&self, repo: &str) -> PathBuf {
        self.stage.cluster.nodes()[0].folder(&self.folder(repo)).1
    }

    /// Names in it; nothing if it is not there.
    pub fn names(&self, repo: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder_here(repo)).into_iter().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Whether the node has the whole file, and nothing half beside it.
    pub fn assert_whole(&self, repo: &str) {
        let found = std::fs::read(self.folder_here(repo).join(FILE)).expect("the file");
        assert!(found == self.server.content(), "the file is not what the hub has");
        assert_eq!(self.names(repo), [".kindling.json", ".kindling.lock", FILE], "nothing else is left");
    }

    /// Requests for content and bytes of it that were asked for, without those that only read the head.
    pub fn downloads(&self) -> (usize, u64) {
        let length = self.server.content().len();
        let asked = self.server.asked.lock().expect("the requests");
        let sizes = asked.iter().map(|Asked { range, .. }| crate::server::parse(range, length).len());
        let sizes: Vec<u64> = sizes.filter(|size| *size > HEAD_BYTES).map(|size| size as u64).collect();
        (sizes.len(), sizes.iter().sum())
    }

    /// Waits until a model answers.
    pub fn wait_answer(&self, model: &str) {
        self.stage.wait_ready(model);
        let (gateway, name) = (self.stage.gateway(), format!("{}/{model}", self.stage.namespace));
        let answer = until(&format!("{model} answers"), Patience::PODS, || {
            Some(gateway.ask(&name, "How do plants make food?")).filter(|answer| answer.status == 200)
        });
        assert!(answer.text().contains("photosynthesis"), "{}", answer.text());
    }
}

impl Drop for Hub<'_> {
    fn drop(&mut self) {
        let restored = self.stage.cluster.try_helm_install(&[]);
        let here = self.stage.cluster.nodes()[0].folder(&format!("models/hf/{}", self.org)).1;
        // A cache that was elsewhere is gone already.
        match std::fs::remove_dir_all(&here) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => println!("{}: {error}", here.display()),
            _ => {}
        }
        if let Err(error) = restored {
            println!("the release was not restored: {error}");
            assert!(std::thread::panicking(), "the release was not restored: {error}");
        }
    }
}

/// A port of the node's own loopback, where the agent is too. A socket stays where it was made, whoever uses it.
fn listen_on(node: &ClusterNode) -> TcpListener {
    let namespace = node.network_namespace().map(|path| std::fs::File::open(path).expect("the node's network"));
    let listening = std::thread::spawn(move || {
        if let Some(namespace) = namespace {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter the node's network");
        }
        TcpListener::bind("127.0.0.1:0").expect("a port of the node")
    });
    listening.join().expect("a thread in the node's network")
}

/// The sample model under another name, which makes it another file.
fn sample_named(name: &str) -> Vec<u8> {
    let mut file = std::fs::read(sample_file()).expect("the sample model");
    let (key, length) = NAME;
    let at = file.windows(key.len()).position(|window| window == key).expect("the sample model's name");
    // behind the key: that it is a text, and how long
    let at = at + key.len() + 12;
    file[at..at + length].copy_from_slice(format!("{name:<length$}").as_bytes());
    file
}

/// Ends a process of the agents as the kernel's out-of-memory killer would.
pub fn kill_agent(stage: &Stage) {
    let pods = stage.kubectl().get(&["pods", "-n", "kindling-system", "-l", "app.kubernetes.io/component=agent"]);
    let uid = pods.expect("the agents")["items"][0]["metadata"]["uid"].as_str().expect("an agent").to_owned();
    let processes = kindling_e2e::processes_of_pod(&uid);
    let agent = processes.iter().find(|process| process.command.contains("kindling agent"));
    agent.expect("the agent's process").kill();
}

/// A small disk on the first node, until this is dropped.
pub struct SmallDisk<'a> {
    stage: &'a Stage,
    /// As the node names it.
    pub path: String,
}

impl<'a> SmallDisk<'a> {
    /// Nothing where there is no way into the node.
    pub fn mount(stage: &'a Stage, mib: u32) -> Option<Self> {
        let path = stage.cluster.nodes()[0].folder("small").0.display().to_string();
        stage.cluster.in_node(&["mkdir", "-p", &path])?;
        let options = format!("size={mib}m,uid=65532,gid=65532,mode=755");
        stage.cluster.in_node(&["mount", "-t", "tmpfs", "-o", &options, "small", &path])?;
        Some(Self { stage, path })
    }

    /// Takes room.
    pub fn fill(&self, mib: u32) {
        self.in_node(&["fallocate", "-l", &format!("{mib}MiB"), &format!("{}/ballast", self.path)]);
    }

    /// Gives it back.
    pub fn make_room(&self) {
        self.in_node(&["rm", &format!("{}/ballast", self.path)]);
    }

    /// Standard output of a command in the node.
    pub fn in_node(&self, args: &[&str]) -> String {
        self.stage.cluster.in_node(args).expect("a way into the node")
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // Lazily: pods of a story that failed may still be on it.
        let unmounted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.in_node(&["umount", "--lazy", &self.path]);
        }));
        assert!(unmounted.is_ok() || std::thread::panicking(), "the small disk was not unmounted");
    }
}
