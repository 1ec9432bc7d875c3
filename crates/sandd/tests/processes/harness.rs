//! The ground the stories stand on: processes with ports of their own, raw peers, patience without sleeps.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use sandd::controller::{CommandRequest, DaemonInfo};
use sandd::local::{self, Request, Response};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server::{Request as HttpRequest, Response as HttpResponse};
use tokio_tungstenite::tungstenite::http::HeaderValue;

/// How long anything may take before a test gives up; nothing waits this long when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The program under test, without variables that would change what it does.
pub(crate) fn sandd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandd"));
    for name in [
        "SERVER_URL",
        "DAEMON_ID",
        "SANDD_SOCKET",
        "SANDD_REQUIRE_AUTH",
        "RUST_LOG",
        "SANDD_TUNNEL_SERVER",
        "SANDD_TUNNEL_AUTH_KEY",
    ] {
        command.env_remove(name);
    }
    command
}

/// Runs the program to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    sandd().args(arguments).stdin(Stdio::null()).output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asks again until the answer is something.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "gave up waiting: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A process that does not outlive its test.
pub(crate) struct Process {
    pub(crate) child: Child,
    log: PathBuf,
}

impl Process {
    pub(crate) fn spawn(mut command: Command, log: PathBuf) -> Self {
        let file = std::fs::File::create(&log).unwrap();
        Self {
            child: command.stderr(file).spawn().unwrap(),
            log,
        }
    }

    /// The first line on stdout, which has to be a pipe.
    pub(crate) fn first_line(&mut self) -> String {
        self.lines_until("").pop().unwrap_or_default()
    }

    /// Lines of stdout up to the first that contains this.
    pub(crate) fn lines_until(&mut self, word: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let mut reader = BufReader::new(self.child.stdout.as_mut().unwrap());
        loop {
            let mut line = String::new();
            assert!(
                reader.read_line(&mut line).unwrap() > 0,
                "{word}: {lines:?}\n{}",
                self.log.display()
            );
            lines.push(line.trim_end().to_owned());
            if line.contains(word) {
                return lines;
            }
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end and gives the exit code.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        eventually("process ends", async || self.child.try_wait().unwrap())
            .await
            .code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
        }
    }
}

/// A directory, a controller in it, and daemons that dial it.
pub(crate) struct Ground {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) controller: Process,
    pub(crate) address: SocketAddr,
}

impl Ground {
    pub(crate) fn new() -> Self {
        Self::with_port(0, tempfile::tempdir().unwrap())
    }

    pub(crate) fn with_port(port: u16, directory: tempfile::TempDir) -> Self {
        let mut command = sandd();
        command.args([
            "controller",
            "--host",
            "127.0.0.1",
            "--port",
            &port.to_string(),
            "--socket",
        ]);
        command.arg(directory.path().join("c.sock")).stdout(Stdio::piped());
        let mut controller = Process::spawn(command, directory.path().join("controller.log"));
        let line = controller.first_line();
        let address = line
            .trim()
            .strip_prefix("controller ready at ws://")
            .and_then(|rest| rest.strip_suffix("/ws"));
        let address = address
            .unwrap_or_else(|| panic!("{line:?}: {}", controller.log()))
            .parse()
            .unwrap();
        Self {
            directory,
            controller,
            address,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("c.sock")
    }

    /// A daemon process, which may not have registered yet.
    pub(crate) fn start_daemon(&self, id: &str, more: &[&str]) -> Process {
        daemon(&self.url(), id, more, self.directory.path())
    }

    /// A daemon process that has registered.
    pub(crate) async fn daemon(&self, id: &str, more: &[&str]) -> Process {
        let process = self.start_daemon(id, more);
        self.registered(id).await;
        process
    }

    pub(crate) async fn registered(&self, id: &str) -> DaemonInfo {
        eventually(&format!("{id} registers"), async || {
            self.daemons().await.into_iter().find(|daemon| daemon.id == id)
        })
        .await
    }

    pub(crate) async fn gone(&self, id: &str) {
        let is_gone = async || self.daemons().await.iter().all(|daemon| daemon.id != id).then_some(());
        eventually(&format!("{id} goes"), is_gone).await;
    }

    pub(crate) async fn daemons(&self) -> Vec<DaemonInfo> {
        let request = Request::Daemons {
            labels: BTreeMap::new(),
        };
        let response = local::ask(&self.socket(), &request).await.unwrap();
        let Response::Daemons { daemons } = response else {
            panic!("{response:?}")
        };
        daemons
    }

    /// Runs a command by the local API.
    pub(crate) async fn exec(&self, daemon: &str, command: impl Into<String>, timeout: u64) -> Response {
        self.exec_request(
            daemon,
            CommandRequest {
                timeout: Duration::from_secs(timeout),
                ..CommandRequest::new(command)
            },
        )
        .await
    }

    pub(crate) async fn exec_request(&self, daemon: &str, command: CommandRequest) -> Response {
        local::ask(
            &self.socket(),
            &Request::Exec {
                daemon: daemon.to_owned(),
                command,
            },
        )
        .await
        .unwrap()
    }

    /// Runs `sandd exec` as a person does.
    pub(crate) fn cli_exec(&self, arguments: &[&str]) -> Output {
        sandd()
            .arg("exec")
            .arg("--socket")
            .arg(self.socket())
            .args(arguments)
            .output()
            .unwrap()
    }

    /// A raw daemon that has upgraded and said nothing yet.
    pub(crate) async fn raw_daemon(&self) -> RawPeer {
        let mut request = self.url().into_client_request().unwrap();
        request
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", HeaderValue::from_static("sandd.v1"));
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "sandd.v1");
        RawPeer(socket)
    }

