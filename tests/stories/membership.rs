//! How a node becomes a member without a key, how membership ends, and several nodes on one host.

use std::{net::TcpListener, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::lab::{
    Headscale, HeadscaleOptions, Lab, NatKind, Obstacle, Role, Run, SERVER_ADDRESS, Sandd, SanddOptions, SanddPath,
    eventually, probe::Pinger, run, story,
};

use crate::stage::{TUNED, controller_and_daemon, exec_works, headscale, two_nodes};

#[test]
fn a_node_without_a_key_reports_a_login_address_and_waits() {
    story(|lab| {
        let headscale = headscale(lab)?;
        let a = lab.public_host("a")?;
        let node = Sandd::spawn(&a, Role::Node, &SanddOptions::new(headscale.url(), None))?;
        let line = node.process().wait_for_log("hskey-authreq-", Duration::from_secs(10))?;
        let from = line.find("hskey-authreq-").context("no login id")?;
        let id: String = line
            .get(from..)
            .unwrap_or_default()
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
            .collect();
        headscale.command(&["auth", "register", "--auth-id", &id, "--user", "lab"])?;
        eventually("membership after the login", Duration::from_secs(10), || node.address())?;
        Ok(())
    });
}

#[test]
fn an_expired_node_says_so_and_comes_back_with_a_key() {
    story(expired_and_back);
}

fn expired_and_back(lab: &Lab) -> Result<()> {
    let headscale = headscale(lab)?;
    let (_site_a, a, _site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
    let (node_a, node_b) = two_nodes(&headscale, &a, &b)?;
    let address = node_a.address()?;
    headscale.expire_node(headscale.node("a")?.id)?;
    eventually("the word that it expired", Duration::from_secs(5), || {
        node_a
            .process()
            .log()
            .to_lowercase()
            .contains("expired")
            .then_some(())
            .context("its log does not say so")
    })?;
    drop(node_a);
    let key = headscale.reusable_key()?;
    let node_a = Sandd::join(
        &a,
        Role::Node,
        &SanddOptions::new(headscale.url(), Some(&key)).with_tun(),
    )?;
    ensure!(node_a.address()? == address, "the same machine has another address");
    let pinger = Pinger::start(a.namespace(), node_b.address()?, Duration::from_millis(20))?;
    pinger.first_answer(Duration::from_secs(10))?;
    Ok(())
}

#[test]
fn a_node_that_logs_out_is_no_member_any_more() {
    story(|lab| {
        let headscale = headscale(lab)?;
        let (_site_a, a, _site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
        let (node_a, node_b) = two_nodes(&headscale, &a, &b)?;
        let address = node_a.address()?;
        run(&mut node_a.cli(&["logout"]))?;
        eventually(
            "the end of its membership at the other node",
            Duration::from_secs(10),
            || {
                let status = node_b.status()?;
                let text = status.to_string();
                let gone = !text.contains(&format!("\"{address}\"")) || text.contains("\"expired\":true");
                gone.then_some(()).context("still a peer in good standing")
            },
        )
    });
}

#[test]
fn an_ephemeral_node_leaves_nothing_behind() {
    story(|lab| {
        let headscale = headscale(lab)?;
        let a = lab.public_host("a")?;
        let key = headscale.reusable_key()?;
        let mut options = SanddOptions::new(headscale.url(), Some(&key));
        options.ephemeral = true;
        let node = Sandd::join(&a, Role::Node, &options)?;
        let first = headscale.node("a")?.node_key;
        node.stop()?;
        let node = Sandd::join(&a, Role::Node, &options)?;
        let keys: Vec<String> = headscale.nodes()?.into_iter().map(|node| node.node_key).collect();
        ensure!(keys.iter().any(|key| *key != first), "the identity was kept: {keys:?}");
        node.stop()
    });
}

#[test]
fn a_controller_a_daemon_and_a_bare_node_share_one_host() {
    story(|lab| {
        let headscale = headscale(lab)?;
        let site = lab.site(NatKind::PortRestricted)?;
        let (host, other) = (site.host("host")?, site.host("other")?);
        // The daemon dials the controller that runs beside it, each a node of its own.
        let (controller, daemon) = controller_and_daemon(&headscale, &host, &host)?;
        let key = headscale.reusable_key()?;
        let bare = Sandd::join(&host, Role::Node, &SanddOptions::new(headscale.url(), Some(&key)))?;
        let tun = Sandd::join(
            &other,
            Role::Node,
            &SanddOptions::new(headscale.url(), Some(&key)).with_tun(),
        )?;
        exec_works(&controller)?;
        for node in [&controller, &daemon, &bare] {
            let pinger = Pinger::start(tun.host().namespace(), node.address()?, Duration::from_millis(20))?;
            pinger.first_answer(Duration::from_secs(10))?;
        }
        Ok(())
    });
}

#[test]
fn where_control_is_plain_http_the_relay_is_plain_as_well() {
    story(|lab| {
        let headscale = Headscale::start(
            lab,
            &HeadscaleOptions {
                plain_http: true,
                ..TUNED
            },
        )?;
        let (site_a, a, _site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
        site_a.obstruct(Obstacle::UdpBlocked)?;
        let (node_a, node_b) = two_nodes(&headscale, &a, &b)?;
        let pinger = Pinger::start(a.namespace(), node_b.address()?, Duration::from_millis(20))?;
        pinger.first_answer(Duration::from_secs(10))?;
        ensure!(node_a.path(node_b.address()?)? == SanddPath::Relayed, "not relayed");
        Ok(())
    });
}

#[test]
fn plain_http_to_a_public_address_is_refused() {
    story(|lab| {
        let a = lab.public_host("a")?;
        // Somebody has to be there, else this would be an outage to be waited out.
        let _listener = lab
            .server()
            .namespace()
            .inside(|| TcpListener::bind((SERVER_ADDRESS, 8080)))??;
        let server = format!("http://{SERVER_ADDRESS}:8080");
        let mut node = Sandd::spawn(&a, Role::Node, &SanddOptions::new(&server, Some("hskey-auth-any")))?;
        let status = node.process_mut().wait(Duration::from_secs(10))?;
        let log = node.process().log();
        ensure!(!status.success() && log.contains("https"), "{status}: {log}");
        Ok(())
    });
}

#[test]
fn both_families_work_in_the_mesh() {
    story(|lab| {
        let headscale = headscale(lab)?;
        let (_site_a, a, _site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
        let (_node_a, node_b) = two_nodes(&headscale, &a, &b)?;
        let address = run(&mut node_b.cli(&["ip", "-6"]))?;
        eventually("an echo reply over IPv6", Duration::from_secs(10), || {
            let ping = Run::of(a.namespace().command("ping").args(["-6", "-c1", "-W1", address.trim()]))?;
            if !ping.status.success() {
                bail!("{}{}", ping.stdout, ping.stderr);
            }
            Ok(())
        })
    });
}
