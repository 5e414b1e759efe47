//! LocalModel as a Rust type: names, labels, conditions; the CRD YAML beside it is generated.
