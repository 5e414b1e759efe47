//! `cargo xtask bench`: how fast the sample model answers through the whole path, as a streaming client sees it.

use crate::server::Server;
use crate::shell::{cargo, command, read, run};
use crate::{binary, sample};

/// Long enough for a steady state, short enough for several runs.
const MAX_TOKENS: u32 = 128;
const QUESTION: &str = "Write a long story about a lighthouse keeper.";
/// Repeated to make a prompt of a few hundred tokens, so that prefill shows.
const FILLER: &str = "The keeper climbed the stairs and lit the lamp while the sea was rising. ";
const FILLER_TIMES: usize = 32;

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Args {
    /// How many times; medians and the spread are printed.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Where the gateway listens meanwhile.
    #[arg(long, default_value = "127.0.0.1:18081")]
    listen: String,
}

/// Runs `cargo xtask bench`.
pub fn run_bench(args: Args) -> anyhow::Result<()> {
    let Args { runs, listen } = args;
    run(&mut cargo(&["build", "--release", "--package", "kindling"]))?;
    let kindling = binary::path("release")?;
    sample::import(&kindling, None)?;
    let started = std::time::Instant::now();
    let mut server = Server::start(&kindling, &listen)?;
    server.wait_ready(&|| false)?;
    let start_seconds = started.elapsed().as_secs_f64();

    let long_prompt = format!("{}\n{QUESTION}", FILLER.repeat(FILLER_TIMES));
    // One unmeasured run: the first touches every page of the weights.
    server.ask(QUESTION, MAX_TOKENS, &mut |_| ())?;
    let (mut decode, mut prefill, mut first) = (Vec::new(), Vec::new(), Vec::new());
    let (mut short_tokens, mut long_tokens) = (0, 0);
    for _ in 0..runs.max(1) {
        let answer = server.ask(QUESTION, MAX_TOKENS, &mut |_| ())?;
        decode.push(answer.tokens_per_second());
        first.push(answer.first_token.as_secs_f64() * 1e3);
        short_tokens = answer.prompt_tokens;
        let long = server.ask(&long_prompt, 1, &mut |_| ())?;
        prefill.push(long.prompt_tokens as f64 / long.first_token.as_secs_f64());
        long_tokens = long.prompt_tokens;
    }
    server.stop()?;
    let commit = read(&mut command("git", &["rev-parse", "--short", "HEAD"])).unwrap_or_default();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("\ncommit {commit}, {runs} runs, {MAX_TOKENS} tokens each, load {}", load.trim());
    println!("start to ready   {start_seconds:.2} s");
    println!("decode           {} tok/s", spread(&mut decode));
    println!("TTFT             {} ms for {short_tokens} prompt tokens", spread(&mut first));
    println!("prefill          {} tok/s: {long_tokens} prompt tokens / TTFT", spread(&mut prefill));
    Ok(())
}

/// `median (minimum to maximum)`.
fn spread(figures: &mut [f64]) -> String {
    figures.sort_by(f64::total_cmp);
    match (figures.first(), figures.last()) {
        (Some(least), Some(most)) => format!("{:.1} ({least:.1} to {most:.1})", figures[figures.len() / 2]),
        _ => "nothing measured".to_owned(),
    }
}
