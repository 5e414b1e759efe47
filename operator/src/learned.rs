//! What was measured of a model is kept in its status, and corrects what is predicted of it when it is planned again with
//! the same weights and settings. The status is where it survives: this process remembers nothing.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kindling_api::{LearnedTerms, LocalModel, MeasuredTerms, PredictedTerms};
use kindling_envelope::ledger::{Need, PodPhase};
use kindling_envelope::{Bytes, Footprint, Held};
use kube::ResourceExt;

use crate::placement::{Wished, World, planned_pod};

/// A need, corrected by what the model's status says was measured of it.
///
/// What was learned holds for the same settings of the same weights, as the digest of all that the pod is made from says,
/// and only while the same is predicted of them: another version of the arithmetic, or other files at the same place,
/// start anew.
pub fn correct(object: &LocalModel, need: Need) -> Need {
    let status = object.status.as_ref();
    let learned = status.and_then(|status| status.envelope.as_ref()?.learned.as_ref());
    let Some(learned) = learned.filter(|learned| is_about(learned, &need)) else { return need };
    let MeasuredTerms { weights_bytes, kv_cache_bytes, activations_bytes, total_bytes } = learned.measured;
    let held = Held {
        weights: Bytes(weights_bytes),
        kv_cache: Bytes(kv_cache_bytes),
        activations: Bytes(activations_bytes),
        total: Bytes(total_bytes),
    };
    Need { footprint: need.footprint.corrected(&held), ..need }
}

/// What the agents say of models that serve as they are asked to now, by the models' uids. Of several copies what each
/// held at most.
pub fn lessons(world: &World, wished: &[Wished]) -> BTreeMap<String, LearnedTerms> {
    let mut lessons = BTreeMap::new();
    for wished in wished {
        let Some(need) = &wished.wish.need else { continue };
        let serves = |pod: &&Pod| {
            planned_pod(pod).is_some_and(|pod| {
                let is_as_asked = pod.terms.fingerprint == need.fingerprint;
                pod.key == wished.wish.key && pod.phase == PodPhase::Ready && is_as_asked
            })
        };
        let Some(measured) = world.pods.iter().find(serves).and_then(|pod| measured(world, pod)) else { continue };
        let new = LearnedTerms { settings: need.fingerprint.clone(), predicted: predicted(&raw(need)), measured };
        let before = lessons.remove(&wished.wish.model);
        lessons.insert(wished.wish.model.clone(), merge(before, new));
    }
    lessons
}

/// The larger of each term where both are about the same, else the new one.
pub fn merge(old: Option<LearnedTerms>, new: LearnedTerms) -> LearnedTerms {
    let is_same = |old: &LearnedTerms| (&old.settings, old.predicted) == (&new.settings, new.predicted);
    let Some(old) = old.filter(is_same) else { return new };
    let (a, b) = (old.measured, new.measured);
    let measured = MeasuredTerms {
        weights_bytes: a.weights_bytes.max(b.weights_bytes),
        kv_cache_bytes: a.kv_cache_bytes.max(b.kv_cache_bytes),
        activations_bytes: a.activations_bytes.max(b.activations_bytes),
        total_bytes: a.total_bytes.max(b.total_bytes),
    };
    LearnedTerms { measured, ..new }
}

/// As the API has it.
pub fn predicted(footprint: &Footprint) -> PredictedTerms {
    PredictedTerms {
        weights_bytes: footprint.weights.0,
        kv_cache_bytes: footprint.kv_cache.0,
        activations_bytes: footprint.activations.0,
        runtime_bytes: footprint.runtime.0,
        load_transient_bytes: footprint.load_transient.0,
        total_bytes: footprint.resident().0,
    }
}

fn is_about(learned: &LearnedTerms, need: &Need) -> bool {
    learned.settings == need.fingerprint && learned.predicted == predicted(&raw(need))
}

/// As the arithmetic alone says.
fn raw(need: &Need) -> Footprint {
    need.model.footprint(&need.serving)
}

fn measured(world: &World, pod: &Pod) -> Option<MeasuredTerms> {
    let uid = pod.uid()?;
    let holders = world.envelopes.iter().filter_map(|envelope| envelope.status.as_ref()).flat_map(|s| &s.holders);
    let measured = holders.filter(|holder| holder.pod_uid == uid).find_map(|holder| holder.measured);
    measured.filter(|measured| measured.total_bytes > 0)
}

#[cfg(test)]
mod tests;
