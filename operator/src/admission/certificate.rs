//! The webhook's certificates: an authority of its own for a year, a serving certificate for 90 days, both made anew when
//! a third of their time is left. Pure but for the random numbers of keys: the clock is given.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// For how long the authority is good.
pub const AUTHORITY_TIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// For how long a serving certificate is good.
pub const SERVING_TIME: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// Clocks of other machines may be behind.
const BACKDATED: Duration = Duration::from_secs(60 * 60);
const AUTHORITY_NAME: &str = "kindling webhook authority";
const END: &str = "-----END CERTIFICATE-----";

/// Certificates could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The library refused.
    #[error("making the webhook's certificate")]
    Make(#[from] rcgen::Error),
    /// What is kept is no certificate with its key.
    #[error("the webhook's certificate is damaged: {0}")]
    Damaged(String),
}

/// All that is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// Whom to trust: the authority, and the one before it while its certificates may still be served.
    pub authorities: String,
    /// The authority's key.
    pub authority_key: String,
    /// Until when the authority is good.
    pub authority_until: Timestamp,
    /// What is served.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// Until when it is good.
    pub until: Timestamp,
    /// For which host.
    pub host: String,
}

/// What is to be kept from now on, if it is not what is kept: nothing is kept yet, it is for another host, it is damaged,
/// or a third of its time is left.
///
/// # Errors
/// If it can't be made.
pub fn renewed(kept: Option<&Material>, host: &str, now: Timestamp) -> Result<Option<Material>, CertificateError> {
    let Some(kept) = kept.filter(|kept| kept.certified().is_ok()) else {
        return first(host, now).map(Some);
    };
    if is_due(kept.authority_until, AUTHORITY_TIME, now) {
        let mut new = first(host, now)?;
        let before = kept.authorities.find(END).map(|at| &kept.authorities[..at + END.len()]);
        new.authorities.push_str(before.unwrap_or_default());
        new.authorities.push('\n');
        return Ok(Some(new));
    }
    if kept.host == host && !is_due(kept.until, SERVING_TIME, now) {
        return Ok(None);
    }
    let authority = match KeyPair::from_pem(&kept.authority_key) {
        Ok(key) => Issuer::new(authority_params(), key),
        Err(_) => return first(host, now).map(Some),
    };
    let (certificate, key, until) = serving(&authority, host, now)?;
    Ok(Some(Material { certificate, key, until, host: host.to_owned(), ..kept.clone() }))
}

fn first(host: &str, now: Timestamp) -> Result<Material, CertificateError> {
    let authority_until = now + AUTHORITY_TIME;
    let mut params = authority_params();
    set_time(&mut params, now - BACKDATED, authority_until);
    let key = KeyPair::generate()?;
    let authorities = params.self_signed(&key)?.pem();
    let authority_key = key.serialize_pem();
    let (certificate, key, until) = serving(&Issuer::new(params, key), host, now)?;
    let host = host.to_owned();
    Ok(Material { authorities, authority_key, authority_until, certificate, key, until, host })
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, AUTHORITY_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn serving(
    authority: &Issuer<'_, KeyPair>,
    host: &str,
    now: Timestamp,
) -> Result<(String, String, Timestamp), CertificateError> {
    let until = now + SERVING_TIME;
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    // A common name is at most 64 characters long; who is meant stands in the alternative names.
    params.distinguished_name.push(DnType::CommonName, "kindling webhook");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    set_time(&mut params, now - BACKDATED, until);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, authority)?.pem();
    Ok((certificate, key.serialize_pem(), until))
}

fn is_due(until: Timestamp, time: Duration, now: Timestamp) -> bool {
    until.duration_since(now) < k8s_openapi::jiff::SignedDuration::try_from(time / 3).unwrap_or_default()
}

/// Sets from when until when a certificate is good: in whole seconds, as certificates have it.
fn set_time(params: &mut CertificateParams, from: Timestamp, until: Timestamp) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since_epoch = |at: Timestamp| Duration::from_secs(u64::try_from(at.as_second()).unwrap_or_default());
    (params.not_before, params.not_after) = (epoch + since_epoch(from), epoch + since_epoch(until));
}

impl Material {
    /// As it is served.
    ///
    /// # Errors
    /// If the certificate or its key is not one, or they do not belong together.
    pub fn certified(&self) -> Result<Arc<CertifiedKey>, CertificateError> {
        let damaged = |why: &dyn std::fmt::Display| CertificateError::Damaged(why.to_string());
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| damaged(&error))?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|error| damaged(&error))?;
        let certified = CertifiedKey::from_der(chain, key, &ring::default_provider());
        certified.map(Arc::new).map_err(|error| damaged(&error))
    }
}

impl std::fmt::Debug for Material {
    /// Without keys: this may stand in a log.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { authority_until, until, host, .. } = self;
        write!(out, "Material for {host} until {until}, authority until {authority_until}")
    }
}

#[cfg(test)]
mod tests;
