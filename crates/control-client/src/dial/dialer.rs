//! [`Dialer`]: from a host name to a [`Stream`], by racing addresses and checking certificates.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::proxy::Proxy;
use super::tls::{self, TlsMode};
use super::{DialError, Stream};

/// For the whole of name resolution, TCP and TLS.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long one address may take before the next is tried beside it (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);
/// How long all of them may take. It covers two lost packets; a fresh attempt is better than a third.
const TCP_TIMEOUT: Duration = Duration::from_secs(4);
/// Special configurations that are remembered, each with the sessions to resume.
const MAX_CONFIGS: usize = 16;

/// Where to connect to, and what to expect there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialTarget {
    /// Host name or address; with TLS also the SNI.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Addresses to use instead of resolving the host.
    pub addresses: Vec<IpAddr>,
    /// TLS, or plain TCP.
    pub tls: Option<TlsMode>,
}

/// Opens connections. Clones share trusted roots and TLS sessions.
#[derive(Clone)]
pub struct Dialer {
    inner: Arc<Inner>,
}

struct Inner {
    extra_roots: Vec<CertificateDer<'static>>,
    proxy: Option<Proxy>,
    /// Of servers that prove themselves otherwise than by chain and host name.
    special: Mutex<Vec<(TlsMode, Arc<ClientConfig>)>>,
    /// Reading the system's roots takes some milliseconds, so it waits for the first TLS dial.
    verifying: OnceLock<(Arc<RootCertStore>, Arc<ClientConfig>)>,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer")
            .field("extra_roots", &self.inner.extra_roots.len())
            .finish_non_exhaustive()
    }
}

impl Dialer {
    /// Trusts the system's roots (or those of `SSL_CERT_FILE`) and the certificates in `ca_file`; TLS goes through the
    /// proxy of the environment, if there is one.
    ///
    /// # Errors
    /// [`DialError::CaFile`] when the file cannot be read or holds no certificate.
    pub fn new(ca_file: Option<&Path>) -> Result<Self, DialError> {
        Self::with_proxy(ca_file, Proxy::from_environment())
    }

    /// As [`Self::new`], with this proxy or none instead of the environment's.
    ///
    /// # Errors
    /// See there.
    pub fn with_proxy(ca_file: Option<&Path>, proxy: Option<Proxy>) -> Result<Self, DialError> {
        let extra_roots = match ca_file {
            Some(path) => read_roots(path).map_err(|source| DialError::CaFile {
                path: path.to_owned(),
                source,
            })?,
            None => Vec::new(),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                extra_roots,
                proxy,
                special: Mutex::default(),
                verifying: OnceLock::new(),
            }),
        })
    }

    /// Connects; names, TCP and TLS together may take 10 seconds.
    ///
    /// # Errors
    /// [`DialError`] with what failed last.
    pub async fn dial(&self, target: &DialTarget) -> Result<Stream, DialError> {
        tokio::time::timeout(TIMEOUT, self.dial_inner(target))
            .await
            .unwrap_or_else(|_| {
                Err(DialError::TimedOut {
                    host: target.host.clone(),
                })
            })
    }

    async fn dial_inner(&self, target: &DialTarget) -> Result<Stream, DialError> {
        let config = target
            .tls
            .as_ref()
            .map(|mode| self.tls_config(mode, &target.host))
            .transpose()?;
        let is_here = !target.addresses.is_empty() && target.addresses.iter().all(IpAddr::is_loopback);
        let proxy = self.inner.proxy.as_ref().filter(|_| config.is_some() && !is_here);
        let proxy = proxy.filter(|proxy| proxy.serves(&target.host, target.port));
        let tcp = match proxy {
            Some(proxy) => {
                let mut tcp = connect(proxy.host(), proxy.port(), &[]).await?;
                proxy.tunnel(&mut tcp, &target.host, target.port).await?;
                tcp
            }
            None => connect(&target.host, target.port, &target.addresses).await?,
        };
        // A lost option costs latency only.
        let _ = tcp.set_nodelay(true);
        let Some(config) = config else {
            return Ok(Stream::Plain(tcp));
        };
        let stream = TlsConnector::from(config)
            .connect(server_name(&target.host)?, tcp)
            .await
            .map_err(|source| DialError::Tls {
                host: target.host.clone(),
                source,
            })?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    fn tls_config(&self, mode: &TlsMode, host: &str) -> Result<Arc<ClientConfig>, DialError> {
        if matches!(mode, TlsMode::Verify { name } if name == host) {
            return Ok(self.verifying()?.1);
        }
        if let Some((_, config)) = self.special().iter().find(|(known, _)| known == mode) {
            return Ok(Arc::clone(config));
        }
        let built = match mode {
            TlsMode::Verify { name } => tls::verifying_as(self.verifying()?.0, server_name(name)?),
            TlsMode::Pin { sha256, name } => tls::pinned(*sha256, name.as_deref().map(server_name).transpose()?),
        };
        let config = built.map(Arc::new).map_err(|error| tls_setup(host, error))?;
        let mut special = self.special();
        if special.len() >= MAX_CONFIGS {
            special.remove(0);
        }
        special.push((mode.clone(), Arc::clone(&config)));
        Ok(config)
    }

    fn special(&self) -> std::sync::MutexGuard<'_, Vec<(TlsMode, Arc<ClientConfig>)>> {
        self.inner.special.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn verifying(&self) -> Result<(Arc<RootCertStore>, Arc<ClientConfig>), DialError> {
        if let Some(ready) = self.inner.verifying.get() {
            return Ok(ready.clone());
        }
        let mut roots = RootCertStore::empty();
        let native = rustls_native_certs::load_native_certs();
        for error in &native.errors {
            tracing::debug!(%error, "a system root cannot be read");
        }
        roots.add_parsable_certificates(native.certs);
        roots.add_parsable_certificates(self.inner.extra_roots.iter().cloned());
        if roots.is_empty() {
            return Err(DialError::NoRoots);
        }
        let roots = Arc::new(roots);
        let config = tls::verifying(roots.clone()).map_err(|error| tls_setup("the server", error))?;
        Ok(self.inner.verifying.get_or_init(|| (roots, Arc::new(config))).clone())
    }
}

