//! `KeepOnly` as the operator calls it: what no LocalModel names goes, and nothing else.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::PathBuf;
use std::time::Duration;

use common::{Node, reservation, with_token};
use kindling_agent::cache::Cache;
use kindling_agent::manifest::{FileRecord, Manifest};
use kindling_api::ReservationState;
use kindling_proto::v1::model_source::Source;
use kindling_proto::v1::{HubModel, KeepOnlyRequest, KeepOnlyResponse, ModelSource, NamedModel};
use tonic::{Code, Status};

/// A file of 8192 bytes that came from a hub.
fn download(node: &Node, repo: &str, file: &str) -> PathBuf {
    let folder = Cache::at(node.folder.join("cache")).folder(&format!("hf:org/{repo}").parse().unwrap());
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(file), vec![1; 8192]).unwrap();
    let mut manifest = Manifest::read(&folder).unwrap();
    manifest.files.insert(file.to_owned(), FileRecord::downloaded(8192, "ab".to_owned()));
    manifest.write(&folder).unwrap();
    folder.join(file)
}

fn named(model: &str, repo: &str, files: &[&str]) -> NamedModel {
    let files = files.iter().map(|file| (*file).to_owned()).collect();
    let hub = HubModel { repo: format!("org/{repo}"), revision: "main".to_owned(), files };
    NamedModel { model: model.to_owned(), source: Some(ModelSource { source: Some(Source::Hub(hub)) }) }
}

async fn keep(node: &Node, models: Vec<NamedModel>) -> Result<KeepOnlyResponse, Status> {
    let request = KeepOnlyRequest { models, is_complete: true };
    Ok(node.client().keep_only(with_token(request, "operator")).await?.into_inner())
}

/// A node that knows what runs on it: the agent of these tests keeps nothing that is unnamed.
async fn settled(name: &str, reserved: &[&str]) -> Node {
    let mut node = Node::start(name).await;
    let reservations = reserved.iter().map(|model| reservation(model, 1, ReservationState::Resident));
    node.set_ledger(reservations.collect()).await;
    // an agent waits ten seconds for those who held a grant of the one before it
    let settled = node.snapshots.wait_for(|now| now.is_settled && now.ledger.is_some());
    tokio::time::timeout(Duration::from_secs(60), settled).await.expect("it settles").unwrap();
    node
}

#[tokio::test]
async fn what_no_localmodel_names_goes_and_what_one_names_stays() {
    let node = settled("keep", &[]).await;
    let [whole, one, other, unnamed] = [("a", "m.gguf"), ("b", "1.gguf"), ("b", "2.gguf"), ("c", "m.gguf")]
        .map(|(repo, file)| download(&node, repo, file));
    let by_hand = node.folder.join("by-hand.gguf");
    std::fs::write(&by_hand, b"by hand").unwrap();
    let cache = Cache::at(node.folder.join("cache"));
    let imported = cache.import(&by_hand, &"hf:my/own".parse().unwrap(), &mut |_| ()).unwrap().path;
    let answer = keep(&node, vec![named("team/a", "a", &[]), named("team/b", "b", &["1.gguf"])]).await.unwrap();
    assert_eq!((answer.freed_bytes, answer.unnamed_bytes, answer.held_back.as_str()), (2 * 8192, 0, ""));
    assert!(answer.cached_bytes >= 2 * 8192);
    assert_eq!([whole, one, other, unnamed, imported].map(|path| path.exists()), [true, true, false, false, true]);
}

#[tokio::test]
async fn only_a_complete_list_that_is_understood_counts_and_only_the_operators() {
    let node = settled("complete", &[]).await;
    let path = download(&node, "a", "m.gguf");
    let incomplete = KeepOnlyRequest { models: Vec::new(), is_complete: false };
    let status = node.client().keep_only(with_token(incomplete, "operator")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("only a list of all LocalModels"), "{}", status.message());
    let sourceless = NamedModel { model: "team/x".to_owned(), source: None };
    let odd = named("team/x", "..", &[]);
    for wrong in [sourceless, odd, NamedModel { model: String::new(), ..named("", "a", &[]) }] {
        assert_eq!(keep(&node, vec![wrong]).await.unwrap_err().code(), Code::InvalidArgument);
    }
    for (token, code) in [("pod:a", Code::PermissionDenied), ("nobody", Code::Unauthenticated)] {
        let list = KeepOnlyRequest { models: Vec::new(), is_complete: true };
        assert_eq!(node.client().keep_only(with_token(list, token)).await.unwrap_err().code(), code);
    }
    assert!(path.exists(), "none of these removed anything");
    assert_eq!(keep(&node, Vec::new()).await.unwrap().freed_bytes, 8192, "no LocalModel at all is a list too");
}

#[tokio::test]
async fn before_the_agent_knows_its_node_nothing_goes() {
    let node = Node::start("unsettled").await;
    let path = download(&node, "a", "m.gguf");
    let answer = keep(&node, Vec::new()).await.unwrap();
    assert_eq!((answer.freed_bytes, path.exists()), (0, true));
    assert!(answer.held_back.contains("does not know yet what runs"), "{}", answer.held_back);
}

#[tokio::test]
async fn what_has_memory_here_keeps_its_files_when_its_localmodel_goes_or_changes() {
    let mut node = settled("busy", &["a"]).await;
    let [old, new, other] = ["old", "new", "other"].map(|repo| download(&node, repo, "m.gguf"));
    // who has memory and is in no list: nobody knows what it reads
    let answer = keep(&node, Vec::new()).await.unwrap();
    assert!(answer.held_back.contains("team/a has memory here"), "{}", answer.held_back);
    assert!(old.exists() && other.exists());

    assert_eq!(
        keep(&node, vec![named("team/a", "old", &[]), named("team/b", "new", &[])]).await.unwrap().freed_bytes,
        8192
    );
    assert!(!other.exists());
    // its LocalModel names another repository by now, then none: its pod is still the old one's
    keep(&node, vec![named("team/a", "new", &[])]).await.unwrap();
    assert!(old.exists() && new.exists());
    keep(&node, Vec::new()).await.unwrap();
    assert!(old.exists() && new.exists());
    node.set_ledger(Vec::new()).await;
    node.until("nothing is reserved", |now| now.ledger.as_ref().is_some_and(|ledger| ledger.reservations.is_empty()))
        .await;
    assert_eq!(keep(&node, Vec::new()).await.unwrap().freed_bytes, 2 * 8192);
    assert!(!old.exists() && !new.exists());
}

#[tokio::test]
async fn what_was_asked_for_just_now_stays() {
    let node = settled("asked", &[]).await;
    let path = download(&node, "a", "m.gguf");
    let source = named("team/a", "a", &["m.gguf"]).source;
    let ensure = kindling_proto::v1::EnsureModelRequest { source, look_only: true };
    node.client().ensure_model(with_token(ensure, "operator")).await.unwrap();
    assert_eq!(keep(&node, Vec::new()).await.unwrap().freed_bytes, 0, "the list may be older than the LocalModel");
    assert!(path.exists());
}
