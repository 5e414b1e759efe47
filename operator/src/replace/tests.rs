use k8s_openapi::api::core::v1::PodStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn pod(digest: &str) -> Pod {
    let mut pod = Pod::default();
    pod.annotations_mut().insert(DIGEST_ANNOTATION.to_owned(), digest.to_owned());
    pod.metadata.creation_timestamp = Some(Time(at(1000)));
    pod
}

fn failed() -> Pod {
    Pod { status: Some(PodStatus { phase: Some("Failed".to_owned()), ..PodStatus::default() }), ..pod("a") }
}

fn ours(pod: Pod) -> Existing<Pod> {
    Existing::Ours(Box::new(pod))
}

#[test]
fn missing_pod_is_created() {
    assert_eq!(decide(&Existing::None, Some(&pod("a")), None, at(0)), PodStep::Create);
    assert_eq!(decide(&Existing::None, None, None, at(0)), PodStep::Nothing);
}

#[test]
fn same_pod_is_kept_and_another_digest_deletes_it() {
    assert_eq!(decide(&ours(pod("a")), Some(&pod("a")), None, at(0)), PodStep::Keep);
    assert_eq!(decide(&ours(pod("a")), Some(&pod("b")), None, at(0)), PodStep::Delete);
}

#[test]
fn scaling_to_zero_deletes_the_pod() {
    assert_eq!(decide(&ours(pod("a")), None, None, at(0)), PodStep::Delete);
}

#[test]
fn new_pod_waits_until_the_old_one_is_gone() {
    let mut leaving = pod("a");
    leaving.metadata.deletion_timestamp = Some(Time(at(0)));
    assert_eq!(decide(&ours(leaving), Some(&pod("b")), None, at(0)), PodStep::AwaitGone);
    assert_eq!(decide(&Existing::Leftover, Some(&pod("b")), None, at(0)), PodStep::AwaitGone);
}

#[test]
fn failed_pod_stays_ten_seconds_at_first() {
    assert_eq!(decide(&ours(failed()), Some(&pod("a")), None, at(1009)), PodStep::BackOff { until: at(1010) });
    assert_eq!(decide(&ours(failed()), Some(&pod("a")), None, at(1010)), PodStep::Delete);
}

#[test]
fn failed_pod_stays_as_long_as_the_model_has_been_failing_up_to_five_minutes() {
    let until = |since| match decide(&ours(failed()), Some(&pod("a")), Some(at(since)), at(1001)) {
        PodStep::BackOff { until } => until,
        other => panic!("{other:?}"),
    };
    assert_eq!(until(960), at(1040));
    assert_eq!(until(0), at(1300));
}