fn tls_setup(host: &str, error: rustls::Error) -> DialError {
    DialError::Tls {
        host: host.to_owned(),
        source: io::Error::other(error),
    }
}

fn read_roots(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let text = std::fs::read(path)?;
    let roots: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    let mut usable = RootCertStore::empty();
    let (added, _) = usable.add_parsable_certificates(roots.iter().cloned());
    if added == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no certificate in it"));
    }
    Ok(roots)
}

fn server_name(name: &str) -> Result<ServerName<'static>, DialError> {
    let bare = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(name);
    ServerName::try_from(bare.to_owned()).map_err(|_| DialError::Name { name: name.to_owned() })
}

async fn connect(host: &str, port: u16, addresses: &[IpAddr]) -> Result<TcpStream, DialError> {
    let addresses = resolve(host, port, addresses).await?;
    let connected = tokio::time::timeout(TCP_TIMEOUT, race(addresses, host)).await;
    connected.unwrap_or_else(|_| Err(DialError::Unanswered { host: host.to_owned() }))
}

/// Addresses to try, the families alternating, IPv6 first.
async fn resolve(host: &str, port: u16, addresses: &[IpAddr]) -> Result<VecDeque<SocketAddr>, DialError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let found: Vec<SocketAddr> = if !addresses.is_empty() {
        addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect()
    } else if let Ok(ip) = bare.parse::<IpAddr>() {
        vec![SocketAddr::new(ip, port)]
    } else {
        tokio::net::lookup_host((bare, port))
            .await
            .map_err(|source| DialError::Resolve {
                host: host.to_owned(),
                source,
            })?
            .collect()
    };
    let (mut v6, mut v4): (VecDeque<_>, VecDeque<_>) = found.into_iter().partition(SocketAddr::is_ipv6);
    let mut order = VecDeque::new();
    while !(v6.is_empty() && v4.is_empty()) {
        order.extend(v6.pop_front());
        order.extend(v4.pop_front());
    }
    Ok(order)
}

/// The first address that accepts; the next is tried when one fails or takes longer than [`STAGGER`].
async fn race(mut addresses: VecDeque<SocketAddr>, host: &str) -> Result<TcpStream, DialError> {
    let mut attempts = JoinSet::new();
    let mut last = DialError::NoAddress { host: host.to_owned() };
    loop {
        if let Some(address) = addresses.pop_front() {
            attempts.spawn(async move { (address, TcpStream::connect(address).await) });
        }
        let patience = if addresses.is_empty() { TIMEOUT } else { STAGGER };
        match tokio::time::timeout(patience, attempts.join_next()).await {
            Ok(Some(Ok((_, Ok(tcp))))) => return Ok(tcp),
            Ok(Some(Ok((address, Err(source))))) => last = DialError::Connect { address, source },
            Ok(Some(Err(_))) | Err(_) => {}
            Ok(None) => return Err(last),
        }
    }
}
