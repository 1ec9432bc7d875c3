//! wireguard-go, gotatun and boringtun: plain WireGuard, both ends told about each other over their configuration socket.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, bail};
use e2e::lab::{Host, Process, WireGuard, WireGuardHost, WireGuardPeer, WireGuardProgram};
use sandd_control_client::keys::NodePrivateKey;

use super::{Ends, Engine, Pair};

const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 64, 0, 1), Ipv4Addr::new(100, 64, 0, 2)];

/// Where peers that nobody meets have their addresses.
const STRANGERS: Ipv4Addr = Ipv4Addr::new(100, 65, 0, 0);

/// The two processes.
#[derive(Debug)]
pub(super) struct Tunnel {
    ends: [WireGuard; 2],
}

impl Tunnel {
    pub(super) fn processes(&self) -> Vec<&Process> {
        self.ends.iter().map(WireGuard::process).collect()
    }
}

/// Starts `engine` on both hosts; each knows the other and, beside it, `others` peers that never show up.
pub fn start<'lab>(engine: Engine, a: &'lab Host, b: &'lab Host, others: usize) -> Result<Pair<'lab>> {
    let program = match engine {
        Engine::WireguardGo => WireGuardProgram::WireguardGo,
        Engine::Gotatun => WireGuardProgram::Gotatun,
        Engine::Boringtun => WireGuardProgram::Boringtun,
        Engine::None | Engine::Sandd | Engine::Tailscaled | Engine::Tsnet | Engine::Kernel => {
            bail!("{} is no plain WireGuard", engine.name())
        }
    };
    let [address_a, address_b] = ADDRESSES;
    let end_a = WireGuardHost::new(a, program, address_a);
    let end_b = WireGuardHost::new(b, program, address_b);
    let mut peers_a = strangers(others)?;
    let mut peers_b = peers_a.clone();
    peers_a.push(end_b.as_peer());
    peers_b.push(end_a.as_peer());
    let ends = [
        end_a.start(&peers_a).with_context(|| engine.name())?,
        end_b.start(&peers_b).with_context(|| engine.name())?,
    ];
    let [first, _] = &ends;
    Ok(Pair {
        a,
        b,
        address: address_b,
        device: first.interface().to_owned(),
        ends: Ends::WireGuard(Box::new(Tunnel { ends })),
    })
}

/// Peers with keys of nobody, each with an address of its own.
fn strangers(count: usize) -> Result<Vec<WireGuardPeer>> {
    let peer = |number| WireGuardPeer {
        key: NodePrivateKey::generate().public(),
        address: Ipv4Addr::from(u32::from(STRANGERS) + number),
        endpoint: None,
    };
    Ok((0..u32::try_from(count)?).map(peer).collect())
}
