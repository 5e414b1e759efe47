//! The chart as helm renders it: what each service account may do, and how pods are confined. Needs `helm` on the
//! PATH or in `KINDLING_HELM`; says aloud when it is not there.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Deserialize;
use serde_json::{Value, json};

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/kindling")
}

/// The rendered objects, or `None` without helm.
fn render(settings: &[&str]) -> Option<Vec<Value>> {
    let helm = std::env::var_os("KINDLING_HELM").unwrap_or_else(|| "helm".into());
    let mut command = Command::new(helm);
    command.args(["template", "kindling", "--namespace", "kindling-system"]).arg(chart());
    for setting in settings {
        command.args(["--set", setting]);
    }
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            assert!(std::env::var_os("KINDLING_REQUIRE_HELM").is_none(), "no helm: {error}");
            println!("SKIPPED: chart tests: no helm ({error}); set KINDLING_HELM to its path");
            return None;
        }
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let documents = serde_norway::Deserializer::from_str(&text);
    Some(documents.map(|document| Value::deserialize(document).unwrap()).filter(|value| !value.is_null()).collect())
}

fn of_kind<'a>(objects: &'a [Value], kinds: &'a [&str]) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| kinds.contains(&object["kind"].as_str().unwrap_or_default()))
}

/// Service account → binding's scope → rules.
fn rights(objects: &[Value]) -> Value {
    let mut rights = BTreeMap::<String, Vec<Value>>::new();
    for account in of_kind(objects, &["ServiceAccount"]) {
        rights.insert(account["metadata"]["name"].as_str().unwrap().to_owned(), Vec::new());
    }
    for binding in of_kind(objects, &["ClusterRoleBinding", "RoleBinding"]) {
        let (kind, name) = (&binding["roleRef"]["kind"], &binding["roleRef"]["name"]);
        let role = objects.iter().find(|role| &role["kind"] == kind && &role["metadata"]["name"] == name).unwrap();
        let scope = binding["metadata"].get("namespace").cloned().unwrap_or(json!("all namespaces"));
        for subject in binding["subjects"].as_array().unwrap() {
            let account = rights.get_mut(subject["name"].as_str().unwrap()).unwrap();
            account.push(json!({ "in": scope, "rules": role["rules"] }));
        }
    }
    json!(rights)
}

#[test]
fn service_accounts_may_do_what_is_committed_and_no_more() {
    let Some(objects) = render(&[]) else { return };
    let rights = serde_norway::to_string(&rights(&objects)).unwrap();
    let path = chart().join("rbac.expected.yaml");
    if std::env::var_os("KINDLING_REWRITE").is_some() {
        fs::write(&path, &rights).unwrap();
    }
    assert_eq!(rights, fs::read_to_string(&path).unwrap_or_default(), "{}", path.display());
}

#[test]
fn watching_one_namespace_needs_cluster_wide_only_what_belongs_to_no_namespace() {
    let Some(objects) = render(&["watchNamespace=models"]) else { return };
    let of_no_namespace = [
        "nodes",
        "nodeenvelopes",
        "nodeenvelopes/status",
        "persistentvolumes",
        "tokenreviews",
        "validatingwebhookconfigurations",
    ];
    for role in of_kind(&objects, &["ClusterRole"]) {
        for rule in role["rules"].as_array().unwrap() {
            let resources = rule["resources"].as_array().unwrap();
            let is_known = |resource: &Value| of_no_namespace.contains(&resource.as_str().unwrap());
            assert!(resources.iter().all(is_known), "{role}");
        }
    }
    let operator = rights(&objects)["kindling-operator"].to_string();
    assert!(operator.contains("\"in\":\"models\""), "{operator}");
}

#[test]
fn every_container_is_confined() {
    let Some(objects) = render(&[]) else { return };
    let workloads: Vec<_> = of_kind(&objects, &["Deployment", "DaemonSet"]).collect();
    assert_eq!(workloads.len(), 3);
    for workload in workloads {
        let pod = &workload["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], json!(true));
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], json!("RuntimeDefault"));
        for container in pod["containers"].as_array().unwrap() {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], json!(false));
            assert_eq!(context["readOnlyRootFilesystem"], json!(true));
            assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
        }
    }
}

fn agent(objects: &[Value]) -> &Value {
    let agent = of_kind(objects, &["DaemonSet"]).next().unwrap();
    assert_eq!(agent["metadata"]["name"], json!("kindling-agent"));
    &agent["spec"]["template"]["spec"]
}

