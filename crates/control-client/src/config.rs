//! What an embedder says once: where the coordinator is, who this node is, and how it may join.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use url::{Host, Url};
use zeroize::Zeroizing;

use crate::dial::{DialTarget, Dialer, TlsMode};
use crate::keys::DiscoPublicKey;
use crate::wire::Hostinfo;

/// Why a text is no coordinator URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlUrlError {
    /// Not a URL at all.
    #[error("{text:?} is not a url: give one like https://headscale.example.com or http://10.0.0.5:8080")]
    Malformed {
        /// What was given.
        text: String,
    },
    /// Another scheme than http or https.
    #[error("coordinator url must begin with http:// or https://, not {scheme}:")]
    Scheme {
        /// What was given.
        scheme: String,
    },
    /// A user name or password in it.
    #[error("coordinator url must not hold a user name or password")]
    Credentials,
    /// A path, query or fragment, which the protocol has no place for.
    #[error("coordinator url must end after host and port, without {part:?}")]
    Path {
        /// What is too much.
        part: String,
    },
}

/// Scheme, host and port of a coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ControlUrl {
    tls: bool,
    host: String,
    port: u16,
}

impl ControlUrl {
    /// Reads `https://host[:port]` or `http://host[:port]`.
    ///
    /// # Errors
    /// [`ControlUrlError`] that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ControlUrlError> {
        let malformed = || ControlUrlError::Malformed {
            text: text.chars().take(200).collect(),
        };
        if !text.contains("://") {
            return Err(malformed());
        }
        let url = Url::parse(text.trim()).map_err(|_| malformed())?;
        let tls = match url.scheme() {
            "https" => true,
            "http" => false,
            other => {
                return Err(ControlUrlError::Scheme {
                    scheme: other.to_owned(),
                });
            }
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ControlUrlError::Credentials);
        }
        let rest = &url[url::Position::BeforePath..];
        if !matches!(rest, "" | "/") {
            return Err(ControlUrlError::Path {
                part: rest.chars().take(200).collect(),
            });
        }
        let host = match url.host().ok_or_else(malformed)? {
            // One dot at the end is good form; more would leave a host that reads as another one.
            Host::Domain(name) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                (!name.is_empty() && !name.ends_with('.'))
                    .then(|| name.to_owned())
                    .ok_or_else(malformed)?
            }
            Host::Ipv4(ip) => ip.to_string(),
            Host::Ipv6(ip) => ip.to_string(),
        };
        let port = url
            .port_or_known_default()
            .filter(|port| *port != 0)
            .ok_or_else(malformed)?;
        Ok(Self { tls, host, port })
    }

    /// Host name or address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// True for `http://`.
    #[must_use]
    pub fn is_plain_http(&self) -> bool {
        !self.tls
    }

    /// True when this host and port are the coordinator's own.
    #[must_use]
    pub fn matches(&self, host: &str, port: u16) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
        let same_host = match (self.host.parse::<IpAddr>(), bare.parse::<IpAddr>()) {
            (Ok(ours), Ok(theirs)) => ours == theirs,
            _ => self.host.eq_ignore_ascii_case(bare),
        };
        same_host && self.port == port
    }

    /// `host[:port]` as it stands in a `Host` header.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        let default = if self.tls { 443 } else { 80 };
        if self.port == default {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }

    /// Where to connect to.
    #[must_use]
    pub fn dial_target(&self) -> DialTarget {
        DialTarget {
            host: self.host.clone(),
            port: self.port,
            addresses: Vec::new(),
            tls: self.tls.then(|| TlsMode::Verify {
                name: self.host.clone(),
            }),
        }
    }
}

impl fmt::Display for ControlUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

impl FromStr for ControlUrl {
    type Err = ControlUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// A pre-auth key. Opaque, never split, never printed; wiped when dropped.
#[derive(Clone)]
pub struct AuthKey(Zeroizing<String>);

impl AuthKey {
    /// Takes the key; blanks and line ends around it do not count.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        let text = Zeroizing::new(text.into());
        Self(Zeroizing::new(text.trim().to_owned()))
    }

    /// True when there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AuthKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthKey([redacted])")
    }
}

