//! What is plain HTTP: the key, health, latency probes, and the page that a login URL shows.

use std::net::IpAddr;

use sandd_control_client::keys::MachinePublicKey;
use sandd_control_client::wire::ServerKeys;

use super::http::Head;
use super::shared::{Published, Shared};

/// Clients below this version do not speak ts2021.
const FIRST_NOISE_VERSION: u32 = 39;

/// An answer with a short body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    status: u16,
    kind: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    body: String,
}

impl Page {
    pub(super) fn text(status: u16, body: impl Into<String>) -> Self {
        let mut body = body.into();
        if !body.is_empty() {
            body.push('\n');
        }
        Self {
            status,
            kind: "text/plain; charset=utf-8",
            headers: Vec::new(),
            body,
        }
    }

    fn typed(kind: &'static str, body: String) -> Self {
        Self {
            status: 200,
            kind,
            headers: Vec::new(),
            body,
        }
    }

    pub(super) fn with_header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The bytes on the wire; the answer to HEAD has no body.
    pub(super) fn encode(&self, last: bool, is_head: bool) -> Vec<u8> {
        let reason = http::StatusCode::from_u16(self.status).ok();
        let reason = reason.and_then(|status| status.canonical_reason()).unwrap_or("Unknown");
        let mut text = format!("HTTP/1.1 {} {reason}\r\n", self.status);
        if self.status != 204 {
            text += &format!("Content-Type: {}\r\nContent-Length: {}\r\n", self.kind, self.body.len());
        }
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += "X-Content-Type-Options: nosniff\r\n";
        text += if last { "Connection: close\r\n\r\n" } else { "\r\n" };
        if !is_head && self.status != 204 {
            text += &self.body;
        }
        text.into_bytes()
    }
}

/// Refuses what a web page elsewhere sends, and names that a hostile DNS could have pointed here (S-20).
pub(super) fn check_origin(published: &Published, head: &Head) -> Option<Page> {
    let host = head.host.as_deref().unwrap_or_default();
    if let Some(origin) = head.origin.as_deref() {
        let of_host = origin
            .split_once("://")
            .is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(host));
        if !of_host {
            return Some(Page::text(403, "requests from other sites are refused"));
        }
    }
    if is_own_name(published, host) {
        None
    } else {
        Some(Page::text(
            421,
            "unknown host name: start the coordinator with the url that nodes use",
        ))
    }
}

/// Addresses, our published name, and names without a dot, which no DNS of the internet gives.
fn is_own_name(published: &Published, host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case(&published.host)
        || name.strip_suffix('.').unwrap_or(name).bytes().all(|b| b != b'.')
}

/// Answers what is not an upgrade.
pub(super) fn answer(shared: &Shared, head: &Head) -> Page {
    let is_read = matches!(head.method.as_str(), "GET" | "HEAD");
    match head.path.as_str() {
        "/machine/ping-response" => Page::text(404, "no such ping"),
        _ if !is_read => Page::text(405, "method not allowed").with_header("Allow", "GET, HEAD"),
        "/key" => key(shared, &head.query),
        "/health" => health(shared),
        "/derp/probe" | "/derp/latency-check" => Page::text(200, "").with_header("Access-Control-Allow-Origin", "*"),
        "/generate_204" => Page::text(204, ""),
        "/" => Page::text(200, "SandD coordinator"),
        path => match path.strip_prefix("/register/") {
            Some(id) => login(shared, id),
            None => Page::text(404, "404 page not found"),
        },
    }
}

fn key(shared: &Shared, query: &str) -> Page {
    let version = query.split('&').find_map(|part| part.strip_prefix("v="));
    let Some(version) = version else {
        return Page::text(400, "capability version must be set");
    };
    match version.parse::<u32>() {
        Err(_) => Page::text(400, "invalid capability version"),
        Ok(version) if version < FIRST_NOISE_VERSION => Page::text(200, ""),
        Ok(_) => {
            let keys = ServerKeys {
                legacy_public_key: Some(MachinePublicKey::from_bytes([0; 32])),
                public_key: shared.identity.noise.public(),
            };
            match serde_json::to_string(&keys) {
                Ok(json) => Page::typed("application/json", json),
                Err(error) => Page::text(500, error.to_string()),
            }
        }
    }
}

fn health(shared: &Shared) -> Page {
    let (status, word) = match shared.store.failing() {
        None => (200, "pass"),
        Some(_) => (500, "fail"),
    };
    Page {
        status,
        ..Page::typed("application/health+json", format!("{{\"status\":\"{word}\"}}"))
    }
}

/// The page behind a login URL. It only says what to do: whoever may approve has the coordinator's own socket.
fn login(shared: &Shared, id: &str) -> Page {
    // Only names that we gave ourselves are repeated, so nothing here needs escaping.
    if !shared.read(|core| core.membership.is_login_waiting(id)) {
        return Page::text(400, "no such login is waiting: it may have been decided, or be too old");
    }
    Page::text(
        200,
        format!("A machine wants to join. Whoever runs this coordinator can let it in by approving\n\n    {id}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(host: &str) -> Published {
        Published {
            tls: false,
            host: host.to_owned(),
            port: 8080,
            explicit: true,
            stun_port: None,
            fingerprint: None,
        }
    }

    fn head(text: &str) -> Head {
        Head::parse(format!("GET / HTTP/1.1\r\n{text}\r\n\r\n").as_bytes())
            .unwrap()
            .unwrap()
            .0
    }

    #[test]
    fn foreign_names_and_foreign_pages_are_refused() {
        let published = published("control.example");
        for (text, allowed) in [
            ("Host: 192.0.2.1:8080", true),
            ("Host: [2001:db8::1]:8080", true),
            ("Host: localhost:8080", true),
            ("Host: coordinator", true),
            ("Host: CONTROL.example:8080", true),
            ("Host: evil.example:8080", false),
            ("Host: a:1\r\nOrigin: http://a:1", true),
            ("Host: a:1\r\nOrigin: http://b:1", false),
            ("Host: a:1\r\nOrigin: null", false),
        ] {
            assert_eq!(check_origin(&published, &head(text)).is_none(), allowed, "{text}");
        }
    }

    #[test]
    fn answers_have_a_length_and_none_without_a_body() {
        let text = String::from_utf8(Page::text(200, "ok").encode(false, false)).unwrap();
        assert!(
            text.ends_with("\r\n\r\nok\n") && text.contains("Content-Length: 3\r\n"),
            "{text}"
        );
        let text = String::from_utf8(Page::text(200, "ok").encode(true, true)).unwrap();
        assert!(text.ends_with("Connection: close\r\n\r\n"), "{text}");
        let text = String::from_utf8(Page::text(204, "").encode(false, false)).unwrap();
        assert!(!text.contains("Content-Length"), "{text}");
    }
}
