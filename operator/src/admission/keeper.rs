//! Keeps the webhook's certificates in a Secret, for all replicas, and tells the API server whom to trust.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kindling_api::MANAGER;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::certificate::{CertificateError, Material, renewed};
use super::https::Served;
use crate::config::{OperatorConfig, WebhookConfig};

/// How often it is looked whether all is as it should be: another replica may have renewed it.
const PERIOD: Duration = Duration::from_secs(60);
/// After a failure.
const RETRY: Duration = Duration::from_secs(5);
/// How often somebody else may be quicker before it is left to the next look.
const ATTEMPTS: usize = 3;
const AUTHORITIES: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const AUTHORITY_UNTIL: &str = "kindling.dev/authority-until";
const UNTIL: &str = "kindling.dev/certificate-until";
const HOST: &str = "kindling.dev/certificate-host";

/// The certificates are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The Secret could not be read or written.
    #[error("keeping the webhook's certificates in Secret {name}: {source}")]
    Secret {
        /// Its name.
        name: String,
        /// Why.
        source: kube::Error,
    },
    /// Others wrote it again and again.
    #[error("Secret {name} is being changed by others")]
    Contended {
        /// Its name.
        name: String,
    },
    /// None could be made, or what is kept can't be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The API server could not be told.
    #[error("telling ValidatingWebhookConfiguration {name} whom to trust: {source}")]
    Configuration {
        /// Its name.
        name: String,
        /// Why.
        source: kube::Error,
    },
}

/// Keeps them.
pub struct Keeper {
    client: Client,
    webhook: WebhookConfig,
    namespace: String,
    served: Arc<Served>,
    serving: Option<Material>,
}

impl Keeper {
    /// For this webhook; what is served is exchanged in `served`.
    pub fn new(client: Client, config: &OperatorConfig, webhook: &WebhookConfig, served: Arc<Served>) -> Self {
        let namespace = config.lease_namespace.clone();
        Self { client, webhook: webhook.clone(), namespace, served, serving: None }
    }

    /// Keeps them until the token is cancelled.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let wait = match self.look(Timestamp::now()).await {
                Ok(()) => PERIOD,
                Err(error) => {
                    tracing::warn!(%error, "the webhook can't be trusted; LocalModels are let in without its word");
                    RETRY
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Looks once: makes or takes the certificates, serves them, and tells the API server.
    ///
    /// # Errors
    /// What stands in the way; what was done is done.
    pub async fn look(&mut self, now: Timestamp) -> Result<(), KeepError> {
        let material = self.kept(now).await?;
        if self.serving.as_ref() != Some(&material) {
            self.served.exchange(material.certified()?);
            tracing::info!(until = %material.until, "serving the webhook's certificate");
            self.serving = Some(material.clone());
        }
        let name = self.webhook.configuration.clone();
        let told = self.tell(&material.authorities).await;
        told.map_err(|source| KeepError::Configuration { name, source })
    }

    /// The Host that the API server calls.
    fn host(&self) -> String {
        format!("{}.{}.svc", self.webhook.service, self.namespace)
    }

    async fn kept(&self, now: Timestamp) -> Result<Material, KeepError> {
        let name = &self.webhook.secret;
        let failed = |source| KeepError::Secret { name: name.clone(), source };
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        for _ in 0..ATTEMPTS {
            let found = secrets.get_opt(name).await.map_err(failed)?;
            let material = found.as_ref().and_then(read);
            let Some(new) = renewed(material.as_ref(), &self.host(), now)? else {
                return material.ok_or_else(|| KeepError::Contended { name: name.clone() });
            };
            let secret = write(found.as_ref(), name, &new);
            let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
            let written = match &found {
                Some(_) => secrets.replace(name, &params, &secret).await,
                None => secrets.create(&params, &secret).await,
            };
            match written {
                Ok(_) => return Ok(new),
                // Another replica was quicker: what it made is as good.
                Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {}
                Err(source) => return Err(failed(source)),
            }
        }
        Err(KeepError::Contended { name: name.clone() })
    }

    /// Writes the authorities where others stand, and nothing else.
    async fn tell(&self, authorities: &str) -> Result<(), kube::Error> {
        let name = &self.webhook.configuration;
        let api = Api::<ValidatingWebhookConfiguration>::all(self.client.clone());
        let found = api.get(name).await?;
        let bundle = ByteString(authorities.as_bytes().to_vec());
        let webhooks = found.webhooks.unwrap_or_default();
        let others = webhooks.iter().filter(|webhook| webhook.client_config.ca_bundle.as_ref() != Some(&bundle));
        let changes: Vec<_> =
            others.map(|webhook| json!({ "name": webhook.name, "clientConfig": { "caBundle": bundle } })).collect();
        if changes.is_empty() {
            return Ok(());
        }
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        api.patch(name, &params, &Patch::Strategic(json!({ "webhooks": changes }))).await.map(drop)
    }
}

/// Nothing if anything is missing: it is made anew then.
fn read(secret: &Secret) -> Option<Material> {
    let text = |name: &str| String::from_utf8(secret.data.as_ref()?.get(name)?.0.clone()).ok();
    let noted = |name: &str| secret.annotations().get(name);
    Some(Material {
        authorities: text(AUTHORITIES)?,
        authority_key: text(AUTHORITY_KEY)?,
        authority_until: noted(AUTHORITY_UNTIL)?.parse().ok()?,
        certificate: text(CERTIFICATE)?,
        key: text(KEY)?,
        until: noted(UNTIL)?.parse().ok()?,
        host: noted(HOST)?.clone(),
    })
}

fn write(found: Option<&Secret>, name: &str, material: &Material) -> Secret {
    let mut secret = found.cloned().unwrap_or_else(|| Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        type_: Some("kubernetes.io/tls".to_owned()),
        ..Secret::default()
    });
    let notes = secret.annotations_mut();
    notes.insert(AUTHORITY_UNTIL.to_owned(), material.authority_until.to_string());
    notes.insert(UNTIL.to_owned(), material.until.to_string());
    notes.insert(HOST.to_owned(), material.host.clone());
    secret.labels_mut().insert("app.kubernetes.io/managed-by".to_owned(), MANAGER.to_owned());
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let data = secret.data.get_or_insert_default();
    data.insert(AUTHORITIES.to_owned(), bytes(&material.authorities));
    data.insert(AUTHORITY_KEY.to_owned(), bytes(&material.authority_key));
    data.insert(CERTIFICATE.to_owned(), bytes(&material.certificate));
    data.insert(KEY.to_owned(), bytes(&material.key));
    secret
}
