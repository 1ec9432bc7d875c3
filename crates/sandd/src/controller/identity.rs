//! Who may register as whom (S-24, S-26, S-27), pure.
//!
//! In tunnel mode the source address of a connection belongs to a node of the mesh, and that node's key is the proof. The
//! first node that claims an id is bound to it; another node is refused as long as the bound one is a member of the
//! mesh, whether it is connected or not. In open mode nobody proves anything: an id is free as soon as its holder is
//! gone, a live one is not given away, and a daemon process that reconnects shows the secret it registered with.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::wire::ids::{DaemonId, InstanceSecret};

/// A node of the mesh, as the mesh itself knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeIdentity {
    /// Its node key as text.
    pub key: String,
    /// The coordinator's number for it, which stays when its key is rotated.
    pub node_id: i64,
    /// Its name, for people.
    pub name: String,
    /// One of its addresses, to find it by.
    pub address: IpAddr,
}

/// Who is at the other end of a connection.
#[derive(Clone, PartialEq, Eq)]
pub enum Identity {
    /// A member of the mesh.
    Node(NodeIdentity),
    /// Somebody; a daemon of ours at least tells a secret of its process.
    Unproven {
        /// That secret.
        instance: Option<InstanceSecret>,
    },
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => f.debug_tuple("Node").field(node).finish(),
            Self::Unproven { .. } => f.write_str("Unproven"),
        }
    }
}

impl Identity {
    /// The node's name, where there is one.
    #[must_use]
    pub fn node_name(&self) -> Option<String> {
        match self {
            Self::Node(node) => Some(node.name.clone()),
            Self::Unproven { .. } => None,
        }
    }

    /// True when both are proven to be the same, so that one may replace the other's live connection.
    #[must_use]
    pub fn proves_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Node(a), Self::Node(b)) => a.key == b.key || a.node_id == b.node_id,
            (Self::Unproven { instance: Some(a) }, Self::Unproven { instance: Some(b) }) => a.matches(b),
            (Self::Node(_) | Self::Unproven { .. }, Self::Node(_) | Self::Unproven { .. }) => false,
        }
    }
}

/// Daemon ids that one node may hold: a host runs a few daemons, not hundreds.
const MAX_IDS_OF_A_NODE: usize = 64;
/// Daemon ids in all (S-30).
const MAX_IDS: usize = 20_000;

/// Why a claim was refused; the text goes to the daemon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimRefused {
    /// The source address is no member of the mesh.
    #[error("the address of this connection belongs to no node of the mesh")]
    Stranger,
    /// Bound to another node.
    #[error(
        "daemon id is bound to node {name}; remove that node at the coordinator, or choose another id for this daemon"
    )]
    BoundToOther {
        /// The name of that node.
        name: String,
    },
    /// More ids than anybody needs.
    #[error("{limit} daemon ids are bound already; remove nodes that are gone at the coordinator")]
    TooMany {
        /// How many there may be.
        limit: usize,
    },
    /// Bindings are to be kept and cannot be.
    #[error("the controller cannot remember whose this daemon id is: {0}")]
    Store(String),
}

/// Decides who is at the other end, and whether an id is theirs.
pub trait IdentityRule: Send + Sync + fmt::Debug {
    /// Who dials from `from`.
    ///
    /// # Errors
    /// [`ClaimRefused::Stranger`].
    fn identify(&self, from: IpAddr, instance: Option<InstanceSecret>) -> Result<Identity, ClaimRefused>;

    /// Binds the id to the identity, or says whose it is.
    ///
    /// # Errors
    /// [`ClaimRefused`].
    fn claim(&self, id: &DaemonId, identity: &Identity) -> Result<(), ClaimRefused>;

    /// True when nobody proves anything.
    fn is_open(&self) -> bool;
}

/// No proof, as the original (S-26).
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenMode;

impl IdentityRule for OpenMode {
    fn identify(&self, _from: IpAddr, instance: Option<InstanceSecret>) -> Result<Identity, ClaimRefused> {
        Ok(Identity::Unproven { instance })
    }

    fn claim(&self, _id: &DaemonId, _identity: &Identity) -> Result<(), ClaimRefused> {
        Ok(())
    }

    fn is_open(&self) -> bool {
        true
    }
}

