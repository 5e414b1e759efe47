//! The nodes of a set, as Kubernetes knows them.

use std::time::Duration;

use serde_json::json;

use crate::api::{Api, is_too_late, now_in_seconds};
use crate::machine::Machine;
use crate::random::Random;
use crate::record::Kind;
use crate::set::{PLAYED, Set};

/// Says that the node is ready, as its kubelet does again and again.
pub async fn beat(api: &Api, name: &str) -> Result<(), kube::Error> {
    let now = now_in_seconds();
    let ready = json!({
        "type": "Ready", "status": "True", "reason": "Played", "lastHeartbeatTime": now, "lastTransitionTime": now,
    });
    let room = json!({ "cpu": "64", "memory": "1Ti", "pods": "200" });
    let status = json!({ "status": { "conditions": [ready], "capacity": room, "allocatable": room } });
    api.merge(&format!("/api/v1/nodes/{name}/status"), &status).await.map(drop)
}

impl Set {
    /// As a kubelet registers it. The taint keeps all pods out that do not tolerate it, those of DaemonSets too.
    pub async fn add_node(&self, name: &str) {
        let taint = json!({ "key": PLAYED, "value": "", "effect": "NoExecute" });
        let labels = json!({ "kubernetes.io/hostname": name, PLAYED: self.name });
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": labels },
            "spec": { "taints": [taint] },
        });
        self.api.create("/api/v1/nodes", &node).await.expect("a node");
        beat(&self.api, name).await.expect("a node's status");
    }

    pub async fn cordon(&self, node: &str, is_cordoned: bool) {
        let spec = json!({ "spec": { "unschedulable": is_cordoned } });
        self.api.merge(&format!("/api/v1/nodes/{node}"), &spec).await.expect("a node");
    }

    /// Its machine is off and its pods are removed by force, as the manual says.
    pub async fn remove_node(&self, node: &str) {
        self.api.delete(&format!("/api/v1/nodes/{node}")).await.expect("a node");
        for pod in self.record.live(Kind::Pod).iter().filter(|pod| pod["spec"]["nodeName"] == node) {
            let metadata = &pod["metadata"];
            let name = metadata["name"].as_str().unwrap_or_default();
            let path = format!("/api/v1/namespaces/{}/pods/{name}", self.namespace);
            if let Err(error) = self.api.finalise(&path, metadata["uid"].as_str().unwrap_or_default()).await {
                assert!(is_too_late(&error), "{name} is not removed: {error}");
            }
        }
    }

    /// The machine goes, and another as large comes by its name.
    pub async fn replace_node(&mut self) {
        let node = self.random.pick(&self.nodes);
        let away = Duration::from_millis(self.random.between(0, 1500));
        let (total, baseline) = {
            let mut played = self.world.lock();
            played.figures.replaced_nodes += 1;
            let machine = played.machines.remove(&node).expect("it is there");
            (machine.total, machine.baseline)
        };
        self.cordoned.remove(&node);
        self.remove_node(&node).await;
        tokio::time::sleep(away).await;
        let machine = Machine { total, baseline, ..Machine::new(Random(self.random.next())) };
        self.world.lock().machines.insert(node.clone(), machine);
        self.add_node(&node).await;
    }
}
