use std::collections::BTreeSet;
use std::time::Duration;

use kindling_api::{EnvelopeStatus, LocalModelStatus, NodeEnvelope, TERMS_ANNOTATION};
use kindling_envelope::ledger::{Activation, Policy, Time, Wish};
use kindling_envelope::{Activations, CacheLayers, Device, KvDtype, Model, Pool, Serving};
use serde_json::json;

use super::*;

const GIB: u64 = 1 << 30;

fn model(learned: Option<LearnedTerms>) -> LocalModel {
    let mut model: LocalModel = serde_json::from_value(json!({
        "apiVersion": "kindling.dev/v1alpha1", "kind": "LocalModel",
        "metadata": { "name": "llama", "namespace": "models", "uid": "uid-1" },
        "spec": { "source": { "hf": { "repo": "org/name" } } },
    }))
    .unwrap();
    let envelope = EnvelopeStatus { learned, ..EnvelopeStatus::default() };
    model.status = Some(LocalModelStatus { envelope: Some(envelope), ..LocalModelStatus::default() });
    model
}

fn need(fingerprint: &str, context: u64) -> Need {
    let model = Model {
        weights: Bytes::gib(8),
        largest_tensor: Bytes::gib(1),
        vocabulary: Some(128_256),
        cache: vec![CacheLayers::Full { layers: 32, kv_heads: 8, head_dim: 128 }],
        activations: Activations::Planned { fixed: Bytes::mib(100), per_token: Bytes(0), per_sequence: Bytes(0) },
        max_context: 131_072,
    };
    let serving = Serving {
        context,
        concurrency: 4,
        pool: Pool::Contexts(2),
        max_batched_tokens: 512,
        kv_dtype: KvDtype::Bf16,
        device: Device::Cpu,
    };
    Need { footprint: model.footprint(&serving), model, serving, fingerprint: fingerprint.to_owned() }
}

/// So much more than predicted, in the process itself.
fn measured(need: &Need, more: u64) -> MeasuredTerms {
    let footprint = raw(need);
    MeasuredTerms {
        weights_bytes: footprint.weights.0,
        kv_cache_bytes: footprint.kv_cache.0,
        activations_bytes: footprint.activations.0,
        total_bytes: footprint.resident().0 + more,
    }
}

fn learned(need: &Need, more: u64) -> LearnedTerms {
    LearnedTerms {
        settings: need.fingerprint.clone(),
        predicted: predicted(&raw(need)),
        measured: measured(need, more),
    }
}

#[test]
fn what_was_learned_raises_what_is_planned_again_with_the_same_settings() {
    let asked = need("as asked", 4096);
    let object = model(Some(learned(&asked, 100 << 20)));
    let corrected = correct(&object, asked.clone());
    assert_eq!(corrected.footprint.resident().0, asked.footprint.resident().0 + (100 << 20));
    assert_eq!(
        Need { footprint: asked.footprint, ..corrected },
        asked,
        "nothing else changes: no pod is replaced for it"
    );
    let again = serde_json::from_value(serde_json::to_value(&object).unwrap()).unwrap();
    assert_eq!(correct(&again, asked.clone()).footprint.resident().0, asked.footprint.resident().0 + (100 << 20));
}

#[test]
fn what_was_learned_of_something_else_changes_nothing() {
    let asked = need("as asked", 4096);
    let of_others = [
        learned(&need("otherwise", 4096), 100 << 20),
        // The same settings, and something else was predicted of them: other files, or another arithmetic.
        learned(&need("as asked", 8192), 100 << 20),
    ];
    for learned in of_others {
        assert_eq!(correct(&model(Some(learned)), asked.clone()), asked);
    }
    assert_eq!(correct(&model(None), asked.clone()), asked);
}

#[test]
fn the_most_of_the_same_is_kept_and_nothing_of_another() {
    let (asked, other) = (need("as asked", 4096), need("otherwise", 4096));
    let (less, more) = (learned(&asked, 1 << 20), learned(&asked, 9 << 20));
    assert_eq!(merge(Some(more.clone()), less.clone()), more);
    assert_eq!(merge(Some(less), more.clone()), more);
    assert_eq!(merge(Some(more), learned(&other, 0)), learned(&other, 0));
}

fn wished(need: &Need) -> Wished {
    let wish = Wish {
        key: "uid-1#0".to_owned(),
        name: "models/llama".to_owned(),
        model: "uid-1".to_owned(),
        need: Some(need.clone()),
        priority: 0,
        activation: Activation::Always,
        wanted_since: Time(0),
        last_used: None,
        min_resident: Duration::ZERO,
        load_time: None,
        policy: Policy::Enforce,
        nodes: BTreeSet::new(),
        weights_on: BTreeSet::new(),
        not_before: None,
    };
    Wished { wish, model: None, asked: None, chosen: None }
}

/// A pod that serves, made with these settings, and what the agent of its node says of it.
fn world(fingerprint: &str, is_ready: bool, measured: MeasuredTerms) -> World {
    let terms = json!({
        "node": "spark-1", "bytes": GIB, "loadTransientBytes": 0, "contextLength": 4096, "fingerprint": fingerprint,
    });
    let pod = json!({
        "metadata": {
            "name": "llama-0", "namespace": "models", "uid": "pod-1", "creationTimestamp": "2026-11-22T00:00:00Z",
            "annotations": { (TERMS_ANNOTATION): terms.to_string() },
            "ownerReferences": [{ "apiVersion": "v1", "kind": "LocalModel", "name": "llama", "uid": "uid-1" }],
        },
        "spec": { "nodeName": "spark-1", "containers": [] },
        "status": { "containerStatuses": [{
            "name": "runtime", "ready": is_ready, "restartCount": 0, "image": "", "imageID": "",
            "state": { "running": {} },
        }] },
    });
    let envelope: NodeEnvelope = serde_json::from_value(json!({
        "apiVersion": "kindling.dev/v1alpha1", "kind": "NodeEnvelope", "metadata": { "name": "spark-1" }, "spec": {},
        "status": { "holders": [
            { "model": "models/other", "podUid": "pod-2", "grantedBytes": 1, "measured": MeasuredTerms::default() },
            { "model": "models/llama", "podUid": "pod-1", "grantedBytes": GIB, "measured": measured },
        ] },
    }))
    .unwrap();
    World { pods: vec![serde_json::from_value(pod).unwrap()], envelopes: vec![envelope], ..World::default() }
}

#[test]
fn what_the_agent_says_of_a_model_that_serves_as_asked_is_a_lesson() {
    let asked = need("as asked", 4096);
    let taken = measured(&asked, 7 << 20);
    let found = lessons(&world("as asked", true, taken), &[wished(&asked)]);
    assert_eq!(found, BTreeMap::from([("uid-1".to_owned(), learned(&asked, 7 << 20))]));
    // The lesson is about what the arithmetic says, whatever was learned before.
    let corrected = correct(&model(Some(learned(&asked, 100 << 20))), asked.clone());
    let found = lessons(&world("as asked", true, taken), &[wished(&corrected)]);
    assert_eq!(found["uid-1"], learned(&asked, 7 << 20));
    let nothing = [
        world("otherwise", true, taken),
        world("as asked", false, taken),
        world("as asked", true, MeasuredTerms::default()),
    ];
    for world in nothing {
        assert_eq!(lessons(&world, &[wished(&asked)]), BTreeMap::new());
    }
}
