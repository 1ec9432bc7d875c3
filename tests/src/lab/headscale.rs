//! A real Headscale with its embedded relay and STUN, over TLS, and the commands an operator gives it.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use super::{
    eventually,
    process::{Process, Run, run},
    world::{
        Host, Lab, RELAY_NAME, SERVER_ADDRESS, SERVER_IPV6, SERVER_NAME, SERVER_PRIVATE_ADDRESS, SERVER_PRIVATE_NAME,
        SERVER_SECOND_ADDRESS,
    },
};

/// How long it may take to come up on a busy machine.
const START: Duration = Duration::from_secs(30);

/// Where `cargo xtask peers` put Headscale and Tailscale's programs.
#[must_use]
pub fn peers_directory() -> PathBuf {
    if let Some(directory) = std::env::var_os("SANDD_PEERS_DIR") {
        return directory.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache"),
        PathBuf::from,
    );
    cache.join("sandd-peers")
}

/// How eagerly Headscale passes changes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Timings {
    /// As shipped: batches of half a second and more.
    #[default]
    Default,
    /// Everything within 150 ms.
    Tuned,
}

/// Which relays and STUN servers it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Relays {
    /// The one inside it.
    #[default]
    Embedded,
    /// The one inside it, and [`super::Derper`] as another region: only so does a stock client ask two STUN servers.
    EmbeddedAndDerper,
    /// [`super::Derper`] alone.
    Derper,
}

/// How to run Headscale.
#[derive(Debug, Clone, Default)]
pub struct HeadscaleOptions {
    /// How eagerly it passes changes on.
    pub timings: Timings,
    /// Plain HTTP on the server's private address instead of TLS; tailscaled has no relay then.
    pub plain_http: bool,
    /// The access policy, as HuJSON; none allows everything.
    pub policy: Option<String>,
    /// Which relays it names.
    pub relays: Relays,
}

/// How a pre-auth key is made. The default is single use, for an hour.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeyOptions {
    /// May be used more than once.
    pub reusable: bool,
    /// Nodes that join with it vanish when they are offline.
    pub ephemeral: bool,
    /// How long it is good for, as Headscale writes durations.
    pub expiration: Option<&'static str>,
}

/// A running Headscale.
#[derive(Debug)]
pub struct Headscale<'lab> {
    host: &'lab Host,
    binary: PathBuf,
    config: PathBuf,
    url: String,
    process: Option<Process>,
}

/// A node as Headscale lists it.
#[derive(Debug, Clone, Deserialize)]
pub struct HeadscaleNode {
    /// Its number, for `nodes delete` and the like.
    pub id: u64,
    /// Its name in the mesh.
    pub given_name: String,
    /// Its addresses in the mesh.
    #[serde(default)]
    pub ip_addresses: Vec<IpAddr>,
    /// Whether it holds a map stream.
    #[serde(default)]
    pub online: bool,
    /// Its node key, text form.
    #[serde(default)]
    pub node_key: String,
}

impl<'lab> Headscale<'lab> {
    /// Starts it on the lab's server with one user (number 1) and waits until it answers.
    pub fn start(lab: &'lab Lab, options: &HeadscaleOptions) -> Result<Self> {
        let binary = peers_directory().join("headscale");
        let directory = lab.directory().join("headscale");
        fs::create_dir_all(&directory)?;
        let url = if options.plain_http {
            format!("http://{SERVER_PRIVATE_NAME}:8080")
        } else {
            format!("https://{SERVER_NAME}")
        };
        let config = directory.join("config.yaml");
        fs::write(&config, config_text(lab, options, &directory, &url)?)?;
        let mut headscale = Self {
            host: lab.server(),
            binary,
            config,
            url,
            process: None,
        };
        headscale.restart()?;
        headscale.command(&["users", "create", "lab"])?;
        if let Some(policy) = &options.policy {
            headscale.set_policy(policy)?;
        }
        Ok(headscale)
    }

    /// Its process id.
    pub fn pid(&self) -> Result<u32> {
        self.process.as_ref().map(Process::pid).context("it does not run")
    }

