use k8s_openapi::api::core::v1::PodStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn failed() -> Pod {
    let mut pod =
        Pod { status: Some(PodStatus { phase: Some("Failed".to_owned()), ..PodStatus::default() }), ..Pod::default() };
    pod.metadata.creation_timestamp = Some(Time(at(1000)));
    pod
}

#[test]
fn model_whose_pod_failed_waits_ten_seconds_at_first() {
    assert!(has_finished(&failed()) && !has_finished(&Pod::default()));
    assert_eq!(backoff_until(&failed(), None, at(1009)), at(1010));
}

#[test]
fn it_waits_as_long_as_it_has_been_failing_up_to_five_minutes() {
    let until = |since| backoff_until(&failed(), Some(at(since)), at(1001));
    assert_eq!(until(960), at(1040));
    assert_eq!(until(0), at(1300));
}
