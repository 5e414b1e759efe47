//! The table of a small cluster.

use serde_json::{Value, json};

use super::*;

const MIB: u64 = 1 << 20;

fn node() -> NodeEnvelope {
    let at = "2026-11-22T10:00:00.000000Z";
    serde_json::from_value(json!({
        "apiVersion": "kindling.dev/v1alpha1", "kind": "NodeEnvelope", "metadata": { "name": "spark-1" },
        "spec": { "reservations": [{
            "uid": "uid-1", "copy": 0, "model": "models/a", "state": "Resident", "since": at, "madeAt": at,
            "bytes": 200 * MIB, "loadTransientBytes": 0, "contextLength": 2048, "priority": 0, "mayLeave": false,
            "fingerprint": "f",
        }] },
        "status": { "pressure": "Low", "memory": {
            "totalBytes": 1024 * MIB, "availableBytes": 300 * MIB, "freeBytes": 0, "freeInLargeBlocksBytes": 0,
            "baselineBytes": 64 * MIB, "swapTotalBytes": 0, "swapUsedBytes": 0, "floorStartBytes": 0,
            "floorRunBytes": 0,
        } },
    }))
    .unwrap()
}

fn model(name: &str, uid: &str, status: Value) -> LocalModel {
    serde_json::from_value(json!({
        "apiVersion": "kindling.dev/v1alpha1", "kind": "LocalModel",
        "metadata": { "name": name, "namespace": "models", "uid": uid },
        "spec": { "source": { "hf": { "repo": "org/name" } } },
        "status": status,
    }))
    .unwrap()
}

fn not_ready() -> Value {
    json!({ "conditions": [{
        "type": "Ready", "status": "False", "reason": "DoesNotFit", "message": "fits on no node",
        "lastTransitionTime": "2026-11-22T10:00:00Z",
    }] })
}

#[test]
fn each_term_is_shown_as_predicted_and_as_measured() {
    let status = json!({ "contextLength": 2048, "envelope": {
        "predicted": {
            "weightsBytes": 92 * MIB, "kvCacheBytes": 30 * MIB, "activationsBytes": 14 * MIB, "runtimeBytes": 64 * MIB,
            "loadTransientBytes": 8 * MIB, "totalBytes": 200 * MIB,
        },
        "measured": {
            "weightsBytes": 92 * MIB, "kvCacheBytes": 30 * MIB, "activationsBytes": 14 * MIB, "totalBytes": 190 * MIB,
        },
    } });
    let models = vec![model("a", "uid-1", status), model("b", "uid-2", not_ready()), model("c", "uid-3", json!(null))];
    let text = render(&Found { nodes: Ok(vec![node()]), models });
    let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[1].join(" "), "spark-1 1.00 GiB 64.00 MiB 200.00 MiB 300.00 MiB Low");
    let predicted = "models/a Resident spark-1 2048 predicted 92.00 MiB 30.00 MiB 14.00 MiB 64.00 MiB 200.00 MiB";
    assert_eq!(words[4].join(" "), predicted);
    assert_eq!(words[5].join(" "), "measured 92.00 MiB 30.00 MiB 14.00 MiB 54.00 MiB 190.00 MiB");
    assert_eq!(words[6].join(" "), "models/b DoesNotFit - - not known");
    assert_eq!(words[7].join(" "), "models/c Unseen - - not known");
    assert!(text.ends_with("\nmodels/b: DoesNotFit: fits on no node\n"), "{text}");
}

#[test]
fn who_may_not_see_nodes_sees_models() {
    let found = Found { nodes: Err("forbidden".to_owned()), models: vec![model("b", "uid-2", not_ready())] };
    let text = render(&found);
    assert!(text.starts_with("nodes and their ledgers are not shown: forbidden\n"), "{text}");
    assert!(text.contains("models/b  DoesNotFit"), "{text}");
    assert!(render(&Found { nodes: Ok(Vec::new()), models: Vec::new() }).ends_with("no models\n"));
}
