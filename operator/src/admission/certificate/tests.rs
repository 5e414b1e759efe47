//! With a clock of the tests'; what a client thinks of it is in `tests/admission.rs`.

use super::*;

const HOST: &str = "kindling-operator-webhook.kindling.svc";

fn day(number: u64) -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap() + Duration::from_secs(number * 24 * 60 * 60)
}

fn made() -> Material {
    renewed(None, HOST, day(0)).unwrap().unwrap()
}

fn number_of_authorities(material: &Material) -> usize {
    material.authorities.matches(END).count()
}

#[test]
fn first_ones_are_good_for_their_time_and_are_kept() {
    let made = made();
    assert_eq!((made.authority_until, made.until), (day(365), day(90)));
    assert_eq!(number_of_authorities(&made), 1);
    made.certified().unwrap();
    assert_eq!(renewed(Some(&made), HOST, day(0)).unwrap(), None);
}

#[test]
fn serving_certificate_is_renewed_by_the_same_authority_when_a_third_is_left() {
    let made = made();
    assert_eq!(renewed(Some(&made), HOST, day(60)).unwrap(), None);
    let new = renewed(Some(&made), HOST, day(61)).unwrap().unwrap();
    assert_eq!((new.until, new.authority_until), (day(151), day(365)));
    assert_eq!((&new.authorities, &new.authority_key), (&made.authorities, &made.authority_key));
    assert!(new.certificate != made.certificate && new.key != made.key);
    new.certified().unwrap();
}

#[test]
fn authority_is_renewed_when_a_third_is_left_and_the_one_before_stays_trusted() {
    let mut kept = made();
    let mut renewals = 0;
    for day in (1..=800).map(day) {
        assert!(kept.until > day && kept.authority_until > kept.until, "{kept:?} at {day}");
        let Some(new) = renewed(Some(&kept), HOST, day).unwrap() else { continue };
        if new.authority_key != kept.authority_key {
            renewals += 1;
            let before = kept.authorities.split(END).next().unwrap();
            assert!(new.authorities.contains(before), "what other replicas serve is trusted");
            assert_eq!(number_of_authorities(&new), 2, "and none before that");
        }
        kept = new;
    }
    assert_eq!(renewals, 3);
}

#[test]
fn another_host_gets_another_certificate() {
    let made = made();
    let new = renewed(Some(&made), "other.kindling.svc", day(1)).unwrap().unwrap();
    assert_eq!((new.host.as_str(), &new.authorities), ("other.kindling.svc", &made.authorities));
}

#[test]
fn damaged_ones_are_made_anew() {
    let (made, other) = (made(), self::made());
    let damages: [&dyn Fn(&mut Material); 4] = [
        &|it| it.certificate = String::new(),
        &|it| it.key = "none".into(),
        &|it| it.key.clone_from(&other.key),
        &|it| (it.authority_key, it.until) = ("none".into(), day(1)),
    ];
    for damage in damages {
        let mut damaged = made.clone();
        damage(&mut damaged);
        let new = renewed(Some(&damaged), HOST, day(1)).unwrap().unwrap();
        assert!(new.authorities != made.authorities);
        new.certified().unwrap();
    }
}
