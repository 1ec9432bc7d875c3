//! What a certificate must be: [`TlsMode`], and the rustls configurations that check it.
//!
//! A trailing unrelated certificate (the "meta certificate" by which a DERP server tells its key) does no harm: the
//! chain builder passes over what does not fit, and a pin looks at the leaf alone.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};

use super::pin;

/// How a server proves that it is the right one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsMode {
    /// A chain to a trusted root, and this name (or address) in the certificate. The name need not be the host dialled.
    Verify {
        /// The expected name.
        name: String,
    },
    /// The leaf certificate with this hash, in its time, and for this name if one is given.
    Pin {
        /// SHA-256 of the leaf's DER.
        sha256: [u8; 32],
        /// The expected name.
        name: Option<String>,
    },
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn finish(builder: rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>) -> ClientConfig {
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, Error> {
    ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()
}

/// Chain and name of the host dialled: the usual case, with resumption between dials.
pub(super) fn verifying(roots: Arc<RootCertStore>) -> Result<ClientConfig, Error> {
    Ok(finish(builder()?.with_root_certificates(roots)))
}

/// Chain, and a name other than the host dialled.
pub(super) fn verifying_as(roots: Arc<RootCertStore>, name: ServerName<'static>) -> Result<ClientConfig, Error> {
    let chain = WebPkiServerVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    custom(Verifier {
        provider: provider(),
        rule: Rule::ChainAs { chain, name },
    })
}

pub(super) fn pinned(sha256: [u8; 32], name: Option<ServerName<'static>>) -> Result<ClientConfig, Error> {
    custom(Verifier {
        provider: provider(),
        rule: Rule::Pin { sha256, name },
    })
}

fn custom(verifier: Verifier) -> Result<ClientConfig, Error> {
    Ok(finish(
        builder()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier)),
    ))
}

#[derive(Debug)]
enum Rule {
    ChainAs {
        chain: Arc<WebPkiServerVerifier>,
        name: ServerName<'static>,
    },
    Pin {
        sha256: [u8; 32],
        name: Option<ServerName<'static>>,
    },
}

#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    rule: Rule,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.rule {
            Rule::ChainAs { chain, name } => {
                chain.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
            }
            Rule::Pin { sha256, name } => {
                verify_pin(end_entity, sha256, name.as_ref(), now)?;
                Ok(ServerCertVerified::assertion())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn verify_pin(
    leaf: &CertificateDer<'_>,
    sha256: &[u8; 32],
    name: Option<&ServerName<'_>>,
    now: UnixTime,
) -> Result<(), Error> {
    if Sha256::digest(leaf.as_ref())[..] != sha256[..] {
        return Err(Error::General(
            "the certificate has another hash than the pinned one".to_owned(),
        ));
    }
    let (not_before, not_after) =
        pin::validity(leaf).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(now.as_secs());
    if now < not_before {
        return Err(Error::InvalidCertificate(CertificateError::NotValidYet));
    }
    if now > not_after {
        return Err(Error::InvalidCertificate(CertificateError::Expired));
    }
    match name {
        Some(name) => verify_server_name(&ParsedCertificate::try_from(leaf)?, name),
        None => Ok(()),
    }
}
