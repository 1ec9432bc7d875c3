//! Against miniupnpd, the server that most home routers run: a router in a network namespace of its own, we behind it, a
//! stranger before it whose datagram must arrive.
//!
//! ```text
//! this process (lan0 192.168.1.2) ── router (rlan 192.168.1.1, rwan 5.6.7.8) ── stranger (out0 5.6.7.9)
//! ```

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::UdpSocket;

use super::{PORT, PortMapping, place};
use crate::portmap::pcp;

/// Set in the process that runs inside the namespace; says which protocols the server speaks.
const INSIDE: &str = "SANDD_TEST_INSIDE_NAMESPACE";
const SERVER: &str = "/usr/sbin/miniupnpd";
/// The chains that the server fills, with the names that it expects; a router that lets nothing in unasked.
const RULES: &str = "
table inet filter {
  chain forward { type filter hook forward priority 0; policy drop; jump miniupnpd; iifname rlan accept; ct state established,related accept; }
  chain miniupnpd { }
  chain prerouting { type nat hook prerouting priority -100; policy accept; jump prerouting_miniupnpd; }
  chain postrouting { type nat hook postrouting priority 100; policy accept; jump postrouting_miniupnpd; oifname rwan masquerade; }
  chain prerouting_miniupnpd { }
  chain postrouting_miniupnpd { }
}
";

#[test]
fn a_router_with_nat_pmp_and_pcp_lets_a_stranger_in() {
    behind_a_router("natpmp");
}

#[test]
fn a_router_with_upnp_lets_a_stranger_in() {
    behind_a_router("upnp");
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    let status = command
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

fn behind_a_router(protocols: &str) {
    let tools = ["ip", "nft", "nsenter"]
        .iter()
        .all(|tool| succeeds(tool, &["--version"]) || succeeds(tool, &["-V"]));
    if !tools || !PathBuf::from(SERVER).exists() || !succeeds("unshare", &["--net", "true"]) {
        eprintln!("SKIPPED: port mapping against a real router needs root, ip, nft, nsenter, unshare and miniupnpd");
        return;
    }
    let status = Command::new("unshare")
        .arg("--net")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "io::portmap::tests::inside_a_namespace", "--nocapture"])
        .env(INSIDE, protocols)
        .status()
        .unwrap();
    assert!(status.success());
}

/// Does nothing unless a test above starts it.
#[test]
fn inside_a_namespace() {
    let protocols = std::env::var(INSIDE).unwrap_or_default();
    if protocols != "natpmp" && protocols != "upnp" {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let story = async {
        tokio::time::timeout(Duration::from_secs(60), story(&protocols))
            .await
            .unwrap()
    };
    runtime.block_on(story);
}

/// Ended with the test, whatever its outcome.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A network namespace, kept by a process that waits.
struct Host(Process);

impl Host {
    fn new() -> Self {
        let child = Command::new("unshare").args(["--net", "sleep", "100"]).spawn().unwrap();
        let host = Self(Process(child));
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        while of(&host.pid()) == of("self") {
            std::thread::yield_now();
        }
        host
    }

    fn pid(&self) -> String {
        self.0.0.id().to_string()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "-t", &self.pid(), program]);
        command
    }

    fn run(&self, line: &str) {
        let mut words = line.split(' ');
        let mut command = self.command(words.next().unwrap());
        assert!(command.args(words).status().unwrap().success(), "{line}");
    }
}

fn ip(line: &str) {
    assert!(
        Command::new("ip").args(line.split(' ')).status().unwrap().success(),
        "ip {line}"
    );
}

/// The router, its server and the stranger.
fn build(directory: &std::path::Path, protocols: &str) -> (Host, Host, Process) {
    let (router, stranger) = (Host::new(), Host::new());
    ip(&format!(
        "link add lan0 type veth peer name rlan netns {}",
        router.pid()
    ));
    ip("addr add 192.168.1.2/24 dev lan0");
    ip("link set lan0 up");
    router.run("ip addr add 192.168.1.1/24 dev rlan");
    router.run("ip link set rlan up");
    ip("route add default via 192.168.1.1");
    router.run("ip link set lo up");
    router.run(&format!(
        "ip link add rwan type veth peer name out0 netns {}",
        stranger.pid()
    ));
    router.run("ip addr add 5.6.7.8/24 dev rwan");
    router.run("ip link set rwan up");
    stranger.run("ip addr add 5.6.7.9/24 dev out0");
    stranger.run("ip link set out0 up");
    let forward = "/proc/sys/net/ipv4/ip_forward";
    let shell = router
        .command("sh")
        .args(["-c", &format!("echo 1 > {forward}")])
        .status()
        .unwrap();
    assert!(shell.success());
    let rules = directory.join("rules");
    std::fs::write(&rules, RULES).unwrap();
    router.run(&format!("nft -f {}", rules.display()));

    let (nat_pmp, upnp) = if protocols == "upnp" {
        ("no", "yes")
    } else {
        ("yes", "no")
    };
    let config = directory.join("config");
    let text = format!(
        "ext_ifname=rwan\nlistening_ip=rlan\nhttp_port=5000\nenable_natpmp={nat_pmp}\nenable_upnp={upnp}\nsecure_mode=yes\n\
         system_uptime=no\nupnp_table_name=filter\nupnp_nat_table_name=filter\nupnp_forward_chain=miniupnpd\n\
         upnp_nat_chain=prerouting_miniupnpd\nupnp_nat_postrouting_chain=postrouting_miniupnpd\n\
         uuid=00000000-0000-0000-0000-000000000000\nallow 1024-65535 192.168.1.0/24 1024-65535\n"
    );
    std::fs::write(&config, text).unwrap();
    let server = router
        .command(SERVER)
        .args(["-d", "-f"])
        .arg(&config)
        .arg("-P")
        .arg(directory.join("pid"))
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(directory.join("log")).unwrap())
        .spawn()
        .unwrap();
    (router, stranger, Process(server))
}

