//! One real Headscale: its files in a directory of its own, its ports picked by the system, killed when dropped.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test's own code, outside its test functions"
)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandd_control_client::dial::Dialer;
use sandd_control_client::keys::DiscoPrivateKey;
use sandd_control_client::netmap::NetworkMap;
use sandd_control_client::{
    ControlClient, ControlConfig, ControlError, ControlEvent, ControlState, ControlUrl, StateStore,
};
use tokio::sync::mpsc;

/// The program, or nothing and a word about it.
pub(super) fn binary() -> Option<PathBuf> {
    let path = std::env::var_os("SANDD_HEADSCALE").map(PathBuf::from);
    if path.is_none() {
        println!("skipped: set SANDD_HEADSCALE to a headscale program to run this against it");
    }
    path
}

pub(super) struct Options {
    pub(super) tuned: bool,
    pub(super) tls: Option<(PathBuf, PathBuf)>,
}

impl Default for Options {
    fn default() -> Self {
        Self { tuned: true, tls: None }
    }
}

pub(super) struct Headscale {
    binary: PathBuf,
    dir: tempfile::TempDir,
    child: Option<Child>,
    port: u16,
    metrics: u16,
    tls: bool,
}

fn free_tcp() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

impl Headscale {
    pub(super) fn start(binary: PathBuf, options: &Options) -> Self {
        let dir = tempfile::Builder::new().prefix("hs").tempdir().unwrap();
        let (port, metrics, grpc) = (free_tcp(), free_tcp(), free_tcp());
        let stun = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let at = dir.path().display();
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        let tls = options.tls.as_ref().map_or_else(String::new, |(cert, key)| {
            format!("tls_cert_path: {}\ntls_key_path: {}\n", cert.display(), key.display())
        });
        let tuning = if options.tuned {
            "tuning: { node_store_batch_timeout: 5ms, batch_change_delay: 50ms }\n"
        } else {
            ""
        };
        let config = format!(
            "server_url: {scheme}://127.0.0.1:{port}\nlisten_addr: 127.0.0.1:{port}\n\
             metrics_listen_addr: 127.0.0.1:{metrics}\ngrpc_listen_addr: 127.0.0.1:{grpc}\n\
             noise: {{ private_key_path: {at}/noise.key }}\n\
             prefixes: {{ v4: 100.64.0.0/10, v6: \"fd7a:115c:a1e0::/48\" }}\n\
             derp:\n  server:\n    enabled: true\n    region_id: 999\n    region_code: test\n    region_name: Test\n    \
             verify_clients: false\n    stun_listen_addr: \"127.0.0.1:{stun}\"\n    private_key_path: {at}/derp.key\n    \
             ipv4: 127.0.0.1\n  urls: []\n  paths: []\n\
             database: {{ type: sqlite, sqlite: {{ path: {at}/db.sqlite }} }}\n\
             dns: {{ magic_dns: true, base_domain: mesh.test, override_local_dns: false, nameservers: {{ global: [] }} }}\n\
             unix_socket: {at}/s\nunix_socket_permission: \"0770\"\ndisable_check_updates: true\n\
             log: {{ level: info }}\npolicy: {{ mode: database }}\n{tuning}{tls}"
        );
        std::fs::write(dir.path().join("c.yaml"), config).unwrap();
        let mut server = Self {
            binary,
            dir,
            child: None,
            port,
            metrics,
            tls: options.tls.is_some(),
        };
        server.run();
        server
    }