/// Which node an id belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bindings(BTreeMap<String, NodeIdentity>);

/// What a claim does to the bindings.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// The id is that node's already.
    Known,
    /// The bindings changed and are to be kept.
    Bound,
}

impl Bindings {
    /// Binds an unbound id, confirms a bound one; `is_member` says whether a node is still in the mesh.
    ///
    /// # Errors
    /// [`ClaimRefused::BoundToOther`].
    pub fn claim(
        &mut self,
        id: &DaemonId,
        node: &NodeIdentity,
        is_member: impl Fn(&NodeIdentity) -> bool,
    ) -> Result<Claim, ClaimRefused> {
        if let Some(bound) = self.0.get(id.as_str()) {
            if bound == node {
                return Ok(Claim::Known);
            }
            let same = bound.key == node.key || bound.node_id == node.node_id;
            if !same && is_member(bound) {
                return Err(ClaimRefused::BoundToOther {
                    name: bound.name.clone(),
                });
            }
        } else {
            self.make_room(node, &is_member)?;
        }
        self.0.insert(id.as_str().to_owned(), node.clone());
        Ok(Claim::Bound)
    }
}

impl Bindings {
    /// Keeps ids in bounds: so many for a node, so many in all, those of nodes that have left going first.
    fn make_room(
        &mut self,
        node: &NodeIdentity,
        is_member: impl Fn(&NodeIdentity) -> bool,
    ) -> Result<(), ClaimRefused> {
        let held = self.0.values().filter(|bound| bound.key == node.key).count();
        if held >= MAX_IDS_OF_A_NODE {
            return Err(ClaimRefused::TooMany {
                limit: MAX_IDS_OF_A_NODE,
            });
        }
        if self.0.len() >= MAX_IDS {
            self.0.retain(|_, bound| is_member(bound));
        }
        if self.0.len() >= MAX_IDS {
            return Err(ClaimRefused::TooMany { limit: MAX_IDS });
        }
        Ok(())
    }
}

/// Looks nodes up in the mesh.
pub trait Members: Send + Sync + fmt::Debug {
    /// The node that owns this address now.
    fn whois(&self, address: IpAddr) -> Option<NodeIdentity>;

    /// Whether this node is still a member.
    fn is_member(&self, node: &NodeIdentity) -> bool;
}

/// Keeps bindings over restarts.
pub trait BindingStore: Send + Sync + fmt::Debug {
    /// Writes them.
    ///
    /// # Errors
    /// What the system said.
    fn save(&self, bindings: &Bindings) -> std::io::Result<()>;
}

/// Tunnel mode: the mesh proves who dials (S-24).
#[derive(Debug)]
pub struct MeshMode<M> {
    members: M,
    bindings: Mutex<Bindings>,
    store: Option<Box<dyn BindingStore>>,
}

impl<M: Members> MeshMode<M> {
    /// Starts from bindings of an earlier run; without a store they live as long as this process.
    pub fn new(members: M, bindings: Bindings, store: Option<Box<dyn BindingStore>>) -> Self {
        Self {
            members,
            bindings: Mutex::new(bindings),
            store,
        }
    }
}

impl<M: Members> IdentityRule for MeshMode<M> {
    fn identify(&self, from: IpAddr, _instance: Option<InstanceSecret>) -> Result<Identity, ClaimRefused> {
        self.members
            .whois(from)
            .map(Identity::Node)
            .ok_or(ClaimRefused::Stranger)
    }

    fn claim(&self, id: &DaemonId, identity: &Identity) -> Result<(), ClaimRefused> {
        let Identity::Node(node) = identity else {
            return Err(ClaimRefused::Stranger);
        };
        let mut bindings = self.bindings.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = bindings.clone();
        let claim = bindings.claim(id, node, |bound| self.members.is_member(bound))?;
        if let (Claim::Bound, Some(store)) = (claim, &self.store)
            && let Err(error) = store.save(&bindings)
        {
            *bindings = before;
            return Err(ClaimRefused::Store(error.to_string()));
        }
        Ok(())
    }