impl From<String> for AuthKey {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&str> for AuthKey {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

/// How a node knows one of its underlay addresses; the number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointKind {
    /// Not told.
    Unknown = 0,
    /// An address of an interface.
    Local = 1,
    /// Seen by a STUN server.
    Stun = 2,
    /// Mapped by the router on request.
    PortMapped = 3,
    /// The address that STUN saw with the local port, for a forwarded port.
    StunLocalPort = 4,
    /// Given by the user.
    Explicit = 5,
}

/// Everything that joining needs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ControlConfig {
    /// The coordinator.
    pub url: ControlUrl,
    /// Key for joining without a person; used only when the coordinator does not know this node.
    pub auth_key: Option<AuthKey>,
    /// Wanted name; the coordinator makes it unique.
    pub hostname: String,
    /// Further description; its host name and network fields are overwritten.
    pub hostinfo: Hostinfo,
    /// Ask to be forgotten when gone. With Headscale the auth key decides.
    pub ephemeral: bool,
    /// The disco key of this process run.
    pub disco_key: DiscoPublicKey,
    /// How connections are made.
    pub dialer: Dialer,
    /// Take a changed key of the coordinator instead of refusing it (S-09).
    pub accept_new_control_key: bool,
}

impl ControlConfig {
    /// The required parts; the rest has defaults and can be set afterwards.
    #[must_use]
    pub fn new(url: ControlUrl, hostname: impl Into<String>, disco_key: DiscoPublicKey, dialer: Dialer) -> Self {
        let hostinfo = Hostinfo {
            ipn_version: concat!("sandd-", env!("CARGO_PKG_VERSION")).to_owned(),
            os: if cfg!(target_os = "macos") {
                "macOS"
            } else {
                std::env::consts::OS
            }
            .to_owned(),
            machine: std::env::consts::ARCH.to_owned(),
            app: "sandd".to_owned(),
            ..Hostinfo::default()
        };
        Self {
            url,
            auth_key: None,
            hostname: hostname.into(),
            hostinfo,
            ephemeral: false,
            disco_key,
            dialer,
            accept_new_control_key: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn urls_are_read_and_printed() {
        for (text, shown, host, port, plain) in [
            (
                "https://hs.example.com",
                "https://hs.example.com",
                "hs.example.com",
                443,
                false,
            ),
            (
                "https://HS.example.com./",
                "https://hs.example.com",
                "hs.example.com",
                443,
                false,
            ),
            (
                "http://127.0.0.1:8080/",
                "http://127.0.0.1:8080",
                "127.0.0.1",
                8080,
                true,
            ),
            ("http://[::1]:8080", "http://[::1]:8080", "::1", 8080, true),
            ("http://headscale", "http://headscale", "headscale", 80, true),
        ] {
            let url = ControlUrl::parse(text).unwrap();
            assert_eq!((url.to_string().as_str(), url.host(), url.port()), (shown, host, port));
            assert_eq!(url.is_plain_http(), plain);
            assert_eq!(ControlUrl::parse(shown).unwrap(), url);
        }
        let url = ControlUrl::parse("http://[::1]:8080").unwrap();
        assert!(url.matches("[::1]", 8080) && url.matches("0:0::1", 8080) && !url.matches("::1", 80));
    }

    #[test]
    fn wrong_urls_are_explained() {
        for (text, part) in [
            ("headscale:8080", "not a url"),
            ("", "not a url"),
            ("ftp://x", "not ftp:"),
            ("https://u:p@x", "user name"),
            ("https://x/path?q", "/path?q"),
            ("https://", "not a url"),
            ("http://x:99999", "not a url"),
            ("http://x:0", "not a url"),
        ] {
            let error = ControlUrl::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn an_auth_key_passes_unchanged_and_does_not_print() {
        let key = AuthKey::new(" hskey-auth-a-_b-c_-d\n");
        assert_eq!(key.expose(), "hskey-auth-a-_b-c_-d");
        assert!(!format!("{key:?}").contains("hskey"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,60}") {
            if let Ok(url) = ControlUrl::parse(&text) {
                prop_assert_eq!(ControlUrl::parse(&url.to_string()).unwrap(), url);
            }
        }
    }
}
