//! kubectl as a user runs it.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

/// A kubectl with a kubeconfig.
#[derive(Debug, Clone)]
pub struct Kubectl {
    /// The program.
    pub program: PathBuf,
    /// Whose cluster.
    pub kubeconfig: PathBuf,
}

impl Kubectl {
    /// Standard output of a command that must succeed.
    ///
    /// # Panics
    /// If it fails, with what it wrote.
    pub fn read(&self, args: &[&str]) -> String {
        self.try_read(args).unwrap_or_else(|error| panic!("kubectl {}: {error}", args.join(" ")))
    }

    /// Standard output, or what it wrote to standard error.
    ///
    /// # Errors
    /// The text of the failure.
    pub fn try_read(&self, args: &[&str]) -> Result<String, String> {
        self.run(args, None)
    }

    /// The object, or `None` while there is none.
    pub fn get(&self, args: &[&str]) -> Option<Value> {
        let mut all = vec!["get"];
        all.extend(args);
        all.extend(["-o", "json"]);
        self.try_read(&all).ok().and_then(|text| serde_json::from_str(&text).ok())
    }

    /// Applies YAML. The answer has the API server's warnings too.
    ///
    /// # Errors
    /// What the API server or kubectl said.
    pub fn apply(&self, namespace: &str, yaml: &str) -> Result<String, String> {
        self.run(&["apply", "-n", namespace, "-f", "-"], Some(yaml))
    }

    fn run(&self, args: &[&str], input: Option<&str>) -> Result<String, String> {
        let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
        let mut child = Command::new(&self.program)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(args)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("start {}: {error}", self.program.display()))?;
        if let (Some(mut pipe), Some(text)) = (child.stdin.take(), input) {
            pipe.write_all(text.as_bytes()).map_err(|error| error.to_string())?;
        }
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        match (output.status.success(), input.is_some()) {
            (true, false) => Ok(text(&output.stdout)),
            (true, true) => Ok(format!("{}\n{}", text(&output.stdout), text(&output.stderr))),
            (false, _) => Err(text(&output.stderr)),
        }
    }
}
