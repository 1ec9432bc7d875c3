//! Plain WireGuard implementations, as our coordinator's `IsWireGuardOnly` peers: a process with an interface, configured
//! over the text protocol that all of them speak on a Unix socket (wireguard.com/xplatform).

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr},
    os::unix::net::UnixStream,
    path::PathBuf,
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use sandd_control_client::keys::{NodePrivateKey, NodePublicKey};

use super::{eventually, headscale::peers_directory, process::Process, world::Host};

/// Where they all put their sockets.
const SOCKETS: &str = "/var/run/wireguard";
/// What a plain peer listens on.
const PORT: u16 = 51_820;

static INTERFACES: AtomicU32 = AtomicU32::new(0);

/// Which implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireGuardProgram {
    /// The Go one by WireGuard's author.
    WireguardGo,
    /// Cloudflare's.
    Boringtun,
    /// Mullvad's.
    Gotatun,
}

impl WireGuardProgram {
    fn name(self) -> &'static str {
        match self {
            Self::WireguardGo => "wireguard-go",
            Self::Boringtun => "boringtun-cli",
            Self::Gotatun => "gotatun",
        }
    }

    /// Whether it was built.
    #[must_use]
    pub fn is_there(self) -> bool {
        peers_directory().join(self.name()).exists()
    }
}

/// The other side, as a plain peer has to be told.
#[derive(Debug, Clone)]
pub struct WireGuardPeer {
    /// Its public key.
    pub key: NodePublicKey,
    /// Its address in the mesh.
    pub address: Ipv4Addr,
    /// Where it listens; without one the plain peer can only answer.
    pub endpoint: Option<SocketAddr>,
}

/// Identity and place of a plain peer, which outlive its process.
#[derive(Debug)]
pub struct WireGuardHost<'lab> {
    host: &'lab Host,
    program: WireGuardProgram,
    key: NodePrivateKey,
    address: Ipv4Addr,
}

/// Its process. The interface goes with it.
#[derive(Debug)]
pub struct WireGuard {
    interface: String,
    process: Process,
}

impl<'lab> WireGuardHost<'lab> {
    /// A plain peer with a new key that will have `address` in the mesh.
    #[must_use]
    pub fn new(host: &'lab Host, program: WireGuardProgram, address: Ipv4Addr) -> Self {
        Self {
            host,
            program,
            key: NodePrivateKey::generate(),
            address,
        }
    }

    /// Its address in the mesh.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// What another plain peer has to be told to reach it.
    #[must_use]
    pub fn as_peer(&self) -> WireGuardPeer {
        WireGuardPeer {
            key: self.key.public(),
            address: self.address,
            endpoint: Some((self.host.address(), PORT).into()),
        }
    }

    /// Its entry in the coordinator's file.
    #[must_use]
    pub fn entry(&self) -> String {
        format!(
            r#"{{"name": "{}", "publicKey": "{}", "endpoints": ["{}:{PORT}"], "addresses": ["{}"]}}"#,
            self.host.name(),
            self.key.public(),
            self.host.address(),
            self.address
        )
    }

    /// Starts it with these other sides.
    pub fn start(&self, peers: &[WireGuardPeer]) -> Result<WireGuard> {
        let number = INTERFACES.fetch_add(1, Ordering::Relaxed);
        let interface = format!("wg{}x{number}", process::id());
        let mut command = self.host.command(peers_directory().join(self.program.name()));
        command.args(["-f", &interface]);
        if self.program != WireGuardProgram::WireguardGo {
            command.arg("--disable-drop-privileges");
        }
        let name = format!("{}-{}", self.program.name(), self.host.name());
        let mut wireguard = WireGuard {
            process: Process::start(&name, self.host.directory(), &mut command)?,
            interface,
        };
        eventually("the interface of a plain peer", Duration::from_secs(10), || {
            ensure!(wireguard.process.is_running(), "it ended:\n{}", wireguard.process.log());
            wireguard.ask("get=1\n\n").map(drop)
        })?;
        self.configure(&wireguard, peers)?;
        let WireGuard { interface, .. } = &wireguard;
        self.host.namespace().ip(&format!(
            "address add {}/32 dev {interface}\nlink set {interface} mtu 1420 up\nroute add 100.64.0.0/10 dev {interface}",
            self.address
        ))?;
        Ok(wireguard)
    }

    fn configure(&self, wireguard: &WireGuard, peers: &[WireGuardPeer]) -> Result<()> {
        let private = hex::encode(&self.key.to_bytes()[..]);
        let mut order = format!("set=1\nprivate_key={private}\nlisten_port={PORT}\nreplace_peers=true\n");
        for peer in peers {
            order += &format!(
                "public_key={}\nallowed_ip={}/32\n",
                hex::encode(peer.key.as_bytes()),
                peer.address
            );
            if let Some(endpoint) = peer.endpoint {
                order += &format!("endpoint={endpoint}\n");
            }
        }
        order.push('\n');
        wireguard.ask(&order).map(drop)
    }
}

impl WireGuard {
    /// Its interface.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Sends an order and reads the answer up to its `errno`.
    fn ask(&self, order: &str) -> Result<String> {
        let path = self.socket();
        let mut stream = UnixStream::connect(&path).with_context(|| format!("{}", path.display()))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(order.as_bytes())?;
        let mut answer = String::new();
        for line in BufReader::new(stream).lines() {
            let line = line?;
            if let Some(errno) = line.strip_prefix("errno=") {
                ensure!(errno == "0", "errno {errno} to\n{order}");
                return Ok(answer);
            }
            answer += &line;
            answer.push('\n');
        }
        anyhow::bail!("no errno after {answer:?}")
    }

    fn socket(&self) -> PathBuf {
        PathBuf::from(SOCKETS).join(format!("{}.sock", self.interface))
    }
}

impl Drop for WireGuard {
    fn drop(&mut self) {
        let _ = self.process.kill();
        // Killed, it cannot tidy up itself.
        let _ = fs::remove_file(self.socket());
    }
}
