//! What is measured of each engine: the cells of the table.

mod relayed;
mod tunnels;
mod userspace;

pub(crate) use relayed::relayed;
pub(crate) use tunnels::tunnels;
pub(crate) use userspace::userspace;

use anyhow::Result;
use e2e::lab::{Coordinator, Lab};

use crate::engine::{Engine, Pair, mesh, wireguard};

/// A pair of `engine` on the lab's hosts `a` and `b`, straight. The coordinator lives as long as the pair.
struct Started<'lab> {
    pair: Pair<'lab>,
    _coordinator: Option<Coordinator<'lab>>,
}

fn start<'lab>(engine: Engine, lab: &'lab Lab, hosts: &'lab (e2e::lab::Host, e2e::lab::Host)) -> Result<Started<'lab>> {
    let (a, b) = hosts;
    match engine {
        Engine::Sandd | Engine::Tailscaled => {
            let coordinator = Coordinator::start(lab)?;
            let ticket = mesh::Ticket {
                server: coordinator.url(),
                key: coordinator.create_key(&["--reusable"])?,
            };
            Ok(Started {
                pair: mesh::start(engine, a, b, &ticket, mesh::Way::Direct)?,
                _coordinator: Some(coordinator),
            })
        }
        Engine::None => Ok(Started {
            pair: Pair::plain(a, b),
            _coordinator: None,
        }),
        _ => Ok(Started {
            pair: wireguard::start(engine, a, b, 0)?,
            _coordinator: None,
        }),
    }
}
