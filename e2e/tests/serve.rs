//! From `kubectl apply` to tokens, and back to nothing.

use kindling_e2e::{Patience, story, until};

const QUESTION: &str = "How do plants make food?";

#[test]
fn serve_answers_chat_completion_and_delete_leaves_nothing() {
    story("serve", |stage| {
        stage.apply_sample();
        let wait = ["wait", "-n", &stage.namespace, "--for=condition=Ready", "lm/smollm2", "--timeout=180s"];
        println!("{}", stage.kubectl().read(&wait));
        println!("{}", stage.kubectl().read(&["get", "lm", "-n", &stage.namespace, "-o", "wide"]));

        let gateway = stage.gateway();
        let qualified = format!("{}/smollm2", stage.namespace);
        until("the gateway lists the model", Patience::CONTROL_PLANE, || {
            gateway.models().iter().any(|id| id == "smollm2" || *id == qualified).then_some(())
        });
        let answer = gateway.ask(&qualified, QUESTION);
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert!(answer.text().contains("photosynthesis"), "{}", answer.text());
        assert!(answer.body["usage"]["completion_tokens"].as_u64() > Some(0), "{}", answer.body);
        let streamed = gateway.ask_streaming(&qualified, QUESTION);
        assert_eq!((streamed.status, streamed.text()), (200, answer.text()), "streamed and whole are the same text");
        let (first, second) = (&answer.body["usage"], &streamed.body["usage"]);
        for count in ["prompt_tokens", "completion_tokens", "total_tokens"] {
            assert_eq!(first[count], second[count], "{count}");
        }
        let cached = |usage: &serde_json::Value| usage["prompt_tokens_details"]["cached_tokens"].as_u64();
        assert!(cached(first) == Some(0) && cached(second) > Some(0), "the same prompt again: {first} {second}");

        let model = stage.get("localmodel", "smollm2").expect("the model");
        assert_eq!(model["status"]["observedGeneration"], model["metadata"]["generation"]);
        let model_uid = model["metadata"]["uid"].as_str().expect("uid").to_owned();
        let pod = stage.pod().expect("the pod");
        let pod_uid = pod["metadata"]["uid"].as_str().expect("uid").to_owned();
        assert!(owned(stage, &model_uid).len() >= 2, "a pod and a service are owned by the model");
        let mounts = || stage.cluster.in_node(&["cat", "/proc/mounts"]);
        let has_way_in = match mounts() {
            Some(mounts) => {
                assert!(mounts.contains(&pod_uid), "a running pod has mounts on its node");
                true
            }
            None => {
                println!("SKIPPED: mounts of the pod: there is no way into the node");
                false
            }
        };

        stage.kubectl().read(&["delete", "lm", "smollm2", "-n", &stage.namespace, "--wait=true"]);
        until("nothing is owned by the model's uid", Patience::PODS, || {
            owned(stage, &model_uid).is_empty().then_some(())
        });
        if has_way_in {
            until("no mount of the pod is left", Patience::PODS, || (!mounts()?.contains(&pod_uid)).then_some(()));
        }
        until("the gateway no longer knows the model", Patience::CONTROL_PLANE, || {
            let answer = gateway.ask(&qualified, QUESTION);
            (answer.status == 404 && answer.body["error"]["code"] == "model_not_found").then_some(())
        });
    });
}

/// Kind and name of everything in the namespace that has this owner.
fn owned(stage: &kindling_e2e::Stage, owner_uid: &str) -> Vec<String> {
    let kinds = ["pods", "services", "serviceaccounts", "configmaps", "secrets", "endpointslices", "leases"];
    let is_owned = |object: &serde_json::Value| {
        let owners = object["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        owners.iter().any(|owner| owner["uid"] == owner_uid)
    };
    let names = |kind: &str| {
        let owned = stage.list(kind).into_iter().filter(is_owned);
        owned.map(|object| format!("{kind}/{}", object["metadata"]["name"].as_str().unwrap_or_default())).collect()
    };
    kinds.iter().flat_map(|kind| -> Vec<String> { names(kind) }).collect()
}

#[test]
fn pods_run_without_root_capabilities_or_a_writable_root() {
    story("confined", |stage| {
        stage.apply_sample();
        stage.wait_ready("smollm2");
        let pod = stage.pod().expect("the pod");
        let system = stage.kubectl().get(&["pods", "-n", "kindling-system"]).expect("the release's pods");
        let pods = system["items"].as_array().expect("items").iter().chain([&pod]);
        let mut num_checked = 0;
        for pod in pods {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let processes = kindling_e2e::processes_of_pod(pod["metadata"]["uid"].as_str().expect("uid"));
            for process in processes.iter().filter(|process| process.command.starts_with("/usr/bin/kindling ")) {
                println!("{name}: {} uid {}", process.command, process.status("Uid"));
                assert!(process.status("Uid").starts_with("65532"), "{name} runs as {}", process.status("Uid"));
                for set in ["CapEff", "CapPrm", "CapBnd"] {
                    assert_eq!(process.status(set), "0000000000000000", "{name} {set}");
                }
                assert_eq!(process.status("NoNewPrivs"), "1", "{name}");
                assert_eq!(process.status("Seccomp"), "2", "{name} runs under a seccomp filter");
                assert!(process.root_mount_options().starts_with("ro"), "{name} / is {}", process.root_mount_options());
                num_checked += 1;
            }
        }
        assert!(num_checked >= 3, "operator, gateway and runtime should run here, found {num_checked}");
        assert_eq!(pod["spec"]["automountServiceAccountToken"], false);
    });
}
