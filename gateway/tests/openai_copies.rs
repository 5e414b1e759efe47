//! A model of several copies: which of them answers.

use std::net::SocketAddr;
use std::time::Duration;

use kindling_gateway::{Backend, Runtime};
use serde_json::{Value, json};
use tonic::Status;

use crate::fake_runtime::{FakeRuntime, Step, greet};
use crate::harness::{Gateway, gateway, hello, merged};

/// A gateway whose model has these copies.
async fn gateway_of(addresses: &[SocketAddr]) -> Gateway {
    let runtimes = addresses.iter().map(|address| Runtime::at(&address.to_string()).expect("an address")).collect();
    let gateway = gateway(greet).await;
    gateway.routes.update(|routes| routes[0].backend = Some(Backend::of(runtimes)));
    gateway
}

fn count(runtime: &FakeRuntime) -> usize {
    runtime.requests.lock().expect("no test should panic with the lock").len()
}

fn conversation(number: usize, turns: usize) -> Value {
    let mut messages = vec![json!({"role": "user", "content": format!("question {number}")})];
    for turn in 0..turns {
        messages.push(json!({"role": "assistant", "content": "an answer"}));
        messages.push(json!({"role": "user", "content": format!("more {turn}")}));
    }
    merged(hello(), json!({ "messages": messages }))
}

#[tokio::test]
async fn conversations_are_shared_among_the_copies_and_each_stays_where_it_began() {
    let (one, two) = (FakeRuntime::new(greet), FakeRuntime::new(greet));
    let gateway = gateway_of(&[one.listen().await, two.listen().await]).await;
    for number in 0..40 {
        let before = [count(&one), count(&two)];
        for turns in 0..3 {
            assert_eq!(gateway.post("/v1/chat/completions", conversation(number, turns)).await.status, 200);
        }
        let mut turns = [count(&one) - before[0], count(&two) - before[1]];
        turns.sort_unstable();
        assert_eq!(turns, [0, 3], "conversation {number}");
    }
    assert!(count(&one) >= 30 && count(&two) >= 30, "{} and {}", count(&one), count(&two));
}

#[tokio::test]
async fn requests_that_come_at_once_are_shared_even_if_they_begin_alike() {
    let slow = |request: &_| [vec![Step::Wait(Duration::from_millis(300))], greet(request)].concat();
    let (one, two) = (FakeRuntime::new(slow), FakeRuntime::new(slow));
    let gateway = gateway_of(&[one.listen().await, two.listen().await]).await;
    let requests = (0..8).map(|_| gateway.post("/v1/chat/completions", hello()));
    assert!(futures::future::join_all(requests).await.iter().all(|answer| answer.status == 200));
    assert!(count(&one).abs_diff(count(&two)) <= 2, "{} and {}", count(&one), count(&two));
}

#[tokio::test]
async fn copy_that_does_not_listen_is_full_or_drains_is_passed_by() {
    let full = FakeRuntime::new(|_| vec![Step::Refuse(Status::resource_exhausted("the queue is full"))]);
    let draining = FakeRuntime::new(|_| vec![Step::Refuse(Status::unavailable("the runtime is draining"))]);
    let good = FakeRuntime::new(greet);
    let silent: SocketAddr = ([127, 0, 0, 1], 1).into();
    let gateway = gateway_of(&[silent, full.listen().await, draining.listen().await, good.listen().await]).await;
    for number in 0..20 {
        assert_eq!(gateway.post("/v1/chat/completions", conversation(number, 0)).await.status, 200);
    }
    assert_eq!(count(&good), 20);
    assert!(count(&full) > 0 && count(&draining) > 0, "some belong there");
}

#[tokio::test]
async fn call_that_every_copy_refuses_ends_with_their_words() {
    let full = || FakeRuntime::new(|_| vec![Step::Refuse(Status::resource_exhausted("the queue is full"))]);
    let (one, two) = (full(), full());
    let gateway = gateway_of(&[one.listen().await, two.listen().await]).await;
    let answer = gateway.post("/v1/chat/completions", hello()).await;
    assert_eq!(answer.status, 429, "{}", answer.text);
    assert_eq!((count(&one), count(&two)), (1, 1), "each was asked once");
}
