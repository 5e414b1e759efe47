//! One operator works at a time: the one that holds a Lease. Written by replace with resourceVersion, so two can't
//! take it at once. Other clocks are not trusted: a lease is over when it has not changed for its duration as
//! measured here.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::time::Instant;

/// How long a lease holds without being renewed.
const DURATION: Duration = Duration::from_secs(15);
/// The holder gives up when it could not renew for this long, before others may take over.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often the holder renews and others look.
const PERIOD: Duration = Duration::from_secs(2);

/// The candidate of this process.
pub struct Election {
    leases: Api<Lease>,
    name: String,
    identity: String,
    /// The lease as last seen, and since when it has not changed.
    seen: Option<(LeaseSpec, Instant)>,
}

/// What to do about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Write our name.
    Take,
    /// Leave it to its holder.
    Wait,
}

impl Election {
    /// A candidate.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        let leases = Api::namespaced(client, namespace);
        Self { leases, name: name.to_owned(), identity: identity.to_owned(), seen: None }
    }

    /// Waits until the lease is ours. Errors are logged and tried again.
    pub async fn acquire(&mut self) {
        loop {
            match self.try_take().await {
                Ok(true) => return,
                Ok(false) => tracing::debug!(lease = self.name, "another operator works"),
                Err(error) => tracing::warn!(%error, lease = self.name, "the lease can't be read or written"),
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// Renews for as long as it is ours; returns when it is lost.
    pub async fn hold(&mut self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < RENEW_DEADLINE {
            tokio::time::sleep(PERIOD).await;
            match tokio::time::timeout(RENEW_DEADLINE.saturating_sub(renewed.elapsed()), self.try_take()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::warn!(%error, lease = self.name, "the lease can't be renewed"),
                Err(_) => return,
            }
        }
    }

    /// Gives the lease up, so that the next one need not wait.
    pub async fn release(&mut self) {
        let released = async {
            let Some(mut lease) = self.leases.get_opt(&self.name).await? else { return Ok(()) };
            if let Some(spec) = lease.spec.as_mut()
                && spec.holder_identity.as_deref() == Some(&self.identity)
            {
                spec.holder_identity = None;
                self.leases.replace(&self.name, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        if let Err(error) = released.await {
            tracing::warn!(%error, lease = self.name, "the lease was not given up");
        }
    }

    /// Takes or renews the lease where that is allowed; says whether it is ours.
    async fn try_take(&mut self) -> Result<bool, kube::Error> {
        let found = self.leases.get_opt(&self.name).await?;
        let spec = found.as_ref().and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let unchanged_for = self.see(&spec);
        if step(&spec, &self.identity, unchanged_for) == Step::Wait {
            return Ok(false);
        }
        let lease = Lease {
            metadata: found.as_ref().map_or_else(
                || ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                |lease| lease.metadata.clone(),
            ),
            spec: Some(taken(&spec, &self.identity, Timestamp::now())),
        };
        let params = PostParams::default();
        let written = match found {
            Some(_) => self.leases.replace(&self.name, &params, &lease).await,
            None => self.leases.create(&params, &lease).await,
        };
        match written {
            Ok(_) => Ok(true),
            // somebody was quicker
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Notes the lease and says for how long it has not changed.
    fn see(&mut self, spec: &LeaseSpec) -> Duration {
        match &self.seen {
            Some((seen, since)) if seen == spec => since.elapsed(),
            _ => {
                self.seen = Some((spec.clone(), Instant::now()));
                Duration::ZERO
            }
        }
    }
}

fn step(spec: &LeaseSpec, identity: &str, unchanged_for: Duration) -> Step {
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let duration = seconds.map_or(DURATION, Duration::from_secs);
    if holder.is_empty() || holder == identity || unchanged_for > duration { Step::Take } else { Step::Wait }
}

fn taken(spec: &LeaseSpec, identity: &str, now: Timestamp) -> LeaseSpec {
    let is_ours = spec.holder_identity.as_deref() == Some(identity);
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: spec.acquire_time.clone().filter(|_| is_ours).or(Some(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(spec.lease_transitions.unwrap_or(0) + i32::from(!is_ours)),
        ..LeaseSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(identity: &str) -> LeaseSpec {
        taken(&LeaseSpec::default(), identity, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn free_lease_is_taken() {
        assert_eq!(step(&LeaseSpec::default(), "a", Duration::ZERO), Step::Take);
    }

    #[test]
    fn own_lease_is_renewed_and_keeps_its_acquire_time() {
        let held = held_by("a");
        assert_eq!(step(&held, "a", Duration::ZERO), Step::Take);
        let renewed = taken(&held, "a", Timestamp::MAX);
        assert_eq!(renewed.acquire_time, held.acquire_time);
        assert_eq!(renewed.lease_transitions, held.lease_transitions);
    }

    #[test]
    fn lease_of_another_is_left_while_it_changes_in_time() {
        assert_eq!(step(&held_by("b"), "a", DURATION), Step::Wait);
    }

    #[test]
    fn lease_of_another_is_taken_when_it_stands_still() {
        let held = held_by("b");
        assert_eq!(step(&held, "a", DURATION + Duration::from_millis(1)), Step::Take);
        assert_eq!(taken(&held, "a", Timestamp::MAX).lease_transitions, Some(2));
    }

    #[test]
    fn holder_gives_up_before_others_may_take_over() {
        const { assert!(RENEW_DEADLINE.as_secs() + PERIOD.as_secs() < DURATION.as_secs()) }
    }
}
