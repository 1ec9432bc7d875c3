//! Registration as a pure machine: what to ask next, given what the coordinator answered.
//!
//! ```text
//!            ┌────────── node key expired, or in use elsewhere: new node key, once ──────────┐
//!            ▼                                                                               │
//! start ─▶ Ask ─▶ answer ─┬─ Error ──────────────▶ Failed (auth key) or Failed (retryable) ──┤
//!                         ├─ NodeKeySignature ───▶ Failed (tailnet lock)                     │
//!                         ├─ NodeKeyExpired ─────────────────────────────────────────────────┘
//!                         ├─ AuthURL ────────────▶ Login: show it, then ask with `Followup` and wait
//!                         └─ else ───────────────▶ Registered: the tried node key is the node key now
//! ```

use std::time::{Duration, Instant};

use crate::config::AuthKey;
use crate::error::{ControlError, KeyRejection};
use crate::keys::NodePublicKey;
use crate::noise::CAPABILITY_VERSION;
use crate::wire::{Hostinfo, RegisterAuth, RegisterRequest, RegisterResponse};

/// A new login URL may replace an unanswered one this often within [`LOGIN_WINDOW`].
const MAX_LOGINS: u32 = 5;
const LOGIN_WINDOW: Duration = Duration::from_secs(60);

/// What to do after an answer.
#[derive(Debug)]
pub(crate) enum Next {
    /// Send [`Registration::request`] (again).
    Ask,
    /// Make a new node key, tell it by [`Registration::rotated`], then ask.
    Rotate,
    /// Show the URL, then ask: the answer comes when a person has acted.
    Login(String),
    /// Done.
    Registered,
    /// It came to nothing.
    Failed(ControlError),
}

/// One attempt to become or stay a member.
#[derive(Debug)]
pub(crate) struct Registration {
    auth_key: Option<AuthKey>,
    node_key: NodePublicKey,
    old_node_key: Option<NodePublicKey>,
    ephemeral: bool,
    hostinfo: Hostinfo,
    followup: String,
    rotated: bool,
    logins: u32,
    first_login: Option<Instant>,
}

impl Registration {
    pub(crate) fn new(
        node_key: NodePublicKey,
        old_node_key: Option<NodePublicKey>,
        auth_key: Option<AuthKey>,
        ephemeral: bool,
        hostinfo: Hostinfo,
    ) -> Self {
        Self {
            auth_key,
            node_key,
            old_node_key,
            ephemeral,
            hostinfo,
            followup: String::new(),
            rotated: false,
            logins: 0,
            first_login: None,
        }
    }

    pub(crate) fn request(&self) -> RegisterRequest {
        RegisterRequest {
            version: CAPABILITY_VERSION.into(),
            node_key: Some(self.node_key),
            old_node_key: self.old_node_key,
            auth: self.auth_key.as_ref().map(|key| RegisterAuth {
                auth_key: key.expose().to_owned(),
            }),
            followup: self.followup.clone(),
            hostinfo: Some(self.hostinfo.clone()),
            ephemeral: self.ephemeral,
            ..RegisterRequest::default()
        }
    }

    /// True while the answer waits for a person, so that it has no time limit.
    pub(crate) fn waits_for_person(&self) -> bool {
        !self.followup.is_empty()
    }

    pub(crate) fn rotated(&mut self, node_key: NodePublicKey) {
        self.old_node_key = Some(self.node_key);
        self.node_key = node_key;
        self.rotated = true;
        self.followup.clear();
    }

    pub(crate) fn handle_response(&mut self, response: &RegisterResponse, now: Instant) -> Next {
        if !response.error.is_empty() {
            return self.handle_error(&response.error, now);
        }
        if response
            .node_key_signature
            .as_deref()
            .is_some_and(|signature| !signature.is_empty())
        {
            return Next::Failed(ControlError::LockUnsupported);
        }
        if response.node_key_expired {
            return if self.rotated {
                Next::Failed(ControlError::Expired)
            } else {
                Next::Rotate
            };
        }
        if response.auth_url.is_empty() {
            return Next::Registered;
        }
        self.login(&response.auth_url, now)
    }

