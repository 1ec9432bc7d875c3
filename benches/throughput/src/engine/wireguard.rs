//! wireguard-go, gotatun and boringtun: plain WireGuard, both ends told about each other by the configuration socket.

use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    process::{self, Command},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use e2e::lab::{Host, Process, Run, eventually};
use x25519_dalek::{PublicKey, StaticSecret};

use super::{Ends, Engine, MTU, Pair, uapi};

const PORT: u16 = 51_820;
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 2)];

/// The two processes.
#[derive(Debug)]
pub(super) struct WireGuard {
    ends: Vec<End>,
}

#[derive(Debug)]
struct End {
    process: Process,
    interface: String,
}

impl WireGuard {
    pub(super) fn processes(&self) -> Vec<&Process> {
        self.ends.iter().map(|end| &end.process).collect()
    }
}

/// Starts `engine` on both hosts; each knows the other and, beside it, `others` peers that never show up.
pub fn start<'lab>(engine: Engine, a: &'lab Host, b: &'lab Host, others: usize) -> Result<Pair<'lab>> {
    let keys = [StaticSecret::random(), StaticSecret::random()];
    let [public_a, public_b] = keys.each_ref().map(PublicKey::from);
    let [address_a, address_b] = ADDRESSES;
    let mut ends = Vec::new();
    for (host, letter, own, peer, peer_host, address, peer_address) in [
        (a, 'a', &keys[0], public_b, b, address_a, address_b),
        (b, 'b', &keys[1], public_a, a, address_b, address_a),
    ] {
        let end = End::start(engine, host, letter)?;
        let mut settings = format!(
            "private_key={}\nlisten_port={PORT}\nreplace_peers=true\n\
             public_key={}\nendpoint={}:{PORT}\nreplace_allowed_ips=true\nallowed_ip={peer_address}/32\n",
            hex::encode(own.to_bytes()),
            hex::encode(peer.to_bytes()),
            peer_host.address(),
        );
        strangers(&mut settings, others)?;
        uapi::set(&end.interface, &settings)?;
        host.namespace().ip(&format!(
            "address add {address}/24 dev {name}\nlink set {name} mtu {MTU} up",
            name = end.interface
        ))?;
        ends.push(end);
    }
    let device = ends.first().map(|end| end.interface.clone()).unwrap_or_default();
    Ok(Pair {
        a,
        b,
        address: address_b,
        device,
        ends: Ends::WireGuard(WireGuard { ends }),
    })
}

/// Peers with keys of nobody, each with an address of its own.
fn strangers(settings: &mut String, count: usize) -> Result<()> {
    for number in 0..u32::try_from(count)? {
        let key = PublicKey::from(&StaticSecret::random());
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 78, 0, 0)) + number);
        writeln!(
            settings,
            "public_key={}\nallowed_ip={address}/32",
            hex::encode(key.to_bytes())
        )?;
    }
    Ok(())
}

impl End {
    fn start(engine: Engine, host: &Host, letter: char) -> Result<Self> {
        let interface = format!("sdl{}{letter}", process::id() % 10_000_000);
        let program = engine.program().context("an engine without program")?;
        // What an earlier run that was killed has left there would be taken for the answer.
        let _ = fs::remove_file(uapi::socket(&interface));
        let mut command: Command = host.command(program);
        match engine {
            Engine::WireguardGo => command.arg("-f"),
            Engine::Gotatun => command.args(["--foreground", "--disable-drop-privileges"]),
            _ => command.args(["--foreground", "--disable-drop-privileges"]),
        };
        command.arg(&interface);
        let name = format!("{}-{}", engine.name(), host.name());
        let mut end = Self {
            process: Process::start(&name, host.directory(), &mut command)?,
            interface,
        };
        eventually("the interface", Duration::from_secs(10), || {
            if !end.process.is_running() {
                bail!("{} ended:\n{}", engine.name(), end.process.log());
            }
            if !uapi::socket(&end.interface).exists() {
                bail!("no configuration socket");
            }
            let link = Run::of(host.namespace().command("ip").args(["link", "show", &end.interface]))?;
            if !link.status.success() {
                bail!("{}", link.stderr);
            }
            Ok(())
        })?;
        Ok(end)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = fs::remove_file(uapi::socket(&self.interface));
    }
}
