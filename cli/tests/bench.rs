//! `kindling bench` as a person or a script meets it. No figure is judged: a loaded machine may be as slow as it likes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

mod tiny;

use tiny::model as tiny_model;

fn bench(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kindling"));
    command.arg("bench").args(args).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    command
}

/// Standard error of a command that must fail.
fn failure(args: &[&str]) -> String {
    let output = bench(args).output().expect("start kindling");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    said
}

fn json_of(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).expect("standard output should be JSON alone")
}

fn assert_spread(spread: &Value, samples: usize, what: &str) {
    for key in ["median", "min", "max"] {
        assert!(spread[key].as_f64().is_some_and(|figure| figure > 0.0), "{what}.{key}: {spread}");
    }
    assert!(spread["min"].as_f64() <= spread["median"].as_f64(), "{what}: {spread}");
    assert!(spread["median"].as_f64() <= spread["max"].as_f64(), "{what}: {spread}");
    assert_eq!(spread["samples"].as_array().map(Vec::len), Some(samples), "{what}: {spread}");
}

fn assert_side(side: &Value, runs: usize, prompt_tokens: f64) {
    for key in ["prefill_tokens_per_second", "total_tokens_per_second", "ttft_seconds"] {
        assert_spread(&side[key], runs, key);
    }
    // The tiny model is so quick that one stream may end before a client has seen the first token of the other.
    if !side["decode_tokens_per_second"].is_null() {
        assert_spread(&side["decode_tokens_per_second"], runs, "decode_tokens_per_second");
    }
    let median = side["prompt_tokens"]["median"].as_f64().expect("a number");
    assert!(median <= prompt_tokens && median >= prompt_tokens - 10.0, "{median} of {prompt_tokens} tokens");
}

const QUICK: [&str; 8] = ["--no-memory-test", "--runs", "2", "--generate", "16", "--output", "json", "--contexts=40"];

#[test]
fn what_cannot_be_measured_is_refused_before_anything_is_loaded() {
    let said = failure(&["/no/such/model.gguf"]);
    assert!(said.contains("/no/such/model.gguf does not exist"), "{said}");
    let said = failure(&["org/repo", "--cache", "/no/such/cache"]);
    assert!(said.contains("org/repo") && said.contains("kindling pull"), "{said}");
    let scratch = tiny_model("refused");
    let folder = scratch.path().to_owned();
    let model = folder.to_str().expect("UTF-8");
    let said = failure(&[model, "--contexts", "9999"]);
    assert!(said.contains("9999 tokens") && said.contains("context of 512 tokens"), "{said}");
    let said = failure(&[model, "--shared-prefix", "512"]);
    assert!(said.contains("shared prefix of 512"), "{said}");
    for (args, expected) in [
        (["--contexts", "0"], "at least 1"),
        (["--contexts", "lots"], "no number"),
        (["--concurrency", "1,0"], "at least 1"),
        (["--generate", "1"], "at least 2"),
        (["--runs", "0"], "at least 1"),
        (["--output", "xml"], "possible values: table, json"),
        (["--compare-model", "m"], "--compare <URL>"),
    ] {
        let said = failure(&[model, args[0], args[1]]);
        assert!(said.contains(expected), "{args:?}: {said}");
    }
    let said = failure(&[model, "--raw", "--compare", "http://127.0.0.1:9"]);
    assert!(said.contains("cannot be used with"), "{said}");
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let scratch = tiny_model("unreachable");
    let folder = scratch.path().to_owned();
    let model = folder.to_str().expect("UTF-8");
    // A port that was free a moment ago.
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let url = format!("http://{address}");
    let said = failure(&[model, "--compare", &url]);
    assert!(said.contains(&format!("cannot reach {url}")) && said.contains("is a server running"), "{said}");
    let said = failure(&[model, "--compare", "localhost:8080"]);
    assert!(said.contains("localhost:8080 is no address"), "{said}");
}

#[test]
fn a_server_with_several_models_leads_to_the_choice() {
    let scratch = tiny_model("several");
    let folder = scratch.path().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let url = format!("http://{}/v1/", listener.local_addr().expect("address"));
    let server = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client");
        let mut request = String::new();
        BufReader::new(client.try_clone().expect("clone")).read_line(&mut request).expect("a request");
        let body = r#"{"data": [{"id": "one"}, {"id": "two"}]}"#;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        client.write_all((head + body).as_bytes()).expect("answer");
        request
    });
    let said = failure(&[folder.to_str().expect("UTF-8"), "--compare", &url]);
    assert!(said.contains("--compare-model: one, two"), "{said}");
    assert!(server.join().expect("server").starts_with("GET /v1/models "));
}

