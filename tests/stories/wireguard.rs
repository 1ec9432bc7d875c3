//! Plain WireGuard implementations as members of the mesh of our coordinator: none of them knows of anything but WireGuard.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::lab::{
    Coordinator, Host, Lab, MeshPeer, MeshPeerOptions, Namespace, Role, Run, Sandd, SanddOptions, Tailscaled,
    TailscaledOptions, WireGuardHost, WireGuardPeer, WireGuardProgram, eventually,
    probe::{HashingSink, Pinger, send_hashed},
    story,
};

use crate::stage::stream_arrives;

const STREAM: u64 = 20_000_000;
/// Where our nodes and tailscaled listen.
const PORT: u16 = 41_641;
/// The plain peer's address, far from those that nodes are given.
const PLAIN: Ipv4Addr = Ipv4Addr::new(100, 64, 200, 1);
const INTERVAL: Duration = Duration::from_millis(50);

#[test]
fn wireguard_go_and_our_interface() {
    with(WireGuardProgram::WireguardGo, with_an_interface);
}

#[test]
fn boringtun_and_our_interface() {
    with(WireGuardProgram::Boringtun, with_an_interface);
}

#[test]
fn gotatun_and_our_interface() {
    with(WireGuardProgram::Gotatun, with_an_interface);
}

#[test]
fn wireguard_go_and_our_userspace_node() {
    with(WireGuardProgram::WireguardGo, without_an_interface);
}

#[test]
fn boringtun_and_our_userspace_node() {
    with(WireGuardProgram::Boringtun, without_an_interface);
}

#[test]
fn gotatun_and_our_userspace_node() {
    with(WireGuardProgram::Gotatun, without_an_interface);
}

#[test]
fn tailscaled_takes_our_coordinators_plain_peer() {
    with(WireGuardProgram::WireguardGo, tailscaled_and_a_plain_peer);
}

/// Tells the story where the program was built; `cargo xtask peers --rivals` builds all.
fn with(program: WireGuardProgram, tell: impl Fn(&Lab, WireGuardProgram) -> Result<()>) {
    let is_peer = program == WireGuardProgram::WireguardGo;
    if is_peer || program.is_there() || std::env::var_os("SANDD_E2E_RIVALS").is_some() {
        story(|lab| tell(lab, program));
    } else {
        let name = std::thread::current().name().unwrap_or("story").to_owned();
        let _ = fs::write("/dev/stderr", format!("SKIPPED {name}: {program:?} is not built\n"));
    }
}

/// The file of plain peers.
struct PeersFile(PathBuf);

impl PeersFile {
    fn create(lab: &Lab, peers: &[&WireGuardHost<'_>]) -> Result<Self> {
        let file = Self(lab.directory().join("wireguard-peers.json"));
        file.write(peers)?;
        Ok(file)
    }

    fn write(&self, peers: &[&WireGuardHost<'_>]) -> Result<()> {
        let entries: Vec<String> = peers.iter().map(|peer| peer.entry()).collect();
        let text = format!("// written by a story\n{{\"peers\": [{},]}}\n", entries.join(","));
        Ok(fs::write(&self.0, text.replace("[,]", "[]"))?)
    }

    fn coordinator<'lab>(&self, lab: &'lab Lab) -> Result<Coordinator<'lab>> {
        let path = self.0.to_str().context("the path is no text")?;
        Coordinator::start_with(lab, &["--wireguard-peers", path])
    }
}

fn answers(from: &Namespace, to: Ipv4Addr, who: &str) -> Result<()> {
    let pinger = Pinger::start(from, to, INTERVAL)?;
    pinger.first_answer(Duration::from_secs(20)).context(who.to_owned())?;
    Ok(())
}

fn ours(node: &Sandd<'_>, host: &Host, called: bool) -> Result<WireGuardPeer> {
    Ok(WireGuardPeer {
        key: node.key()?,
        address: node.address()?,
        endpoint: called.then(|| SocketAddr::from((host.address(), PORT))),
    })
}

