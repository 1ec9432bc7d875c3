//! The lab itself, proved with peers that are known to work: tailscaled to tailscaled through Headscale.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::lab::{
    Device, Lab, NatKind, TailscalePath, Tailscaled, TailscaledOptions, eventually,
    probe::{HashingSink, Pinger, send_hashed},
    story,
};

use crate::stage::headscale;

#[test]
fn two_home_routers_let_tailscaled_through() {
    story(|lab| {
        let (paths, silence) = paths_between(lab, NatKind::PortRestricted, NatKind::PortRestricted)?;
        ensure!(
            matches!(paths, (TailscalePath::Direct(_), TailscalePath::Direct(_))),
            "{paths:?}"
        );
        ensure!(
            silence < Duration::from_secs(1),
            "a silence of {silence:?} on the change to the direct path"
        );
        Ok(())
    });
}

#[test]
fn a_hard_router_keeps_tailscaled_on_the_relay() {
    story(|lab| {
        let (paths, _) = paths_between(lab, NatKind::Hard, NatKind::PortRestricted)?;
        ensure!(paths == (TailscalePath::Relayed, TailscalePath::Relayed), "{paths:?}");
        Ok(())
    });
}

/// Which way two tailscaled reach each other once that has settled, and the longest silence meanwhile.
fn paths_between(lab: &Lab, left: NatKind, right: NatKind) -> Result<((TailscalePath, TailscalePath), Duration)> {
    let headscale = headscale(lab)?;
    let key = headscale.reusable_key()?;
    let (_left_site, a, _right_site, b) = lab.pair(left, right)?;
    let options = TailscaledOptions {
        device: Device::Tun,
        accept_dns: false,
        mtu: None,
        port: 41641,
    };
    let node_b = Tailscaled::join(&b, &options, headscale.url(), &key)?;
    let node_a = Tailscaled::join(&a, &options, headscale.url(), &key)?;
    let (address_a, address_b) = (node_a.address()?, node_b.address()?);

    let pinger = Pinger::start(a.namespace(), address_b, Duration::from_millis(50))?;
    pinger.first_answer(Duration::from_secs(15))?;
    let settled = eventually("the same kind of path at both ends", Duration::from_secs(10), || {
        let left = node_a.path(address_b)?.context("a sends nothing")?;
        let right = node_b.path(address_a)?.context("b sends nothing")?;
        match (left, right) {
            (TailscalePath::Direct(_), TailscalePath::Direct(_)) => Ok((left, right)),
            _ => bail!("{left:?} and {right:?}"),
        }
    });
    let paths = match settled {
        Ok(paths) => paths,
        Err(_) => (
            node_a.path(address_b)?.context("a")?,
            node_b.path(address_a)?.context("b")?,
        ),
    };

    let sink = HashingSink::listen(b.namespace(), (address_b, 9000).into())?;
    let sent = send_hashed(a.namespace(), sink.address(), 5_000_000)?;
    let received = sink.finish()?;
    ensure!(
        sent.digest == received.digest && received.bytes == sent.bytes,
        "{sent:?} became {received:?}"
    );
    Ok((paths, pinger.stop().longest_silence))
}
