//! The program under test, started as a user would: `sandd up`, `sandd controller`, `sandd daemon`, and what is asked of them.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use sandd_control_client::keys::NodePublicKey;
use serde_json::Value;

use super::{
    eventually,
    headscale::ipv4_of,
    process::{Process, Run, run},
    tailscaled::Device,
    world::Host,
};

/// The binary under test: `SANDD_BIN`, else the one built beside this program.
#[must_use]
pub fn sandd_binary() -> PathBuf {
    if let Some(binary) = std::env::var_os("SANDD_BIN") {
        return binary.into();
    }
    built_beside("sandd")
}

/// A program that cargo built where this one lies: tests are in `deps/`, programs beside it.
#[must_use]
pub fn built_beside(name: &str) -> PathBuf {
    let here = std::env::current_exe().unwrap_or_default();
    let directory = here.parent().unwrap_or(Path::new("."));
    let directory = if directory.ends_with("deps") {
        directory.parent().unwrap_or(directory)
    } else {
        directory
    };
    directory.join(name)
}

/// What a process is asked to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `sandd up`: a bare node.
    Node,
    /// `sandd controller`.
    Controller,
    /// `sandd daemon`.
    Daemon,
}

/// How to start a process that joins a mesh.
#[derive(Debug, Clone)]
pub struct SanddOptions {
    /// The coordinator.
    pub server: String,
    /// The pre-auth key, if one is given.
    pub key: Option<String>,
    /// Interface or none.
    pub device: Device,
    /// Keeps its state in memory only.
    pub ephemeral: bool,
    /// More arguments, such as `--server-url`.
    pub arguments: Vec<String>,
}

impl SanddOptions {
    /// A node without interface that joins `server` with `key`.
    #[must_use]
    pub fn new(server: &str, key: Option<&str>) -> Self {
        Self {
            server: server.to_owned(),
            key: key.map(str::to_owned),
            device: Device::Userspace,
            ephemeral: false,
            arguments: Vec::new(),
        }
    }

    /// The same with a kernel interface.
    #[must_use]
    pub fn with_tun(mut self) -> Self {
        self.device = Device::Tun;
        self
    }

    /// The same with more arguments.
    #[must_use]
    pub fn with_arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }
}

/// Which way our node says it reaches a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanddPath {
    /// By UDP, straight.
    Direct,
    /// Through a relay.
    Relayed,
}

/// A running `sandd`.
#[derive(Debug)]
pub struct Sandd<'lab> {
    host: &'lab Host,
    state: PathBuf,
    process: Process,
}

impl<'lab> Sandd<'lab> {
    /// Where the process of that role keeps its state on `host`.
    #[must_use]
    pub fn state_directory(host: &Host, role: Role) -> PathBuf {
        host.directory().join(format!("sandd-{}-{}", host.name(), role.word()))
    }

    /// Starts it on `host`.
    pub fn spawn(host: &'lab Host, role: Role, options: &SanddOptions) -> Result<Self> {
        let state = Self::state_directory(host, role);
        let mut command = host.command(sandd_binary());
        command.env(
            "RUST_LOG",
            std::env::var("SANDD_LAB_LOG").unwrap_or_else(|_| "info".to_owned()),
        );
        command.arg(role.subcommand());
        if role != Role::Node {
            command.arg("--tunnel");
        }
        command
            .args(["--tunnel-server", &options.server, "--tunnel-hostname", host.name()])
            .arg("--tunnel-state-dir")
            .arg(&state)
            .arg("--ca-file")
            .arg(host.directory().join("ca.pem"))
            .args(&options.arguments);
        if let Some(key) = &options.key {
            command.env("SANDD_TUNNEL_AUTH_KEY", key);
        }
        if options.device == Device::Tun {
            command.args(["--tunnel-tun", "sandd0"]);
        }
        if options.ephemeral {
            command.arg("--tunnel-ephemeral");
        }
        if role == Role::Controller {
            command.arg("--socket").arg(state.with_extension("sock"));
        }
        let name = format!("sandd-{}-{}", host.name(), role.word());
        Ok(Self {
            host,
            state,
            process: Process::start(&name, host.directory(), &mut command)?,
        })
    }

    /// Starts it without a mesh: `arguments` are all that it gets beside its state directory.
    pub fn spawn_without_mesh(host: &'lab Host, role: Role, arguments: &[&str]) -> Result<Self> {
        let state = Self::state_directory(host, role);
        let mut command = host.command(sandd_binary());
        command
            .arg(role.subcommand())
            .arg("--tunnel-state-dir")
            .arg(&state)
            .args(arguments);
        if role == Role::Controller {
            command.arg("--socket").arg(state.with_extension("sock"));
        }
        let name = format!("sandd-{}-{}", host.name(), role.word());
        Ok(Self {
            host,
            state,
            process: Process::start(&name, host.directory(), &mut command)?,
        })
    }

    /// Starts it and waits until it is a member with an address.
    pub fn join(host: &'lab Host, role: Role, options: &SanddOptions) -> Result<Self> {
        let mut node = Self::spawn(host, role, options)?;
        eventually("membership", Duration::from_secs(20), || {
            if !node.process.is_running() {
                bail!("it ended:\n{}", node.process.log());
            }
            node.address()
        })?;
        Ok(node)
    }