    pub(super) fn run(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .unwrap();
        let child = Command::new(&self.binary)
            .args(["serve", "-c"])
            .arg(self.dir.path().join("c.yaml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let deadline = Instant::now() + Duration::from_secs(30);
        // The control socket comes last, so that a command works once it answers.
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() || !self.try_cli(&["users", "list"]) {
            assert!(Instant::now() < deadline, "headscale does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub(super) fn url(&self) -> ControlUrl {
        let scheme = if self.tls { "https" } else { "http" };
        ControlUrl::parse(&format!("{scheme}://127.0.0.1:{}", self.port)).unwrap()
    }

    pub(super) fn remove_noise_key(&self) {
        std::fs::remove_file(self.dir.path().join("noise.key")).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .arg("-c")
            .arg(self.dir.path().join("c.yaml"))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    fn try_cli(&self, arguments: &[&str]) -> bool {
        self.command(arguments)
            .output()
            .is_ok_and(|output| output.status.success())
    }

    pub(super) fn cli(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "headscale {arguments:?}: {text}{errors}");
        text
    }

    pub(super) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let text = self.cli(&[arguments, &["-o", "json-line"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }

    pub(super) fn user(&self, name: &str) -> String {
        self.json(&["users", "create", name])["id"].to_string()
    }

    pub(super) fn key(&self, user: &str, options: &[&str]) -> String {
        let key = self.json(&[&["preauthkeys", "create", "--user", user], options].concat());
        key["key"].as_str().unwrap().to_owned()
    }

    pub(super) fn http_get(&self, path: &str) -> String {
        let mut tcp = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.metrics))).unwrap();
        write!(
            tcp,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut text = String::new();
        tcp.read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Headscale {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A client and what it has told so far.
pub(super) struct Node {
    pub(super) client: ControlClient,
    pub(super) events: mpsc::Receiver<ControlEvent>,
    pub(super) map: Option<Arc<NetworkMap>>,
    pub(super) node_keys: usize,
}

pub(super) fn config(url: ControlUrl, name: &str, key: Option<&str>) -> ControlConfig {
    let dialer = Dialer::new(None).unwrap();
    let mut config = ControlConfig::new(url, name, DiscoPrivateKey::generate().public(), dialer);
    config.auth_key = key.map(Into::into);
    config
}

impl Node {
    pub(super) fn start(config: ControlConfig, store: Arc<dyn StateStore>) -> Self {
        let (client, events) = ControlClient::start(config, store).unwrap();
        Self {
            client,
            events,
            map: None,
            node_keys: 0,
        }
    }

    pub(super) async fn event(&mut self) -> ControlEvent {
        let event = tokio::time::timeout(Duration::from_secs(20), self.events.recv()).await;
        let event = event.expect("an event within 20 s").expect("the client runs");
        match &event {
            ControlEvent::Netmap(update) => self.map = Some(update.map.clone()),
            ControlEvent::NodeKey(_) => self.node_keys += 1,
            _ => {}
        }
        event
    }

    /// Reads events until this state comes.
    pub(super) async fn state(&mut self, wanted: impl Fn(&ControlState) -> bool) -> ControlState {
        loop {
            if let ControlEvent::State(state) = self.event().await
                && wanted(&state)
            {
                return state;
            }
        }
    }

    pub(super) async fn connected(&mut self) {
        loop {
            match self
                .state(|state| !matches!(state, ControlState::Connecting | ControlState::Registered))
                .await
            {
                ControlState::Connected => return,
                ControlState::Disconnected { .. } => {}
                other => panic!("instead of connecting: {other:?}"),
            }
        }
    }

    pub(super) async fn login_url(&mut self) -> String {
        match self
            .state(|state| matches!(state, ControlState::LoginRequired { .. }))
            .await
        {
            ControlState::LoginRequired { url } => url,
            _ => unreachable!(),
        }
    }

    pub(super) async fn stopped(&mut self) -> Arc<ControlError> {
        match self.state(|state| matches!(state, ControlState::Stopped { .. })).await {
            ControlState::Stopped { error } => error,
            _ => unreachable!(),
        }
    }

    /// Reads events until the map is as wanted.
    pub(super) async fn until(&mut self, what: &str, wanted: impl Fn(&NetworkMap) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.map.as_deref().is_some_and(&wanted) {
            assert!(Instant::now() < deadline, "no map in which {what}");
            self.event().await;
        }
    }

    pub(super) fn id(&self) -> String {
        self.map.as_ref().unwrap().self_node.as_ref().unwrap().id.to_string()
    }
}
