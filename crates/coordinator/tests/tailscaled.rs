//! Real tailscaled against our coordinator: the judge of whether it speaks the protocol.
//!
//! Runs when `SANDD_TAILSCALED_DIR` names a directory with `tailscaled` and `tailscale`; otherwise each test says that it
//! was skipped. The daemons run in userspace mode, without rights, on this host's own network.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sandd_coordinator::{Coordinator, CoordinatorBuilder, KeyOptions, NodeStatus};
use sandd_mesh::{AuthKey, ControlUrl, Mesh};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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

    fn spawn_cli(&self, arguments: &[&str]) -> Child {
        Command::new(self.binaries.join("tailscale"))
            .arg(format!("--socket={}", self.state.path().join("sock").display()))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn cli(&self, arguments: &[&str]) -> (bool, String) {
        let output = self.spawn_cli(arguments).wait_with_output().unwrap();
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

/// Answers every connection to a free port of 127.0.0.1 with what it sent; userspace tailscaled forwards to there.
fn echo_server() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = [0u8; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..count]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

impl Tailscaled {
    /// Sends a line over the mesh to an echo server; whether it came back.
    fn echoes(&self, host: &str, port: u16) -> bool {
        let mut process = self.spawn_cli(&["nc", host, &port.to_string()]);
        let _ = process.stdin.as_mut().unwrap().write_all(b"over the mesh\n");
        let mut stdout = process.stdout.take().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut line = [0u8; 14];
            let _ = sender.send(stdout.read_exact(&mut line).is_ok() && &line == b"over the mesh\n");
        });
        let came_back = receiver.recv_timeout(Duration::from_secs(3)).unwrap_or(false);
        let _ = process.kill();
        let _ = process.wait();
        came_back
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_by_name_and_a_policy_that_is_obeyed_at_once() {
    let Some(binaries) = binaries() else {
        return;
    };
    let (coordinator, key) = coordinator(|builder| builder).await;
    let first = Tailscaled::start(&binaries, None, &[]);
    let second = Tailscaled::start(&binaries, None, &[]);
    first.up(&coordinator, &key, "first");
    second.up(&coordinator, &key, "second");
    let (open, shut) = (echo_server(), echo_server());
    eventually("tcp by name", || first.echoes("second", open));
    assert!(first.echoes("100.64.0.2", shut));
    assert!(first.echoes("fd7a:115c:a1e0::2", open));

    let policy = format!(
        r#"{{
            // only this port, and only this way
            "hosts": {{"second": "100.64.0.2"}},
            "acls": [{{"action": "accept", "src": ["100.64.0.1"], "dst": ["second:{open}"]}}],
        }}"#
    );
    coordinator.set_policy(&policy).await.unwrap();
    eventually("the other port is shut", || !first.echoes("100.64.0.2", shut));
    assert!(first.echoes("100.64.0.2", open));
    assert!(!second.echoes("100.64.0.1", open), "nothing leads back");

    coordinator.set_policy(r#"{"acls":[]}"#).await.unwrap();
    eventually("they no longer see one another", || {
        !first.cli(&["status"]).1.contains("second")
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_lets_a_node_in_and_it_leaves_again() {
    let Some(binaries) = binaries() else {
        return;
    };
    let (coordinator, _) = coordinator(|builder| builder).await;
    let first = Tailscaled::start(&binaries, None, &[]);
    let server = format!("--login-server={}", coordinator.url());
    let up = first.spawn_cli(&["up", &server, "--hostname=first", "--timeout=30s"]);
    eventually("the login waits", || !coordinator.login_requests().is_empty());
    let login = coordinator.login_requests().remove(0);
    assert_eq!(login.hostname, "first");
    coordinator.approve_login(&login.id, "alice").await.unwrap();
    let output = up.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("/register/hskey-authreq-"),
        "{text}"
    );
    eventually("it is online", || node(&coordinator, "first").online);
    assert_eq!(node(&coordinator, "first").user, "alice");
    let (ok, text) = first.cli(&["logout"]);
    assert!(ok, "{text}");
    eventually("it has left", || node(&coordinator, "first").expired);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_coordinator_and_of_a_node() {
    let Some(binaries) = binaries() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state.db");
    let (coordinator, key) = coordinator(|builder| builder.state_file(&state)).await;
    let first = Tailscaled::start(&binaries, None, &[]);
    let second = Tailscaled::start(&binaries, None, &[]);
    first.up(&coordinator, &key, "first");
    second.up(&coordinator, &key, "second");
    let other = node(&coordinator, "second").addresses[0];
    first.ping_until(other, "via");
    coordinator.restart(Duration::from_millis(300)).await.unwrap();
    first.ping_until(other, "via");
    eventually("both are back", || {
        coordinator.relay_clients() == 2 && coordinator.nodes().iter().all(|node| node.online)
    });
    let removed = node(&coordinator, "second").id;
    assert!(coordinator.remove_node(removed).await.unwrap());
    eventually("the first forgets it", || !first.cli(&["status"]).1.contains("second"));
    eventually("the relay throws it off", || coordinator.relay_clients() == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_node_that_dies_is_forgotten() {
    let Some(binaries) = binaries() else {
        return;
    };
    let configure = |builder: CoordinatorBuilder| builder.ephemeral_timeout(Duration::from_millis(500));
    let (coordinator, _) = coordinator(configure).await;
    let options = KeyOptions {
        ephemeral: true,
        ..KeyOptions::default()
    };
    let key = coordinator.create_key(options).await.unwrap();
    let first = Tailscaled::start(&binaries, None, &[]);
    first.up(&coordinator, &key, "first");
    assert!(node(&coordinator, "first").ephemeral);
    drop(first);
    eventually("it is forgotten", || coordinator.nodes().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_node_and_a_real_one_reach_each_other() {
    let Some(binaries) = binaries() else {
        return;
    };
    let (coordinator, key) = coordinator(|builder| builder).await;
    let real = Tailscaled::start(&binaries, None, &[]);
    real.up(&coordinator, &key, "real");
    let url = ControlUrl::parse(&coordinator.url()).unwrap();
    let ours = Mesh::builder()
        .hostname("ours")
        .join(url, Some(AuthKey::new(key)))
        .await
        .unwrap();
    let echo = echo_server();
    let reply = ours.ping("real", Duration::from_secs(10)).await.unwrap();
    eprintln!("ours to real: {reply:?}");
    eprintln!("{}", real.ping_until(node(&coordinator, "ours").addresses[0], "via"));
    let mut stream = ours.tcp_connect(("real", echo)).await.unwrap();
    stream.write_all(b"over the mesh\n").await.unwrap();
    let mut line = [0u8; 14];
    stream.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"over the mesh\n");
    let listener = ours.tcp_listen(4000).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut line = [0u8; 14];
            if stream.read_exact(&mut line).await.is_ok() {
                let _ = stream.write_all(&line).await;
            }
        }
    });
    eventually("a real node dials ours by name", || real.echoes("ours", 4000));
    ours.shutdown().await;
}
