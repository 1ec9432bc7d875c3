//! The mesh inside a program, without a kernel interface: what an embedder gets.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::ensure;
use e2e::lab::{
    Device, MeshPeer, MeshPeerOptions, NatKind, Tailscaled, TailscaledOptions, eventually,
    probe::{HashingSink, socks_send},
    story,
};

use crate::stage::headscale;

const STREAM: u64 = 20_000_000;
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn two_programs_exchange_a_stream() {
    story(|lab| {
        let headscale = headscale(lab)?;
        let (_site_a, a, _site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
        let options = MeshPeerOptions::new(headscale.url(), &headscale.reusable_key()?);
        let mut sink = MeshPeer::spawn(&b, &options, &["sink", "7000"])?;
        sink.answer("listening", Duration::from_secs(20))?;
        let mut source = MeshPeer::spawn(&a, &options, &["send", "b", "7000", &STREAM.to_string()])?;
        let sent = source.answer("digest", PATIENCE)?;
        ensure!(sink.answer("digest", PATIENCE)? == sent, "another stream came out");
        Ok(())
    });
}

#[test]
fn a_program_and_a_tailscaled_without_interfaces_exchange_streams() {
    story(|lab| {
        let headscale = headscale(lab)?;
        let (_site_a, a, _site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
        let key = headscale.reusable_key()?;
        let userspace = TailscaledOptions {
            device: Device::Userspace,
            accept_dns: false,
            mtu: None,
            port: 41641,
        };
        let theirs = Tailscaled::join(&b, &userspace, headscale.url(), &key)?;
        let options = MeshPeerOptions::new(headscale.url(), &key);

        let mut sink = MeshPeer::spawn(&a, &options, &["sink", "7000"])?;
        sink.answer("listening", Duration::from_secs(20))?;
        let address = sink.address()?;
        eventually("tailscaled's ping of the program", Duration::from_secs(15), || {
            theirs.ping(&address.to_string())
        })?;
        let sent = socks_send(b.namespace(), address, 7000, STREAM)?;
        ensure!(
            sink.answer("digest", PATIENCE)? == sent.digest,
            "another stream came out at the program"
        );
        drop(sink);

        let far = HashingSink::listen(b.namespace(), (Ipv4Addr::LOCALHOST, 0).into())?;
        let (address, port) = (theirs.address()?.to_string(), far.address().port().to_string());
        let mut source = MeshPeer::spawn(&a, &options, &["send", &address, &port, &STREAM.to_string()])?;
        let sent = source.answer("digest", PATIENCE)?;
        ensure!(sent == far.finish()?.digest, "another stream came out at tailscaled");
        Ok(())
    });
}
