//! Commands from one machine on another, each behind its own router.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::lab::{Lab, NatKind, Obstacle, Role, Sandd, SanddPath, Site, probe::listeners, story};

use crate::stage::{
    DIRECT, WORKER, controller_and_daemon, controller_and_daemon_with, exec_works, headscale, wait_for_daemon,
};

#[test]
fn exec_works_relayed_and_then_direct() {
    story(|lab| {
        let headscale = headscale(lab)?;
        let (site_a, a, site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
        // As long as the routers lose what goes straight, only the relay is left.
        keep_apart(&site_a, &site_b)?;
        let (controller, daemon) = controller_and_daemon(&headscale, &a, &b)?;
        exec_works(&controller).context("over the relay")?;
        let (address_a, address_b) = (controller.address()?, daemon.address()?);
        ensure!(
            controller.path(address_b)? == SanddPath::Relayed,
            "the controller does not say relayed"
        );
        ensure!(
            daemon.path(address_a)? == SanddPath::Relayed,
            "the daemon does not say relayed"
        );

        site_a.clear()?;
        site_b.clear()?;
        controller.wait_for_path(address_b, SanddPath::Direct, Duration::from_secs(30))?;
        daemon.wait_for_path(address_a, SanddPath::Direct, DIRECT)?;
        exec_works(&controller).context("on the direct path")?;
        daemon
            .process()
            .wait_for_log("direct", Duration::from_secs(1))
            .context("the log does not say direct")?;
        Ok(())
    });
}

#[test]
fn exec_works_through_the_relay_where_udp_is_blocked() {
    story(|lab| {
        let headscale = headscale(lab)?;
        let (site_a, a, _site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
        site_a.obstruct(Obstacle::UdpBlocked)?;
        let (controller, daemon) = controller_and_daemon(&headscale, &a, &b)?;
        exec_works(&controller)?;
        ensure!(
            controller.path(daemon.address()?)? == SanddPath::Relayed,
            "the controller does not say relayed"
        );
        ensure!(
            daemon.path(controller.address()?)? == SanddPath::Relayed,
            "the daemon does not say relayed"
        );
        controller
            .process()
            .wait_for_log("relay", Duration::from_secs(1))
            .context("the log does not say relayed")?;
        Ok(())
    });
}

#[test]
fn exec_works_without_a_mesh_from_behind_a_router() {
    story(|lab| {
        let site = lab.site(NatKind::PortRestricted)?;
        let (public, inside) = (lab.public_host("controller")?, site.host("worker")?);
        let controller =
            Sandd::spawn_without_mesh(&public, Role::Controller, &["--host", "0.0.0.0", "--port", "8765"])?;
        let url = format!("ws://{}:8765/ws", public.address());
        let _daemon = Sandd::spawn_without_mesh(&inside, Role::Daemon, &["--server-url", &url, "--daemon-id", WORKER])?;
        wait_for_daemon(&controller, Duration::from_secs(15))?;
        exec_works(&controller)
    });
}

#[test]
fn no_port_of_the_host_is_open_in_tunnel_mode() {
    story(no_port_open);
}

fn no_port_open(lab: &Lab) -> Result<()> {
    let headscale = headscale(lab)?;
    let (_site_a, a, _site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
    for host in [&a, &b] {
        let before = listeners(host.namespace())?;
        ensure!(
            before.is_empty(),
            "{} listens before anything was started: {before:?}",
            host.name()
        );
    }
    // Asking the router for a port takes sockets of its own for a moment; they hear the router's network alone.
    let (controller, _daemon) = controller_and_daemon_with(&headscale, &a, &b, &["--no-port-mapping"])?;
    exec_works(&controller)?;
    for host in [&a, &b] {
        let open = listeners(host.namespace())?;
        let tunnel =
            |listener: &&e2e::lab::probe::Listener| !(listener.table.starts_with("udp") && listener.port == 41641);
        let others: Vec<_> = open.iter().filter(tunnel).collect();
        ensure!(others.is_empty(), "{} listens on {others:?}", host.name());
        ensure!(open.len() <= 2, "more than the tunnel's port, v4 and v6: {open:?}");
    }
    Ok(())
}

fn keep_apart(left: &Site, right: &Site) -> Result<()> {
    left.obstruct(Obstacle::Pair(right.wan()))?;
    right.obstruct(Obstacle::Pair(left.wan()))
}
