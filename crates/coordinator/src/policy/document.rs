//! [`Policy`]: the document, in HuJSON (JSON with comments and trailing commas), read and checked.

use std::collections::BTreeMap;

use ipnet::IpNet;
use sandd_control_client::wire::PortRange;
use serde::Deserialize;

use super::selector::{self, Selector};

/// Longest document that is read.
const MAX_LENGTH: usize = 1 << 20;

/// Why a policy is not usable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// No HuJSON, or with sections or fields that are not supported.
    #[error("cannot read the policy: {0}")]
    Syntax(String),
    /// Longer than 1 MiB.
    #[error("the policy is longer than 1 MiB")]
    TooLong,
    /// An `action` other than `accept`.
    #[error("the policy has the action `{0}`: only `accept` exists")]
    Action(String),
    /// A word that names nobody.
    #[error("the policy names `{0}`, which is no user (`name@`), group, tag, host or address")]
    Selector(String),
    /// A destination that is not understood.
    #[error("the policy has the destination `{0}`: write WHO:PORTS, such as `tag:web:80,443`")]
    Destination(String),
    /// A protocol that is not understood.
    #[error("the policy has the protocol `{0}`: write a name such as `tcp`, or a number")]
    Protocol(String),
    /// Ports with a protocol that has none.
    #[error("the policy gives ports for the protocol `{0}`, which has none: write `*`")]
    Ports(String),
    /// A group, tag or host that is not defined.
    #[error("the policy uses `{0}` without defining it")]
    Undefined(String),
    /// `autogroup:self` with a source whose owner is not clear.
    #[error(
        "the policy uses `autogroup:self` with the source `{0}`: only users, groups and autogroup:member own nodes"
    )]
    SelfSource(String),
    /// It could not be saved.
    #[error("cannot save the policy")]
    Store(#[from] crate::error::StoreError),
}

/// Who may talk to whom.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Policy {
    /// None = everybody with everybody.
    pub(super) rules: Option<Vec<Rule>>,
    pub(super) groups: BTreeMap<String, Vec<String>>,
    pub(super) hosts: BTreeMap<String, IpNet>,
    tag_owners: BTreeMap<String, Vec<Selector>>,
    text: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rule {
    pub(super) sources: Vec<Selector>,
    pub(super) destinations: Vec<(Selector, Vec<PortRange>)>,
    pub(super) protocols: Vec<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    groups: BTreeMap<String, Vec<String>>,
    #[serde(default, rename = "tagOwners")]
    tag_owners: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    hosts: BTreeMap<String, String>,
    #[serde(default)]
    acls: Option<Vec<Acl>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Acl {
    #[serde(default)]
    action: String,
    #[serde(default)]
    proto: String,
    #[serde(default)]
    src: Vec<String>,
    #[serde(default)]
    dst: Vec<String>,
}

impl Policy {
    /// Everybody may talk to everybody.
    #[must_use]
    pub fn allow_all() -> Self {
        Self::default()
    }

    /// Reads a policy as Headscale's file has it: `acls`, `groups`, `tagOwners`, `hosts`.
    ///
    /// Without `acls` everybody may talk to everybody; with an empty list, nobody to anybody.
    ///
    /// # Errors
    /// [`PolicyError`] for anything that is not understood or not defined.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > MAX_LENGTH {
            return Err(PolicyError::TooLong);
        }
        let document: Document = json5::from_str(text).map_err(|error| PolicyError::Syntax(error.to_string()))?;
        let mut policy = Self {
            text: Some(text.to_owned()),
            ..Self::default()
        };
        for (name, address) in document.hosts {
            let network = selector::network(&address).ok_or(PolicyError::Selector(address))?;
            policy.hosts.insert(name, network);
        }
        for (name, users) in document.groups {
            if !name.starts_with("group:") {
                return Err(PolicyError::Selector(name));
            }
            let users = users.iter().map(|word| selector::user(word).to_owned()).collect();
            policy.groups.insert(name, users);
        }
        for (tag, owners) in document.tag_owners {
            crate::membership::check_tag(&tag).map_err(|_| PolicyError::Selector(tag.clone()))?;
            let owners: Result<Vec<Selector>, PolicyError> = owners.iter().map(|word| Selector::parse(word)).collect();
            policy.tag_owners.insert(tag, owners?);
        }
        for owner in policy.tag_owners.values().flatten() {
            policy.check_defined(owner)?;
        }
        if let Some(acls) = document.acls {
            let rules: Result<Vec<Rule>, PolicyError> = acls.into_iter().map(|acl| policy.rule(acl)).collect();
            policy.rules = Some(rules?);
        }
        Ok(policy)
    }

    /// The text it was read from; none for [`Policy::allow_all`].
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    fn rule(&self, acl: Acl) -> Result<Rule, PolicyError> {
        if acl.action != "accept" {
            return Err(PolicyError::Action(acl.action));
        }
        let protocols = selector::protocol(&acl.proto)?;
        let sources: Result<Vec<Selector>, PolicyError> = acl.src.iter().map(|word| Selector::parse(word)).collect();
        let sources = sources?;
        for (source, word) in sources.iter().zip(&acl.src) {
            self.check_defined(source)?;
            if *source == Selector::SameUser {
                return Err(PolicyError::Selector(word.clone()));
            }
        }
        let mut destinations = Vec::new();
        for word in &acl.dst {
            let (target, ports) = selector::destination(word)?;
            self.check_defined(&target)?;
            let all_ports = ports.iter().any(|range| (range.first, range.last) == (0, u16::MAX));
            if !selector::has_ports(&protocols) && !all_ports {
                return Err(PolicyError::Ports(acl.proto));
            }
            let owned = |source: &Selector| {
                matches!(
                    source,
                    Selector::User(_) | Selector::Group(_) | Selector::Members | Selector::Everyone
                )
            };
            if target == Selector::SameUser
                && let Some((_, word)) = sources.iter().zip(&acl.src).find(|(source, _)| !owned(source))
            {
                return Err(PolicyError::SelfSource(word.clone()));
            }
            destinations.push((target, ports));
        }
        Ok(Rule {
            sources,
            destinations,
            protocols,
        })
    }

    fn check_defined(&self, selector: &Selector) -> Result<(), PolicyError> {
        let (name, defined) = match selector {
            Selector::Group(name) => (name, self.groups.contains_key(name)),
            Selector::Tag(name) => (name, self.tag_owners.contains_key(name)),
            Selector::Host(name) => (name, self.hosts.contains_key(name)),
            Selector::Everyone
            | Selector::User(_)
            | Selector::Members
            | Selector::Tagged
            | Selector::SameUser
            | Selector::Network(_) => return Ok(()),
        };
        if defined {
            Ok(())
        } else {
            Err(PolicyError::Undefined(name.clone()))
        }
    }

    /// Whether a user may give a tag to a node that asks for it.
    pub(crate) fn may_tag(&self, user: &str, tag: &str) -> bool {
        let user = selector::user(user);
        let Some(owners) = self.tag_owners.get(tag) else {
            return false;
        };
        owners.iter().any(|owner| match owner {
            Selector::Everyone | Selector::Members => true,
            Selector::User(name) => name == user,
            Selector::Group(name) => self
                .groups
                .get(name)
                .is_some_and(|users| users.iter().any(|member| member == user)),
            Selector::Tag(_) | Selector::Tagged | Selector::SameUser | Selector::Network(_) | Selector::Host(_) => {
                false
            }
        })
    }
}
