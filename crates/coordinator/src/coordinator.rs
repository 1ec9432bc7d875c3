//! [`Coordinator`]: builder and handle.

mod builder;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sandd_control_client::keys::{MachinePublicKey, NodePublicKey};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

pub use builder::CoordinatorBuilder;

use crate::error::{StartError, StoreError};
use crate::hooks::Hooks;
use crate::io::shared::Shared;
use crate::io::{listener, stun};
use crate::membership::{
    KeyError, KeyId, KeyOptions, KeyStatus, LoginError, LoginRequest, NodeId, NodeStatus, WireGuardPeers,
    WireGuardPeersError,
};
use crate::policy::{Policy, PolicyError};

/// A running coordinator. Clones are the same one; it stops with [`Self::shutdown`], or when the last is dropped.
///
/// ```no_run
/// use sandd_coordinator::{Coordinator, KeyOptions};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let coordinator = Coordinator::builder()
///     .listen("127.0.0.1:8080".parse()?)
///     .stun("127.0.0.1:3478".parse()?)
///     .state_file("coordinator.db")
///     .start()
///     .await?;
/// let key = coordinator.create_key(KeyOptions { reusable: true, ..KeyOptions::default() }).await?;
/// println!("tailscale up --login-server {} --auth-key {key}", coordinator.url());
/// for node in coordinator.nodes() {
///     println!("{} {:?} {}", node.name, node.addresses, node.online);
/// }
/// coordinator.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Coordinator {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    listen: SocketAddr,
    stun: Option<SocketAddr>,
    tls: Tls,
    certificate_pem: Option<String>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    time: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Clone)]
struct Tls(TlsAcceptor);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop_tasks();
        self.stop_time();
    }
}

impl Inner {
    fn stop_tasks(&self) -> Vec<JoinHandle<()>> {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.iter().for_each(JoinHandle::abort);
        tasks
    }

    fn stop_time(&self) {
        let time = self.time.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(time) = time {
            time.abort();
        }
    }

    fn spawn(&self, listener: TcpListener, stun: Option<UdpSocket>) {
        let serve = listener::serve(Arc::clone(&self.shared), listener, self.tls.0.clone());
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.push(tokio::spawn(serve));
        tasks.extend(stun.map(|socket| tokio::spawn(stun::serve(socket))));
    }
}

async fn bind(listen: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(listen).await.map_err(|source| StartError::Listen {
        address: listen,
        source,
    })
}

async fn bind_stun(address: Option<SocketAddr>) -> Result<Option<UdpSocket>, StartError> {
    match address {
        None => Ok(None),
        Some(address) => match UdpSocket::bind(address).await {
            Ok(socket) => Ok(Some(socket)),
            Err(source) => Err(StartError::Stun { address, source }),
        },
    }
}

impl Coordinator {
    /// Begins to describe a coordinator.
    #[must_use]
    pub fn builder() -> CoordinatorBuilder {
        CoordinatorBuilder::new()
    }

    /// What nodes are given as the control server's URL.
    #[must_use]
    pub fn url(&self) -> String {
        self.inner.shared.published.url()
    }

    /// The TCP address: control, and DERP at `/derp`.
    #[must_use]
    pub fn listen_addr(&self) -> SocketAddr {
        self.inner.listen
    }

    /// The UDP address of STUN, if it is served.
    #[must_use]
    pub fn stun_addr(&self) -> Option<SocketAddr> {
        self.inner.stun
    }

    /// The self-made certificate, for a file of trusted roots (`SSL_CERT_FILE`); none when one was given.
    #[must_use]
    pub fn certificate_pem(&self) -> Option<&str> {
        self.inner.certificate_pem.as_deref()
    }

    /// The key that nodes pin this coordinator by.
    #[must_use]
    pub fn public_key(&self) -> MachinePublicKey {
        self.inner.shared.identity.noise.public()
    }

    /// The relay's key.
    #[must_use]
    pub fn relay_key(&self) -> NodePublicKey {
        self.inner.shared.relay.key()
    }

    /// How many members are connected to the relay.
    #[must_use]
    pub fn relay_clients(&self) -> usize {
        self.inner.shared.relay.len()
    }

    /// Makes a pre-auth key. Its text is only here; what is kept can check it, and not show it again.
    ///
    /// # Errors
    /// [`KeyError`] when the options make no sense, or the key could not be saved.
    pub async fn create_key(&self, options: KeyOptions) -> Result<String, KeyError> {
        let create = self
            .inner
            .shared
            .change_durably(|core, now| core.membership.create_key(options, now));
        Ok(create.await??.to_string())
    }

