//! `cargo xtask codegen`: writes what is generated and committed: code from the proto files, YAML from the CRD types.
//!
//! The generators are programs of their own, so that xtask stays quick to build. Tests beside each of them fail while a
//! committed file is stale.

use crate::shell::{cargo, run};

/// Runs `cargo xtask codegen`.
pub fn run_codegen() -> anyhow::Result<()> {
    run(&mut cargo(&["run", "--quiet", "--package", "kindling-proto-codegen", "--example", "generate"]))?;
    let write_crds = ["test", "--quiet", "--workspace", "--test", "generated_yaml"];
    run(cargo(&write_crds).env("KINDLING_REWRITE", "1"))
}