    /// A raw daemon that has registered.
    pub(crate) async fn registered_raw_daemon(&self, id: &str) -> RawPeer {
        let mut peer = self.raw_daemon().await;
        peer.send(&register(id)).await;
        let ack = peer.receive().await;
        assert_eq!(ack["type"], "register_ack");
        assert_eq!(ack["success"], true, "{ack}");
        peer
    }
}

/// A daemon process that dials `url`.
pub(crate) fn daemon(url: &str, id: &str, more: &[&str], directory: &Path) -> Process {
    let mut command = sandd();
    command
        .args(["--server-url", url, "--daemon-id", id])
        .args(more)
        .stdout(Stdio::null());
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Process::spawn(command, directory.join(format!("{id}.{number}.log")))
}

pub(crate) fn register(id: &str) -> String {
    let metadata = r#"{"hostname":"h","platform":"linux","arch":"x86_64","version":"0.2.1","labels":{}}"#;
    format!(
        r#"{{"type":"register","daemon_id":{},"metadata":{metadata}}}"#,
        Value::from(id)
    )
}

/// The other side of a WebSocket, as a person with the specification would write it.
pub(crate) struct RawPeer(pub(crate) WebSocketStream<TcpStream>);

impl RawPeer {
    pub(crate) async fn send(&mut self, text: &str) {
        self.0.send(Frame::text(text)).await.unwrap();
    }

    /// The next text frame.
    pub(crate) async fn receive(&mut self) -> Value {
        self.receive_or_end().await.expect("the connection ended")
    }

    /// The next text frame, nothing when the connection ends.
    pub(crate) async fn receive_or_end(&mut self) -> Option<Value> {
        let next = async {
            loop {
                match self.0.next().await {
                    Some(Ok(Frame::Text(text))) => return Some(serde_json::from_str(text.as_str()).unwrap()),
                    Some(Ok(Frame::Close(_)) | Err(_)) | None => return None,
                    Some(Ok(_)) => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("nothing came")
    }

    /// The next text frame of this type; others are passed over.
    pub(crate) async fn receive_type(&mut self, kind: &str) -> Value {
        loop {
            let message = self.receive().await;
            if message["type"] == kind {
                return message;
            }
        }
    }
}

/// A controller played by hand.
pub(crate) struct RawController {
    listener: TcpListener,
}

impl RawController {
    pub(crate) async fn new() -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}/ws", self.listener.local_addr().unwrap())
    }

    /// Takes the next daemon and answers its upgrade with this subprotocol.
    pub(crate) async fn accept(&self, subprotocol: Option<&'static str>) -> RawPeer {
        let accepted = tokio::time::timeout(PATIENCE, self.listener.accept())
            .await
            .expect("no daemon dialled");
        let (stream, _) = accepted.unwrap();
        #[expect(clippy::result_large_err, reason = "the signature is the library's")]
        let answer = |request: &HttpRequest, mut response: HttpResponse| {
            assert_eq!(request.headers()["Sec-WebSocket-Protocol"], "sandd.v1");
            if let Some(subprotocol) = subprotocol {
                response
                    .headers_mut()
                    .insert("Sec-WebSocket-Protocol", HeaderValue::from_static(subprotocol));
            }
            Ok(response)
        };
        RawPeer(tokio_tungstenite::accept_hdr_async(stream, answer).await.unwrap())
    }

    /// Takes the next daemon, its registration and its first heartbeat.
    pub(crate) async fn registered(&self) -> (RawPeer, Value) {
        let mut peer = self.accept(Some("sandd.v1")).await;
        let register = peer.receive().await;
        assert_eq!(register["type"], "register");
        peer.send(r#"{"type":"register_ack","success":true,"message":"registered"}"#)
            .await;
        assert_eq!(peer.receive().await["type"], "heartbeat");
        (peer, register)
    }
}
