//! The routers of the lab behave as their kind (RFC 4787) does. Else every story about paths would mean nothing.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use e2e::lab::{Host, Lab, NatKind, SERVER_ADDRESS, SERVER_SECOND_ADDRESS, story};

/// What a router does with the outer port and with strangers.
#[derive(Debug, PartialEq, Eq)]
struct Behaviour {
    /// The same outer address towards every destination.
    one_mapping: bool,
    /// The outer port is the inner one.
    keeps_port: bool,
    /// Another port of an address that was written to gets in.
    lets_other_ports_in: bool,
    /// An address that was never written to gets in.
    lets_strangers_in: bool,
}

const fn behaviour(
    one_mapping: bool,
    keeps_port: bool,
    lets_other_ports_in: bool,
    lets_strangers_in: bool,
) -> Behaviour {
    Behaviour {
        one_mapping,
        keeps_port,
        lets_other_ports_in,
        lets_strangers_in,
    }
}

#[test]
fn each_router_maps_and_filters_as_its_kind_says() {
    story(|lab| {
        for (kind, expected) in [
            (NatKind::PortRestricted, behaviour(true, true, false, false)),
            (NatKind::PortRestrictedShifted, behaviour(true, false, false, false)),
            (NatKind::Hard, behaviour(false, false, false, false)),
            (NatKind::AddressRestricted, behaviour(true, true, true, false)),
            (NatKind::FullCone, behaviour(true, true, true, true)),
        ] {
            let site = lab.site(kind)?;
            let host = site.host(&format!("h{}", site.wan().octets()[3]))?;
            let found = observe(lab, &host).with_context(|| format!("{kind:?}"))?;
            ensure!(found == expected, "{kind:?} is {found:?}");
        }
        Ok(())
    });
}

/// Sends to two addresses of the server and lets it answer from places that were and were not written to.
fn observe(lab: &Lab, host: &Host) -> Result<Behaviour> {
    let bind = |namespace: &e2e::lab::Namespace, address: Ipv4Addr| -> Result<UdpSocket> {
        let socket = namespace.inside(|| UdpSocket::bind((address, 0)))??;
        Ok(socket)
    };
    let inside = bind(host.namespace(), host.address())?;
    let server = lab.server().namespace();
    let (first, other_port) = (bind(server, SERVER_ADDRESS)?, bind(server, SERVER_ADDRESS)?);
    let (second, third) = (bind(server, SERVER_SECOND_ADDRESS)?, bind(server, SERVER_ADDRESS)?);

    let seen_by = |socket: &UdpSocket| -> Result<SocketAddr> {
        // What must come may take its time on a busy machine.
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        inside.send_to(b"out", socket.local_addr()?)?;
        Ok(socket.recv_from(&mut [0; 16])?.1)
    };
    let outer = seen_by(&first)?;
    let gets_in = |from: &UdpSocket| -> Result<bool> {
        inside.set_read_timeout(Some(Duration::from_millis(500)))?;
        from.send_to(b"in", outer)?;
        Ok(inside.recv_from(&mut [0; 16]).is_ok())
    };
    ensure!(gets_in(&first)?, "not even the answer gets in");
    let lets_other_ports_in = gets_in(&other_port)?;
    let lets_strangers_in = gets_in(&second)?;
    // Only now: what was written to is no stranger.
    Ok(Behaviour {
        one_mapping: seen_by(&third)? == outer && seen_by(&second)? == outer,
        keeps_port: outer.port() == inside.local_addr()?.port(),
        lets_other_ports_in,
        lets_strangers_in,
    })
}
