//! What cannot work says so, where the user looks.

use kindling_e2e::{Patience, story, until};

fn local_model(spec: &str) -> String {
    format!("apiVersion: kindling.dev/v1alpha1\nkind: LocalModel\nmetadata: {{name: wrong}}\nspec: {spec}\n")
}

#[test]
fn wrong_source_becomes_a_condition_that_says_so() {
    story("wrong-source", |stage| {
        let yaml = local_model("{source: {hf: {repo: nobody/no-such-model}}}");
        stage.kubectl().apply(&stage.namespace, &yaml).expect("the spec is well formed");
        let (_, reason, message) = until("Ready is False and says why", Patience::PODS, || {
            let refused = ["SourceUnreachable", "SourceNotFound"];
            stage.condition("wrong", "Ready").filter(|(_, reason, _)| refused.contains(&reason.as_str()))
        });
        println!("{reason}: {message}");
        assert!(message.contains("nobody/no-such-model"), "{message}");
        assert!(message.contains("cannot reach") || message.contains("no such repository"), "{message}");
        assert!(stage.list("pods").is_empty(), "nothing is started for it");
        println!("{}", stage.kubectl().read(&["get", "lm", "-n", &stage.namespace]));

        let answer = stage.gateway().ask("wrong", "Hello");
        assert_eq!(answer.status, 503, "{}", answer.body);
        let error = &answer.body["error"];
        assert!(error["message"].as_str().is_some_and(|text| text.contains("nobody/no-such-model")), "{error}");
    });
}

#[test]
fn a_spec_that_breaks_the_rules_is_refused_by_the_api_server() {
    story("rules", |stage| {
        for (spec, expected) in [
            ("{source: {}}", "exactly one of hf and hostPath"),
            ("{source: {hf: {repo: org/name}, hostPath: {path: /models/a}}}", "exactly one of hf and hostPath"),
            ("{source: {hf: {repo: no-slash}}}", "spec.source.hf.repo"),
            ("{source: {hf: {repo: org/name}}, replicas: 33}", "spec.replicas"),
            (
                "{source: {hf: {repo: org/name}}, serving: {contextLength: 512, kvCache: {tokens: 64}}}",
                "one full sequence",
            ),
            ("{source: {hf: {repo: org/name}}, serving: {contextlength: 512}}", "contextlength"),
        ] {
            let error = stage.kubectl().apply(&stage.namespace, &local_model(spec)).expect_err(spec);
            assert!(error.contains(expected), "{spec}: {error}");
        }
        stage.apply_sample();
        let patch = r#"{"spec":{"source":{"hf":{"repo":"other/name"}}}}"#;
        let args = ["patch", "lm", "smollm2", "-n", &stage.namespace, "--type=merge", "-p", patch];
        let error = stage.kubectl().try_read(&args).expect_err("the repository is immutable");
        assert!(error.contains("can't be changed"), "{error}");
    });
}

/// Specs that the schema allows, what is said of them, and the condition's reason.
const ONLY_FOR_THE_OPERATOR: [(&str, &str, &str); 2] = [
    (
        "{source: {hf: {repo: org/name}}, placement: {device: Cuda}}",
        "no node has a GPU that can be used",
        "DeviceNotSupported",
    ),
    (
        "{source: {hostPath: {path: /etc/passwd}}}",
        "not below a folder that the administrator allows",
        "HostPathNotAllowed",
    ),
];

#[test]
fn a_spec_that_only_the_operator_can_refuse_is_refused_at_apply() {
    story("refused", |stage| {
        stage.wait_webhook();
        for (spec, text, _) in ONLY_FOR_THE_OPERATOR {
            let error = stage.kubectl().apply(&stage.namespace, &local_model(spec)).expect_err("it is wrong");
            println!("{error}");
            assert!(error.contains("denied the request") && error.contains(text), "{error}");
        }
        assert!(stage.list("lm").is_empty());
    });
}

/// The webhook is a courtesy: reconcile refuses by itself.
#[test]
fn a_spec_that_only_the_operator_can_refuse_is_a_condition_without_the_webhook() {
    story("refused-later", |stage| {
        stage.cluster.helm_install(&["webhook.enabled=false"]);
        for (spec, text, expected) in ONLY_FOR_THE_OPERATOR {
            stage.kubectl().apply(&stage.namespace, &local_model(spec)).expect("the spec is well formed");
            let (status, _, message) = until(expected, Patience::CONTROL_PLANE, || {
                stage.condition("wrong", "Ready").filter(|(_, reason, _)| reason == expected)
            });
            println!("{expected}: {message}");
            assert!(status == "False" && message.contains(text), "{message}");
            assert!(stage.list("pods").is_empty(), "nothing is started for a refused spec");
            stage.kubectl().read(&["delete", "lm", "wrong", "-n", &stage.namespace]);
        }
        stage.cluster.helm_install(&[]);
    });
}