async fn story(protocols: &str) {
    let directory = tempfile::tempdir().unwrap();
    let (router, stranger, _server) = build(directory.path(), protocols);
    let listening = if protocols == "upnp" { ":1900 " } else { ":5351 " };
    loop {
        let sockets = router.command("ss").args(["-Hlun"]).output().unwrap();
        if String::from_utf8_lossy(&sockets.stdout).contains(listening) {
            break;
        }
        tokio::task::yield_now().await;
    }

    let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let ours = place(
        Some("192.168.1.1".parse().unwrap()),
        Some("192.168.1.2".parse().unwrap()),
        port,
    );
    let mut mapping = PortMapping::start();
    mapping.set_place(ours);
    let mapped = mapping.changed().await.unwrap();
    assert_eq!(mapped.ip().to_string(), "5.6.7.8");
    assert!(
        arrives(&stranger, mapped.port(), &socket).await,
        "the router lets the stranger in"
    );

    if protocols == "natpmp" {
        real_pcp(&stranger).await;
    }

    assert!(is_mapped(&router, port));
    mapping.shutdown().await;
    // Given back by a datagram that nobody waits for: the server may still have it before it. The story's time is bounded.
    while is_mapped(&router, port) {
        tokio::task::yield_now().await;
    }
}

fn is_mapped(router: &Host, port: u16) -> bool {
    let rules = router.command("nft").args(["list", "ruleset"]).output().unwrap();
    String::from_utf8_lossy(&rules.stdout).contains(&format!("192.168.1.2:{port}"))
}

/// Whether a datagram of the stranger's to this port of the router arrives.
async fn arrives(stranger: &Host, port: u16, socket: &UdpSocket) -> bool {
    let line = format!("printf knock > /dev/udp/5.6.7.8/{port}");
    assert!(stranger.command("bash").args(["-c", &line]).status().unwrap().success());
    let mut buffer = [0; 16];
    let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
    &buffer[..len] == b"knock" && from.ip().to_string() == "5.6.7.9"
}

/// The machine prefers NAT-PMP where there are both; so the codec speaks with the server by itself.
async fn real_pcp(stranger: &Host) {
    let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let ours = place(
        Some("192.168.1.1".parse().unwrap()),
        Some("192.168.1.2".parse().unwrap()),
        port,
    )
    .unwrap();
    let gateway = UdpSocket::bind("192.168.1.2:0").await.unwrap();
    gateway.connect(("192.168.1.1", PORT)).await.unwrap();
    let ask = async |request: &[u8]| {
        gateway.send(request).await.unwrap();
        let mut buffer = [0; 1_100];
        let len = gateway.recv(&mut buffer).await.unwrap();
        pcp::parse(&buffer[..len]).unwrap()
    };
    assert!(matches!(
        ask(&pcp::announce_request(ours.own)).await,
        pcp::Response::Announce { .. }
    ));
    let granted = ask(&pcp::map_request(&ours, &[7; 12], 0, 7_200)).await;
    let pcp::Response::Mapped {
        nonce,
        internal,
        external,
        address,
        lifetime,
        ..
    } = granted
    else {
        panic!("{granted:?}")
    };
    assert_eq!(
        (nonce, internal, address.to_string().as_str()),
        ([7; 12], port, "5.6.7.8")
    );
    assert!(lifetime > 0);
    assert!(arrives(stranger, external, &socket).await);
    let stolen = ask(&pcp::map_request(&ours, &[8; 12], external, 0)).await;
    assert!(
        matches!(stolen, pcp::Response::Refused { mapping: true, .. }),
        "another nonce deletes nothing: {stolen:?}"
    );
    let renewed = ask(&pcp::map_request(&ours, &[7; 12], external, 7_200)).await;
    assert!(
        matches!(renewed, pcp::Response::Mapped { external: again, .. } if again == external),
        "{renewed:?}"
    );
    let deleted = ask(&pcp::map_request(&ours, &[7; 12], external, 0)).await;
    assert!(
        matches!(deleted, pcp::Response::Mapped { lifetime: 0, .. }),
        "{deleted:?}"
    );
}
