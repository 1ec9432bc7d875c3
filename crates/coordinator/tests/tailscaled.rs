//! Real tailscaled against our coordinator: the judge of whether it speaks the protocol.
//!
//! Runs when `SANDD_TAILSCALED_DIR` names a directory with `tailscaled` and `tailscale`; otherwise each test says that it
//! was skipped. The daemons run in userspace mode, without rights, on this host's own network.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sandd_coordinator::{Coordinator, CoordinatorBuilder, KeyOptions, NodeStatus};
use tempfile::TempDir;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

fn binaries() -> Option<PathBuf> {
    let directory = std::env::var_os("SANDD_TAILSCALED_DIR").map(PathBuf::from);
    if directory.is_none() {
        eprintln!("skipped: SANDD_TAILSCALED_DIR is not set");
    }
    directory
}

/// One tailscaled, ended on drop.
struct Tailscaled {
    binaries: PathBuf,
    state: TempDir,
    process: Child,
    log: PathBuf,
}

impl Drop for Tailscaled {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("--- {}\n{log}", self.log.display());
        }
    }
}

impl Tailscaled {
    fn start(binaries: &Path, roots: Option<&Path>, extra: &[(&str, &str)]) -> Self {
        let state = tempfile::tempdir().unwrap();
        let log = state.path().join("log");
        let output = std::fs::File::create(&log).unwrap();
        let mut command = Command::new(binaries.join("tailscaled"));
        command
            .args(["--tun=userspace-networking", "--port=0"])
            .arg(format!("--socket={}", state.path().join("sock").display()))
            .arg(format!("--statedir={}", state.path().display()))
            .env("TS_NO_LOGS_NO_SUPPORT", "true")
            .envs(extra.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        if let Some(roots) = roots {
            command.env("SSL_CERT_FILE", roots);
        }
        let process = command.spawn().unwrap();
        let node = Self {
            binaries: binaries.to_owned(),
            state,
            process,
            log,
        };
        let socket = node.state.path().join("sock");
        eventually("tailscaled listens", || socket.exists());
        node
    }

    fn cli(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new(self.binaries.join("tailscale"))
            .arg(format!("--socket={}", self.state.path().join("sock").display()))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    fn up(&self, coordinator: &Coordinator, key: &str, hostname: &str) {
        let server = format!("--login-server={}", coordinator.url());
        let (key, hostname) = (format!("--auth-key={key}"), format!("--hostname={hostname}"));
        let (ok, text) = self.cli(&["up", &server, &key, &hostname, "--timeout=30s"]);
        assert!(ok, "{text}");
    }

    /// Pings until the path has the wanted form, and returns the line that says so.
    fn ping_until(&self, address: IpAddr, wanted: &str) -> String {
        let mut line = String::new();
        eventually("a ping takes the wanted path", || {
            let address = address.to_string();
            let (_, text) = self.cli(&["ping", "-c=1", "--until-direct=false", "--timeout=2s", &address]);
            line = text;
            line.contains("pong from") && line.contains(wanted)
        });
        line
    }
}

fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn node(coordinator: &Coordinator, name: &str) -> NodeStatus {
    coordinator.nodes().into_iter().find(|node| node.name == name).unwrap()
}

async fn coordinator(configure: impl FnOnce(CoordinatorBuilder) -> CoordinatorBuilder) -> (Coordinator, String) {
    let builder = Coordinator::builder().stun("127.0.0.1:0".parse().unwrap());
    let coordinator = configure(builder).start().await.unwrap();
    let options = KeyOptions {
        reusable: true,
        ..KeyOptions::default()
    };
    let key = coordinator.create_key(options).await.unwrap();
    (coordinator, key)
}

fn roots(coordinator: &Coordinator, directory: &Path) -> PathBuf {
    let path = directory.join("roots.pem");
    std::fs::write(&path, coordinator.certificate_pem().unwrap()).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_join_over_https_and_reach_one_another_directly() {
    let Some(binaries) = binaries() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let (coordinator, key) = coordinator(CoordinatorBuilder::tls_self_made).await;
    let roots = roots(&coordinator, directory.path());
    let began = Instant::now();
    let first = Tailscaled::start(&binaries, Some(&roots), &[]);
    first.up(&coordinator, &key, "first");
    let second = Tailscaled::start(&binaries, Some(&roots), &[]);
    second.up(&coordinator, &key, "second");
    eprintln!("both up after {:?}", began.elapsed());
    let other = node(&coordinator, "second");
    assert_eq!(other.addresses[0].to_string(), "100.64.0.2");
    let line = first.ping_until(other.addresses[0], "via 1");
    eprintln!("{line}");
    let (_, status) = first.cli(&["status"]);
    assert!(status.contains("second") && status.contains("100.64.0.2"), "{status}");
    eventually("both are at the relay", || coordinator.relay_clients() == 2);
    assert!(
        coordinator
            .nodes()
            .iter()
            .all(|node| node.online && node.home_region == 999)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_control_still_gives_real_clients_a_relay_over_tls() {
    let Some(binaries) = binaries() else {
        return;
    };
    let (coordinator, key) = coordinator(|builder| builder).await;
    let relay_only = [("TS_DEBUG_ALWAYS_USE_DERP", "true")];
    let first = Tailscaled::start(&binaries, None, &relay_only);
    let second = Tailscaled::start(&binaries, None, &relay_only);
    first.up(&coordinator, &key, "first");
    second.up(&coordinator, &key, "second");
    let line = first.ping_until(node(&coordinator, "second").addresses[0], "via DERP(sandd)");
    eprintln!("{line}");
}