    /// What nodes name as `--tunnel-server`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Starts it again after [`Self::kill`] and waits until it answers.
    pub fn restart(&mut self) -> Result<()> {
        let mut serve = self.host.command(&self.binary);
        serve.args(["serve", "-c"]).arg(&self.config);
        let mut process = Process::start("headscale", self.host.directory(), &mut serve)?;
        eventually("Headscale's answer", START, || {
            if !process.is_running() {
                bail!("it ended");
            }
            let run = Run::of(&mut self.cli(&["users", "list"]))?;
            if !run.status.success() {
                bail!("{}", run.stderr);
            }
            self.host
                .namespace()
                .inside(|| std::net::TcpStream::connect(self.listens_at()))?
                .map(drop)
                .context("its port is closed")
        })?;
        self.process = Some(process);
        Ok(())
    }

    fn listens_at(&self) -> (Ipv4Addr, u16) {
        if self.url.starts_with("https") {
            (SERVER_ADDRESS, 443)
        } else {
            (SERVER_PRIVATE_ADDRESS, 8080)
        }
    }

    /// Kills it: control and relay are gone at once.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.kill())
    }

    /// How long it took to answer each registration that came from `remote`, by its own log, the first `skip` left out.
    #[must_use]
    pub fn registrations_from(&self, remote: Ipv4Addr, skip: usize) -> Vec<Duration> {
        let log = self.process.as_ref().map(Process::log).unwrap_or_default();
        let from = format!(" remote={remote}:");
        log.lines()
            .filter(|line| line.contains("path=/machine/register") && line.contains(&from))
            .filter_map(|line| line.split("elapsed=").nth(1)?.split(' ').next()?.parse::<f64>().ok())
            .map(|milliseconds| Duration::from_secs_f64(milliseconds / 1000.0))
            .skip(skip)
            .collect()
    }

    /// Runs a command of Headscale's and returns what it prints as JSON.
    pub fn command(&self, arguments: &[&str]) -> Result<Value> {
        let text = run(self.cli(arguments).args(["-o", "json-line"]))?;
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).with_context(|| format!("headscale {arguments:?} printed {text:?}"))
    }

    fn cli(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command(&self.binary);
        command.arg("-c").arg(&self.config).args(arguments);
        command
    }

    /// Makes a key and returns its number and its text.
    pub fn create_key(&self, options: KeyOptions) -> Result<(u64, String)> {
        let mut arguments = vec!["preauthkeys", "create", "--user", "1"];
        arguments.extend(options.reusable.then_some("--reusable"));
        arguments.extend(options.ephemeral.then_some("--ephemeral"));
        if let Some(expiration) = options.expiration {
            arguments.extend(["--expiration", expiration]);
        }
        let key = self.command(&arguments)?;
        let id = key.get("id").and_then(Value::as_u64).context("a key without number")?;
        let text = key.get("key").and_then(Value::as_str).context("a key without text")?;
        Ok((id, text.to_owned()))
    }

    /// A key that any number of nodes may join with.
    pub fn reusable_key(&self) -> Result<String> {
        Ok(self
            .create_key(KeyOptions {
                reusable: true,
                ..KeyOptions::default()
            })?
            .1)
    }

    /// Revokes a key. Nodes that joined with it stay.
    pub fn expire_key(&self, id: u64) -> Result<()> {
        self.command(&["preauthkeys", "expire", "--id", &id.to_string()])
            .map(drop)
    }

    /// Deletes a key.
    pub fn delete_key(&self, id: u64) -> Result<()> {
        self.command(&["preauthkeys", "delete", "--id", &id.to_string()])
            .map(drop)
    }

    /// All nodes.
    pub fn nodes(&self) -> Result<Vec<HeadscaleNode>> {
        let nodes = self.command(&["nodes", "list"])?;
        if nodes.is_null() {
            return Ok(Vec::new());
        }
        serde_json::from_value(nodes).context("headscale nodes list changed its form")
    }

    /// The node with that name in the mesh.
    pub fn node(&self, name: &str) -> Result<HeadscaleNode> {
        self.nodes()?
            .into_iter()
            .find(|node| node.given_name == name)
            .with_context(|| format!("no node {name}"))
    }

    /// Deletes the node of that number.
    pub fn delete_node(&self, id: u64) -> Result<()> {
        self.command(&["nodes", "delete", "-i", &id.to_string(), "--force"])
            .map(drop)
    }

    /// Expires the node of that number now.
    pub fn expire_node(&self, id: u64) -> Result<()> {
        self.command(&["nodes", "expire", "-i", &id.to_string()]).map(drop)
    }

    /// Puts a new access policy in force.
    pub fn set_policy(&self, policy: &str) -> Result<()> {
        let file = self.host.directory().join("policy.hujson");
        fs::write(&file, policy)?;
        let file = file.to_str().context("odd directory")?;
        run(&mut self.cli(&["policy", "set", "-f", file])).map(drop)
    }
}