    /// The pre-auth keys, without their secrets.
    #[must_use]
    pub fn keys(&self) -> Vec<KeyStatus> {
        self.inner.shared.read(|core| core.membership.key_statuses())
    }

    /// Makes a key useless for new nodes; those that joined with it stay.
    ///
    /// # Errors
    /// [`KeyError`] when there is no such key, or it could not be saved.
    pub async fn revoke_key(&self, id: KeyId) -> Result<(), KeyError> {
        let revoke = self
            .inner
            .shared
            .change_durably(|core, _| core.membership.revoke_key(id));
        revoke.await?
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeStatus> {
        self.inner.shared.read(|core| core.membership.statuses())
    }

    /// Ends a node's key now: it must join again, and peers drop it. False when there is no such node.
    ///
    /// # Errors
    /// [`StoreError`] when it could not be saved.
    pub async fn expire_node(&self, id: NodeId) -> Result<bool, StoreError> {
        let shared = &self.inner.shared;
        shared
            .change_durably(|core, now| core.membership.expire_node(id, now))
            .await
    }

    /// Forgets a node: its stream and its relay connections end, and peers drop it. False when there is no such node.
    ///
    /// # Errors
    /// [`StoreError`] when it could not be saved.
    pub async fn remove_node(&self, id: NodeId) -> Result<bool, StoreError> {
        let shared = &self.inner.shared;
        shared.change_durably(|core, _| core.membership.remove_node(id)).await
    }

    /// Logins without a key that wait for somebody's decision.
    #[must_use]
    pub fn login_requests(&self) -> Vec<LoginRequest> {
        self.inner.shared.read(|core| core.membership.login_requests())
    }

    /// Lets a waiting node in, as one of `user`'s. `login` is its id, or the URL that the node shows.
    ///
    /// # Errors
    /// [`LoginError`] when it does not wait any longer, or cannot be admitted.
    pub async fn approve_login(&self, login: &str, user: &str) -> Result<NodeId, LoginError> {
        let shared = &self.inner.shared;
        let approve = shared.change_durably(|core, now| {
            let policy = &core.policy;
            let may_tag = |user: &str, tag: &str| policy.may_tag(user, tag);
            core.membership.approve_login(login, user, may_tag, now)
        });
        let node = approve.await??;
        shared.login_decided();
        Ok(node)
    }

    /// Turns a waiting node away; it is given a new URL.
    ///
    /// # Errors
    /// [`LoginError`] when it does not wait any longer.
    pub fn reject_login(&self, login: &str) -> Result<(), LoginError> {
        let shared = &self.inner.shared;
        shared.change(|core, _| core.membership.reject_login(login))?;
        shared.login_decided();
        Ok(())
    }

    /// Replaces the policy; nodes are told at once, and a state file keeps it.
    ///
    /// # Errors
    /// [`PolicyError`] when it is not understood, or could not be saved; the old one stays in force.
    pub async fn set_policy(&self, text: &str) -> Result<(), PolicyError> {
        let policy = Policy::parse(text)?;
        Ok(self.inner.shared.set_policy(policy).await?)
    }

    /// Replaces the plain WireGuard peers; nodes are told at once.
    ///
    /// # Errors
    /// [`WireGuardPeersError`] when one takes what a node has, or their owners could not be saved; those before stay in
    /// force.
    pub async fn set_wireguard_peers(&self, peers: &WireGuardPeers) -> Result<(), WireGuardPeersError> {
        let set = self
            .inner
            .shared
            .change_durably(|core, now| core.membership.set_plain(peers, now));
        set.await?
    }

    /// The switches for tests.
    #[must_use]
    pub fn hooks(&self) -> Hooks {
        self.inner.shared.hooks.clone()
    }

    /// Goes away with all connections, stays away for `down`, and comes back on the same addresses with the same state:
    /// what a restart looks like to nodes.
    ///
    /// # Errors
    /// [`StartError`] when an address cannot be had again; the coordinator is stopped then.
    pub async fn restart(&self, down: Duration) -> Result<(), StartError> {
        for task in self.inner.stop_tasks() {
            // Aborted, and with it every connection.
            let _ = task.await;
        }
        tokio::time::sleep(down).await;
        let listener = bind(self.inner.listen).await?;
        let stun = bind_stun(self.inner.stun).await?;
        self.inner.spawn(listener, stun);
        Ok(())
    }

    /// Ends all connections, writes what is unwritten and closes the state file.
    pub async fn shutdown(&self) {
        for task in self.inner.stop_tasks() {
            let _ = task.await;
        }
        self.inner.stop_time();
        let shared = Arc::clone(&self.inner.shared);
        // Joining the writer blocks for as long as the disk takes.
        let _ = tokio::task::spawn_blocking(move || shared.store.close()).await;
    }
}
