//! `placement.device` on a laptop: `kindling up` and `kindling runtime --backend auto`, with drivers of many kinds and with
//! none, played by a stand-in for libcuda. One that computes runs the kernels on the processor.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is test code")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use kindling_cuda::image;
use serde_json::{Value, json};

#[path = "../../runtime/cuda/tests/stand_in/compile.rs"]
mod stand_in;
mod tiny;

/// A folder with a libcuda that computes on the processor, compiled once.
fn folder() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let compile = || {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/cuda");
        let library = stand_in::compile(&root, &root.join("kernels"), Path::new(env!("CARGO_TARGET_TMPDIR")));
        library.parent().unwrap().to_owned()
    };
    FOLDER.get_or_init(compile).clone()
}

/// Whether what is tested needs kernels that this build lacks; said aloud.
fn is_without_kernels(what: &str) -> bool {
    if !image::is_there() {
        assert!(std::env::var_os("KINDLING_REQUIRE_NVCC").is_none(), "built without CUDA: no nvcc was there");
        println!("SKIPPED: {what}: built without CUDA, no nvcc was there (`cargo xtask setup`)");
    }
    !image::is_there()
}

/// `kindling up` of a model that is to be computed so, with this driver.
fn up(model: &Path, device: &str, driver: (Option<&Path>, &[(&str, &str)])) -> Command {
    let yaml = format!(
        "apiVersion: kindling.dev/v1alpha1\nkind: LocalModel\nmetadata: {{name: tiny}}\nspec:\n  source: {{hostPath: {{path: {}}}}}\n  \
         serving: {{contextLength: 128, maxConcurrency: 1}}\n  placement: {{device: {device}}}\n",
        model.display()
    );
    let file = model.join("localmodel.yaml");
    std::fs::write(&file, yaml).unwrap();
    let mut command = kindling(driver);
    command.args(["up", "--listen", "127.0.0.1:0", "-f"]).arg(file);
    command
}

fn kindling((folder, settings): (Option<&Path>, &[(&str, &str)])) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kindling"));
    command.env_remove("LD_LIBRARY_PATH").envs(settings.iter().copied());
    // Where passed self-tests are noted.
    command.env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
    if let Some(folder) = folder {
        command.env("LD_LIBRARY_PATH", folder);
    }
    command
}

/// Standard error of a command that must fail.
fn failure(command: &mut Command) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert!(!status.success(), "{said}");
    said
}