    fn is_open(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(key: &str, node_id: i64) -> NodeIdentity {
        let name = format!("node-{node_id}");
        NodeIdentity {
            key: key.into(),
            node_id,
            name,
            address: [100, 64, 0, 2].into(),
        }
    }

    fn id(text: &str) -> DaemonId {
        DaemonId::from_flag(text).unwrap()
    }

    #[test]
    fn an_id_stays_with_its_node() {
        let mut bindings = Bindings::default();
        assert_eq!(bindings.claim(&id("w"), &node("k1", 1), |_| true), Ok(Claim::Bound));
        assert_eq!(bindings.claim(&id("w"), &node("k1", 1), |_| true), Ok(Claim::Known));
        let refused = bindings.claim(&id("w"), &node("k2", 2), |_| true);
        assert_eq!(refused, Err(ClaimRefused::BoundToOther { name: "node-1".into() }));
        assert_eq!(bindings.claim(&id("v"), &node("k2", 2), |_| true), Ok(Claim::Bound));
    }

    #[test]
    fn a_rotated_key_and_a_removed_node_do_not_lock_an_id() {
        let mut bindings = Bindings::default();
        bindings.claim(&id("w"), &node("k1", 1), |_| true).unwrap();
        assert_eq!(bindings.claim(&id("w"), &node("k9", 1), |_| true), Ok(Claim::Bound));
        assert_eq!(bindings.claim(&id("w"), &node("k2", 2), |_| false), Ok(Claim::Bound));
        assert!(bindings.claim(&id("w"), &node("k9", 1), |_| true).is_err());
    }

    #[test]
    fn only_the_same_proven_identity_replaces() {
        let unproven = |instance: Option<&str>| Identity::Unproven {
            instance: instance.map(|text| text.to_owned().into()),
        };
        assert!(unproven(Some("s")).proves_same(&unproven(Some("s"))));
        assert!(!unproven(Some("s")).proves_same(&unproven(Some("t"))));
        assert!(!unproven(None).proves_same(&unproven(None)));
        assert!(Identity::Node(node("k", 1)).proves_same(&Identity::Node(node("k", 1))));
        assert!(!Identity::Node(node("k", 1)).proves_same(&Identity::Node(node("j", 2))));
        assert!(!Identity::Node(node("k", 1)).proves_same(&unproven(Some("k"))));
        assert_eq!(format!("{:?}", unproven(Some("secret"))), "Unproven");
    }

    #[derive(Debug)]
    struct One(NodeIdentity);

    impl Members for One {
        fn whois(&self, address: IpAddr) -> Option<NodeIdentity> {
            (address == IpAddr::from([100, 64, 0, 2])).then(|| self.0.clone())
        }

        fn is_member(&self, node: &NodeIdentity) -> bool {
            *node == self.0
        }
    }

    #[derive(Debug)]
    struct Full;

    impl BindingStore for Full {
        fn save(&self, _bindings: &Bindings) -> std::io::Result<()> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
    }

    #[test]
    fn strangers_are_refused_and_a_store_that_fails_binds_nothing() {
        let rule = MeshMode::new(One(node("k", 1)), Bindings::default(), Some(Box::new(Full)));
        assert_eq!(rule.identify([10, 0, 0, 1].into(), None), Err(ClaimRefused::Stranger));
        let identity = rule.identify([100, 64, 0, 2].into(), None).unwrap();
        assert!(matches!(rule.claim(&id("w"), &identity), Err(ClaimRefused::Store(_))));
        assert!(matches!(rule.claim(&id("w"), &identity), Err(ClaimRefused::Store(_))));
    }

    #[test]
    fn one_node_cannot_take_every_id() {
        let mut bindings = Bindings::default();
        let (greedy, other) = (node("a", 1), node("b", 2));
        let id = |number: usize| id(&format!("worker-{number}"));
        for number in 0..MAX_IDS_OF_A_NODE {
            assert_eq!(bindings.claim(&id(number), &greedy, |_| true), Ok(Claim::Bound));
        }
        let refused = bindings.claim(&id(9_999), &greedy, |_| true);
        assert_eq!(
            refused,
            Err(ClaimRefused::TooMany {
                limit: MAX_IDS_OF_A_NODE
            })
        );
        assert_eq!(
            bindings.claim(&id(0), &greedy, |_| true),
            Ok(Claim::Known),
            "its own stay"
        );
        assert_eq!(bindings.claim(&id(9_999), &other, |_| true), Ok(Claim::Bound));
    }
}
