//! Ours and tailscaled: nodes of a mesh, both with the same coordinator and the same relay.

use std::{net::Ipv4Addr, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};
use e2e::lab::{
    Device, Host, Process, Role, Sandd, SanddOptions, SanddPath, TailscalePath, Tailscaled, TailscaledOptions,
    eventually, run, sandd_binary,
};

use serde_json::Value;

use super::{Engine, MTU, Pair};

/// How long a pair may take until it is on the path that is measured.
const PATH: Duration = Duration::from_secs(30);

/// Which way the packets are to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By UDP.
    Direct,
    /// Through the relay.
    Relayed,
}

/// Where nodes join, and with what.
#[derive(Debug, Clone)]
pub struct Ticket {
    /// The coordinator.
    pub server: String,
    /// A key that several nodes may use.
    pub key: String,
}

#[derive(Debug)]
pub(super) enum Ends<'lab> {
    Sandd([Sandd<'lab>; 2]),
    Tailscaled([Tailscaled<'lab>; 2]),
}

impl Ends<'_> {
    pub(super) fn processes(&self) -> Vec<&Process> {
        match self {
            Ends::Sandd(ends) => ends.iter().map(Sandd::process).collect(),
            Ends::Tailscaled(ends) => ends.iter().map(Tailscaled::process).collect(),
        }
    }

    pub(super) fn statuses(&self) -> Result<[Value; 2]> {
        match self {
            Ends::Sandd([a, b]) => Ok([a.status()?, b.status()?]),
            Ends::Tailscaled([a, b]) => Ok([a.status()?, b.status()?]),
        }
    }
}

/// Starts `engine` on both hosts and waits until the first of them says that it reaches the second that way.
pub fn start<'lab>(engine: Engine, a: &'lab Host, b: &'lab Host, ticket: &Ticket, way: Way) -> Result<Pair<'lab>> {
    match engine {
        Engine::Sandd => sandd(a, b, ticket, way),
        Engine::Tailscaled => tailscaled(a, b, ticket, way),
        Engine::None | Engine::WireguardGo | Engine::Gotatun | Engine::Boringtun | Engine::Tsnet | Engine::Kernel => {
            bail!("{} is no mesh with an interface", engine.name())
        }
    }
}

fn sandd<'lab>(a: &'lab Host, b: &'lab Host, ticket: &Ticket, way: Way) -> Result<Pair<'lab>> {
    let mut options = SanddOptions::new(&ticket.server, Some(&ticket.key)).with_tun();
    if let Some(flag) = mtu_flag()? {
        options = options.with_arguments(&[flag, &MTU.to_string()]);
    }
    let ends = [
        Sandd::join(a, Role::Node, &options)?,
        Sandd::join(b, Role::Node, &options)?,
    ];
    let [first, second] = &ends;
    let address = second.address()?;
    let wanted = match way {
        Way::Direct => SanddPath::Direct,
        Way::Relayed => SanddPath::Relayed,
    };
    eventually("the path of ours", PATH, || {
        let path = first.ping(&address.to_string())?;
        if path != wanted {
            bail!("it is {path:?}");
        }
        Ok(())
    })?;
    Ok(pair(a, b, address, "sandd0", Ends::Sandd(ends)))
}

/// The flag by which ours lets its packet size be set, if this build has one.
fn mtu_flag() -> Result<Option<&'static str>> {
    let help = run(Command::new(sandd_binary()).args(["up", "--help"]))?;
    Ok(["--tunnel-mtu", "--mtu"]
        .into_iter()
        .find(|flag| help.contains(&format!("{flag} "))))
}

fn tailscaled<'lab>(a: &'lab Host, b: &'lab Host, ticket: &Ticket, way: Way) -> Result<Pair<'lab>> {
    let options = TailscaledOptions {
        device: Device::Tun,
        mtu: Some(MTU),
        ..TailscaledOptions::default()
    };
    let ends = [
        Tailscaled::join(a, &options, &ticket.server, &ticket.key)?,
        Tailscaled::join(b, &options, &ticket.server, &ticket.key)?,
    ];
    let [first, second] = &ends;
    let address = second.address()?;
    eventually("the path of tailscaled", PATH, || {
        first.ping(&address.to_string())?;
        let path = first.path(address)?.context("it sends nothing")?;
        let fits = match way {
            Way::Direct => matches!(path, TailscalePath::Direct(_)),
            Way::Relayed => path == TailscalePath::Relayed,
        };
        if !fits {
            bail!("it is {path:?}");
        }
        Ok(())
    })?;
    Ok(pair(a, b, address, "tailscale0", Ends::Tailscaled(ends)))
}

fn pair<'lab>(a: &'lab Host, b: &'lab Host, address: Ipv4Addr, device: &str, ends: Ends<'lab>) -> Pair<'lab> {
    Pair {
        a,
        b,
        address,
        device: device.to_owned(),
        ends: super::Ends::Mesh(Box::new(ends)),
    }
}
