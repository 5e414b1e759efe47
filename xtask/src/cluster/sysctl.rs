//! The kubelet changes three settings of the whole machine; they are written down before and put back after.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;

/// What the kubelet sets (to 10, 1 and 1), whatever namespace it is in.
const CHANGED_BY_KUBELET: [&str; 3] = ["kernel/panic", "kernel/panic_on_oops", "vm/overcommit_memory"];
const FILE_NAME: &str = "sysctls.json";

/// Writes the settings into the state folder, unless an earlier run that was not taken down did so.
pub fn save(state: &Path) -> anyhow::Result<()> {
    save_from(Path::new("/proc/sys"), state)
}

/// Puts back what [`save`] wrote down; without that file there is nothing to do.
pub fn restore(state: &Path) -> anyhow::Result<()> {
    restore_to(Path::new("/proc/sys"), state)
}

fn save_from(sysctls: &Path, state: &Path) -> anyhow::Result<()> {
    let file = state.join(FILE_NAME);
    if file.exists() {
        return Ok(());
    }
    let mut saved = BTreeMap::new();
    for name in CHANGED_BY_KUBELET {
        let value = std::fs::read_to_string(sysctls.join(name)).with_context(|| format!("read {name}"))?;
        saved.insert(name.to_owned(), value.trim().to_owned());
    }
    std::fs::write(&file, serde_json::to_string_pretty(&saved)?).with_context(|| format!("write {}", file.display()))
}

fn restore_to(sysctls: &Path, state: &Path) -> anyhow::Result<()> {
    let file = state.join(FILE_NAME);
    let Ok(text) = std::fs::read_to_string(&file) else {
        return Ok(());
    };
    let saved: BTreeMap<String, String> =
        serde_json::from_str(&text).with_context(|| format!("read {}", file.display()))?;
    for (name, value) in saved.iter().filter(|(name, _)| CHANGED_BY_KUBELET.contains(&name.as_str())) {
        std::fs::write(sysctls.join(name), value).with_context(|| format!("put {name} back to {value}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_save_keeps_the_first_values() {
        let folder = std::env::temp_dir().join(format!("kindling-sysctl-{}", std::process::id()));
        let (sysctls, state) = (folder.join("sys"), folder.join("state"));
        for place in [sysctls.join("kernel"), sysctls.join("vm"), state.clone()] {
            std::fs::create_dir_all(place).expect("should make a folder");
        }
        let write_all = |value: &str| {
            for name in CHANGED_BY_KUBELET {
                std::fs::write(sysctls.join(name), value).expect("should write");
            }
        };
        write_all("0\n");
        save_from(&sysctls, &state).expect("should save");
        write_all("1\n");
        save_from(&sysctls, &state).expect("should keep");
        restore_to(&sysctls, &state).expect("should restore");
        assert_eq!(std::fs::read_to_string(sysctls.join("vm/overcommit_memory")).expect("should read"), "0");
        std::fs::remove_dir_all(folder).expect("should clean");
    }
}
