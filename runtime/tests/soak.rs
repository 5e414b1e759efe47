//! Random requests against a running model with far too few KV blocks: clients hang up, abort, ask for nonsense. At
//! every step nobody's blocks are written by another; every answer ends and is what it was the last time; memory stays
//! flat. `KINDLING_SOAK_SECONDS` says how long, 20 if unset.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

mod common;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{TestBackend, collect, load, start_tiny, text_request, wait_for_load};
use kindling_kernels::Step;
use kindling_proto::v1::admin_client::AdminClient;
use kindling_proto::v1::inference_client::InferenceClient;
use kindling_proto::v1::{AbortRequest, FinishReason, GenerateRequest, Sampling};
use tonic::Code;
use tonic::transport::Channel;

/// Clients that ask at the same time: more than run and wait, so that some are refused.
const NUM_CLIENTS: u64 = 10;
/// What memory may grow by once all is warm: the allocator's own unrest, and the answers that are remembered.
const MAX_GROWTH_BYTES: u64 = 24 << 20;

fn written_blocks_have_one_owner(step: &Step) {
    let (mut read, mut written) = (HashSet::new(), HashSet::new());
    for sequence in &step.sequences {
        for (group, table) in sequence.block_tables.iter().enumerate() {
            let first_written = sequence.context_len / kindling_runtime::config::BLOCK_SIZE;
            read.extend(table[..first_written].iter().map(|block| (group, *block)));
            for block in &table[first_written..] {
                assert!(written.insert((group, *block)), "two sequences write to block {block}");
            }
        }
    }
    assert!(read.is_disjoint(&written), "a block that one reads is written by another");
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// One of some thousand requests, so that many come twice.
fn random_request(dice: &mut Dice) -> GenerateRequest {
    let document = ["the house of light ", "one two three four ", "aaaaaaaa"][dice.below(3) as usize];
    let text = format!("{}{}", document.repeat(1 + dice.below(4) as usize), dice.below(4));
    let mut request = text_request(&text, 1 + dice.below(4) as u32 * 12);
    let temperature = Some([0.0, 0.9][dice.below(2) as usize]);
    request.sampling = Some(Sampling { temperature, seed: Some(dice.below(3)), ..Sampling::default() });
    request.n = 1 + dice.below(3) as u32;
    if dice.below(3) == 0 {
        request.stopping.as_mut().unwrap().stop_strings = vec!["e".to_owned()];
    }
    request
}

/// What each request gave the first time.
type Known = Arc<Mutex<HashMap<String, Vec<Vec<u32>>>>>;

#[derive(Default)]
struct Tally {
    answered: u32,
    aborted: u32,
    hung_up: u32,
    refused: u32,
    turned_away: u32,
}

async fn client(id: u64, channel: Channel, known: Known, end: Instant, tally: Arc<Mutex<Tally>>) {
    let mut dice = Dice(id);
    let (client, mut admin) = (InferenceClient::new(channel.clone()), AdminClient::new(channel));
    for number in 0.. {
        if Instant::now() > end {
            return;
        }
        let mut request = random_request(&mut dice);
        let name = format!("{id}-{number}");
        request.request_id = name.clone();
        let kind = dice.below(10);
        if kind == 0 {
            refused(&client, request, &mut dice).await;
            tally.lock().unwrap().refused += 1;
            continue;
        }
        let mut stream = match client.clone().generate(request.clone()).await {
            Ok(response) => response.into_inner(),
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                tally.lock().unwrap().turned_away += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
        };
        if kind == 1 {
            for _ in 0..dice.below(8) {
                let _ = stream.message().await.unwrap();
            }
            tally.lock().unwrap().hung_up += 1;
            continue;
        }
        if kind == 2 {
            tokio::time::sleep(Duration::from_millis(dice.below(30))).await;
            admin.abort(AbortRequest { request_id: name }).await.unwrap();
        }
        let answer = collect(stream).await.unwrap();
        assert_eq!(answer.finishes.len(), request.n as usize, "every completion ends, once");
        if answer.finishes.iter().any(|finish| finish.reason() == FinishReason::Aborted) {
            assert_eq!(kind, 2, "only what was aborted is");
            tally.lock().unwrap().aborted += 1;
            continue;
        }
        let tokens: Vec<Vec<u32>> = (0..request.n).map(|index| answer.tokens(index)).collect();
        request.request_id.clear();
        let before = known.lock().unwrap().entry(format!("{request:?}")).or_insert_with(|| tokens.clone()).clone();
        assert_eq!(tokens, before, "{request:?} gave something else before");
        tally.lock().unwrap().answered += 1;
    }
}

async fn refused(client: &InferenceClient<Channel>, mut request: GenerateRequest, dice: &mut Dice) {
    let expected = match dice.below(4) {
        0 => {
            request.sampling.as_mut().unwrap().top_p = Some(-1.0);
            Code::InvalidArgument
        }
        1 => {
            request.n = 1000;
            Code::InvalidArgument
        }
        2 => {
            request.input = text_request("", 1).input;
            Code::InvalidArgument
        }
        _ => {
            request.input = text_request(&"long ".repeat(1000), 1).input;
            Code::OutOfRange
        }
    };
    let error = client.clone().generate(request).await.map(|_| ()).unwrap_err();
    assert!([expected, Code::ResourceExhausted].contains(&error.code()), "{error}");
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_requests_end_alike_and_leave_nothing_behind() {
    let seconds = std::env::var("KINDLING_SOAK_SECONDS").map_or(20, |text| text.parse().unwrap());
    let backend = TestBackend { check: Some(written_blocks_have_one_owner), ..TestBackend::default() };
    let tiny = start_tiny(backend, |config| {
        config.context_length = Some(192);
        config.kv_tokens = Some(256);
        config.max_batched_tokens = 48;
        config.max_waiting = 12;
        config.speculative_tokens = 4;
    })
    .await;
    let end = Instant::now() + Duration::from_secs(seconds);
    let (known, tally) = (Known::default(), Arc::new(Mutex::new(Tally::default())));
    let mut clients: Vec<_> = (0..NUM_CLIENTS)
        .map(|id| tokio::spawn(client(id, tiny.runtime.connect_in_process(), known.clone(), end, tally.clone())))
        .collect();
    tokio::time::sleep(Duration::from_secs(seconds) / 2).await;
    let warm = resident_bytes();
    for client in &mut clients {
        client.await.unwrap();
    }
    wait_for_load(&tiny.client, |load| load.requests_running + load.requests_waiting == 0).await;
    assert_eq!(load(&tiny.client).await.kv_blocks_used, 0);
    let Tally { answered, aborted, hung_up, refused, turned_away } = std::mem::take(&mut *tally.lock().unwrap());
    println!("{answered} answered, {aborted} aborted, {hung_up} hung up, {refused} refused, {turned_away} turned away");
    assert!(answered > 20 && aborted > 0 && hung_up > 0 && refused > 0, "a soak in which nothing happens");
    let metrics = tiny.runtime.metrics_text();
    for line in
        metrics.lines().filter(|line| line.contains("cache") || line.contains("preempt") || line.contains("spec"))
    {
        if !line.starts_with('#') {
            println!("{line}");
        }
    }
    assert!(!metrics.contains("kindling_runtime_preemptions_total 0\n"), "the pool should be tight enough to preempt");
    match (warm, resident_bytes()) {
        (Some(warm), Some(last)) => {
            println!("resident: {} MiB half way, {} MiB at the end", warm >> 20, last >> 20);
            assert!(last < warm + MAX_GROWTH_BYTES, "memory grows: {warm} to {last} bytes");
        }
        _ => println!("SKIPPED: this system does not tell how much memory a process has"),
    }
}
