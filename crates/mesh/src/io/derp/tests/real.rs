//! The pool against the real relay server, over TLS with its certificate's hash and its own key certificate.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::*;

struct Derper {
    child: Child,
    port: u16,
    cert_name: String,
}

impl Drop for Derper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn binary() -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    std::env::var_os("SANDD_PEERS_DIR")
        .map_or_else(|| home.join(".cache/sandd-peers"), PathBuf::from)
        .join("derper")
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

impl Derper {
    /// Starts it and reads the hash of the certificate that it makes for itself.
    fn start(dir: &Path, port: u16) -> Self {
        let mut child = Command::new(binary())
            .args([
                "-a",
                &format!("127.0.0.1:{port}"),
                "-http-port",
                "-1",
                "-stun=false",
                "-certmode",
                "manual",
            ])
            .args(["-hostname", "127.0.0.1", "-c"])
            .arg(dir.join("derper.json"))
            .arg("-certdir")
            .arg(dir.join("certs"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = lines
            .by_ref()
            .map_while(Result::ok)
            .find(|line| line.contains("sha256-raw:"))
            .unwrap();
        // Nobody reads on, so the pipe must not fill: a thread does, and ends with the process.
        std::thread::spawn(move || lines.for_each(drop));
        let at = line.find("sha256-raw:").unwrap();
        let cert_name = line[at..].chars().take_while(|c| *c != '"').collect();
        Self { child, port, cert_name }
    }

    /// One that speaks plain HTTP, as behind a proxy.
    async fn start_plain(dir: &Path, port: u16) -> Self {
        let child = Command::new(binary())
            .args(["-a", &format!("127.0.0.1:{port}"), "-http-port", "-1", "-stun=false"])
            .args(["-hostname", "127.0.0.1", "-c"])
            .arg(dir.join("derper.json"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let derper = Self {
            child,
            port,
            cert_name: String::new(),
        };
        soon(async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        derper
    }

    fn map(&self) -> Arc<DerpMap> {
        let node = DerpNode {
            derp_port: self.port,
            cert_name: self.cert_name.clone(),
            ..node("127.0.0.1", 0)
        };
        map_of(node)
    }
}

async fn connected(events: &mut mpsc::Receiver<DerpEvent>) {
    loop {
        match event(events).await {
            DerpEvent::Connected { .. } => return,
            DerpEvent::Disconnected { .. } | DerpEvent::Packets { .. } | DerpEvent::PeerGone { .. } => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the real derper: `cargo xtask peers` builds it"]
async fn packets_cross_the_real_relay_and_its_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut derper = Derper::start(dir.path(), free_port());
    let start = |derper: &Derper| {
        let (sender, receiver) = mpsc::channel(1_024);
        let key = NodePrivateKey::generate();
        let control = ControlUrl::parse("https://127.0.0.1:9").unwrap();
        let mut pool = DerpPool::new(key.clone(), Dialer::new(None).unwrap(), control, sender);
        pool.set_map(derper.map());
        pool.set_home(Some(REGION));
        (pool, receiver, key.public())
    };
    let (mut a, mut a_events, a_key) = start(&derper);
    let (mut b, mut b_events, b_key) = start(&derper);
    connected(&mut a_events).await;
    connected(&mut b_events).await;
    println!(
        "connected in {:?} and {:?}",
        a.connect_time(REGION),
        b.connect_time(REGION)
    );

    let mut round = 0u32;
    for restarts in 0..2 {
        for _ in 0..100 {
            round += 1;
            let packet = round.to_be_bytes().repeat(300);
            assert!(a.send(REGION, &b_key, &packet));
            let got = event(&mut b_events).await;
            let DerpEvent::Packets { src, packets, .. } = got else {
                panic!("{got:?}")
            };
            assert_eq!((src, packets.bytes()), (a_key, &packet[..]));
            assert!(b.send(REGION, &a_key, &packet));
            let got = event(&mut a_events).await;
            assert!(matches!(got, DerpEvent::Packets { src, .. } if src == b_key), "{got:?}");
        }
        if restarts == 0 {
            let port = derper.port;
            drop(derper);
            assert!(disconnected(&mut a_events).await.contains("relay"));
            assert!(disconnected(&mut b_events).await.contains("relay"));
            derper = Derper::start(dir.path(), port);
            connected(&mut a_events).await;
            connected(&mut b_events).await;
            println!("again in {:?} and {:?}", a.connect_time(REGION), b.connect_time(REGION));
        }
    }
    assert_eq!((a.drops(), b.drops()), (DerpDrops::default(), DerpDrops::default()));

    // A key that the relay does not hold: a client that leaves is reported to whom it had sent something.
    b.shutdown().await;
    let gone = event(&mut a_events).await;
    assert!(matches!(gone, DerpEvent::PeerGone { key, reason: PeerGoneReason::Disconnected, .. } if key == b_key));
    let mut disco = vec![0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac];
    disco.resize(120, 1);
    a.send(REGION, &peer(), &disco);
    let gone = event(&mut a_events).await;
    assert!(matches!(gone, DerpEvent::PeerGone { key, reason: PeerGoneReason::NotHere, .. } if key == peer()));

    // Another certificate than the map's is refused.
    let mut wrong = derper.map();
    if let Some(region) = Arc::make_mut(&mut wrong).regions.get_mut(&REGION) {
        Arc::make_mut(region).nodes[0].cert_name = format!("sha256-raw:{}", "00".repeat(32));
    }
    a.set_map(wrong);
    assert!(disconnected(&mut a_events).await.contains("changed"));
    let refused = disconnected(&mut a_events).await;
    assert!(refused.contains("hash"), "{refused}");
}

/// A proxy in front of a relay that lets WebSockets pass and refuses whatever else asks for an upgrade.
async fn proxy_without_derp(relay_port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await?);
                }
                if String::from_utf8_lossy(&head).contains("Upgrade: DERP") {
                    let refusal = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n";
                    return client.write_all(refusal).await;
                }
                let mut relay = TcpStream::connect(("127.0.0.1", relay_port)).await?;
                relay.write_all(&head).await?;
                tokio::io::copy_bidirectional(&mut client, &mut relay).await.map(drop)
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the real derper: `cargo xtask peers` builds it"]
async fn a_proxy_that_knows_websockets_alone_does_not_cut_us_off() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let _derper = Derper::start_plain(dir.path(), port).await;
    let proxy = proxy_without_derp(port).await;
    let start = || {
        let (sender, receiver) = mpsc::channel(1_024);
        let key = NodePrivateKey::generate();
        let control = ControlUrl::parse(&format!("http://127.0.0.1:{proxy}")).unwrap();
        let mut pool = DerpPool::new(key.clone(), Dialer::new(None).unwrap(), control, sender);
        pool.set_map(map_of(node("127.0.0.1", proxy)));
        pool.set_home(Some(REGION));
        (pool, receiver, key.public())
    };
    let (mut a, mut a_events, a_key) = start();
    let (_b, mut b_events, b_key) = start();
    connected(&mut a_events).await;
    connected(&mut b_events).await;
    // Larger than one message of ours may be, and more than one write takes.
    let mut got = Vec::new();
    let sent: Vec<Vec<u8>> = (0..20u8).map(|number| vec![number; 60_000]).collect();
    for packet in &sent {
        assert!(a.send(REGION, &b_key, packet));
        let news = event(&mut b_events).await;
        let DerpEvent::Packets { src, packets, .. } = news else {
            panic!("{news:?}")
        };
        assert_eq!(src, a_key);
        got.extend(packets.bytes().chunks(packets.stride()).map(<[u8]>::to_vec));
    }
    assert_eq!(got, sent);
}
