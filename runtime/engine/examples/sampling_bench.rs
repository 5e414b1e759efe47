//! How long choosing one token takes, for vocabularies of today and the parameters that clients send. Logits are spread as a
//! model's often are: a few likely tokens, and a long tail.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "this is a program for developers")]

use std::hint::black_box;
use std::time::Instant;

use kindling_engine::random::uniform;
use kindling_engine::sample::{Draw, sample};
use kindling_engine::{Engine, EngineConfig, GroupConfig, GroupKind, Request, RequestId, SamplingParams};

const RUNS: u64 = 101;

fn main() {
    println!("{:>10}  {:<24} {:>9} {:>9} {:>9}", "vocabulary", "parameters", "median us", "least", "most");
    for vocab_size in [49_152, 128_256, 151_936] {
        let logits: Vec<f32> = (0..vocab_size).map(|token| (uniform(7, token) + 1e-9).ln() as f32 * -1.5).collect();
        let base = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
        let warm = SamplingParams { temperature: 0.8, ..base.clone() };
        for (name, params) in [
            ("temperature 0", base.clone()),
            ("temperature 0.8", warm.clone()),
            ("temperature 0.8, top-p 0.95", SamplingParams { top_p: 0.95, ..warm.clone() }),
            ("temperature 0.8, top-k 40", SamplingParams { top_k: Some(40), ..warm.clone() }),
            ("temperature 0.8, min-p 0.05", SamplingParams { min_p: 0.05, ..warm.clone() }),
        ] {
            let mut micros: Vec<f64> = (0..RUNS)
                .map(|position| {
                    let start = Instant::now();
                    black_box(sample(black_box(&logits), &params, None, None, Draw { seed: 1, position }).unwrap());
                    start.elapsed().as_secs_f64() * 1e6
                })
                .collect();
            line(vocab_size, name, &mut micros);
        }
    }
    for threads in [1, 2, 4, 8] {
        step(threads);
    }
}

fn line(vocab_size: u64, name: &str, micros: &mut [f64]) {
    micros.sort_by(f64::total_cmp);
    let (median, least, most) = (micros[micros.len() / 2], micros[0], micros[micros.len() - 1]);
    println!("{vocab_size:>10}  {name:<27} {median:>6.0} {least:>9.0} {most:>9.0}");
}

/// All tokens of a step of many requests.
fn step(sampling_threads: usize) {
    const REQUESTS: usize = 32;
    const VOCAB_SIZE: usize = 128_256;
    let mut engine = Engine::new(EngineConfig {
        groups: vec![GroupConfig { kind: GroupKind::Full, num_blocks: 64 }],
        block_size: 16,
        max_context: 64,
        max_running: REQUESTS,
        max_waiting: 0,
        max_batched_tokens: REQUESTS,
        aging_steps: 0,
        prefix_cache: false,
        speculation: None,
        sampling_threads,
        eos_token_ids: Vec::new(),
    })
    .unwrap();
    for id in 0..REQUESTS as u64 {
        let sampling = SamplingParams { temperature: 0.8, top_p: 0.95, seed: id, ..SamplingParams::default() };
        engine
            .add(Request {
                id: RequestId(id),
                prompt: vec![1].into(),
                num_sequences: 1,
                max_tokens: 8,
                stop_token_ids: Vec::new(),
                ignore_eos: true,
                priority: 0,
                prefix_cache: None,
                speculate: false,
                sampling,
            })
            .unwrap();
    }
    let plan = engine.plan_step();
    let row = (0..VOCAB_SIZE as u64).map(|token| (uniform(7, token) + 1e-9).ln() as f32 * -1.5);
    let logits = row.collect::<Vec<f32>>().repeat(REQUESTS);
    let masks = vec![None; REQUESTS];
    let mut micros: Vec<f64> = (0..RUNS / 5)
        .map(|_| {
            let start = Instant::now();
            assert_eq!(black_box(engine.sample(&plan, black_box(&logits), VOCAB_SIZE, &masks)).len(), REQUESTS);
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    line(VOCAB_SIZE as u64, &format!("{REQUESTS} x top-p, {sampling_threads} threads"), &mut micros);
}
