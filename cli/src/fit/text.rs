//! The answer as a person reads it.

use std::fmt::Write;

use kindling_envelope::{Bytes, CacheLayers, Device, KvDtype, Pool};

use super::answer::Answer;
use super::machine::Name;

/// Renders it, a line at its end.
pub fn render(answer: &Answer) -> String {
    let mut text = String::new();
    head(&mut text, answer);
    terms(&mut text, answer);
    verdict(&mut text, answer);
    notes(&mut text, answer);
    text
}

/// Writing into a text cannot fail.
macro_rules! line {
    ($text:expr, $($format:tt)*) => {{ let _ = writeln!($text, $($format)*); }};
}

fn head(text: &mut String, answer: &Answer) {
    let facts = &answer.facts;
    line!(text, "{}", answer.name);
    let mut parts = vec![facts.architecture.clone()];
    parts.extend(facts.parameters.map(|number| match facts.active_parameters.filter(|active| *active != number) {
        Some(active) => format!("{} parameters, {} for each token", short(number), short(active)),
        None => format!("{} parameters", short(number)),
    }));
    parts.push(facts.quantization.clone());
    parts.push(format!("made for {} tokens", facts.max_context));
    line!(text, "{}\n", parts.join(", "));
}

fn terms(text: &mut String, answer: &Answer) {
    let (facts, footprint, serving) = (&answer.facts, answer.footprint, &answer.serving);
    let files = if facts.stored.files == 1 { "1 file".to_owned() } else { format!("{} files", facts.stored.files) };
    let mut weights = format!("{} in {files}", facts.stored.loaded);
    if answer.is_planned() {
        weights = format!("as the {} backend holds them; {weights}", name(serving.device));
    }
    if facts.stored.not_loaded > Bytes(0) {
        let _ = write!(weights, ", {} more are not loaded", facts.stored.not_loaded);
    }
    let planned =
        if answer.is_planned() { "as planned" } else { "not planned: 2.3 GiB and a twentieth of the weights" };
    let steps = format!("{planned}, for {} tokens in a step", serving.max_batched_tokens);
    let rows = [
        ("weights", footprint.weights, weights),
        ("KV cache", footprint.kv_cache, cache(answer)),
        ("activations", footprint.activations, steps),
        ("runtime", footprint.runtime, "the process itself".to_owned()),
        ("while it serves", footprint.resident(), String::new()),
        ("while it loads", footprint.load_transient, "beside the rest".to_owned()),
        ("needed", answer.needed(), String::new()),
    ];
    for (name, bytes, note) in rows {
        line!(text, "{}", format!("{name:<16}{:>12}   {note}", bytes.to_string()).trim_end());
    }
    let node = &answer.machine.node;
    let (whose, baseline) = match &answer.machine.name {
        Name::This => ("this machine", format!("{} are in use now", node.baseline)),
        Name::Given => ("the machine", "given, doing nothing else".to_owned()),
        Name::Node(name) => ("the node", format!("{name}, of which {} are in use without models", node.baseline)),
    };
    line!(text, "\n{whose:<16}{:>12}   {baseline}", node.total.to_string());
    line!(text, "{:<16}{:>12}   {}", "for the system", node.system().to_string(), "kept free of models");
    for held in &node.residents {
        line!(text, "{:<16}{:>12}   {}", "held", held.bytes.to_string(), held.name);
    }
    line!(text, "{:<16}{:>12}\n", "for models", answer.free().to_string());
}

fn cache(answer: &Answer) -> String {
    let serving = &answer.serving;
    let tokens = serving.pool_tokens();
    let pool = match serving.pool {
        Pool::EverySequence => {
            format!("{} sequences of {} tokens each (kvCache.tokens: {tokens})", serving.concurrency, serving.context)
        }
        Pool::Contexts(number) => {
            let count = serving.concurrency;
            format!("{tokens} tokens for {count} sequences together ({number} contexts of {})", serving.context)
        }
        Pool::Tokens(_) => format!("{tokens} tokens for {} sequences together", serving.concurrency),
    };
    let dtype = match serving.kv_dtype {
        KvDtype::Bf16 => "16 bits",
        KvDtype::Fp8 => "FP8",
    };
    let kinds: Vec<String> = answer.model.cache.iter().map(|layers| kind(*layers)).collect();
    format!("{pool}, {dtype}: {}", kinds.join(", "))
}

fn kind(layers: CacheLayers) -> String {
    let number = layers.layers();
    let plural = if number == 1 { "" } else { "s" };
    match layers {
        CacheLayers::Full { .. } => format!("{number} layer{plural}"),
        CacheLayers::Window { window, .. } => format!("{number} layer{plural} of the last {window} tokens"),
        CacheLayers::Latent { .. } => format!("{number} compressed layer{plural}"),
        CacheLayers::State { .. } => format!("{number} state{plural} for each sequence"),
    }
}

fn verdict(text: &mut String, answer: &Answer) {
    let shortfall = match answer.verdict {
        Ok(spare) => return line!(text, "fits: {spare} stay free"),
        Err(shortfall) => shortfall,
    };
    let missing = shortfall.needed.saturating_sub(shortfall.free);
    line!(text, "does not fit: {missing} are missing");
    let Some(found) = &answer.alternatives else { return };
    let (context, concurrency) = (answer.serving.context, answer.serving.concurrency);
    let mut offers = Vec::new();
    offers.extend(found.context.map(|tokens| format!("--context {tokens} (at concurrency {concurrency})")));
    offers.extend(found.concurrency.map(|number| format!("--concurrency {number} (at context {context})")));
    offers.extend(found.kv_tokens.map(|tokens| format!("--kv-tokens {tokens} (at context {context})")));
    if found.fp8_kv_cache {
        offers.push("--kv-type fp8".to_owned());
    }
    offers.extend(found.leaving.as_ref().map(|names| format!("if these were unloaded: {}", names.join(", "))));
    if offers.is_empty() {
        line!(text, "no context, concurrency or type of cache makes it fit");
    } else {
        line!(text, "would fit, each by itself:");
        offers.iter().for_each(|offer| line!(text, "  {offer}"));
    }
}

fn notes(text: &mut String, answer: &Answer) {
    let device = name(answer.serving.device);
    if let Some(reason) = &answer.device_reason {
        line!(text, "on {device}, because {reason}");
    }
    match &answer.refusal {
        Some(reason) => line!(text, "the runtime cannot run it on {device}: {reason}"),
        None => line!(text, "the runtime can run it on {device}"),
    }
    let traffic = answer.facts.traffic;
    match traffic.requests {
        0 => line!(text, "read from disk, no requests"),
        1 => line!(text, "1 request, {}", bytes(traffic.bytes)),
        requests => line!(text, "{requests} requests, {}", bytes(traffic.bytes)),
    }
}

const fn name(device: Device) -> &'static str {
    match device {
        Device::Cpu => "cpu",
        Device::Cuda => "cuda",
    }
}

fn bytes(number: u64) -> String {
    format!("{:.1} KiB", number as f64 / 1024.0)
}

fn short(number: u64) -> String {
    match number as f64 {
        number if number >= 1e9 => format!("{:.2} B", number / 1e9),
        number => format!("{:.1} M", number / 1e6),
    }
}
