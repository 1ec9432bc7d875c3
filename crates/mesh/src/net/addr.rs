//! [`MeshHost`] and [`MeshAddr`]: how an embedder names a peer, before the network map turned it into an address.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// A peer, by name or by address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MeshHost {
    /// A short (`worker-1`) or full (`worker-1.example.net`) name, in lower case and without a final dot.
    Name(String),
    /// A mesh address; IPv4 inside IPv6 is unwrapped.
    Ip(IpAddr),
}

/// A port of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MeshAddr {
    host: MeshHost,
    port: u16,
}

/// A text that names no peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddrError {
    /// Neither an address nor a name.
    #[error("'{0}' is neither an IP address nor a host name")]
    Host(String),
    /// No port, or not a number from 1 to 65535.
    #[error("'{0}' needs a port from 1 to 65535, as in 'controller:8765'")]
    Port(String),
}

impl From<IpAddr> for MeshHost {
    fn from(address: IpAddr) -> Self {
        Self::Ip(address.to_canonical())
    }
}

/// Never fails: what is no address is taken for a name, and looking it up will tell.
impl From<&str> for MeshHost {
    fn from(text: &str) -> Self {
        let bare = text
            .strip_prefix('[')
            .and_then(|inner| inner.strip_suffix(']'))
            .unwrap_or(text);
        bare.parse::<IpAddr>().map_or_else(
            |_no_address| Self::Name(text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase()),
            Self::from,
        )
    }
}

impl From<String> for MeshHost {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<&String> for MeshHost {
    fn from(text: &String) -> Self {
        Self::from(text.as_str())
    }
}

impl FromStr for MeshHost {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        let host = Self::from(text);
        match &host {
            Self::Name(name) if !is_host_name(name) => Err(AddrError::Host(text.to_owned())),
            Self::Name(_) | Self::Ip(_) => Ok(host),
        }
    }
}

impl fmt::Display for MeshHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

impl From<SocketAddr> for MeshAddr {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: address.ip().into(),
            port: address.port(),
        }
    }
}

impl MeshAddr {
    /// The peer.
    #[must_use]
    pub const fn host(&self) -> &MeshHost {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl<H: Into<MeshHost>> From<(H, u16)> for MeshAddr {
    fn from((host, port): (H, u16)) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }
}

impl FromStr for MeshAddr {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        let no_port = || AddrError::Port(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(no_port)?;
        // Without brackets the last group of an IPv6 address would be taken for the port.
        if host.contains(':') && !host.starts_with('[') {
            return Err(no_port());
        }
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(no_port)?;
        Ok(Self {
            host: host.parse()?,
            port,
        })
    }
}

impl fmt::Display for MeshAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            MeshHost::Ip(address) => SocketAddr::new(*address, self.port).fmt(f),
            MeshHost::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_addresses() {
        let parsed = |text: &str| text.parse::<MeshAddr>().map(|address| address.to_string());
        assert_eq!(parsed("Controller:8765").as_deref(), Ok("controller:8765"));
        assert_eq!(
            parsed("controller.sandd.local.:8765").as_deref(),
            Ok("controller.sandd.local:8765")
        );
        assert_eq!(parsed("100.64.0.1:80").as_deref(), Ok("100.64.0.1:80"));
        assert_eq!(
            parsed("[fd7a:115c:a1e0::1]:80").as_deref(),
            Ok("[fd7a:115c:a1e0::1]:80")
        );
        assert_eq!(parsed("[::ffff:100.64.0.1]:80").as_deref(), Ok("100.64.0.1:80"));
    }

    #[test]
    fn bad_texts_are_told_apart() {
        let error = |text: &str| text.parse::<MeshAddr>().unwrap_err();
        for text in [
            "controller",
            "controller:",
            "controller:0",
            "controller:65536",
            "fd7a::1:80",
            "a:b",
        ] {
            assert!(matches!(error(text), AddrError::Port(_)), "{text}");
        }
        for text in [":80", "a b:80", "-a:80", "a..b:80", "é:80", "[fd7a::x]:80"] {
            assert!(matches!(error(text), AddrError::Host(_)), "{text}");
        }
    }

    #[test]
    fn tuples_work() {
        assert_eq!(MeshAddr::from(("worker-1", 22)).to_string(), "worker-1:22");
        let ip: IpAddr = "fd7a:115c:a1e0::2".parse().unwrap();
        assert_eq!(MeshAddr::from((ip, 22)).to_string(), "[fd7a:115c:a1e0::2]:22");
    }
}
