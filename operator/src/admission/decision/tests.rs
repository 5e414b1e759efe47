//! One test for each row of the decision.

use k8s_openapi::api::core::v1::Node;
use kindling_api::{NodeEnvelope, NodeMemory, Source};
use kindling_envelope::ledger::{
    Activation as Wanted, Measured, NodeFacts, Policy, Reservation, Situation, State, Terms, Time, Wish,
};
use kindling_envelope::{CacheLayers, Model};
use serde_json::{Value, json};

use super::*;
use crate::placement::need;

const GIB: u64 = 1 << 30;
const NOW: Time = Time(1_700_000_000_000);

fn config() -> OperatorConfig {
    crate::validate::tests::config()
}

fn asked(spec: Value) -> LocalModel {
    let mut full = json!({ "source": { "hf": { "repo": "org/name" } } });
    full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "apiVersion": "kindling.dev/v1alpha1",
        "kind": "LocalModel",
        "metadata": { "name": "llama", "namespace": "models", "uid": "uid-new" },
        "spec": full,
    }))
    .unwrap()
}

/// 100 000 tokens: 2 x 6.1 GiB of cache beside 10 GiB of weights.
fn too_large() -> LocalModel {
    asked(json!({ "serving": { "contextLength": 100_000 } }))
}

fn small() -> LocalModel {
    asked(json!({ "serving": { "contextLength": 8192 } }))
}

fn facts() -> Facts {
    let none = Bytes(0);
    Facts {
        model: Model {
            weights: Bytes(10 * GIB),
            largest_tensor: Bytes(1 << 20),
            vocabulary: Some(128_256),
            cache: vec![CacheLayers::Full { layers: 16, kv_heads: 8, head_dim: 128 }],
            activations: Activations::Planned { fixed: none, per_token: none, per_sequence: none },
            max_context: 131_072,
        },
        architecture: "LlamaForCausalLM".into(),
        parameters: 10 * GIB,
        quantization: "Q8_0".into(),
        stored_weight_bytes: 10 * GIB,
        not_runnable: String::new(),
        digest: String::new(),
    }
}

fn node(name: &str) -> Node {
    serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap()
}

/// One node of 24 GiB.
fn round(reservations: Vec<Reservation>, wishes: Vec<Wish>, more: (Vec<Node>, Vec<NodeEnvelope>)) -> LastRound {
    let facts = NodeFacts {
        name: "spark-1".into(),
        total: Bytes(24 * GIB),
        baseline: Bytes(GIB),
        others: Bytes(0),
        measured: Some(Measured { available: Bytes(22 * GIB), at: NOW }),
        agent: true,
        pressure: false,
        lost: false,
        cordoned: false,
        reservations,
    };
    let (mut nodes, envelopes) = more;
    nodes.push(node("spark-1"));
    LastRound::new(nodes, &envelopes, Situation { now: NOW, wishes, nodes: vec![facts], pods: vec![] })
}

fn empty() -> LastRound {
    round(vec![], vec![], (vec![], vec![]))
}

/// Somebody else is resident there, and stays.
fn held_by(uid: &str) -> LastRound {
    let object = small();
    let model = validate(&object, &References::default(), &config()).unwrap();
    let need = need(&model, &facts().model, Device::Cpu);
    let terms = Terms {
        bytes: need.footprint.resident(),
        load_transient: need.footprint.load_transient,
        context: 8192,
        fingerprint: need.fingerprint.clone(),
        overridden: false,
    };
    let (key, name) = (format!("{uid}#0"), "models/resident".to_owned());
    let held = Reservation {
        key: key.clone(),
        name: name.clone(),
        model: uid.into(),
        priority: 0,
        terms,
        state: State::Resident,
        since: Time(NOW.0 - 600_000),
        made_at: Time(NOW.0 - 700_000),
        measured: None,
        available_before: None,
        gone_at: None,
    };
    let wish = Wish {
        key,
        name,
        model: uid.into(),
        need: Some(need),
        priority: 0,
        activation: Wanted::Always,
        wanted_since: Time(NOW.0 - 700_000),
        last_used: None,
        min_resident: std::time::Duration::ZERO,
        load_time: None,
        policy: Policy::Enforce,
        nodes: ["spark-1".to_owned()].into(),
        weights_on: ["spark-1".to_owned()].into(),
        not_before: None,
    };
    round(vec![held], vec![wish], (vec![], vec![]))
}

