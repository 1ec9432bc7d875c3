//! The controller's address as a daemon is given it (S-22).

use std::fmt;
use std::str::FromStr;

use url::{Host, Url};

/// Why a text is no controller address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServerUrlError {
    /// Not a URL at all.
    #[error("not a URL ({0}), expected something like ws://controller:8765/ws")]
    Syntax(String),
    /// Another scheme.
    #[error("the scheme must be ws or wss, expected something like ws://controller:8765/ws")]
    Scheme,
    /// No host.
    #[error("the host is missing, expected something like ws://controller:8765/ws")]
    Host,
    /// User name or password.
    #[error("user name and password are not allowed in the URL")]
    Credentials,
    /// A part after `#`.
    #[error("a `#` part is not allowed in the URL")]
    Fragment,
    /// Port 0.
    #[error("port 0 cannot be dialled")]
    Port,
}

/// A checked `ws://` or `wss://` address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl(Url);

impl FromStr for ServerUrl {
    type Err = ServerUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Url::parse(text.trim()).map_err(|error| ServerUrlError::Syntax(error.to_string()))?;
        if !matches!(url.scheme(), "ws" | "wss") {
            return Err(ServerUrlError::Scheme);
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(ServerUrlError::Host);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ServerUrlError::Credentials);
        }
        if url.fragment().is_some() {
            return Err(ServerUrlError::Fragment);
        }
        if url.port() == Some(0) {
            return Err(ServerUrlError::Port);
        }
        Ok(Self(url))
    }
}

impl ServerUrl {
    /// True for `wss`.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.0.scheme() == "wss"
    }

    /// The host without brackets.
    #[must_use]
    pub fn host(&self) -> String {
        match self.0.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(ip)) => ip.to_string(),
            Some(Host::Ipv6(ip)) => ip.to_string(),
            None => String::new(),
        }
    }

    /// The port, 80 or 443 when none is given.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.port_or_known_default().unwrap_or(80)
    }

    /// Host and port as a person writes them.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("{}:{}", self.0.host_str().unwrap_or_default(), self.port())
    }

    /// The whole URL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_addresses() {
        let url: ServerUrl = "ws://controller:8765/ws".parse().unwrap();
        assert_eq!(
            (url.host().as_str(), url.port(), url.is_tls()),
            ("controller", 8765, false)
        );
        let url: ServerUrl = "wss://[fd7a:115c:a1e0::1]/ws".parse().unwrap();
        assert_eq!(
            (url.host().as_str(), url.port(), url.is_tls()),
            ("fd7a:115c:a1e0::1", 443, true)
        );
        assert_eq!(url.authority(), "[fd7a:115c:a1e0::1]:443");
        assert_eq!("ws://100.64.0.1/ws".parse::<ServerUrl>().unwrap().port(), 80);
    }

    #[test]
    fn bad_addresses() {
        use ServerUrlError::{Credentials, Fragment, Host, Port, Scheme};
        assert!(matches!("".parse::<ServerUrl>(), Err(ServerUrlError::Syntax(_))));
        assert!(matches!(
            "controller".parse::<ServerUrl>(),
            Err(ServerUrlError::Syntax(_))
        ));
        assert_eq!("controller:8765".parse::<ServerUrl>(), Err(Scheme));
        assert_eq!("http://controller/ws".parse::<ServerUrl>(), Err(Scheme));
        assert_eq!("ws://u:p@controller/ws".parse::<ServerUrl>(), Err(Credentials));
        assert_eq!("ws://controller/ws#x".parse::<ServerUrl>(), Err(Fragment));
        assert_eq!("ws://controller:0/ws".parse::<ServerUrl>(), Err(Port));
        assert!(matches!(
            "ws://".parse::<ServerUrl>(),
            Err(Host | ServerUrlError::Syntax(_))
        ));
        assert!("ws://controller:99999/ws".parse::<ServerUrl>().is_err());
    }
}
