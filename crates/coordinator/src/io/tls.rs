//! Certificates: given, or self-made and published by their hash.
//!
//! A self-made certificate comes with a second, *meta* certificate that names the relay's key. Real clients that find it
//! log in to the relay one round trip sooner.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ED25519, SanType, SerialNumber};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sandd_control_client::keys::NodePublicKey;
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use crate::error::StartError;

/// A chain and its key.
#[derive(Debug)]
pub(crate) struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// A self-made certificate as it is kept.
#[derive(Clone)]
pub(crate) struct SelfMade {
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for SelfMade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SelfMade([redacted])")
    }
}

fn unusable(reason: impl std::fmt::Display) -> StartError {
    StartError::Certificate {
        reason: reason.to_string(),
    }
}

impl SelfMade {
    /// Makes one for these names and addresses.
    pub(crate) fn generate(names: &[String]) -> Result<Self, StartError> {
        let mut params = CertificateParams::default();
        for name in names {
            let name = match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into().map_err(unusable)?),
            };
            params.subject_alt_names.push(name);
        }
        params.distinguished_name = common_name("sandd coordinator");
        let key = KeyPair::generate().map_err(unusable)?;
        let certificate = params.self_signed(&key).map_err(unusable)?;
        Ok(Self {
            certificate: certificate.der().to_vec(),
            key: Zeroizing::new(key.serialize_der()),
        })
    }

    /// What nodes pin: SHA-256 of the certificate.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(&self.certificate).into()
    }

    /// The certificate for a file of trusted roots.
    pub(crate) fn pem(&self) -> String {
        use base64::Engine;
        let text = base64::engine::general_purpose::STANDARD.encode(&self.certificate);
        let lines: Vec<&str> = text
            .as_bytes()
            .chunks(64)
            .filter_map(|line| std::str::from_utf8(line).ok())
            .collect();
        format!(
            "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
            lines.join("\n")
        )
    }

    /// With the meta certificate for the relay's key.
    pub(crate) fn with_meta(&self, relay: &NodePublicKey) -> Result<Certificate, StartError> {
        let chain = vec![CertificateDer::from(self.certificate.clone()), meta_certificate(relay)?];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.to_vec()));
        Ok(Certificate { chain, key })
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn meta_certificate(relay: &NodePublicKey) -> Result<CertificateDer<'static>, StartError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&format!("derpkey{}", hex::encode(relay.as_bytes())));
    params.serial_number = Some(SerialNumber::from(u64::from(sandd_mesh::derp::PROTOCOL_VERSION)));
    let key = KeyPair::generate_for(&PKCS_ED25519).map_err(unusable)?;
    Ok(params.self_signed(&key).map_err(unusable)?.into())
}

impl Certificate {
    /// Reads a chain and a key from PEM files.
    pub(crate) fn load(chain: &Path, key: &Path) -> Result<Self, StartError> {
        let read = |path: &Path, error: &dyn std::fmt::Display| unusable(format!("{}: {error}", path.display()));
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(chain)
            .map_err(|error| read(chain, &error))?
            .collect();
        let certificates = certificates.map_err(|error| read(chain, &error))?;
        if certificates.is_empty() {
            return Err(read(chain, &"no certificate in it"));
        }
        let key = PrivateKeyDer::from_pem_file(key).map_err(|error| read(key, &error))?;
        Ok(Self {
            chain: certificates,
            key,
        })
    }

    /// Ready to serve; HTTP/1.1 only, because ts2021 and DERP take the connection over by `Upgrade`.
    pub(crate) fn acceptor(self) -> Result<TlsAcceptor, StartError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_no_client_auth()
            .with_single_cert(self.chain, self.key)
            .map_err(unusable)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn self_made_certificates_serve_and_come_back_from_pem() {
        let made = SelfMade::generate(&["127.0.0.1".to_owned(), "control.test".to_owned()]).unwrap();
        let relay = NodePublicKey::from_bytes([7; 32]);
        made.with_meta(&relay).unwrap().acceptor().unwrap();
        let again = CertificateDer::from_pem_slice(made.pem().as_bytes()).unwrap();
        assert_eq!(again.as_ref(), made.certificate);
        assert!(!format!("{made:?}").contains(&hex::encode(&made.key[..8])));
    }

    #[test]
    fn files_that_are_none_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing.pem");
        let error = Certificate::load(&missing, &missing).unwrap_err().to_string();
        assert!(error.contains("missing.pem"), "{error}");
        let empty = directory.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        assert!(Certificate::load(&empty, &empty).is_err());
    }
}
