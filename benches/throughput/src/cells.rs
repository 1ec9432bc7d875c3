//! What is measured of each engine: the cells of the table.

mod endurance;
mod link;
mod peers;
mod relayed;
mod tunnels;
mod userspace;

pub(crate) use endurance::endurance;
pub(crate) use link::{calibrate, link_cells, metric as link_metric};
pub(crate) use peers::{Crowds, memory as peers_memory, peers, speed as peers_speed};
pub(crate) use relayed::relayed;
pub(crate) use tunnels::{tunnels, udp_arrived, udp_lost};
pub(crate) use userspace::userspace;

use anyhow::Result;
use e2e::lab::{Coordinator, Host, Lab};

use crate::engine::{Engine, Pair, mesh, wireguard};

/// A pair of `engine` on the lab's hosts `a` and `b`, straight. The coordinator lives as long as the pair.
struct Started<'lab> {
    pair: Pair<'lab>,
    _coordinator: Option<Coordinator<'lab>>,
}

fn start<'lab>(engine: Engine, lab: &'lab Lab, hosts: &'lab (Host, Host)) -> Result<Started<'lab>> {
    start_among(engine, lab, hosts, 0)
}

/// The same with so many other peers configured; a coordinator has to know them beforehand.
fn start_among<'lab>(
    engine: Engine,
    lab: &'lab Lab,
    hosts: &'lab (Host, Host),
    others: usize,
) -> Result<Started<'lab>> {
    let (a, b) = hosts;
    match engine {
        Engine::Sandd | Engine::Tailscaled => {
            let coordinator = Coordinator::start(lab)?;
            let ticket = userspace::ticket(&coordinator)?;
            Ok(Started {
                pair: mesh::start(engine, a, b, &ticket, mesh::Way::Direct)?,
                _coordinator: Some(coordinator),
            })
        }
        Engine::None => Ok(Started {
            pair: Pair::plain(a, b),
            _coordinator: None,
        }),
        Engine::WireguardGo | Engine::Gotatun | Engine::Boringtun | Engine::Tsnet | Engine::Kernel => Ok(Started {
            pair: wireguard::start(engine, a, b, others)?,
            _coordinator: None,
        }),
    }
}