    /// Its host.
    #[must_use]
    pub fn host(&self) -> &'lab Host {
        self.host
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The process, to end it or to wait for its end.
    pub fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Stops it as a service manager would.
    pub fn stop(mut self) -> Result<()> {
        let status = self.process.terminate(Duration::from_secs(10))?;
        if !status.success() {
            bail!("sandd ended with {status} on SIGTERM");
        }
        Ok(())
    }

    /// A command of `sandd` that asks this node, on its host.
    #[must_use]
    pub fn cli(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command(sandd_binary());
        let (verb, rest) = arguments.split_first().unwrap_or((&"status", &[]));
        command.arg(verb).arg("--tunnel-state-dir").arg(&self.state).args(rest);
        command
    }

    /// A command of `sandd` that asks this controller, on its host: `exec`, `daemons`.
    #[must_use]
    pub fn controller_cli(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = self.host.command(sandd_binary());
        command
            .arg(verb)
            .arg("--socket")
            .arg(self.state.with_extension("sock"))
            .args(arguments);
        command
    }

    /// What `sandd status --json` says.
    pub fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&run(&mut self.cli(&["status", "--json"]))?)?)
    }

    /// Its public key.
    pub fn key(&self) -> Result<NodePublicKey> {
        let status = self.status()?;
        let key = find(&status, "node_key")
            .and_then(Value::as_str)
            .context("no node_key")?;
        Ok(key.parse()?)
    }

    /// Its IPv4 address in the mesh.
    pub fn address(&self) -> Result<Ipv4Addr> {
        let text = run(&mut self.cli(&["ip", "-4"]))?;
        let addresses: Vec<IpAddr> = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
        ipv4_of(&addresses).with_context(|| format!("no IPv4 address in {text:?}"))
    }

    /// Which way it says that it reaches the peer with that mesh address.
    pub fn path(&self, peer: Ipv4Addr) -> Result<SanddPath> {
        path_of(&self.path_text(peer)?)
    }

    /// The underlay address of its direct path to the peer with that mesh address.
    pub fn direct_address(&self, peer: Ipv4Addr) -> Result<SocketAddr> {
        let path = self.path_text(peer)?;
        let address = path.get("direct").and_then(Value::as_str);
        Ok(address.with_context(|| format!("{path} is not direct"))?.parse()?)
    }

    fn path_text(&self, peer: Ipv4Addr) -> Result<Value> {
        let status = self.status()?;
        let peers = find(&status, "peers")
            .and_then(Value::as_array)
            .with_context(|| format!("no peers in {status}"))?;
        let peer = peers
            .iter()
            .find(|candidate| candidate.to_string().contains(&format!("\"{peer}\"")))
            .with_context(|| format!("{peer} is no peer in {status}"))?;
        peer.get("path").cloned().context("a peer without path")
    }

    /// Waits until it says so of the peer with that mesh address.
    pub fn wait_for_path(&self, peer: Ipv4Addr, path: SanddPath, deadline: Duration) -> Result<()> {
        eventually(
            &format!("{path:?} path of {} to {peer}", self.host.name()),
            deadline,
            || {
                let present = self.path(peer)?;
                if present != path {
                    bail!("it is {present:?}");
                }
                Ok(())
            },
        )
    }

    /// How it stands with the coordinator, as `status` says it.
    pub fn control_state(&self) -> Result<String> {
        let status = self.status()?;
        let control = find(&status, "control").with_context(|| format!("no control in {status}"))?;
        Ok(control.get("state").unwrap_or(control).to_string())
    }

    /// Sends one echo request through the mesh; which way it went is part of the answer.
    pub fn ping(&self, peer: &str) -> Result<SanddPath> {
        let ping = Run::of(&mut self.cli(&["ping", "--json", peer]))?;
        if !ping.status.success() {
            bail!("sandd ping {peer}: {}{}", ping.stdout, ping.stderr);
        }
        let answer: Value = serde_json::from_str(&ping.stdout).with_context(|| ping.stdout.clone())?;
        path_of(answer.get("path").context("no path in the answer")?)
    }
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Controller => "controller",
            Self::Daemon => "daemon",
        }
    }

    fn subcommand(self) -> &'static str {
        match self {
            Self::Node => "up",
            Self::Controller => "controller",
            Self::Daemon => "daemon",
        }
    }
}

/// Reads a path as `status` and `ping` print it, whether as a word or as an object with the word as its key.
fn path_of(value: &Value) -> Result<SanddPath> {
    let text = value.to_string().to_lowercase();
    if text.contains("direct") {
        Ok(SanddPath::Direct)
    } else if text.contains("relay") {
        Ok(SanddPath::Relayed)
    } else {
        bail!("{text} is no path")
    }
}

/// The first array under the key `key`, however deep.
fn find<'json>(value: &'json Value, key: &str) -> Option<&'json Value> {
    match value {
        Value::Object(fields) => fields
            .get(key)
            .or_else(|| fields.values().find_map(|field| find(field, key))),
        Value::Array(items) => items.iter().find_map(|item| find(item, key)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// Removes what the process of that role kept on `host`.
pub fn forget_state(host: &Host, role: Role) -> Result<()> {
    let state = Sandd::state_directory(host, role);
    match fs::remove_dir_all(&state) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} could not be removed", state.display()))
        }
        _ => Ok(()),
    }
}