fn exact(_: &Asked) -> KnownFacts {
    KnownFacts::Exact(facts())
}

fn nothing(_: &Asked) -> KnownFacts {
    KnownFacts::Nothing
}

fn decided(object: &LocalModel, last: &LastRound) -> Decision {
    decide(object, None, &config(), exact, Some(last))
}

#[test]
fn what_is_deleted_or_unchanged_is_let_in_even_if_it_would_be_denied_now() {
    let mut object = asked(json!({ "source": { "hf": { "repo": "--option" } } }));
    let denied = decide(&object, None, &config(), nothing, None);
    assert!(matches!(denied, Decision::Denied(_)), "{denied:?}");
    let mut relabelled = object.clone();
    relabelled.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
    assert_eq!(decide(&relabelled, Some(&object), &config(), nothing, None), Decision::Allowed);
    object.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    assert_eq!(decide(&object, Some(&asked(json!({}))), &config(), nothing, None), Decision::Allowed);
}

#[test]
fn what_no_cluster_can_make_good_is_denied_in_the_words_of_the_condition() {
    let named = |name: &str| {
        let mut object = asked(json!({}));
        object.metadata.name = Some(name.into());
        object
    };
    let mut no_source = asked(json!({}));
    no_source.spec.source = Source { hf: None, host_path: None };
    let refused = [
        named("9llama"),
        no_source,
        asked(json!({ "source": { "hf": { "repo": "--option" } } })),
        asked(json!({ "source": { "hostPath": { "path": "/etc/shadow" } } })),
    ];
    for object in refused {
        let words = validate(&object, &References::default(), &config()).unwrap_err().to_string();
        // With everything known and with nothing, made and changed.
        assert_eq!(decided(&object, &empty()), Decision::Denied(words.clone()));
        let changed = decide(&object, Some(&small()), &config(), nothing, None);
        assert_eq!(changed, Decision::Denied(words));
    }
}

#[test]
fn what_asks_for_no_memory_is_let_in() {
    let suspended = json!({ "serving": { "contextLength": 100_000 }, "lifecycle": { "activation": "Suspended" } });
    for spec in [suspended, json!({ "serving": { "contextLength": 100_000 }, "replicas": 0 })] {
        assert_eq!(decided(&asked(spec), &empty()), Decision::Allowed);
    }
}

#[test]
fn what_is_not_known_yet_is_let_in_with_a_warning() {
    let unknown = Decision::Warned(UNKNOWN.into());
    assert_eq!(decide(&too_large(), None, &config(), nothing, Some(&empty())), unknown);
    // A replica without the lease makes no rounds.
    assert_eq!(decide(&too_large(), None, &config(), exact, None), unknown);
}

#[test]
fn what_this_version_cannot_run_is_told() {
    let known = |_: &Asked| KnownFacts::Exact(Facts { not_runnable: "no such layer".into(), ..facts() });
    let decision = decide(&small(), None, &config(), known, Some(&empty()));
    assert_eq!(decision, Decision::Warned("this version can't run it: no such layer".into()));
}

#[test]
fn what_fits_on_no_node_even_when_empty_is_denied_with_what_would_fit() {
    for last in [empty(), held_by("uid-other")] {
        let Decision::Denied(words) = decided(&too_large(), &last) else { panic!("let in") };
        assert!(words.starts_with("fits on no node: spark-1: needs "), "{words}");
        assert!(words.contains("would fit with contextLength "), "{words}");
    }
}

#[test]
fn policy_warn_lets_in_what_does_not_fit_with_the_same_words() {
    let Decision::Denied(words) = decided(&too_large(), &empty()) else { panic!("let in") };
    let warned = asked(json!({ "serving": { "contextLength": 100_000 }, "memory": { "policy": "Warn" } }));
    assert_eq!(decided(&warned, &empty()), Decision::Warned(words));
}

#[test]
fn what_fits_is_let_in_without_a_word() {
    assert_eq!(decided(&small(), &empty()), Decision::Allowed);
}

#[test]
fn what_fits_but_not_now_is_let_in_with_who_holds_the_memory() {
    let Decision::Warned(words) = decided(&small(), &held_by("uid-other")) else { panic!("no warning") };
    assert!(words.starts_with("it has to wait: spark-1: "), "{words}");
    assert!(words.contains("held by models/resident ("), "{words}");
}

