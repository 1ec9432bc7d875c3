//! [`Proxy`]: the HTTP proxy that the environment names, as command line programs know it.
//!
//! `HTTPS_PROXY` (or `https_proxy`) is `http://[user:password@]host[:port]`; `NO_PROXY` lists what is dialled straight:
//! names with all below them, addresses, networks, `*`. It is asked to `CONNECT` for TLS alone: whom plain HTTP reaches is
//! judged by the address at the other end, which a proxy hides. Loopback is never asked of it.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::BytesMut;
use ipnet::IpNet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;
use zeroize::Zeroizing;

use super::DialError;
use super::http1::{parse_head, printable};

const MAX_HEAD: usize = 16 * 1024;

/// See the module's text.
pub struct Proxy {
    host: String,
    port: u16,
    authorization: Option<Zeroizing<String>>,
    straight: Vec<Straight>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// One entry of `NO_PROXY`.
#[derive(Debug, PartialEq, Eq)]
enum Straight {
    Everything,
    Net(IpNet),
    Name { suffix: String, port: Option<u16> },
}

impl Proxy {
    /// The proxy of this process's environment.
    pub(super) fn from_environment() -> Option<Self> {
        let variable = |upper: &str, lower: &str| {
            let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
            set(upper).or_else(|| set(lower))
        };
        let url = variable("HTTPS_PROXY", "https_proxy")?;
        let straight = variable("NO_PROXY", "no_proxy").unwrap_or_default();
        let proxy = Self::parse(&url, &straight);
        if proxy.is_none() {
            tracing::warn!("HTTPS_PROXY is not of the form http://host:port, it is not used");
        }
        proxy
    }

    /// From the values of the two variables; nothing when the first is no proxy that can be used.
    #[must_use]
    pub fn parse(url: &str, no_proxy: &str) -> Option<Self> {
        let with_scheme = if url.contains("://") {
            url.to_owned()
        } else {
            format!("http://{url}")
        };
        let url = Url::parse(&with_scheme).ok().filter(|url| url.scheme() == "http")?;
        let authorization = (!url.username().is_empty()).then(|| {
            let password = url.password().unwrap_or_default();
            let pair = Zeroizing::new(format!("{}:{password}", url.username()));
            Zeroizing::new(BASE64_STANDARD.encode(decoded(&pair)))
        });
        Some(Self {
            host: url.host_str()?.to_owned(),
            port: url.port().unwrap_or(80),
            authorization,
            straight: no_proxy
                .split([',', ' '])
                .filter_map(|entry| Straight::parse(entry.trim()))
                .collect(),
        })
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Whether this host is reached through the proxy.
    pub(super) fn serves(&self, host: &str, port: u16) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let address: Option<IpAddr> = host.parse().ok();
        let is_here = host == "localhost" || address.is_some_and(|ip| ip.to_canonical().is_loopback());
        !is_here && !self.straight.iter().any(|entry| entry.covers(&host, address, port))
    }

