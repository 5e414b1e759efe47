//! What structured output costs: the vocabulary's trie, compiling, masks, and decoding with and without a form.
//!
//! Usage: `structured_bench MODEL [PAIRS]`
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kindling_proto::v1::delta::Kind as DeltaKind;
use kindling_proto::v1::generate_request::Input;
use kindling_proto::v1::generate_response::Event;
use kindling_proto::v1::inference_client::InferenceClient;
use kindling_proto::v1::structured_output::Kind;
use kindling_proto::v1::{GenerateRequest, Sampling, Stopping, StructuredOutput};
use kindling_runtime::grammar::{Form, Grammars};
use kindling_runtime::{Runtime, RuntimeConfig};
use tonic::transport::Channel;

const PERSON: &str = r#"{"type":"object","properties":{"name":{"type":"string","maxLength":40},
    "age":{"type":"integer","minimum":0,"maximum":120},"mood":{"enum":["happy","sad"]},
    "friends":{"type":"array","items":{"type":"string","maxLength":30},"minItems":4,"maxItems":8}},
    "required":["name","age","mood","friends"],"additionalProperties":false}"#;
/// Says nothing about the text but that it is longer than what is generated.
const ANYTHING: &str = "(?s:.{1500,})";
const TOKENS: u32 = 128;

type Client = InferenceClient<Channel>;
type Failure = Box<dyn Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let path = PathBuf::from(arguments.next().ok_or("usage: structured_bench MODEL [PAIRS]")?);
    let num_pairs: usize = arguments.next().map_or(Ok(5), |count| count.parse())?;

    let grammars = Arc::new(Grammars::new(kindling_models::open(&path)?.tokenizer));
    let before = resident_bytes()?;
    let (started, cpu) = (Instant::now(), cpu_seconds()?);
    grammars.compile(Form::Choice(vec!["a".to_owned()])).await?;
    println!(
        "first form, with the vocabulary's trie: {:?}, {:.2} s of CPU time, {:.1} MiB",
        started.elapsed(),
        cpu_seconds()? - cpu,
        (resident_bytes()? - before) / MIB
    );

    let runtime = Runtime::start(RuntimeConfig { context_length: Some(2048), ..RuntimeConfig::new(&path) });
    runtime.ready().await?;
    let client = InferenceClient::new(runtime.connect_in_process());
    for (name, form, kind) in [
        ("schema", Form::JsonSchema(PERSON.to_owned()), Kind::JsonSchema(PERSON.to_owned())),
        ("json_object", Form::JsonObject, Kind::JsonObject(kindling_proto::v1::JsonObject {})),
        ("regex of words", Form::Regex(WORDS.to_owned()), Kind::Regex(WORDS.to_owned())),
        ("regex of anything", Form::Regex(ANYTHING.to_owned()), Kind::Regex(ANYTHING.to_owned())),
    ] {
        masks(name, &grammars, form, &client, kind).await?;
    }
    let mut rates = [Vec::new(), Vec::new(), Vec::new()];
    for seed in 0..num_pairs as u64 {
        for (rates, kind) in rates.iter_mut().zip([None, Some(ANYTHING), Some(WORDS)]) {
            rates.push(generate(&client, kind.map(|text| Kind::Regex(text.to_owned())), seed).await?.1);
        }
    }
    for (rates, name) in rates.iter_mut().zip(["without a form", "regex of anything", "regex of words"]) {
        rates.sort_by(f64::total_cmp);
        let [low, .., high] = rates.as_slice() else { return Err("at least two pairs are needed".into()) };
        println!("decode {name}: {:.1} ({low:.1} to {high:.1}) tok/s", rates[rates.len() / 2]);
    }
    Ok(())
}

const WORDS: &str = "([A-Za-z]+[ ,.] ?){600,}";
const MIB: f64 = 1024.0 * 1024.0;

/// Follows what the model says in this form, and times each mask.
async fn masks(name: &str, grammars: &Arc<Grammars>, form: Form, client: &Client, kind: Kind) -> Result<(), Failure> {
    let mut compile = Vec::new();
    let mut times = Vec::new();
    for seed in 0..8 {
        let (tokens, _) = generate(client, Some(kind.clone()), seed).await?;
        let started = Instant::now();
        let mut grammar = grammars.compile(form.clone()).await?;
        compile.push(started.elapsed());
        for token in tokens {
            let started = Instant::now();
            grammar.mask()?;
            times.push(started.elapsed());
            grammar.accept(token);
        }
    }
    compile.sort();
    times.sort();
    let quantile = |times: &[Duration], part: f64| times[((times.len() - 1) as f64 * part) as usize];
    println!(
        "{name}: compile {:?}; mask median {:?}, p99 {:?}, slowest {:?} over {} tokens",
        quantile(&compile, 0.5),
        quantile(&times, 0.5),
        quantile(&times, 0.99),
        quantile(&times, 1.0),
        times.len()
    );
    Ok(())
}

/// Tokens and the speed of decoding.
async fn generate(client: &Client, kind: Option<Kind>, seed: u64) -> Result<(Vec<u32>, f64), Failure> {
    let prompt = "<|im_start|>user\nDescribe a person.<|im_end|>\n<|im_start|>assistant\n";
    let request = GenerateRequest {
        input: Some(Input::Text(prompt.to_owned())),
        sampling: Some(Sampling { temperature: Some(0.8), seed: Some(seed), ..Sampling::default() }),
        stopping: Some(Stopping { max_tokens: Some(TOKENS), ignore_eos: kind.is_none(), ..Stopping::default() }),
        structured_output: kind.map(|kind| StructuredOutput { kind: Some(kind) }),
        ..GenerateRequest::default()
    };
    let mut stream = client.clone().generate(request).await?.into_inner();
    let (mut tokens, mut rate) = (Vec::new(), 0.0);
    while let Some(response) = stream.message().await? {
        match response.event {
            Some(Event::Delta(delta)) if matches!(delta.kind, Some(DeltaKind::Content(_))) => {
                tokens.extend(delta.token_ids)
            }
            Some(Event::Finish(finish)) => {
                let usage = finish.usage.unwrap_or_default();
                rate = f64::from(usage.completion_tokens.saturating_sub(1)) / usage.decode_seconds;
            }
            _ => {}
        }
    }
    Ok((tokens, rate))
}

/// Of all threads of this process, in hundredths.
fn cpu_seconds() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("no name in /proc/self/stat")?;
    let ticks: Vec<f64> = fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

/// Of this process, as Linux counts it.
fn resident_bytes() -> Result<f64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0)
}