#[test]
fn what_it_has_itself_is_not_in_its_way() {
    let larger = asked(json!({ "serving": { "contextLength": 16_384 } }));
    let last = held_by("uid-new");
    assert_eq!(decide(&larger, Some(&small()), &config(), exact, Some(&last)), Decision::Allowed);
    let denied = decide(&too_large(), Some(&small()), &config(), exact, Some(&last));
    assert!(matches!(denied, Decision::Denied(_)), "{denied:?}");
}

#[test]
fn known_of_another_serving_decides_only_what_it_is_certain_of() {
    // 18 GiB fit, but what a step holds was planned for others.
    let mut steps = facts();
    steps.model.activations =
        Activations::Planned { fixed: Bytes(40 * GIB), per_token: Bytes(0), per_sequence: Bytes(0) };
    let known = |facts: Facts| move |_: &Asked| KnownFacts::ServedOtherwise(facts.clone());
    let decided = |object: &LocalModel, facts| decide(object, None, &config(), known(facts), Some(&empty()));
    assert_eq!(decided(&small(), steps), Decision::Warned(UNKNOWN.into()));
    assert_eq!(decided(&small(), facts()), Decision::Warned(UNKNOWN.into()));
    let denied = decided(&too_large(), facts());
    assert!(matches!(denied, Decision::Denied(_)), "{denied:?}");
}

/// Of a node that has this GPU.
fn with_gpu(gpu: Option<Value>) -> LastRound {
    let envelope: NodeEnvelope = serde_json::from_value(json!({
        "apiVersion": "kindling.dev/v1alpha1", "kind": "NodeEnvelope", "metadata": { "name": "spark-1" }, "spec": {},
        "status": { "gpu": gpu, "memory": NodeMemory::default() },
    }))
    .unwrap();
    round(vec![], vec![], (vec![], vec![envelope]))
}

#[test]
fn gpu_that_no_node_has_is_denied_with_each_nodes_reason_once_all_have_looked() {
    let on_gpu = asked(json!({ "serving": { "contextLength": 8192 }, "placement": { "device": "Cuda" } }));
    let last = with_gpu(Some(json!({ "usable": false, "reason": "no NVIDIA driver" })));
    let Decision::Denied(words) = decided(&on_gpu, &last) else { panic!("let in") };
    assert!(words.ends_with("no node has a GPU that can be used: spark-1: no NVIDIA driver"), "{words}");
    let Decision::Warned(words) = decided(&on_gpu, &with_gpu(None)) else { panic!("nobody knows") };
    assert!(words.contains("spark-1: its agent has not looked"), "{words}");
    assert_eq!(decided(&on_gpu, &with_gpu(Some(json!({ "usable": true })))), Decision::Allowed);
    assert_eq!(decided(&small(), &last), Decision::Allowed, "the best that works is the processor");
}

#[test]
fn model_that_a_gpu_can_not_compute_is_told_only_where_one_is_asked_for() {
    let known = |asked: &Asked| {
        let not_runnable = if asked.device == Device::Cuda { "recurrent layers".to_owned() } else { String::new() };
        KnownFacts::Exact(Facts { not_runnable, ..facts() })
    };
    let last = with_gpu(Some(json!({ "usable": true })));
    assert_eq!(decide(&small(), None, &config(), known, Some(&last)), Decision::Allowed);
    let on_gpu = asked(json!({ "placement": { "device": "Cuda" } }));
    let warned = Decision::Warned("this version can't run it: recurrent layers".into());
    assert_eq!(decide(&on_gpu, None, &config(), known, Some(&last)), warned);
}

#[test]
fn node_that_was_not_measured_yet_may_be_the_one_that_has_room() {
    let envelope: NodeEnvelope = serde_json::from_value(json!({
        "apiVersion": "kindling.dev/v1alpha1", "kind": "NodeEnvelope", "metadata": { "name": "spark-2" }, "spec": {},
    }))
    .unwrap();
    let last = round(vec![], vec![], (vec![node("spark-2")], vec![envelope]));
    assert_eq!(decided(&too_large(), &last), Decision::Warned(UNKNOWN.into()));
    let mut elsewhere = too_large();
    elsewhere.spec.placement.node_selector = [("there".to_owned(), "yes".to_owned())].into();
    let decision = decided(&elsewhere, &last);
    let words = "it has to wait: there is no node that it may go to";
    assert_eq!(decision, Decision::Warned(words.into()), "no node at all is told as it is");
}