/// The IPv4 address in the mesh among `addresses`.
pub(crate) fn ipv4_of(addresses: &[IpAddr]) -> Option<Ipv4Addr> {
    addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    })
}

fn config_text(lab: &Lab, options: &HeadscaleOptions, directory: &Path, url: &str) -> Result<String> {
    let relays = relays_text(lab, options, directory)?;
    let directory = directory.display();
    let (listen, tls) = if options.plain_http {
        (format!("{SERVER_PRIVATE_ADDRESS}:8080"), String::new())
    } else {
        let certificate = lab.ca().sign(&[SERVER_NAME, &SERVER_ADDRESS.to_string()])?;
        (
            if lab.has_ipv6() {
                "[::]:443".to_owned()
            } else {
                format!("{SERVER_ADDRESS}:443")
            },
            format!(
                "tls_cert_path: {}\ntls_key_path: {}\n",
                certificate.certificate.display(),
                certificate.key.display()
            ),
        )
    };
    let tuning = match options.timings {
        Timings::Default => "",
        Timings::Tuned => "tuning: { node_store_batch_timeout: 5ms, batch_change_delay: 50ms }\n",
    };
    Ok(format!(
        "server_url: {url}
listen_addr: \"{listen}\"
metrics_listen_addr: 127.0.0.1:9090
grpc_listen_addr: 127.0.0.1:50443
noise: {{ private_key_path: {directory}/noise.key }}
prefixes: {{ v4: 100.64.0.0/10, v6: \"fd7a:115c:a1e0::/48\" }}
{relays}database: {{ type: sqlite, sqlite: {{ path: {directory}/db.sqlite }} }}
dns:
  magic_dns: true
  base_domain: mesh.test
  override_local_dns: false
  nameservers: {{ global: [] }}
unix_socket: {directory}/hs.sock
unix_socket_permission: \"0770\"
disable_check_updates: true
log: {{ level: info }}
policy: {{ mode: database }}
{tls}{tuning}"
    ))
}

/// The part of the configuration that names relays; where they are not Headscale's own choice, a file lists them.
fn relays_text(lab: &Lab, options: &HeadscaleOptions, directory: &Path) -> Result<String> {
    let address = if options.plain_http {
        SERVER_PRIVATE_ADDRESS
    } else {
        SERVER_ADDRESS
    };
    let (stun, ipv6) = if lab.has_ipv6() {
        ("[::]:3478".to_owned(), Some(SERVER_IPV6))
    } else {
        (format!("{address}:3478"), None)
    };
    let ipv6 = ipv6.map_or_else(String::new, |address| format!("ipv6: \"{address}\""));
    let region = |number: u16, name: &str, address: Ipv4Addr| {
        format!(
            "  {number}:\n    regionid: {number}\n    regioncode: lab{number}\n    regionname: Lab {number}\n    nodes:\n      \
             - {{ name: {number}a, regionid: {number}, hostname: {name}, ipv4: {address}, stunport: 3478, derpport: 443 }}\n"
        )
    };
    let derper = region(998, RELAY_NAME, SERVER_SECOND_ADDRESS);
    let regions = match options.relays {
        Relays::Embedded => None,
        Relays::EmbeddedAndDerper => Some(region(999, SERVER_NAME, SERVER_ADDRESS) + &derper),
        Relays::Derper => Some(derper),
    };
    let paths = match regions {
        None => String::new(),
        Some(regions) => {
            let file = directory.join("derp.yaml");
            fs::write(&file, format!("regions:\n{regions}"))?;
            format!("\"{}\"", file.display())
        }
    };
    Ok(format!(
        "derp:
  server:
    enabled: {}
    automatically_add_embedded_derp_region: {}
    region_id: 999
    region_code: lab
    region_name: Lab
    verify_clients: true
    stun_listen_addr: \"{stun}\"
    private_key_path: {}/derp.key
    ipv4: {address}
    {ipv6}
  urls: []
  paths: [{paths}]
",
        options.relays != Relays::Derper,
        options.relays == Relays::Embedded,
        directory.display(),
    ))
}
