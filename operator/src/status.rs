//! The status of a LocalModel: [`compute`] is pure, [`patch`] writes it, and only where something changed.

mod conditions;

use k8s_openapi::jiff::Timestamp;
use kindling_api::{
    Acceleration, ConditionType, CopyStatus, DownloadStatus, EnvelopeStatus, LearnedTerms, LocalModel,
    LocalModelStatus, MANAGER, MeasuredTerms, MemoryStatus, ModelFacts, Source,
};
use kindling_envelope::ledger::Verdict;
use kindling_proto::v1::GetModelInfoResponse;
use kindling_proto::v1::ensure_model_response::State as EnsureState;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};

use crate::build;
use crate::controller::Error;
use crate::facts::Facts;
use crate::learned::{merge, predicted};
use crate::observe::{Observed, ObservedCopy, Situation};
use crate::placement::{misfits, quantity};

/// What the status should be after a reconcile that ended in `outcome`.
pub fn compute(object: &LocalModel, outcome: &Result<Observed, Error>, now: Timestamp) -> LocalModelStatus {
    let old = object.status.clone().unwrap_or_default();
    let verdicts = match outcome {
        Ok(observed) => conditions::of_observed(object, observed),
        Err(Error::Validate { source, is_serving }) => conditions::of_refusal(source, *is_serving),
        Err(error) => conditions::of_error(error, object.is_ready()),
    };
    let conditions = conditions::merge(&old.conditions, &verdicts, object.metadata.generation, now);
    match outcome {
        Ok(observed) => LocalModelStatus { conditions, ..facts(object, observed, old) },
        Err(Error::Validate { .. }) => {
            LocalModelStatus { conditions, observed_generation: object.metadata.generation, ..old }
        }
        // nothing new is known about the spec
        Err(_) => LocalModelStatus { conditions, ..old },
    }
}

/// Whether the status holds the facts of the runtime that runs now.
pub fn has_facts(object: &LocalModel) -> bool {
    object
        .status
        .as_ref()
        .is_some_and(|status| status.observed_generation == object.metadata.generation && has_facts_in(status))
}

/// Whether a status holds what only a loaded runtime can say.
pub fn has_facts_in(status: &LocalModelStatus) -> bool {
    let holds = |condition| status.condition(condition).is_some_and(|found| found.status == "True");
    let is_loaded = holds(ConditionType::Loaded) || holds(ConditionType::Ready);
    let measured = status.envelope.as_ref().and_then(|envelope| envelope.measured);
    is_loaded && status.model.is_some() && measured.is_some()
}

