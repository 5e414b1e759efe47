//! The operator: the released program as a process of this machine, with the rights that the chart gives it, and killed as
//! nothing else can be. The release's own is scaled to nothing meanwhile.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kindling_e2e::{Patience, Stage, until};
use serde_json::{Value, json};

use crate::machine::World;
use crate::random::Random;
use crate::record::{Kind, Record};

const SYSTEM: &str = "kindling-system";
const NAME: &str = "kindling-operator";
/// Tokens are made for so long.
const TOKENS: &str = "--duration=3h";

/// The release's operator is away, until this is dropped.
pub struct Away<'a> {
    stage: &'a Stage,
    replicas: String,
}

impl<'a> Away<'a> {
    pub fn send(stage: &'a Stage) -> Self {
        let deployment = stage.kubectl().get(&["deployment", "-n", SYSTEM, NAME]).expect("the operator's Deployment");
        let away = Self { stage, replicas: deployment["spec"]["replicas"].to_string() };
        away.scale("0").expect("scale the operator to nothing");
        until("the release's operator is away", Patience::CONTROL_PLANE, || {
            let selector = "app.kubernetes.io/component=operator";
            let pods = stage.kubectl().read(&["get", "pods", "-n", SYSTEM, "-l", selector, "-o", "name"]);
            pods.is_empty().then_some(())
        });
        away
    }

    fn scale(&self, replicas: &str) -> Result<String, String> {
        let replicas = format!("--replicas={replicas}");
        self.stage.kubectl().try_read(&["scale", "deployment", "-n", SYSTEM, NAME, &replicas])
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        let rollout = ["rollout", "status", "-n", SYSTEM, "deployment/kindling-operator", "--timeout=120s"];
        let back = self.scale(&self.replicas).and_then(|_| self.stage.kubectl().try_read(&rollout));
        if let Err(error) = back {
            println!("the release's operator is not back: {error}");
            assert!(std::thread::panicking(), "the release's operator is not back: {error}");
        }
    }
}

/// What the operator's process is started with.
pub struct Program {
    binary: PathBuf,
    folder: PathBuf,
}

impl Program {
    /// Writes its credentials into a folder of its own.
    pub fn prepare(stage: &Stage) -> Self {
        let binary = std::env::var_os("KINDLING_BINARY").expect("KINDLING_BINARY names the program").into();
        let folder = std::env::temp_dir().join(format!("kindling-{}", stage.namespace));
        fs::create_dir_all(&folder).expect("a folder");
        let token = |more: &[&str]| {
            let args = ["create", "token", NAME, "-n", SYSTEM, TOKENS];
            stage.kubectl().read(&[&args[..], more].concat())
        };
        fs::write(folder.join("agent-token"), token(&["--audience=kindling-agent"])).expect("the agents' token");
        let text = stage.kubectl().read(&["config", "view", "--raw", "--minify", "-o", "json"]);
        let mut config: Value = serde_json::from_str(&text).expect("a kubeconfig");
        config["users"][0]["user"] = json!({ "token": token(&[]) });
        fs::write(folder.join("kubeconfig"), config.to_string()).expect("the operator's kubeconfig");
        Self { binary, folder }
    }

    pub fn log(&self) -> PathBuf {
        self.folder.join("operator.log")
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn start(&self) -> Child {
        let log = File::options().create(true).append(true).open(self.log()).expect("the operator's log");
        let mut command = Command::new(&self.binary);
        command.args(["operator", "--runtime-image", "localhost/played:none", "--metrics-listen", "127.0.0.1:0"]);
        // As a container that is started again in its pod: the same identity, so that its lease is its own.
        command.args(["--lease-name", NAME, "--lease-namespace", SYSTEM, "--identity", "played-operator"]);
        command.arg("--agent-token-file").arg(self.folder.join("agent-token"));
        command.env("KUBECONFIG", self.folder.join("kubeconfig"));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("the log twice")).stderr(log);
        command.spawn().expect("start the operator")
    }
}

/// Ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself, which is complained of elsewhere.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs it for ever, and kills it again and again: mostly within the moment after it wrote a ledger.
pub async fn play(program: Program, record: Record, world: World, mut random: Random) {
    let mut running = Running(program.start());
    loop {
        let calm = Duration::from_millis(random.between(2500, 9000));
        tokio::time::sleep(calm).await;
        if !random.once_in(4) {
            next_write(&record).await;
        }
        tokio::time::sleep(Duration::from_millis(random.between(0, 30))).await;
        if let Ok(Some(status)) = running.0.try_wait() {
            world.lock().complaints.push(format!("the operator ended by itself: {status}"));
        }
        drop(running);
        world.lock().figures.kills += 1;
        if random.once_in(2) {
            tokio::time::sleep(Duration::from_millis(random.between(0, 1500))).await;
        }
        running = Running(program.start());
    }
}

/// Until a ledger's spec changes, or for some seconds.
async fn next_write(record: &Record) {
    let generations = || -> Vec<Value> {
        let ledgers = record.live(Kind::Ledger);
        ledgers.iter().map(|ledger| ledger["metadata"]["generation"].clone()).collect()
    };
    let before = generations();
    for _ in 0..1000 {
        tokio::time::sleep(Duration::from_millis(4)).await;
        if generations() != before {
            return;
        }
    }
}