    fn login(&mut self, url: &str, now: Instant) -> Next {
        if !is_showable(url) {
            return Next::Failed(ControlError::Refused("its login url is not a web address".to_owned()));
        }
        if url == self.followup {
            return Next::Ask;
        }
        let fresh = self
            .first_login
            .is_none_or(|first| now.duration_since(first) > LOGIN_WINDOW);
        if fresh {
            self.first_login = Some(now);
            self.logins = 0;
        }
        self.logins += 1;
        if self.logins > MAX_LOGINS {
            return Next::Failed(ControlError::LoginRequired(url.to_owned()));
        }
        url.clone_into(&mut self.followup);
        Next::Login(url.to_owned())
    }

    fn handle_error(&mut self, error: &str, now: Instant) -> Next {
        let has = |part: &str| error.contains(part);
        if has("already in use by another machine") || has("different machine key") {
            return if self.rotated {
                Next::Failed(ControlError::Refused(clean(error)))
            } else {
                Next::Rotate
            };
        }
        if self.waits_for_person() && (has("invalid registration ID") || has("registration timed out")) {
            // The request that the URL stood for is gone: ask for a new one, which counts as a login.
            self.followup.clear();
            let fresh = self
                .first_login
                .is_none_or(|first| now.duration_since(first) > LOGIN_WINDOW);
            return if fresh || self.logins <= MAX_LOGINS {
                Next::Ask
            } else {
                Next::Failed(ControlError::Refused(clean(error)))
            };
        }
        Next::Failed(classify(error).map_or_else(|| ControlError::Refused(clean(error)), ControlError::KeyRejected))
    }
}

/// Which of the auth key's faults a text means. Headscale puts context before it freely, so parts are looked for.
fn classify(error: &str) -> Option<KeyRejection> {
    let has = |part: &str| error.contains(part);
    if has("authkey already used") {
        Some(KeyRejection::AlreadyUsed)
    } else if has("authkey revoked") {
        Some(KeyRejection::Revoked)
    } else if has("authkey expired") {
        Some(KeyRejection::ExpiredOrRevoked)
    } else if has("failed to parse auth-key") {
        Some(KeyRejection::Malformed)
    } else if has("hashedPassword is not the hash") {
        Some(KeyRejection::WrongSecret)
    } else if has("invalid pre auth key") {
        Some(KeyRejection::Unknown)
    } else if has("requested tags") {
        Some(KeyRejection::TagsNotPermitted(clean(error)))
    } else {
        None
    }
}

fn is_showable(url: &str) -> bool {
    (url.starts_with("https://") || url.starts_with("http://"))
        && url.len() <= 2048
        && url.bytes().all(|byte| byte.is_ascii_graphic())
}

fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::NodePrivateKey;

    fn registration(auth_key: Option<&str>) -> Registration {
        let key = NodePrivateKey::generate().public();
        Registration::new(key, None, auth_key.map(AuthKey::new), false, Hostinfo::default())
    }

    fn refusal(error: &str) -> RegisterResponse {
        RegisterResponse {
            error: error.into(),
            ..RegisterResponse::default()
        }
    }

    fn login(url: &str) -> RegisterResponse {
        RegisterResponse {
            auth_url: url.into(),
            ..RegisterResponse::default()
        }
    }

    #[test]
    fn each_fault_of_an_auth_key_has_its_own_sentence() {
        let parse = "handling register with auth key: failed to parse auth-key: key too short, expected at least 77";
        let bcrypt = "handling register with auth key: invalid auth key: crypto/bcrypt: hashedPassword is not the hash \
                      of the given password";
        let tags = "creating new node: requested tags [tag:server] are invalid or not permitted";
        let mut sentences = std::collections::BTreeSet::new();
        for (text, expected) in [
            ("invalid pre auth key", KeyRejection::Unknown),
            ("authkey already used", KeyRejection::AlreadyUsed),
            ("ctx: authkey expired", KeyRejection::ExpiredOrRevoked),
            ("authkey revoked", KeyRejection::Revoked),
            (parse, KeyRejection::Malformed),
            (bcrypt, KeyRejection::WrongSecret),
            (tags, KeyRejection::TagsNotPermitted(tags.into())),
        ] {
            let next = registration(Some("k")).handle_response(&refusal(text), Instant::now());
            let Next::Failed(error) = next else {
                panic!("{text}: {next:?}")
            };
            assert!(
                matches!(&error, ControlError::KeyRejected(found) if *found == expected),
                "{text}: {error:?}"
            );
            assert!(error.needs_person() && !error.is_retryable());
            sentences.insert(error.to_string());
        }
        assert_eq!(sentences.len(), 7);
    }

    #[test]
    fn an_unknown_refusal_is_retried_and_quoted() {
        let next = registration(None).handle_response(&refusal("database\n is locked"), Instant::now());
        let Next::Failed(error) = next else { panic!("{next:?}") };
        assert!(error.is_retryable());
        assert!(error.to_string().ends_with("database is locked"), "{error}");
    }

    #[test]
    fn a_key_is_rotated_once() {
        let expired = RegisterResponse {
            node_key_expired: true,
            ..RegisterResponse::default()
        };
        for cause in [
            expired,
            refusal("x: node key already in use by another machine"),
            refusal("node exists with a different machine key"),
        ] {
            let mut registration = registration(Some("k"));
            let before = registration.node_key;
            assert!(matches!(
                registration.handle_response(&cause, Instant::now()),
                Next::Rotate
            ));
            registration.rotated(NodePrivateKey::generate().public());
            assert_eq!(registration.request().old_node_key, Some(before));
            assert!(matches!(
                registration.handle_response(&cause, Instant::now()),
                Next::Failed(_)
            ));
        }
    }

    #[test]
    fn a_login_is_shown_and_followed_up_with_the_same_key() {
        let now = Instant::now();
        let mut registration = registration(None);
        let key = registration.request().node_key;
        assert!(!registration.waits_for_person());
        assert!(
            matches!(registration.handle_response(&login("https://hs/register/a"), now), Next::Login(url) if url.ends_with('a'))
        );
        let request = registration.request();
        assert_eq!(
            (request.followup.as_str(), request.node_key),
            ("https://hs/register/a", key)
        );
        assert!(registration.waits_for_person());
        assert!(matches!(
            registration.handle_response(&login("https://hs/register/a"), now),
            Next::Ask
        ));
        assert!(matches!(
            registration.handle_response(&login("https://hs/register/b"), now),
            Next::Login(_)
        ));
        assert!(matches!(
            registration.handle_response(&refusal("registration timed out"), now),
            Next::Ask
        ));
        assert_eq!(registration.request().followup, "");
        assert!(matches!(
            registration.handle_response(&RegisterResponse::default(), now),
            Next::Registered
        ));
    }

    #[test]
    fn endless_logins_end() {
        let now = Instant::now();
        let mut registration = registration(None);
        for n in 0..MAX_LOGINS {
            assert!(matches!(
                registration.handle_response(&login(&format!("https://hs/{n}")), now),
                Next::Login(_)
            ));
        }
        assert!(matches!(
            registration.handle_response(&login("https://hs/last"), now),
            Next::Failed(ControlError::LoginRequired(_))
        ));
        let later = now + LOGIN_WINDOW * 2;
        assert!(matches!(
            registration.handle_response(&login("https://hs/later"), later),
            Next::Login(_)
        ));
        assert!(matches!(
            registration.handle_response(&login("javascript:x"), later),
            Next::Failed(_)
        ));
    }

    #[test]
    fn lock_is_refused() {
        let signed = RegisterResponse {
            node_key_signature: Some("AAEC".into()),
            ..RegisterResponse::default()
        };
        let next = registration(None).handle_response(&signed, Instant::now());
        assert!(matches!(next, Next::Failed(ControlError::LockUnsupported)));
    }
}
