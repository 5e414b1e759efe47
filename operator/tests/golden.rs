//! `golden/<case>/localmodel.yaml` in, `golden/<case>/expected/*.yaml` out. `KINDLING_REWRITE=1` rewrites them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::path::Path;

use kindling_api::LocalModel;
use kindling_envelope::ledger::Terms;
use kindling_envelope::{Bytes, Device};
use kindling_operator::build::{Allotment, build, pod, pod_digest, weights_volume};
use kindling_operator::dereference::References;
use kindling_operator::validate::validate;
use serde::Serialize;

#[test]
fn built_objects_are_as_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(!cases.is_empty());
    cases.iter().for_each(|case| check(case));
}

fn check(case: &Path) {
    let yaml = fs::read_to_string(case.join("localmodel.yaml")).unwrap();
    let object: LocalModel = serde_norway::from_str(&yaml).unwrap();
    let config = common::config();
    let model = validate(&object, &References::default(), &config).unwrap();
    let device = model.device.unwrap_or(Device::Cpu);
    let desired = build(&model);
    let terms = Terms {
        bytes: Bytes::gib(66),
        load_transient: Bytes::gib(1),
        context: 32_768,
        fingerprint: pod_digest(&model.inputs, device),
        overridden: false,
    };
    let allotment = Allotment { node: "spark-1".to_owned(), copy: 0, device, terms, kv_tokens: 65_536 };
    let pod = (object.spec.replicas > 0).then(|| pod(&model, &allotment, &config));
    check_file(&case.join("expected/service.yaml"), Some(&desired.service));
    check_file(&case.join("expected/service_account.yaml"), Some(&desired.service_account));
    check_file(&case.join("expected/pod.yaml"), pod.as_ref());
    let weights = pod.as_ref().map(|_| weights_volume(&model, ("spark-1", "spark-1.lan"), Bytes::gib(40), &config));
    check_file(&case.join("expected/volume.yaml"), weights.as_ref().map(|weights| &weights.volume));
    check_file(&case.join("expected/claim.yaml"), weights.as_ref().map(|weights| &weights.claim));
}

fn check_file<T: Serialize>(path: &Path, built: Option<&T>) {
    let built = built.map(|object| serde_norway::to_string(object).unwrap());
    if std::env::var_os("KINDLING_REWRITE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match &built {
            Some(yaml) => fs::write(path, yaml).unwrap(),
            None => drop(fs::remove_file(path)),
        }
    }
    let expected = fs::read_to_string(path).ok();
    assert_eq!(built, expected, "{}: if this is intended, `cargo xtask golden` rewrites it", path.display());
}