#[test]
fn the_json_holds_every_row_with_its_spread() {
    let scratch = tiny_model("json");
    let folder = scratch.path().to_owned();
    let mut command = bench(&[folder.to_str().expect("UTF-8"), "--concurrency", "1,3", "--shared-prefix", "100"]);
    let report = json_of(&command.args(QUICK).output().expect("start kindling"));
    assert_eq!((&report["schema"], &report["path"], &report["runs"]), (&json!(1), &json!("in-process"), &json!(2)));
    assert_eq!(report["model"]["architecture"], "LlamaForCausalLM");
    assert_eq!(report["model"]["context_length"], 512);
    assert!(report["cut_short"].is_null() && report["peer"].is_null(), "{report}");
    assert!(report["machine"]["memory_read"].is_null() && report["rows"][0]["bandwidth_ratio"].is_null());
    let rows = report["rows"].as_array().expect("rows");
    let shapes: Vec<_> = rows.iter().map(|row| (row["context"].as_u64(), row["concurrency"].as_u64())).collect();
    assert_eq!(shapes, [(Some(40), Some(1)), (Some(40), Some(3))]);
    for row in rows {
        assert_side(&row["ours"], 2, 40.0);
        assert!(row["peer"].is_null() && row["ratio"].is_null(), "{row}");
    }
    assert_spread(&rows[0]["ours"]["decode_tokens_per_second"], 2, "decode of one stream");
    assert_spread(&rows[0]["bytes_per_second"], 2, "bytes_per_second of one stream");
    // Whether the head is tied or not, the weights of a step are shared by its streams.
    let bytes = |row: &Value| row["bytes_per_token"].as_f64().expect("a number");
    assert!(bytes(&rows[1]) < bytes(&rows[0]) && bytes(&rows[0]) > 0.0, "{rows:?}");
    let (read, held) = (report["model"]["read_bytes"].as_f64(), report["model"]["held_bytes"].as_f64());
    assert!(read <= held && read > Some(0.0), "{read:?} of {held:?}");
    let shared = &report["shared_prefix"];
    assert_eq!(shared["prefix_tokens"], 100);
    for key in ["prompt_tokens", "first_ttft_seconds", "second_ttft_seconds", "second_to_first_ratio"] {
        assert_spread(&shared["ours"][key], 2, key);
    }
}

#[test]
fn steps_alone_are_measured_without_a_service() {
    let scratch = tiny_model("raw");
    let folder = scratch.path().to_owned();
    let mut command = bench(&[folder.to_str().expect("UTF-8"), "--raw", "--concurrency", "1,2"]);
    let report = json_of(&command.args(QUICK).output().expect("start kindling"));
    assert_eq!(report["path"], "raw");
    for row in report["rows"].as_array().expect("rows") {
        assert_side(&row["ours"], 2, 40.0);
        assert_eq!(row["ours"]["prompt_tokens"]["median"], 40.0, "token by token");
    }
    assert!(report["shared_prefix"].is_null(), "{report}");
    let smallest = ["--raw", "--contexts=1", "--concurrency=1", "--generate=2", "--runs=1", "--no-memory-test"];
    let mut command = bench(&[folder.to_str().expect("UTF-8"), "--output=json"]);
    let report = json_of(&command.args(smallest).output().expect("start kindling"));
    assert_spread(&report["rows"][0]["ours"]["decode_tokens_per_second"], 1, "decode of one token after one token");
}

#[test]
fn another_server_does_the_same_work_and_the_ratio_is_told() {
    let scratch = tiny_model("compare");
    let folder = scratch.path().to_owned();
    let yaml = folder.join("localmodel.yaml");
    let spec = json!({
        "apiVersion": "kindling.dev/v1alpha1", "kind": "LocalModel", "metadata": {"name": "tiny"},
        "spec": {"source": {"hostPath": {"path": folder}}},
    });
    std::fs::write(&yaml, spec.to_string()).expect("write the YAML");
    let mut up = Command::new(env!("CARGO_BIN_EXE_kindling"))
        .args(["up", "--listen", "127.0.0.1:0", "-f"])
        .arg(&yaml)
        .stdout(Stdio::piped())
        .spawn()
        .expect("start kindling up");
    let mut line = String::new();
    BufReader::new(up.stdout.as_mut().expect("piped")).read_line(&mut line).expect("a line");
    let url = line.trim().rsplit(' ').next().expect("an address").to_owned();
    let compare = ["--concurrency", "1,2", "--shared-prefix", "64", "--compare", url.as_str()];
    let mut command = bench(&[folder.to_str().expect("UTF-8")]);
    let output = command.args(compare).args(QUICK).output().expect("start kindling");
    up.kill().and_then(|()| up.wait()).expect("end kindling up");
    let report = json_of(&output);
    assert_eq!((&report["path"], &report["peer"]["model"]), (&json!("http"), &json!("tiny")));
    for row in report["rows"].as_array().expect("rows") {
        assert_side(&row["ours"], 2, 40.0);
        assert_side(&row["peer"], 2, 40.0);
        assert_eq!(row["ours"]["prompt_tokens"], row["peer"]["prompt_tokens"], "the same model counts the same");
        for key in ["prefill_tokens_per_second", "total_tokens_per_second", "ttft_seconds"] {
            assert_spread(&row["ratio"][key], 2, key);
        }
    }
    assert_spread(&report["shared_prefix"]["second_ttft_ratio"], 2, "second_ttft_ratio");
}

#[test]
fn ctrl_c_ends_it_with_what_was_measured() {
    let scratch = tiny_model("interrupted");
    let folder = scratch.path().to_owned();
    let mut child = bench(&[folder.to_str().expect("UTF-8"), "--concurrency=1", "--shared-prefix=0"])
        .args(["--no-memory-test", "--runs", "1000000", "--generate", "16", "--output", "json", "--contexts=40"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start kindling");
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    let mut said = String::new();
    while !said.contains("run 3 of") {
        assert!(stderr.read_line(&mut said).expect("standard error") > 0, "it ended by itself: {said}");
    }
    let rest = std::thread::spawn(move || {
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).map(|_| rest)
    });
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(status.success());
    let output = child.wait_with_output().expect("wait");
    let said = rest.join().expect("thread").expect("standard error");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error: interrupted"), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("what was measured, as JSON");
    assert!(report["cut_short"].as_str().is_some_and(|text| text.contains("interrupted in run")), "{report}");
    assert!(report["runs"].as_u64() >= Some(2), "{report}");
}
