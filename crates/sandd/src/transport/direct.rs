//! Direct mode: the host's own TCP, with TLS for `wss` (S-21).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Accepted, ByteStream, CONNECT_TIMEOUT, ServerUrl, TransportError};

/// Dials over the host's own network.
#[derive(Clone)]
pub struct DirectDialer {
    tls: TlsConnector,
}

impl std::fmt::Debug for DirectDialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirectDialer").finish_non_exhaustive()
    }
}

impl DirectDialer {
    /// Trusts the system's roots (`SSL_CERT_FILE` is honoured) and those in `ca_file`.
    ///
    /// # Errors
    /// [`TransportError::Certificates`] when `ca_file` holds none.
    pub fn new(ca_file: Option<&Path>) -> Result<Self, TransportError> {
        let mut roots = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(system.certs);
        if let Some(path) = ca_file {
            for certificate in read_certificates(path)? {
                roots
                    .add(certificate)
                    .map_err(|error| bad_file(path, &error.to_string()))?;
            }
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| TransportError::Certificates {
                path: "TLS".to_owned(),
                reason: error.to_string(),
            })?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
        })
    }

    /// Connects, with TLS when the address says so.
    ///
    /// # Errors
    /// [`TransportError`], which names the step that failed.
    pub async fn dial(&self, url: &ServerUrl) -> Result<ByteStream, TransportError> {
        let to = url.authority();
        let connect = TcpStream::connect((url.host(), url.port()));
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(source)) => return Err(TransportError::Connect { to, source }),
            Err(_) => {
                return Err(TransportError::TimedOut {
                    step: "TCP connect",
                    to,
                });
            }
        };
        // A command's answer is one small frame: waiting to fill a segment would only add latency.
        let _ = stream.set_nodelay(true);
        self.secure(Box::new(stream), url).await
    }

    /// Puts TLS on any stream when the address says so.
    ///
    /// # Errors
    /// [`TransportError::Tls`] and its time-out.
    pub async fn secure(&self, stream: ByteStream, url: &ServerUrl) -> Result<ByteStream, TransportError> {
        if !url.is_tls() {
            return Ok(stream);
        }
        let to = url.authority();
        let name = ServerName::try_from(url.host()).map_err(|error| TransportError::Tls {
            to: to.clone(),
            source: std::io::Error::other(error),
        })?;
        match tokio::time::timeout(CONNECT_TIMEOUT, self.tls.connect(name, stream)).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(source)) => Err(TransportError::Tls { to, source }),
            Err(_) => Err(TransportError::TimedOut { step: "TLS", to }),
        }
    }
}

/// Certificate chain and private key of a controller that speaks TLS itself.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// PEM file with the chain.
    pub certificates: PathBuf,
    /// PEM file with the key.
    pub key: PathBuf,
}

/// Listens on the host's own network.
pub struct DirectListener {
    tcp: TcpListener,
    local: SocketAddr,
    tls: Option<TlsAcceptor>,
}

impl std::fmt::Debug for DirectListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirectListener")
            .field("local", &self.local)
            .field("tls", &self.tls.is_some())
            .finish()
    }
}

impl DirectListener {
    /// Binds; a port that is taken is an error (D12).
    ///
    /// # Errors
    /// [`TransportError::Listen`] and [`TransportError::Certificates`].
    pub async fn bind(host: &str, port: u16, tls: Option<&TlsFiles>) -> Result<Self, TransportError> {
        let tls = tls.map(acceptor).transpose()?;
        let failed = |source| TransportError::Listen {
            at: format!("{host}:{port}"),
            source,
        };
        let tcp = TcpListener::bind((host, port)).await.map_err(failed)?;
        let local = tcp.local_addr().map_err(failed)?;
        Ok(Self { tcp, local, tls })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// True when it speaks TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub(super) async fn accept(&self) -> std::io::Result<(Accepted, SocketAddr)> {
        let (tcp, from) = self.tcp.accept().await?;
        let _ = tcp.set_nodelay(true);
        Ok((
            Accepted::Direct(DirectAccepted {
                tcp,
                tls: self.tls.clone(),
            }),
            from,
        ))
    }
}

/// A TCP connection whose TLS handshake is still to be done.
pub struct DirectAccepted {
    tcp: TcpStream,
    tls: Option<TlsAcceptor>,
}

impl std::fmt::Debug for DirectAccepted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirectAccepted")
            .field("tcp", &self.tcp)
            .finish_non_exhaustive()
    }
}

impl DirectAccepted {
    pub(super) async fn secure(self) -> std::io::Result<ByteStream> {
        match self.tls {
            Some(tls) => Ok(Box::new(tls.accept(self.tcp).await?)),
            None => Ok(Box::new(self.tcp)),
        }
    }
}

fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, TransportError> {
    let chain = read_certificates(&files.certificates)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| bad_file(&files.key, &error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| bad_file(&files.certificates, &error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| bad_file(&files.certificates, &error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| bad_file(path, &error.to_string()))?;
    if certificates.is_empty() {
        return Err(bad_file(path, "there is no certificate in this file"));
    }
    Ok(certificates)
}

fn bad_file(path: &Path, reason: &str) -> TransportError {
    TransportError::Certificates {
        path: path.display().to_string(),
        reason: reason.to_owned(),
    }
}
