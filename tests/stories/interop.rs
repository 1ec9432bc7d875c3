//! Our node and a real tailscaled in one tailnet.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::lab::{
    Device, Headscale, HeadscaleOptions, Host, Lab, NatKind, Role, Run, Sandd, SanddOptions, SanddPath, TailscalePath,
    Tailscaled, TailscaledOptions, eventually,
    probe::{HashingSink, Pinger},
    story,
};

use crate::stage::{DIRECT, TUNED, headscale, stream_arrives};

const STREAM: u64 = 100_000_000;

/// Ours on `a`, tailscaled on `b`.
struct Mixed<'lab> {
    ours: Sandd<'lab>,
    theirs: Tailscaled<'lab>,
    our_address: Ipv4Addr,
    their_address: Ipv4Addr,
}

impl<'lab> Mixed<'lab> {
    fn join(headscale: &Headscale<'_>, a: &'lab Host, b: &'lab Host, theirs: &TailscaledOptions) -> Result<Self> {
        let key = headscale.reusable_key()?;
        let theirs = Tailscaled::join(b, theirs, headscale.url(), &key)?;
        let ours = Sandd::join(
            a,
            Role::Node,
            &SanddOptions::new(headscale.url(), Some(&key)).with_tun(),
        )?;
        let (our_address, their_address) = (ours.address()?, theirs.address()?);
        Ok(Self {
            ours,
            theirs,
            our_address,
            their_address,
        })
    }

    /// Pings both ways until both are answered.
    fn ping_both_ways(&self) -> Result<()> {
        let there = Pinger::start(
            self.ours.host().namespace(),
            self.their_address,
            Duration::from_millis(50),
        )?;
        there
            .first_answer(Duration::from_secs(15))
            .context("from ours to tailscaled")?;
        eventually("tailscaled's ping of ours", Duration::from_secs(15), || {
            self.theirs.ping(&self.our_address.to_string())
        })?;
        Ok(())
    }

    fn wait_until_direct(&self) -> Result<()> {
        self.ours.wait_for_path(self.their_address, SanddPath::Direct, DIRECT)?;
        eventually("tailscaled's direct path", DIRECT, || {
            match self.theirs.path(self.our_address)? {
                Some(TailscalePath::Direct(_)) => Ok(()),
                other => bail!("{other:?}"),
            }
        })
    }
}

#[test]
fn with_tailscaled_directly_both_ways() {
    story(|lab| {
        let headscale = headscale(lab)?;
        let (_site_a, a, _site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
        let mixed = Mixed::join(&headscale, &a, &b, &TailscaledOptions::default())?;
        mixed.ping_both_ways()?;
        mixed.wait_until_direct()?;
        stream_arrives(&a, &b, mixed.their_address, STREAM)?;
        stream_arrives(&b, &a, mixed.our_address, STREAM)?;
        Ok(())
    });
}

#[test]
fn with_tailscaled_over_the_relay_both_ways() {
    story(|lab| {
        let headscale = headscale(lab)?;
        let (_site_a, a, _site_b, b) = lab.pair(NatKind::Hard, NatKind::PortRestricted)?;
        let mixed = Mixed::join(&headscale, &a, &b, &TailscaledOptions::default())?;
        mixed.ping_both_ways()?;
        stream_arrives(&a, &b, mixed.their_address, STREAM / 5)?;
        stream_arrives(&b, &a, mixed.our_address, STREAM / 5)?;
        ensure!(
            mixed.ours.path(mixed.their_address)? == SanddPath::Relayed,
            "ours claims a direct path"
        );
        ensure!(
            mixed.theirs.path(mixed.our_address)? == Some(TailscalePath::Relayed),
            "tailscaled has a direct path"
        );
        Ok(())
    });
}

#[test]
fn with_a_tailscaled_that_has_no_interface() {
    story(|lab| {
        let headscale = headscale(lab)?;
        let (_site_a, a, _site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
        let options = TailscaledOptions {
            device: Device::Userspace,
            accept_dns: false,
            mtu: None,
            port: 41641,
        };
        let mixed = Mixed::join(&headscale, &a, &b, &options)?;
        mixed.ping_both_ways()?;
        // Such a tailscaled hands what comes to its own machine's loopback.
        let sink = HashingSink::listen(b.namespace(), (Ipv4Addr::LOCALHOST, 0).into())?;
        let target = SocketAddr::from((mixed.their_address, sink.address().port()));
        let sent = e2e::lab::probe::send_hashed(a.namespace(), target, STREAM / 5)?;
        ensure!(
            sent.digest == sink.finish()?.digest,
            "another stream came out at tailscaled"
        );
        let sink = HashingSink::listen(a.namespace(), (mixed.our_address, 0).into())?;
        let sent = e2e::lab::probe::socks_send(b.namespace(), mixed.our_address, sink.address().port(), STREAM / 5)?;
        ensure!(sent.digest == sink.finish()?.digest, "another stream came out at ours");
        Ok(())
    });
}

#[test]
fn tailscaled_resolves_our_name() {
    story(|lab| {
        let headscale = headscale(lab)?;
        let (_site_a, a, _site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
        let options = TailscaledOptions {
            device: Device::Tun,
            accept_dns: true,
            mtu: None,
            port: 41641,
        };
        let mixed = Mixed::join(&headscale, &a, &b, &options)?;
        eventually("our name at tailscaled's resolver", Duration::from_secs(10), || {
            let run = Run::of(&mut mixed.theirs.cli(&["dns", "query", "a.mesh.test"]))?;
            let found = run.stdout.contains(&mixed.our_address.to_string());
            found
                .then_some(())
                .with_context(|| format!("{}{}", run.stdout, run.stderr))
        })?;
        ensure!(
            mixed.ours.ping("b").is_ok(),
            "ours does not know tailscaled by its name"
        );
        Ok(())
    });
}

#[test]
fn headscales_policy_is_enforced_by_us() {
    story(policy_is_enforced);
}

fn policy_is_enforced(lab: &Lab) -> Result<()> {
    let policy = r#"{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:7001"]}]}"#;
    let headscale = Headscale::start(
        lab,
        &HeadscaleOptions {
            policy: Some(policy.to_owned()),
            ..TUNED
        },
    )?;
    let (_site_a, a, _site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
    let mixed = Mixed::join(&headscale, &a, &b, &TailscaledOptions::default())?;
    let _allowed = HashingSink::listen(a.namespace(), (mixed.our_address, 7001).into())?;
    let _denied = HashingSink::listen(a.namespace(), (mixed.our_address, 7002).into())?;
    let reach = |port: u16| {
        b.namespace()
            .inside(|| TcpStream::connect_timeout(&(mixed.our_address, port).into(), Duration::from_secs(3)))
    };
    eventually("the allowed port", Duration::from_secs(15), || {
        reach(7001)?.map(drop).context("not reached")
    })?;
    ensure!(reach(7002)?.is_err(), "the denied port was reached");

    // A new policy is in force at once, on flows to come.
    headscale.set_policy(&policy.replace("7001", "7002"))?;
    eventually("the port that is allowed now", Duration::from_secs(10), || {
        reach(7002)?.map(drop).context("not reached")
    })?;
    ensure!(reach(7001)?.is_err(), "the port that is denied now was reached");
    Ok(())
}