    /// Asks for a tunnel on a connection to the proxy.
    pub(super) async fn tunnel(&self, tcp: &mut TcpStream, host: &str, port: u16) -> Result<(), DialError> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let authority = if bare.contains(':') {
            format!("[{bare}]:{port}")
        } else {
            format!("{bare}:{port}")
        };
        let mut head = Zeroizing::new(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n"));
        if let Some(authorization) = &self.authorization {
            head.push_str("Proxy-Authorization: Basic ");
            head.push_str(authorization);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        tcp.write_all(head.as_bytes()).await.map_err(DialError::Io)?;
        let mut received = BytesMut::new();
        let (status, length) = loop {
            if let Some((status, _, length)) = parse_head(&received)? {
                break (status, length);
            }
            if received.len() > MAX_HEAD {
                return Err(DialError::NotHttp("its head is over 16 KiB"));
            }
            if tcp.read_buf(&mut received).await.map_err(DialError::Io)? == 0 {
                return Err(DialError::Io(std::io::ErrorKind::UnexpectedEof.into()));
            }
        };
        let rest = &received[length..];
        if !(200..300).contains(&status) {
            return Err(DialError::Proxy {
                proxy: format!("{}:{}", self.host, self.port),
                status,
                text: printable(rest),
            });
        }
        // In TLS the client speaks first.
        if rest.is_empty() {
            Ok(())
        } else {
            Err(DialError::NotHttp("bytes behind the proxy's answer"))
        }
    }
}

impl Straight {
    fn parse(entry: &str) -> Option<Self> {
        if entry.is_empty() {
            return None;
        }
        if entry == "*" {
            return Some(Self::Everything);
        }
        if let Ok(net) = entry.parse::<IpNet>() {
            return Some(Self::Net(net));
        }
        if let Ok(ip) = entry.parse::<IpAddr>() {
            return Some(Self::Net(ip.into()));
        }
        let (name, port) = match entry.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.parse().ok()?)),
            None => (entry, None),
        };
        Some(Self::Name {
            suffix: name
                .trim_start_matches("*.")
                .trim_start_matches('.')
                .to_ascii_lowercase(),
            port,
        })
    }

    fn covers(&self, host: &str, address: Option<IpAddr>, to_port: u16) -> bool {
        match self {
            Self::Everything => true,
            Self::Net(net) => address.is_some_and(|ip| net.contains(&ip)),
            Self::Name { suffix, port } => {
                let below = host.strip_suffix(suffix.as_str());
                below.is_some_and(|below| below.is_empty() || below.ends_with('.'))
                    && port.is_none_or(|port| port == to_port)
            }
        }
    }
}

/// The percent-encoding of a URL's user part undone.
fn decoded(text: &str) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = tail.first_chunk::<2>().filter(|_| first == b'%').and_then(|digits| {
            let mut byte = [0u8; 1];
            hex::decode_to_slice(digits, &mut byte).ok().map(|()| byte[0])
        });
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_that_people_write() {
        for (text, host, port) in [
            ("http://proxy.test:3128", "proxy.test", 3128),
            ("http://proxy.test", "proxy.test", 80),
            ("proxy.test:8080", "proxy.test", 8080),
            ("http://user:pass@192.0.2.1:1/", "192.0.2.1", 1),
        ] {
            let proxy = Proxy::parse(text, "").unwrap();
            assert_eq!((proxy.host(), proxy.port()), (host, port), "{text}");
        }
        for text in ["socks5://a:1", "https://a:1", "http://", "http://a:99999"] {
            assert!(Proxy::parse(text, "").is_none(), "{text}");
        }
        let proxy = Proxy::parse("http://us%40er:pa%3Ass@a", "").unwrap();
        let pair = BASE64_STANDARD
            .decode(proxy.authorization.as_ref().unwrap().as_bytes())
            .unwrap();
        assert_eq!(pair, b"us@er:pa:ss");
        assert!(!format!("{proxy:?}").contains("pa"));
    }

    #[test]
    fn what_is_dialled_straight() {
        let list = "example.com, .internal,10.0.0.0/8,192.0.2.7,fd00::/8,only.test:8443";
        let proxy = Proxy::parse("http://proxy", list).unwrap();
        for (host, port, through) in [
            ("example.org", 443, true),
            ("example.com", 443, false),
            ("www.Example.com", 443, false),
            ("badexample.com", 443, true),
            ("a.internal", 443, false),
            ("10.1.2.3", 443, false),
            ("11.1.2.3", 443, true),
            ("192.0.2.7", 443, false),
            ("[fd00::1]", 443, false),
            ("2001:db8::1", 443, true),
            ("only.test", 8443, false),
            ("only.test", 443, true),
            ("localhost", 443, false),
            ("127.0.0.1", 443, false),
            ("::1", 443, false),
        ] {
            assert_eq!(proxy.serves(host, port), through, "{host}:{port}");
        }
        assert!(!Proxy::parse("http://proxy", "*").unwrap().serves("example.org", 443));
    }
}
