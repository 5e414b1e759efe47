//! The standard health service: not serving until the model is ready, nor once it drains or has failed.

use std::sync::Arc;

use futures::FutureExt as _;
use kindling_proto::v1::inference_server::SERVICE_NAME;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, HealthService};

use crate::shared::{Phase, Shared};

/// The names that are asked for: the whole server, and the service.
const NAMES: [&str; 2] = ["", SERVICE_NAME];

/// What health checks are told.
#[derive(Clone)]
pub struct Health {
    reporter: HealthReporter,
}

impl Health {
    /// Follows the model's phase until the runtime is gone.
    pub fn follow(shared: &Arc<Shared>) -> Self {
        let reporter = HealthReporter::new();
        let (mut phases, draining) = (shared.subscribe(), shared.draining.clone());
        let health = Self { reporter };
        // A reporter begins as serving. Nobody else holds it yet, so this does not wait.
        health.set(ServingStatus::NotServing).now_or_never().expect("a new health reporter should be free");
        let follower = health.clone();
        tokio::spawn(async move {
            loop {
                let is_ready = matches!(*phases.borrow_and_update(), Phase::Ready(_)) && !draining.is_cancelled();
                follower.set(if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing }).await;
                tokio::select! {
                    changed = phases.changed() => if changed.is_err() { return },
                    () = draining.cancelled(), if !draining.is_cancelled() => {}
                }
            }
        });
        health
    }

    /// The service to add to a server.
    pub fn service(&self) -> HealthService {
        HealthService::from_health_reporter(self.reporter.clone())
    }

    async fn set(&self, status: ServingStatus) {
        for name in NAMES {
            self.reporter.set_service_status(name, status).await;
        }
    }
}