fn with_an_interface(lab: &Lab, program: WireGuardProgram) -> Result<()> {
    let (a, b) = (lab.public_host("a")?, lab.public_host("b")?);
    let plain = WireGuardHost::new(&b, program, PLAIN);
    let file = PeersFile::create(lab, &[])?;
    let coordinator = file.coordinator(lab)?;
    let options = SanddOptions::new(&coordinator.url(), Some(&coordinator.create_key(&[])?)).with_tun();
    let node = Sandd::join(&a, Role::Node, &options)?;

    // The file is read again, and the plain peer cannot call: it does not know where we are.
    file.write(&[&plain])?;
    coordinator.process().signal("HUP")?;
    let process = plain.start(&[ours(&node, &a, false)?])?;
    answers(a.namespace(), PLAIN, "we call")?;
    let status = Run::of(&mut node.cli(&["status"]))?.stdout;
    ensure!(
        status.contains(&format!("wireguard-only {}:51820", b.address())),
        "{status}"
    );
    stream_arrives(&a, &b, PLAIN, STREAM)?;
    stream_arrives(&b, &a, node.address()?, STREAM)?;

    // It starts anew, and now it is the one that calls. Our side has a session that it knows nothing of.
    drop(process);
    let _process = plain.start(&[ours(&node, &a, true)?])?;
    answers(b.namespace(), node.address()?, "it calls after its restart")?;
    stream_arrives(&b, &a, node.address()?, STREAM)?;
    stream_arrives(&a, &b, PLAIN, STREAM)?;

    // We start anew and call first.
    let address = node.address()?;
    node.stop()?;
    let again = Sandd::join(&a, Role::Node, &SanddOptions { key: None, ..options })?;
    ensure!(again.address()? == address, "another address");
    answers(a.namespace(), PLAIN, "we call after our restart")?;
    stream_arrives(&a, &b, PLAIN, STREAM)?;

    // Out of the file, out of the mesh.
    file.write(&[])?;
    coordinator.process().signal("HUP")?;
    eventually("the plain peer's end", Duration::from_secs(10), || {
        let status = Run::of(&mut again.cli(&["status"]))?.stdout;
        ensure!(!status.contains("wireguard-only"), "{status}");
        Ok(())
    })
}

fn without_an_interface(lab: &Lab, program: WireGuardProgram) -> Result<()> {
    let (a, b) = (lab.public_host("a")?, lab.public_host("b")?);
    let plain = WireGuardHost::new(&b, program, PLAIN);
    let file = PeersFile::create(lab, &[&plain])?;
    let coordinator = file.coordinator(lab)?;
    let mut options = MeshPeerOptions::new(&coordinator.url(), &coordinator.create_key(&["--reusable"])?);
    options.keeps_state = true;

    let mut sink = MeshPeer::spawn(&a, &options, &["sink", "7000"])?;
    sink.answer("listening", Duration::from_secs(20))?;
    let (key, address) = (sink.key()?, sink.address()?);
    let known = |called: bool| WireGuardPeer {
        key,
        address,
        endpoint: called.then(|| SocketAddr::from((a.address(), PORT))),
    };
    let process = plain.start(&[known(true)])?;
    answers(b.namespace(), address, "it calls")?;
    let sent = send_hashed(b.namespace(), (address, 7000).into(), STREAM)?;
    let digest = sink.answer("digest", Duration::from_secs(60))?;
    ensure!(digest == sent.digest, "another stream came out at ours");

    // It starts anew and calls again.
    drop(process);
    let process = plain.start(&[known(true)])?;
    answers(b.namespace(), address, "it calls after its restart")?;
    sink.stop()?;

    // Both start anew, and only we can call.
    drop(process);
    let _process = plain.start(&[known(false)])?;
    let far = HashingSink::listen(b.namespace(), (PLAIN, 0).into())?;
    let (to, port) = (PLAIN.to_string(), far.address().port().to_string());
    options.key = None;
    let mut source = MeshPeer::spawn(&a, &options, &["send", &to, &port, &STREAM.to_string()])?;
    let sent = source.answer("digest", Duration::from_secs(60))?;
    ensure!(
        sent == far.finish()?.digest,
        "another stream came out at the plain peer"
    );
    ensure!(source.key()? == key, "another key");
    Ok(())
}

/// A stock client beside ours, with the same map.
fn tailscaled_and_a_plain_peer(lab: &Lab, program: WireGuardProgram) -> Result<()> {
    let (a, b) = (lab.public_host("a")?, lab.public_host("b")?);
    let plain = WireGuardHost::new(&b, program, PLAIN);
    let file = PeersFile::create(lab, &[&plain])?;
    let coordinator = file.coordinator(lab)?;
    let key = coordinator.create_key(&[])?;
    let stock = Tailscaled::join(&a, &TailscaledOptions::default(), &coordinator.url(), &key)?;
    let status = stock.status()?;
    let Some(key) = status.pointer("/Self/PublicKey").and_then(|key| key.as_str()) else {
        bail!("no key in {status}")
    };
    let _process = plain.start(&[WireGuardPeer {
        key: key.parse()?,
        address: stock.address()?,
        endpoint: Some(SocketAddr::from((a.address(), PORT))),
    }])?;
    answers(a.namespace(), PLAIN, "tailscaled calls")?;
    answers(b.namespace(), stock.address()?, "the plain peer calls")?;
    stream_arrives(&a, &b, PLAIN, STREAM)?;
    stream_arrives(&b, &a, stock.address()?, STREAM)
}