/// What it says once it serves, and its answer to a greeting.
fn served(command: &mut Command) -> (String, Value) {
    let mut child = Ended(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    let mut stdout = BufReader::new(child.0.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).map(str::to_owned);
    let answer = address.as_deref().map(greet);
    let said = ended(&mut child.0);
    (said.clone(), answer.unwrap_or_else(|| panic!("it does not serve: {line}{said}")))
}

fn ended(child: &mut Child) -> String {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    child.wait().unwrap();
    said
}

/// A process that no failing test leaves behind.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Its answer.
fn greet(address: &str) -> Value {
    let answer = ask_until_loaded(address);
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    serde_json::from_str(body.get(body.find('{').unwrap()..=body.rfind('}').unwrap()).unwrap()).unwrap()
}

/// What it says to a greeting, head and body, once the model is loaded.
fn ask_until_loaded(address: &str) -> String {
    let body = json!({"model": "tiny", "prompt": "Hello", "max_tokens": 4, "temperature": 0}).to_string();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(
            stream,
            "POST /v1/completions HTTP/1.1\r\nhost: tiny\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        if !answer.contains("retry-after:") || Instant::now() > deadline {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn auto_takes_the_processor_and_says_what_is_wrong_with_the_driver() {
    if is_without_kernels("drivers that are too old") {
        return;
    }
    let (model, folder) = (tiny::model("too-old"), folder());
    let driver = (Some(folder.as_path()), [("STAND_IN_DRIVER", "12040")]);
    let (said, answer) = served(&mut up(model.path(), "Auto", (driver.0, &driver.1)));
    let expected = "tiny is computed by Cpu: no GPU can be used: the NVIDIA driver is too old: it knows CUDA 12.4";
    assert!(said.contains(expected), "{said}");
    assert_eq!(answer["usage"]["completion_tokens"], 4, "{answer}");
    let said = failure(&mut up(model.path(), "Cuda", (driver.0, &driver.1)));
    assert!(
        said.contains("tiny: spec.placement.device is Cuda, and no GPU can be used: the NVIDIA driver is too"),
        "{said}"
    );
}

#[test]
fn without_a_driver_a_gpu_that_is_named_is_refused_and_the_best_is_the_processor() {
    if Path::new("/dev/nvidiactl").exists() {
        println!("SKIPPED: no driver: this machine has one");
        return;
    }
    let model = tiny::model("no-driver");
    let said = failure(&mut up(model.path(), "Cuda", (None, &[])));
    assert!(said.contains("no GPU can be used: no NVIDIA driver: libcuda.so.1 could not be loaded"), "{said}");
    let (said, answer) = served(&mut up(model.path(), "Auto", (None, &[])));
    assert!(said.contains("computed by Cpu: no GPU can be used: no NVIDIA driver"), "{said}");
    assert_eq!(answer["usage"]["completion_tokens"], 4, "{answer}");
}

/// A libcuda that ends whoever opens it.
fn deadly() -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("kindling-deadly-").tempdir().unwrap();
    let source = folder.path().join("libcuda.c");
    std::fs::write(&source, "#include <stdlib.h>\n__attribute__((constructor)) static void end(void) { abort(); }\n")
        .unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(folder.path().join("libcuda.so")).arg(source);
    assert!(compiler.status().expect("a C compiler, as Rust needs for linking").success());
    folder
}

#[test]
fn the_processor_that_is_named_opens_no_driver_and_one_that_crashes_leaves_it() {
    let (model, deadly) = (tiny::model("no-touch"), deadly());
    let driver = (Some(deadly.path()), [].as_slice());
    let (said, _) = served(&mut up(model.path(), "Cpu", driver));
    assert!(said.contains("tiny is computed by Cpu\n"), "{said}");
    let said = failure(up(model.path(), "Cpu", driver).args(["--backend", "cuda"]));
    assert!(said.contains("spec.placement.device is Cpu, which --backend contradicts"), "{said}");
    // What is asked for the best opens it, in a process that may be lost.
    let (said, answer) = served(&mut up(model.path(), "Auto", driver));
    let expected = "computed by Cpu: no GPU can be used: the driver or a kernel ended the check: signal: 6";
    assert!(said.contains(expected), "{said}");
    assert_eq!(answer["usage"]["completion_tokens"], 4, "{answer}");
}

#[test]
fn auto_takes_a_gpu_that_computes_and_answers_as_the_processor_does() {
    if is_without_kernels("a GPU that computes") {
        return;
    }
    let (model, folder) = (tiny::model("computes"), folder());
    let (said, answer) = served(&mut up(model.path(), "Auto", (Some(&folder), &[])));
    assert!(said.contains("tiny is computed by Cuda\n"), "{said}");
    let (_, expected) = served(&mut up(model.path(), "Cpu", (None, &[])));
    assert_eq!(answer["choices"][0]["text"], expected["choices"][0]["text"], "{answer} {expected}");
    assert_eq!(answer["usage"], expected["usage"]);
}

/// Kernels that fail while a request runs: it gets an error, and the process ends with the reason.
#[test]
fn a_gpu_that_fails_at_work_ends_the_process_and_the_request_is_told() {
    if is_without_kernels("a GPU that fails at work") {
        return;
    }
    let (model, folder) = (tiny::model("fails"), folder());
    // Prompts are computed; decoding fails.
    let fails = [("STAND_IN_FAIL", "cuGraphLaunch=719")];
    let mut command = up(model.path(), "Cuda", (Some(&folder), &fails));
    let mut child = Ended(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    let mut stdout = BufReader::new(child.0.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap().to_owned();
    let answer = ask_until_loaded(&address);
    assert!(answer.starts_with("HTTP/1.1 5") && answer.contains("\"error\""), "{answer}");
    let mut said = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!child.0.wait().unwrap().success());
    let last = said.lines().rfind(|line| line.starts_with("error: ")).unwrap_or_default();
    assert!(last.ends_with("the NVIDIA driver refuses to start a graph: CUDA_ERROR_LAUNCH_FAILED"), "{said}");
}

#[test]
fn a_gpu_without_room_is_named_with_what_was_asked_of_it() {
    if is_without_kernels("a GPU without room") {
        return;
    }
    let (model, folder) = (tiny::model("no-room"), folder());
    let mut runtime = kindling((Some(&folder), &[("STAND_IN_FAIL", "cuMemAlloc_v2=2")]));
    // What passed before is noted, or says that there is no room for it.
    runtime.args(["runtime", "--backend", "cuda", "--listen", "127.0.0.1:0", "--model-path"]).arg(model.path());
    let said = failure(&mut runtime);
    let (weights, tests) = ("bytes for weights", "could not be run: the GPU has no memory left to run a self-test");
    assert!(said.contains(weights) || said.contains(tests), "{said}");
}

#[test]
fn a_gpu_that_fails_its_self_test_leaves_the_processor() {
    if is_without_kernels("a GPU that fails its self-test") {
        return;
    }
    // Of nothing that was noted before: another driver.
    let (model, folder) = (tiny::model("wrong"), folder());
    let fails = [("STAND_IN_FAIL", "cuLaunchKernel=700"), ("STAND_IN_DRIVER", "13990")];
    let (said, answer) = served(&mut up(model.path(), "Auto", (Some(&folder), &fails)));
    assert!(said.contains("tiny is computed by Cpu: no GPU can be used: the self-test of the GPU's kernels"), "{said}");
    assert_eq!(answer["usage"]["completion_tokens"], 4, "{answer}");
    let said = failure(&mut up(model.path(), "Cuda", (Some(&folder), &fails)));
    assert!(said.contains("no GPU can be used: the self-test of the GPU's kernels could not be run"), "{said}");
}

/// A GPU has recurrent layers, which the processor lacks.
#[test]
fn a_model_that_only_a_gpu_computes_is_served_there_and_refused_elsewhere() {
    if is_without_kernels("a model that only a GPU computes") {
        return;
    }
    let (model, folder) = (tiny::model_of("recurrent", "tiny_qwen3_next"), folder());
    let (said, answer) = served(&mut up(model.path(), "Auto", (Some(&folder), &[])));
    assert!(said.contains("tiny is computed by Cuda\n"), "{said}");
    assert_eq!(answer["usage"]["completion_tokens"], 4, "{answer}");
    let mut runtime = kindling((Some(&folder), &[("STAND_IN_DRIVER", "12040")]));
    runtime.args(["runtime", "--backend", "auto", "--listen", "127.0.0.1:0", "--model-path"]).arg(model.path());
    let said = failure(&mut runtime);
    assert!(said.contains("the cpu backend does not support recurrent layers"), "{said}");
}

#[test]
fn fit_predicts_for_the_gpu_of_this_machine_or_says_why_not() {
    if is_without_kernels("what a model takes on a GPU") {
        return;
    }
    let (model, folder) = (tiny::model("fit"), folder());
    let fit = |settings: &[(&str, &str)], arguments: &[&str]| -> Value {
        let mut command = kindling((Some(&folder), settings));
        command.arg("fit").arg(model.path()).args(["--output", "json"]).args(arguments);
        serde_json::from_slice(&command.output().unwrap().stdout).unwrap()
    };
    let found = fit(&[], &[]);
    assert_eq!((&found["serving"]["device"], &found["deviceReason"]), (&json!("cuda"), &Value::Null), "{found}");
    let found = fit(&[("STAND_IN_DRIVER", "12040")], &[]);
    assert_eq!(found["serving"]["device"], "cpu");
    assert!(found["deviceReason"].as_str().unwrap().contains("too old"), "{found}");
    let found = fit(&[("STAND_IN_DRIVER", "12040")], &["--device", "cuda"]);
    assert_eq!((&found["serving"]["device"], &found["deviceReason"]), (&json!("cuda"), &Value::Null), "{found}");
}
