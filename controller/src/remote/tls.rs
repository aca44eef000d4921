//! Mutual TLS inside the ssh tunnel: no other user of the machine, and no jump host, can speak to the agent or for it.

use std::{io, sync::Arc};

use landfall_proto::{failure::Failure, wire};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use secrecy::ExposeSecret;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::tunnel::Tunnel;
use crate::local::keys::Credentials;

/// Whom the controller believes, and who it is itself. Clones share the configuration.
#[derive(Clone)]
pub struct Trust {
    connector: TlsConnector,
    agent: ServerName<'static>,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Trust")
    }
}

impl Trust {
    /// Reads the run's certificates.
    pub fn new(credentials: &Credentials) -> Result<Self, Failure> {
        let cannot = |error: io::Error| {
            Failure::new("cannot use the keys of this run")
                .caused_by(&error)
                .hint("run the same command again: it makes new ones")
                .code("LF0422")
        };
        let config = configuration(credentials).map_err(cannot)?;
        let agent = ServerName::try_from(wire::agent_name(&credentials.authority));
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            agent: agent.expect("the agent's name is a host name"),
        })
    }

    /// Greets the agent. Completes before the agent has judged our certificate: the first call shows that.
    pub async fn greet(&self, tunnel: Tunnel) -> io::Result<TlsStream<Tunnel>> {
        self.connector.connect(self.agent.clone(), tunnel).await
    }
}

fn configuration(credentials: &Credentials) -> io::Result<ClientConfig> {
    let authority = CertificateDer::from_pem_slice(credentials.authority.as_bytes());
    let own = CertificateDer::from_pem_slice(credentials.own_certificate.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(credentials.own_key.expose_secret().as_bytes());
    let mut roots = RootCertStore::empty();
    roots
        .add(authority.map_err(io::Error::other)?)
        .map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![own.map_err(io::Error::other)?],
            key.map_err(io::Error::other)?,
        )
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Whether words of an error are those of a peer whose certificate, or ours, was not believed.
pub(super) fn is_distrust(words: &str) -> bool {
    [
        "received fatal alert",
        "AlertReceived",
        "invalid peer certificate",
        "InvalidCertificate",
    ]
    .iter()
    .any(|phrase| words.contains(phrase))
}
