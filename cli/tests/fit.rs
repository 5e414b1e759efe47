//! `kindling fit` as a person meets it: exit status, text, JSON.

use std::path::Path;
use std::process::{Command, Output};

const MODEL: &str = "runtime/models/tests/golden/tiny_llama";

fn fit(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kindling"));
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).arg("fit").args(args);
    command.env("HF_ENDPOINT", "http://127.0.0.1:9").env_remove("HF_TOKEN").env_remove("KINDLING_CACHE");
    command.env("KINDLING_THREADS", "4").env("HOME", std::env::temp_dir());
    command.output().expect("start kindling")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn what_fits_exits_with_0_and_says_every_term() {
    let output = fit(&[MODEL, "--memory", "119.6GiB"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for part in [
        "LlamaForCausalLM",
        "weights",
        "KV cache",
        "activations",
        "runtime",
        "119.60 GiB",
        "fits: ",
        "1024 tokens for 4 sequences together (2 contexts of 512)",
        "the runtime can run it on cpu",
        "read from disk, no requests",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

/// By hand, of 100 MiB are 90 for models, 17 of them for the process and 32 for loading. A token takes 2 layers * 2 heads * (16 + 16) elements *
/// 2 bytes = 256 bytes, 400 sequences of 512 tokens 50 MiB.
#[test]
fn what_does_not_fit_exits_with_1_and_says_what_would() {
    let asked = [MODEL, "--memory", "100MiB", "--concurrency", "400"];
    let output = fit(&asked);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("400 sequences of 512 tokens each (kvCache.tokens: 204800)"), "{said}");
    assert!(said.contains("does not fit: "), "{said}");
    let offered = |name: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap_or_else(|| panic!("{said}"));
        line.split_whitespace().next().expect("a number").to_owned()
    };
    for (name, largest) in [("--context", 16), ("--concurrency", 1)] {
        let number: u64 = offered(name).parse().expect("a number");
        let with = |number: u64| {
            let number = number.to_string();
            let args = if name == "--concurrency" { &asked[..3] } else { &asked[..] };
            fit(&[args, &[name, &number]].concat()).status.code()
        };
        assert_eq!((with(number), with(number + largest)), (Some(0), Some(1)), "{name} {number}: {said}");
    }
}

#[test]
fn json_has_bytes_as_whole_numbers() {
    let output = fit(&[MODEL, "--memory", "1GiB", "--output", "json"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let bytes = |key: &str| answer[key].as_u64().unwrap_or_else(|| panic!("{key}: {answer:#}"));
    let terms = ["weightsBytes", "kvCacheBytes", "activationsBytes", "runtimeBytes"];
    assert_eq!(terms.iter().map(|term| bytes(term)).sum::<u64>(), bytes("residentBytes"));
    assert_eq!(bytes("residentBytes") + bytes("loadTransientBytes"), bytes("neededBytes"));
    // 2 layers of 2 heads of 16: keys and values of 1024 tokens in two bytes.
    assert_eq!(bytes("kvCacheBytes"), 1024 * 2 * 2 * 2 * 16 * 2);
    assert_eq!(answer["machine"]["totalBytes"], 1 << 30);
    assert_eq!(answer["read"], serde_json::json!({ "requests": 0, "bytes": 0 }));
    for (key, expected) in [("fits", true), ("planned", true), ("runnable", true)] {
        assert_eq!(answer[key], expected, "{key}");
    }
    assert_eq!(answer["alternatives"], serde_json::Value::Null);
}

#[test]
fn what_has_no_answer_exits_with_2() {
    for (args, expected) in [
        (&["./nothing.gguf"][..], "./nothing.gguf does not exist"),
        (&["nothing"], "no name of a model on the hub"),
        (&["org/repo"], "cannot reach http://127.0.0.1:9"),
        (&[MODEL, "--memory", "5 parsecs"], "is no number of bytes"),
        (&[MODEL, "--context", "1000000"], "more than the model's 512"),
        (&[MODEL, "--kv-tokens", "16"], "fewer than one context of 512"),
        (&["https://example.invalid/model.bin"], "not the address of a .gguf file"),
        (&["docs"], "holds no model that can be opened"),
        (&[], "required"),
    ] {
        let output = fit(args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(expected), "{args:?}: {said}");
    }
}

#[test]
fn what_the_runtime_cannot_run_is_said() {
    let output = fit(&["runtime/models/tests/golden/tiny_qwen3_next", "--memory", "64GiB"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("cannot run it on cpu: the cpu backend does not support recurrent layers"), "{said}");
    assert!(said.contains("not planned"), "{said}");
    let said = text(&fit(&[MODEL, "--memory", "64GiB", "--device", "cuda"]).stdout);
    assert!(said.contains("the runtime can run it on cuda"), "{said}");
    let args = ["runtime/models/tests/golden/tiny_qwen3_next", "--memory", "64GiB", "--device", "cuda"];
    let said = text(&fit(&args).stdout);
    assert!(said.contains("the runtime can run it on cuda"), "{said}");
    assert!(said.contains("as the cuda backend holds them"), "{said}");
}

#[test]
fn a_localmodel_is_asked_as_it_would_be_served() {
    let folder = tempfile::Builder::new().prefix("kindling-fit-").tempdir().expect("scratch folder");
    let file = folder.path().join("localmodel.yaml");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/models/tests/golden/tiny_llama");
    let path = path.canonicalize().expect("golden");
    let yaml = format!(
        "apiVersion: kindling.dev/v1alpha1\nkind: LocalModel\nmetadata: {{name: m}}\nspec:\n  source: {{hostPath: {{path: {}}}}}\n  \
         serving: {{contextLength: 256, maxConcurrency: 7, kvCache: {{tokens: 512}}}}\n",
        path.display()
    );
    std::fs::write(&file, yaml).expect("write the YAML");
    let said = text(&fit(&["-f", &file.to_string_lossy(), "--memory", "64GiB"]).stdout);
    assert!(said.contains("512 tokens for 7 sequences together"), "{said}");
}
