//! [`Shared`]: what all connections work on. One lock around the pure machines, held for a calculation and never across
//! a wait; the world is published while it is held, so that worlds follow one another in order.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use sandd_control_client::keys::NodePublicKey;
use sandd_control_client::wire::DnsConfig;
use tokio::sync::{Notify, watch};

use super::derp::Relay;
use super::frames::Frames;
use super::store::{Identity, Store};
use crate::error::StoreError;
use crate::hooks::Hooks;
use crate::limits::Limits;
use crate::map::{RelayAddress, World};
use crate::membership::{Membership, Now};
use crate::policy::Policy;

/// The machines under the lock.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) membership: Membership,
    pub(crate) policy: Policy,
    pub(crate) policy_revision: u64,
    published: (u64, u64),
}

impl Core {
    pub(crate) fn new(membership: Membership, policy: Policy) -> Self {
        Self {
            membership,
            policy,
            policy_revision: 1,
            published: (0, 0),
        }
    }
}

/// Where nodes find us.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    /// `https` or `http`.
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Somebody said so; otherwise each node is told the host by which it came itself.
    pub(crate) explicit: bool,
    pub(crate) stun_port: Option<u16>,
    /// The certificate's hash, when it is self-made.
    pub(crate) fingerprint: Option<[u8; 32]>,
}

impl Published {
    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        let port = if self.port == self.default_port() {
            String::new()
        } else {
            format!(":{}", self.port)
        };
        format!("{scheme}://{host}{port}")
    }

    fn default_port(&self) -> u16 {
        if self.tls { 443 } else { 80 }
    }

    /// The relay as the node that came by `authority` will reach it.
    pub(crate) fn relay_for(&self, authority: Option<&http::uri::Authority>) -> RelayAddress {
        let came_by = authority.filter(|_| !self.explicit).map(|authority| {
            let host = authority.host().trim_start_matches('[').trim_end_matches(']');
            (host.to_owned(), authority.port_u16().unwrap_or(self.default_port()))
        });
        let (host, port) = came_by.unwrap_or_else(|| (self.host.clone(), self.port));
        RelayAddress {
            host,
            port,
            stun_port: self.stun_port,
            certificate: self.fingerprint,
        }
    }
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    core: Mutex<Core>,
    world: watch::Sender<Arc<World>>,
    decided: watch::Sender<u64>,
    /// Rung after each change, because any may bring a nearer deadline.
    clock: Notify,
    pub(crate) store: Store,
    pub(crate) identity: Identity,
    pub(crate) hooks: Hooks,
    pub(crate) relay: Relay,
    pub(crate) published: Published,
    pub(crate) base_domain: String,
    pub(crate) dns: DnsConfig,
    pub(crate) frames: Frames,
    pub(crate) limits: Limits,
}

impl Shared {
    pub(crate) fn new(
        core: Core,
        store: Store,
        identity: Identity,
        hooks: Hooks,
        published: Published,
        limits: Limits,
        base_domain: &str,
    ) -> Self {
        let shared = Self {
            core: Mutex::new(core),
            world: watch::Sender::new(Arc::new(World::new(base_domain))),
            decided: watch::Sender::new(0),
            clock: Notify::new(),
            relay: Relay::new(identity.relay.clone()),
            store,
            identity,
            hooks,
            published,
            dns: crate::map::dns_config(base_domain),
            frames: Frames::default(),
            limits,
            base_domain: base_domain.to_owned(),
        };
        shared.publish(&mut shared.lock());
        shared
    }

    pub(crate) fn now() -> Now {
        Now {
            wall: SystemTime::now(),
            instant: Instant::now(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, core: &mut Core) {
        self.clock.notify_one();
        let state = (core.membership.revision(), core.policy_revision);
        if state != core.published {
            core.published = state;
            let next = self
                .world
                .borrow()
                .next(&core.membership, &core.policy, core.policy_revision);
            self.world.send_replace(Arc::new(next));
        }
    }

    /// Looks without changing anything.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&Core) -> R) -> R {
        look(&self.lock())
    }

    /// Changes something that may be lost in a crash: peers hear of it at once, the disk soon.
    pub(crate) fn change<R>(&self, act: impl FnOnce(&mut Core, Now) -> R) -> R {
        let mut core = self.lock();
        let result = act(&mut core, Self::now());
        self.store.save(core.membership.take_unsaved());
        self.publish(&mut core);
        result
    }

    /// Changes something that must not be lost: answers, and tells peers, when it is on the disk.
    pub(crate) async fn change_durably<R>(&self, act: impl FnOnce(&mut Core, Now) -> R) -> Result<R, StoreError> {
        let (result, changed) = {
            let mut core = self.lock();
            let result = act(&mut core, Self::now());
            let unsaved = core.membership.take_unsaved();
            let changed = !unsaved.is_empty();
            self.store.save(unsaved);
            (result, changed)
        };
        // What an earlier failure left unwritten must be safe, too, before anybody is told that he is a member.
        if changed || self.store.failing().is_some() {
            self.store.flush().await?;
        }
        self.publish(&mut self.lock());
        Ok(result)
    }

    /// A new policy, on the disk when this returns.
    pub(crate) async fn set_policy(&self, policy: Policy) -> Result<(), StoreError> {
        self.store.save_policy(policy.text());
        self.store.flush().await?;
        self.change(|core, _| {
            core.policy = policy;
            core.policy_revision += 1;
        });
        Ok(())
    }

    pub(crate) fn worlds(&self) -> watch::Receiver<Arc<World>> {
        self.world.subscribe()
    }

    /// Grows whenever a login has been decided.
    pub(crate) fn decisions(&self) -> watch::Receiver<u64> {
        self.decided.subscribe()
    }

    pub(crate) fn login_decided(&self) {
        self.decided.send_modify(|count| *count += 1);
    }

    pub(crate) fn admits_to_relay(&self, key: &NodePublicKey) -> bool {
        self.read(|core| core.membership.admits_to_relay(key))
    }

    /// Lets time pass for the members, and throws off the relay whoever is none any longer; until the task is dropped.
    pub(crate) async fn keep_time(&self) -> ! {
        loop {
            self.read(|core| self.relay.retain(|key| core.membership.admits_to_relay(key)));
            let wait = self.read(|core| core.membership.next_timeout(Self::now()));
            // Without a deadline only a change can make one.
            let due = tokio::time::sleep(wait.unwrap_or(Duration::from_secs(3600)));
            tokio::select! {
                () = due => self.change(|core, now| core.membership.handle_timeout(now)),
                () = self.clock.notified() => {}
            }
        }
    }
}
