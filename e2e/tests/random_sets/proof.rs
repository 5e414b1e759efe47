//! The checker itself, on versions made by hand: what it notices, and what it lets pass.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::checker::Checker;
use crate::machine::{GIB, MIB};
use crate::record::{Kind, Version};

/// A machine of 60 GiB, of which 5 GiB are the floor and 1 GiB the baseline: a tenth, 6 GiB, is kept.
fn ledger(generation: u64, reservations: &[Value]) -> Value {
    json!({
        "metadata": { "generation": generation },
        "spec": { "reservations": reservations },
        "status": { "memory": { "totalBytes": 60 * GIB, "baselineBytes": GIB } },
    })
}

fn held(uid: &str, bytes: u64) -> Value {
    json!({ "uid": uid, "copy": 0, "madeAt": uid, "bytes": bytes, "loadTransientBytes": 32 * MIB, "state": "Resident" })
}

fn pod(uid: &str, bytes: u64) -> Value {
    json!({
        "metadata": { "uid": format!("pod of {uid}"), "ownerReferences": [{ "kind": "LocalModel", "uid": uid }] },
        "spec": {
            "nodeName": "n0",
            "containers": [{ "resources": { "requests": { "memory": bytes.to_string() } } }],
        },
    })
}

/// The story so far, and what the checker says.
#[derive(Default)]
struct Story {
    checker: Checker,
    revision: u64,
}

impl Story {
    fn begin() -> Self {
        let mut story = Self::default();
        story.next(Kind::Node, "n0", Some(json!({})));
        story
    }

    fn next(&mut self, kind: Kind, name: &str, object: Option<Value>) -> &mut Self {
        self.revision += 1;
        let (revision, name) = (self.revision, name.to_owned());
        self.checker.look(&[Version { revision, kind, name, object: object.map(Arc::new) }]);
        self
    }

    fn ledger(&mut self, generation: u64, reservations: &[Value]) -> &mut Self {
        self.next(Kind::Ledger, "n0", Some(ledger(generation, reservations)))
    }

    fn says(&self, what: &str) -> bool {
        self.checker.complaints.iter().any(|text| text.contains(what))
    }

    fn is_content(&self) -> bool {
        self.checker.complaints.is_empty()
    }
}

#[test]
fn a_ledger_that_promises_a_byte_too_much_is_counted() {
    let most = 54 * GIB - 32 * MIB;
    assert!(Story::begin().ledger(2, &[held("a", 30 * GIB), held("b", most - 30 * GIB)]).is_content());
    let mut story = Story::begin();
    story.ledger(2, &[held("a", 30 * GIB), held("b", most - 30 * GIB + 1)]);
    assert!(story.says("over-committed"));
    assert_eq!(story.checker.figures.over_commitments, 1);
}

#[test]
fn what_fits_nowhere_is_let_pass_alone() {
    let mut overridden = held("a", 100 * GIB);
    overridden["isOverridden"] = json!(true);
    assert!(Story::begin().ledger(2, std::slice::from_ref(&overridden)).is_content());
    assert!(Story::begin().ledger(2, &[overridden, held("b", GIB)]).says("has company"));
}

#[test]
fn a_copy_has_one_place() {
    let mut story = Story::begin();
    story.ledger(2, &[held("a", GIB)]).next(Kind::Ledger, "n1", Some(ledger(2, &[held("a", GIB)])));
    assert!(story.says("two places"));
    let second =
        json!({ "uid": "a", "copy": 1, "madeAt": "b", "bytes": GIB, "loadTransientBytes": 0, "state": "Pending" });
    assert!(Story::begin().ledger(2, &[held("a", GIB), second]).says("has 2"), "and a node one copy");
}

#[test]
fn a_copy_that_is_found_again_may_have_a_second_place_for_a_while() {
    let mut story = Story::begin();
    story.ledger(2, &[held("a", GIB)]).next(Kind::Pod, "a-0", Some(pod("a", GIB)));
    story.next(Kind::Node, "n0", None).next(Kind::Ledger, "n0", None);
    story.next(Kind::Ledger, "n1", Some(ledger(2, &[held("a", GIB)])));
    story.next(Kind::Node, "n0", Some(json!({}))).ledger(1, &[]).ledger(2, &[held("a", GIB)]);
    story.next(Kind::Ledger, "n1", Some(ledger(3, &[])));
    assert!(story.is_content());
    assert_eq!((story.checker.figures.adoptions, story.checker.figures.doubles), (1, 1));
    story.next(Kind::Ledger, "n1", Some(ledger(4, &[held("a", GIB)])));
    assert!(story.says("two places"), "once");
}

#[test]
fn a_pod_has_its_own_reservation_on_its_own_node() {
    let with = |reservations: &[Value]| {
        let mut story = Story::begin();
        story.ledger(2, reservations).next(Kind::Pod, "a-0", Some(pod("a", GIB)));
        story.is_content()
    };
    assert!(with(&[held("a", GIB)]));
    let mut short = pod("a", 0);
    short["spec"]["containers"][0]["resources"]["requests"]["memory"] = json!("3M");
    let mut story = Story::begin();
    assert!(story.ledger(2, &[held("a", 3_000_000)]).next(Kind::Pod, "a-0", Some(short)).is_content());
    assert!(!with(&[]), "none");
    assert!(!with(&[held("b", GIB)]), "another's");
    assert!(!with(&[held("a", GIB - 1)]), "too little");
    let mut story = Story::begin();
    story.ledger(2, &[held("a", GIB)]).next(Kind::Pod, "a-0", Some(pod("a", GIB)));
    assert!(story.is_content());
    assert!(story.ledger(3, &[]).says("was promised None"), "it ended too early");
}

#[test]
fn a_pod_that_lost_its_ledger_is_excused_until_there_is_another() {
    let mut story = Story::begin();
    story.ledger(2, &[held("a", GIB)]).next(Kind::Pod, "a-0", Some(pod("a", GIB)));
    story.next(Kind::Node, "n0", None).next(Kind::Ledger, "n0", None).next(Kind::Node, "n0", Some(json!({})));
    assert!(story.ledger(1, &[]).is_content(), "the agent made it");
    assert_eq!(story.checker.figures.adoptions, 0);
    assert!(story.ledger(2, &[held("a", GIB)]).is_content(), "the operator found it");
    assert_eq!(story.checker.figures.adoptions, 1);
    assert!(story.ledger(3, &[]).says("was promised None"));
}

#[test]
fn what_was_promised_stays_as_it_is_until_its_pod_is_gone() {
    let mut story = Story::begin();
    assert!(!story.ledger(2, &[held("a", GIB)]).ledger(3, &[held("a", 2 * GIB)]).is_content());
    let mut gone = held("a", 0);
    gone["podGoneAt"] = json!("now");
    assert!(Story::begin().ledger(2, &[held("a", GIB)]).ledger(3, &[gone]).is_content());
}
