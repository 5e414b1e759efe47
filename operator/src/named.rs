//! Tells the nodes' agents what LocalModels name, so that their caches lose what none does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kindling_api::LocalModel;
use kindling_proto::v1::model_source::Source;
use kindling_proto::v1::{HubModel, KeepOnlyRequest, ModelSource, NamedModel};
use kube::ResourceExt;

use crate::agents::Agents;

/// Each agent is told so often: what nobody names goes after days, so there is no hurry.
const EVERY: Duration = Duration::from_secs(300);

/// Who tells them.
pub struct Named {
    agents: Arc<dyn Agents>,
    /// By address, when it was told last.
    told: Mutex<BTreeMap<String, Instant>>,
}

impl Named {
    /// Through these agents.
    pub fn new(agents: Arc<dyn Agents>) -> Self {
        Self { agents, told: Mutex::default() }
    }

    /// Tells those of the agents, by node and address, that were not told lately. `models` must be all of the cluster.
    pub fn tell(&self, models: &[LocalModel], agents: Vec<(String, String)>) {
        let due = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.retain(|_, at| at.elapsed() < EVERY);
            let due: Vec<_> = agents.into_iter().filter(|(_, address)| !told.contains_key(address)).collect();
            told.extend(due.iter().map(|(_, address)| (address.clone(), Instant::now())));
            due
        };
        if due.is_empty() {
            return;
        }
        let list = list(models);
        for (node, address) in due {
            let (agents, list) = (Arc::clone(&self.agents), list.clone());
            tokio::spawn(async move {
                match agents.keep_only(address, list).await {
                    Ok(answer) if answer.freed_bytes > 0 => {
                        tracing::info!(node, freed_bytes = answer.freed_bytes, "a cache lost what no LocalModel names");
                    }
                    Ok(_) => {}
                    Err(status) => tracing::warn!(node, %status, "an agent was not told what LocalModels name"),
                }
            });
        }
    }
}

/// What all of them name, also those that are suspended, refused or about to go.
fn list(models: &[LocalModel]) -> KeepOnlyRequest {
    let named = models.iter().filter_map(|model| {
        let source = match (&model.spec.source.hf, &model.spec.source.host_path) {
            (Some(hf), _) => {
                let (repo, revision, files) = (hf.repo.clone(), hf.revision.clone(), hf.files.clone());
                Source::Hub(HubModel { repo, revision, files })
            }
            (None, Some(path)) => Source::HostPath(path.path.clone()),
            // the schema excludes it, and it names nothing
            (None, None) => return None,
        };
        let name = format!("{}/{}", model.namespace().unwrap_or_default(), model.name_any());
        Some(NamedModel { model: name, source: Some(ModelSource { source: Some(source) }) })
    });
    KeepOnlyRequest { models: named.collect(), is_complete: true }
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;
    use kindling_proto::v1::{
        DescribeModelRequest, DescribeModelResponse, EnsureModelRequest, EnsureModelResponse, KeepOnlyResponse,
    };
    use serde_json::json;
    use tonic::Status;

    use super::*;

    /// Notes what it is told.
    #[derive(Default)]
    struct Noting(Mutex<Vec<(String, KeepOnlyRequest)>>);

    impl Agents for Noting {
        fn describe(&self, _: String, _: DescribeModelRequest) -> BoxFuture<'_, Result<DescribeModelResponse, Status>> {
            Box::pin(async { Err(Status::unimplemented("not asked here")) })
        }

        fn ensure(&self, _: String, _: EnsureModelRequest) -> BoxFuture<'_, Result<EnsureModelResponse, Status>> {
            Box::pin(async { Err(Status::unimplemented("not asked here")) })
        }

        fn keep_only(&self, address: String, list: KeepOnlyRequest) -> BoxFuture<'_, Result<KeepOnlyResponse, Status>> {
            self.0.lock().unwrap().push((address, list));
            Box::pin(async { Ok(KeepOnlyResponse::default()) })
        }
    }

    fn model(name: &str, source: serde_json::Value) -> LocalModel {
        let value = json!({ "apiVersion": "kindling.dev/v1alpha1", "kind": "LocalModel",
            "metadata": { "name": name, "namespace": "team" }, "spec": { "source": source } });
        serde_json::from_value(value).unwrap()
    }

    #[tokio::test]
    async fn each_agent_is_told_all_of_it_and_not_again_soon() {
        let agents = Arc::new(Noting::default());
        let named = Named::new(agents.clone());
        let models = [
            model("a", json!({ "hf": { "repo": "org/a", "files": ["a.gguf"] } })),
            model("b", json!({ "hostPath": { "path": "/models/b" } })),
        ];
        let node = |name: &str| (name.to_owned(), format!("{name}:9402"));
        named.tell(&models, vec![node("one")]);
        named.tell(&models, vec![node("one"), node("two")]);
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        let told = agents.0.lock().unwrap();
        let addresses: Vec<_> = told.iter().map(|(address, _)| address.as_str()).collect();
        assert_eq!(addresses, ["one:9402", "two:9402"]);
        let (_, list) = &told[1];
        assert!(list.is_complete);
        let hub = HubModel { repo: "org/a".to_owned(), revision: "main".to_owned(), files: vec!["a.gguf".to_owned()] };
        let sources = [("team/a", Source::Hub(hub)), ("team/b", Source::HostPath("/models/b".to_owned()))];
        let expected = sources.map(|(model, source)| NamedModel {
            model: model.to_owned(),
            source: Some(ModelSource { source: Some(source) }),
        });
        assert_eq!(list.models, expected);
    }
}
