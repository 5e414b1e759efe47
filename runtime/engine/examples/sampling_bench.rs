//! How long choosing one token takes, for vocabularies of today and the parameters that clients send. Logits are spread as a
//! model's often are: a few likely tokens, and a long tail.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "this is a program for developers")]

use std::hint::black_box;
use std::time::Instant;

use kindling_engine::SamplingParams;
use kindling_engine::random::uniform;
use kindling_engine::sample::{Draw, sample};

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
            micros.sort_by(f64::total_cmp);
            let (median, least, most) = (micros[micros.len() / 2], micros[0], micros[micros.len() - 1]);
            println!("{vocab_size:>10}  {name:<27} {median:>6.0} {least:>9.0} {most:>9.0}");
        }
    }
}