/// Writes the status where it differs from what the cluster holds.
///
/// # Errors
/// If the API server refuses or does not answer.
pub async fn patch(client: &Client, object: &LocalModel, status: &LocalModelStatus) -> Result<(), kube::Error> {
    if object.status.as_ref() == Some(status) {
        return Ok(());
    }
    let api = Api::<LocalModel>::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let body = serde_json::json!({
        "apiVersion": LocalModel::api_version(&()),
        "kind": LocalModel::kind(&()),
        "metadata": { "name": object.name_any() },
        "status": status,
    });
    let params = PatchParams::apply(MANAGER).force();
    match api.patch_status(&object.name_any(), &params, &Patch::Apply(&body)).await {
        Ok(_) => Ok(()),
        // deleted since: nobody reads its status any more
        Err(kube::Error::Api(answer)) if answer.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

fn facts(object: &LocalModel, observed: &Observed, old: LocalModelStatus) -> LocalModelStatus {
    let chief = observed.chief();
    let info = chief.info.as_ref();
    let is_started = matches!(chief.situation, Situation::Started { .. });
    let is_same_spec = old.observed_generation == object.metadata.generation;
    let known = observed.known.facts.as_ref().map(known_facts);
    let learned = learned(chief, old.envelope.as_ref());
    let envelope = envelope(chief, old.envelope.filter(|_| is_same_spec), is_started);
    let envelope = EnvelopeStatus { learned, ..envelope };
    let model = info.and_then(model_facts).or(known).or(old.model.filter(|_| is_same_spec));
    let memory = memory(model.as_ref(), &envelope);
    LocalModelStatus {
        observed_generation: object.metadata.generation,
        conditions: Vec::new(),
        source: Some(source_name(&object.spec.source)),
        model,
        acceleration: info
            .and_then(acceleration)
            .or(old.acceleration.filter(|_| is_same_spec && is_started))
            .map(|found| on_node(found, chief)),
        memory: Some(memory).filter(|memory| *memory != MemoryStatus::default()),
        envelope: Some(envelope).filter(|envelope| *envelope != EnvelopeStatus::default()),
        download: download(observed),
        context_length: info
            .and_then(context_length)
            .or(old.context_length.filter(|_| is_same_spec && is_started))
            .or(chief.outcome.as_ref().and_then(|outcome| u32::try_from(outcome.context?).ok())),
        node: nodes(observed),
        pod_name: chief.pod_name.clone(),
        runtime_image: chief.runtime_image.clone(),
        endpoint: observed.endpoint.clone(),
        replicas: count(observed, |copy| copy.pod_name.is_some()),
        ready_replicas: count(observed, ObservedCopy::is_ready),
        copies: copies(object, observed),
        label_selector: Some(build::label_selector(&object.name_any())),
    }
}

fn count(observed: &Observed, is_so: impl Fn(&ObservedCopy) -> bool) -> u32 {
    u32::try_from(observed.copies().filter(|copy| is_so(copy)).count()).unwrap_or(u32::MAX)
}

/// Where its copies are, for people.
fn nodes(observed: &Observed) -> Option<String> {
    let nodes: Vec<&str> = observed.copies().filter_map(|copy| copy.node.as_deref()).collect();
    (!nodes.is_empty()).then(|| nodes.join(", "))
}

/// Nothing of an only copy: all else is about that one.
fn copies(object: &LocalModel, observed: &Observed) -> Vec<CopyStatus> {
    if observed.others.is_empty() {
        return Vec::new();
    }
    let of_copy = |copy: &ObservedCopy| CopyStatus {
        pod_name: copy.pod_name.clone(),
        node: copy.node.clone(),
        address: copy.address.clone(),
        ready: copy.is_ready(),
        reason: conditions::ready_reason(object, observed, copy).to_owned(),
    };
    observed.copies().map(of_copy).collect()
}

/// Predicted and measured, term by term, and what the node has.
fn envelope(observed: &ObservedCopy, old: Option<EnvelopeStatus>, is_started: bool) -> EnvelopeStatus {
    let old = old.unwrap_or_default();
    let measured = observed.info.as_ref().and_then(measured).or(old.measured.filter(|_| is_started));
    let Some(outcome) = &observed.outcome else { return EnvelopeStatus { measured, ..old } };
    let room = outcome.room.as_ref();
    let suggestions: Vec<String> = misfits(&outcome.verdict).iter().map(ToString::to_string).collect();
    EnvelopeStatus {
        predicted: outcome.footprint.as_ref().map(predicted).or(old.predicted),
        measured,
        learned: None,
        node: room.map(|room| room.node.clone()),
        node_total_bytes: room.map(|room| room.total),
        node_system_bytes: room.map(|room| room.system),
        node_held_bytes: room.map(|room| room.held),
        suggestion: (!suggestions.is_empty()).then(|| suggestions.join("; ")),
        is_overridden: matches!(outcome.verdict, Verdict::Overridden { .. }),
    }
}

/// It outlives changes of the spec: the next one may be the way back.
fn learned(observed: &ObservedCopy, old: Option<&EnvelopeStatus>) -> Option<LearnedTerms> {
    let old = old.and_then(|old| old.learned.clone());
    match observed.outcome.as_ref().and_then(|outcome| outcome.lesson.clone()) {
        Some(lesson) => Some(merge(old, lesson)),
        None => old,
    }
}

fn measured(info: &GetModelInfoResponse) -> Option<MeasuredTerms> {
    let terms = info.memory.as_ref()?;
    Some(MeasuredTerms {
        weights_bytes: terms.weights_bytes,
        kv_cache_bytes: terms.kv_cache_bytes,
        activations_bytes: terms.activations_bytes,
        total_bytes: terms.process_bytes,
    })
}

/// For people.
fn memory(model: Option<&ModelFacts>, envelope: &EnvelopeStatus) -> MemoryStatus {
    MemoryStatus {
        total: envelope.predicted.map(|terms| quantity(terms.total_bytes)),
        measured: envelope.measured.map(|terms| quantity(terms.total_bytes)),
        weights: model.map(|model| quantity(model.weight_bytes)),
    }
}

fn known_facts(facts: &Facts) -> ModelFacts {
    ModelFacts {
        architecture: facts.architecture.clone(),
        parameters: facts.parameters,
        quantization: facts.quantization.clone(),
        weight_bytes: facts.stored_weight_bytes,
    }
}

/// While weights are on their way to some node.
fn download(observed: &Observed) -> Option<DownloadStatus> {
    let place = observed.known.places.values().find(|place| place.state() == EnsureState::Downloading)?;
    let total = (place.total_bytes > 0).then_some(place.total_bytes);
    let rate = (place.bytes_per_second > 0).then_some(place.bytes_per_second);
    let left = total.map(|total| total.saturating_sub(place.bytes));
    Some(DownloadStatus {
        bytes: place.bytes,
        total_bytes: total,
        bytes_per_second: rate,
        remaining_seconds: left.zip(rate).map(|(left, rate)| left / rate),
    })
}

fn source_name(source: &Source) -> String {
    let hub = source.hf.as_ref().map(|hf| hf.repo.clone());
    hub.or_else(|| source.host_path.as_ref().map(|host_path| host_path.path.clone())).unwrap_or_default()
}

fn model_facts(info: &GetModelInfoResponse) -> Option<ModelFacts> {
    (!info.architecture.is_empty()).then(|| ModelFacts {
        architecture: info.architecture.clone(),
        parameters: info.parameters,
        quantization: info.quantization.clone(),
        weight_bytes: info.weight_bytes,
    })
}

fn acceleration(info: &GetModelInfoResponse) -> Option<Acceleration> {
    let device = match info.device.as_str() {
        "" => return None,
        "cpu" => "Cpu",
        "cuda" => "Cuda",
        other => other,
    };
    Some(Acceleration { device: device.to_owned(), kernels: info.kernels.clone(), ..Acceleration::default() })
}

/// With what is known of the node: the runtime says what computes, the node's agent what that is.
fn on_node(found: Acceleration, copy: &ObservedCopy) -> Acceleration {
    let placed = copy.outcome.as_ref().and_then(|outcome| outcome.chosen.as_ref()).zip(copy.node.as_ref());
    let Some((chosen, node)) = placed else { return found };
    let is_gpu = found.device == "Cuda";
    let gpu = chosen.gpu(node).filter(|_| is_gpu);
    Acceleration {
        name: gpu.and_then(|gpu| gpu.name.clone()),
        compute_capability: gpu.and_then(|gpu| gpu.compute_capability.clone()),
        reason: chosen.reason(node).filter(|_| !is_gpu).cloned(),
        ..found
    }
}

fn context_length(info: &GetModelInfoResponse) -> Option<u32> {
    (info.max_model_len > 0).then_some(info.max_model_len)
}

#[cfg(test)]
mod tests;
