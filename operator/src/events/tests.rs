use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::*;

fn status(conditions: &[(ConditionType, &str, &str, &str)]) -> LocalModelStatus {
    let conditions = conditions.iter().map(|(condition, status, reason, message)| Condition {
        type_: condition.as_str().to_owned(),
        status: (*status).to_owned(),
        reason: (*reason).to_owned(),
        message: (*message).to_owned(),
        observed_generation: None,
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    });
    LocalModelStatus { conditions: conditions.collect(), ..LocalModelStatus::default() }
}

fn reasons(old: &LocalModelStatus, new: &LocalModelStatus) -> Vec<String> {
    transitions(old, new).into_iter().map(|event| event.reason).collect()
}

#[test]
fn change_of_words_is_no_event() {
    let old = status(&[(ConditionType::Ready, "False", "Loading", "1 of 9 MiB")]);
    let new = status(&[(ConditionType::Ready, "False", "Loading", "2 of 9 MiB")]);
    assert!(reasons(&old, &new).is_empty());
}

#[test]
fn failing_condition_and_its_summary_are_one_event() {
    let new = status(&[
        (ConditionType::Downloaded, "False", "DownloadFailed", "no such repository"),
        (ConditionType::Ready, "False", "DownloadFailed", "no such repository"),
    ]);
    assert_eq!(reasons(&LocalModelStatus::default(), &new), ["DownloadFailed"]);
    assert_eq!(transitions(&LocalModelStatus::default(), &new)[0].type_, EventType::Warning);
}

#[test]
fn each_condition_that_comes_to_hold_is_a_normal_event() {
    let old = status(&[(ConditionType::Loaded, "False", "Loading", ""), (ConditionType::Ready, "False", "Loading", "")]);
    let new = status(&[(ConditionType::Loaded, "True", "Loaded", ""), (ConditionType::Ready, "True", "Serving", "")]);
    assert_eq!(reasons(&old, &new), ["Loaded", "Serving"]);
    assert!(transitions(&old, &new).iter().all(|event| event.type_ == EventType::Normal));
}
