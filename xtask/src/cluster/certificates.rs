//! The certificates of one cluster, made anew at every `up` by the openssl program: two authorities, one certificate
//! per component. They are worth nothing elsewhere: the authority's key never leaves the state folder.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

use super::command;
use super::layout::{API_SERVICE_IP, Node, Shape};

/// A throwaway cluster does not live longer.
const VALID_DAYS: &str = "30";
const CLIENT: &str = "extendedKeyUsage=clientAuth";

/// What one certificate says, and who signs it.
#[derive(Debug, PartialEq, Eq)]
struct Certificate {
    /// The files are `<name>.crt` and `<name>.key`.
    name: String,
    /// For Kubernetes, CN is the user's name and O the group.
    subject: String,
    /// None: an authority, signed by itself.
    authority: Option<&'static str>,
    /// X.509 extensions, as openssl reads them.
    extensions: Vec<String>,
}

/// Makes all certificates and the key that signs service account tokens.
pub fn create(pki: &Path, shape: Shape) -> anyhow::Result<()> {
    std::fs::create_dir_all(pki).with_context(|| format!("create {}", pki.display()))?;
    // An empty config: the machine's own adds "is an authority" to every certificate.
    std::fs::write(pki.join("openssl.cnf"), "[req]\ndistinguished_name=dn\n[dn]\n").context("write openssl.cnf")?;
    for certificate in certificates(shape) {
        command::output(&mut openssl(pki, &certificate)).with_context(|| format!("make {}", certificate.name))?;
    }
    for words in [
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out service-account.key",
        "pkey -in service-account.key -pubout -out service-account.pub",
    ] {
        let openssl = &mut Command::new("openssl");
        command::output(openssl.current_dir(pki).args(words.split(' '))).context("make the service account key")?;
    }
    Ok(())
}

fn openssl(pki: &Path, certificate: &Certificate) -> Command {
    let Certificate { name, subject, authority, extensions } = certificate;
    let mut openssl = Command::new("openssl");
    openssl.current_dir(pki).args(["req", "-x509", "-config", "openssl.cnf", "-newkey", "ec"]);
    openssl.args(["-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", VALID_DAYS, "-subj", subject]);
    openssl.args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.crt")]);
    if let Some(authority) = authority {
        openssl.args(["-CA", &format!("{authority}.crt"), "-CAkey", &format!("{authority}.key")]);
    }
    for extension in extensions {
        openssl.args(["-addext", extension]);
    }
    openssl
}

/// Authorities first: the others are signed by them.
fn certificates(shape: Shape) -> Vec<Certificate> {
    let mut all =
        vec![authority("ca", "/CN=kindling-test-ca"), authority("front-proxy-ca", "/CN=kindling-test-front-proxy-ca")];
    all.push(Certificate {
        name: "apiserver".into(),
        subject: "/CN=kube-apiserver".into(),
        authority: Some("ca"),
        extensions: vec!["extendedKeyUsage=serverAuth".into(), format!("subjectAltName={}", api_names())],
    });
    all.push(client("admin", "/O=system:masters/CN=kindling-test-admin"));
    all.push(client("apiserver-kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client"));
    all.push(client("controller-manager", "/CN=system:kube-controller-manager"));
    all.push(client("scheduler", "/CN=system:kube-scheduler"));
    all.push(client("kube-proxy", "/CN=system:kube-proxy"));
    all.push(Certificate {
        authority: Some("front-proxy-ca"),
        ..client("front-proxy-client", "/CN=front-proxy-client")
    });
    for node in shape.nodes() {
        let name = node.name();
        all.push(client(&format!("kubelet-{name}"), &format!("/O=system:nodes/CN=system:node:{name}")));
    }
    all
}

fn authority(name: &str, subject: &str) -> Certificate {
    let extensions = vec!["basicConstraints=critical,CA:TRUE".into(), "keyUsage=critical,keyCertSign,cRLSign".into()];
    Certificate { name: name.into(), subject: subject.into(), authority: None, extensions }
}

fn client(name: &str, subject: &str) -> Certificate {
    Certificate { name: name.into(), subject: subject.into(), authority: Some("ca"), extensions: vec![CLIENT.into()] }
}

fn api_names() -> String {
    let names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let addresses = ["127.0.0.1".to_owned(), API_SERVICE_IP.to_owned(), Node(0).ip()];
    let names = names.iter().map(|name| format!("DNS:{name}"));
    names.chain(addresses.iter().map(|address| format!("IP:{address}"))).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_gets_the_name_that_the_node_authorizer_knows() {
        let all = certificates(Shape { num_nodes: 2, control_plane_only: false });
        let subjects: Vec<&str> = all.iter().map(|certificate| certificate.subject.as_str()).collect();
        assert!(subjects.contains(&"/O=system:nodes/CN=system:node:node-0"));
        assert!(subjects.contains(&"/O=system:nodes/CN=system:node:node-1"));
    }

    #[test]
    fn authorities_come_before_what_they_sign() {
        let all = certificates(Shape { num_nodes: 1, control_plane_only: false });
        for (position, certificate) in all.iter().enumerate() {
            if let Some(authority) = certificate.authority {
                assert!(all[..position].iter().any(|earlier| earlier.name == authority), "{}", certificate.name);
            }
        }
    }
}