#[test]
fn agent_is_on_the_network_of_its_node_and_writes_only_the_cache_and_what_goes_with_its_pod() {
    let settings =
        ["cache.hostPath=/srv/cache", "allowedHostPathPrefixes={/srv/models,/data}", "agent.procfsRoot=/srv/simulated"];
    let Some(objects) = render(&settings) else { return };
    let pod = agent(&objects);
    assert_eq!((&pod["hostNetwork"], &pod["dnsPolicy"]), (&json!(true), &json!("ClusterFirstWithHostNet")));
    let container = &pod["containers"][0];
    let is_writable = |mount: &&Value| mount.get("readOnly") != Some(&json!(true));
    let mounts = container["volumeMounts"].as_array().unwrap();
    let writable: Vec<_> = mounts.iter().filter(is_writable).map(|mount| &mount["mountPath"]).collect();
    // The cache by the node's own name for it: messages have it.
    assert_eq!((mounts.len(), writable), (5, vec![&json!("/srv/cache"), &json!("/tmp")]));
    let tmp = pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == "tmp").unwrap();
    assert_eq!(tmp["emptyDir"], json!({"sizeLimit": "1Gi"}));
    let args = container["args"].to_string();
    for arg in [
        "--listen=$(HOST_IP):9402",
        "--cache=/srv/cache",
        "--allowed-host-path-prefix=/srv/models",
        "--allowed-host-path-prefix=/data",
        "--procfs-root=/simulated/proc",
        "--operator-account=system:serviceaccount:kindling-system:kindling-operator",
    ] {
        assert!(args.contains(&format!("\"{arg}\"")), "{arg} is not in {args}");
    }
    let env: Vec<_> = container["env"].as_array().unwrap().iter().map(|env| &env["name"]).collect();
    assert_eq!(env, ["KINDLING_NODE", "HOST_IP", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"]);
}

#[test]
fn agent_reads_the_real_proc_unless_told_otherwise() {
    let Some(objects) = render(&[]) else { return };
    let args = agent(&objects)["containers"][0]["args"].to_string();
    assert!(!args.contains("procfs") && !args.contains("floor"), "{args}");
}

#[test]
fn agent_may_write_the_envelope_of_its_own_node_only() {
    let Some(objects) = render(&[]) else { return };
    let policy = of_kind(&objects, &["ValidatingAdmissionPolicy"]).next().unwrap();
    assert_eq!(policy["spec"]["failurePolicy"], json!("Fail"));
    let rule = &policy["spec"]["matchConstraints"]["resourceRules"][0];
    assert_eq!(rule["resources"], json!(["nodeenvelopes", "nodeenvelopes/status"]));
    assert_eq!(rule["operations"], json!(["CREATE", "UPDATE"]));
    let whom = "request.userInfo.username == 'system:serviceaccount:kindling-system:kindling-agent'";
    assert_eq!(policy["spec"]["matchConditions"][0]["expression"], json!(whom));
    assert_eq!(policy["spec"]["validations"].as_array().unwrap().len(), 2);
    let binding = of_kind(&objects, &["ValidatingAdmissionPolicyBinding"]).next().unwrap();
    assert_eq!(binding["spec"]["policyName"], policy["metadata"]["name"]);
    assert_eq!(binding["spec"]["validationActions"], json!(["Deny"]));
}

#[test]
fn webhook_is_asked_of_what_is_written_and_never_in_the_way() {
    let Some(objects) = render(&[]) else { return };
    let configuration = of_kind(&objects, &["ValidatingWebhookConfiguration"]).next().unwrap();
    assert_eq!(configuration["metadata"]["name"], json!("kindling"));
    let webhook = &configuration["webhooks"][0];
    assert_eq!(webhook["failurePolicy"], json!("Ignore"));
    assert_eq!((&webhook["timeoutSeconds"], &webhook["sideEffects"]), (&json!(3), &json!("None")));
    assert_eq!(webhook["clientConfig"].get("caBundle"), None, "the operator's field");
    assert_eq!(webhook["rules"].as_array().unwrap().len(), 1);
    let rule = &webhook["rules"][0];
    assert_eq!((&rule["resources"], &rule["operations"]), (&json!(["localmodels"]), &json!(["CREATE", "UPDATE"])));
    let conditions: Vec<_> =
        webhook["matchConditions"].as_array().unwrap().iter().map(|it| &it["expression"]).collect();
    let by_others = "request.userInfo.username != 'system:serviceaccount:kindling-system:kindling-operator'";
    assert_eq!(conditions, ["!has(object.metadata.deletionTimestamp)", by_others]);

    let called = &webhook["clientConfig"]["service"];
    assert_eq!(called["path"], json!(kindling_operator::admission::PATH));
    let service =
        of_kind(&objects, &["Service"]).find(|service| service["metadata"]["name"] == called["name"]).unwrap();
    assert_eq!(service["spec"]["ports"][0]["port"], called["port"]);
    let operator = of_kind(&objects, &["Deployment"]).find(|it| it["metadata"]["name"] == "kindling-operator").unwrap();
    let pod = &operator["spec"]["template"];
    for (name, value) in service["spec"]["selector"].as_object().unwrap() {
        assert_eq!(&pod["metadata"]["labels"][name], value);
    }
    let container = &pod["spec"]["containers"][0];
    let ports = container["ports"].as_array().unwrap();
    let port = ports.iter().find(|port| port["name"] == service["spec"]["ports"][0]["targetPort"]).unwrap();
    assert_eq!(port["containerPort"], json!(8443));
    let args = container["args"].to_string();
    for arg in ["--webhook-listen=0.0.0.0:8443", "--webhook-service=kindling-operator-webhook"] {
        assert!(args.contains(&format!("\"{arg}\"")), "{arg} is not in {args}");
    }
}

#[test]
fn webhook_hears_of_the_watched_namespace_only_and_can_be_left_out() {
    let Some(objects) = render(&["watchNamespace=models"]) else { return };
    let configuration = of_kind(&objects, &["ValidatingWebhookConfiguration"]).next().unwrap();
    let selector = &configuration["webhooks"][0]["namespaceSelector"]["matchLabels"];
    assert_eq!(*selector, json!({ "kubernetes.io/metadata.name": "models" }));

    let Some(objects) = render(&["webhook.enabled=false"]) else { return };
    assert_eq!(of_kind(&objects, &["ValidatingWebhookConfiguration"]).count(), 0);
    let text = serde_json::to_string(&objects).unwrap();
    assert!(!text.contains("webhook") && !text.contains("[\"secrets\"]"), "something of it is left: {text}");
}

#[test]
fn crd_is_in_the_chart_and_outlives_it() {
    let Some(objects) = render(&[]) else { return };
    let crd = of_kind(&objects, &["CustomResourceDefinition"]).next().unwrap();
    assert_eq!(crd["metadata"]["annotations"]["helm.sh/resource-policy"], json!("keep"));
    let rendered: CustomResourceDefinition = serde_json::from_value(crd.clone()).unwrap();
    assert!(rendered.spec == kindling_api::crd().spec, "run `cargo xtask codegen`");
}

#[test]
fn gateway_has_time_to_end_its_requests() {
    let Some(objects) = render(&[]) else { return };
    let gateway = of_kind(&objects, &["Deployment"]).find(|found| found["metadata"]["name"] == "kindling-gateway");
    assert_eq!(gateway.unwrap()["spec"]["template"]["spec"]["terminationGracePeriodSeconds"], json!(45));
}

#[test]
fn commands_of_the_notes_can_be_pasted() {
    let notes = fs::read_to_string(chart().join("templates/NOTES.txt")).unwrap();
    assert_eq!(notes.matches("<<EOF\n").count(), 1);
    assert_eq!(notes.lines().filter(|line| *line == "EOF").count(), 1, "a shell ends a here-document only at column 0");
}

#[test]
fn runtime_class_for_gpus_goes_to_agents_and_to_the_operator_and_is_none_by_default() {
    let operator_args = |objects: &[Value]| {
        let mut deployments = of_kind(objects, &["Deployment"]);
        let operator = deployments.find(|it| it["metadata"]["name"] == json!("kindling-operator")).unwrap();
        operator["spec"]["template"]["spec"]["containers"][0]["args"].to_string()
    };
    let Some(objects) = render(&[]) else { return };
    let env = agent(&objects)["containers"][0]["env"].to_string();
    assert!(env.contains(r#"{"name":"NVIDIA_VISIBLE_DEVICES","value":"all"}"#), "{env}");
    assert_eq!(agent(&objects).get("runtimeClassName"), None);
    assert!(!operator_args(&objects).contains("--gpu-runtime-class"));
    let objects = render(&["gpu.runtimeClassName=nvidia"]).unwrap();
    assert_eq!(agent(&objects)["runtimeClassName"], json!("nvidia"));
    assert!(operator_args(&objects).contains("--gpu-runtime-class=nvidia"));
}
