//! The life of a key and of a node: joined, refused, restarted, removed, back.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::lab::{
    Headscale, Host, KeyOptions, Lab, NatKind, Role, Sandd, SanddOptions, eventually, forget_state, probe::Pinger,
    story,
};

use crate::stage::{headscale, two_nodes};

#[test]
fn a_single_use_key_lets_one_node_in_and_restarts_need_none() {
    story(|lab| {
        let headscale = headscale(lab)?;
        let site = lab.site(NatKind::PortRestricted)?;
        let (a, b) = (site.host("a")?, site.host("b")?);
        let (id, key) = headscale.create_key(KeyOptions::default())?;
        let node = Sandd::join(&a, Role::Node, &SanddOptions::new(headscale.url(), Some(&key)))?;
        let address = node.address()?;

        is_refused(&headscale, &b, &key, &["used"])?;

        // Revoked, spent, even gone: who is a member needs no key.
        headscale.expire_key(id)?;
        headscale.delete_key(id)?;
        node.stop()?;
        let node = Sandd::join(&a, Role::Node, &SanddOptions::new(headscale.url(), None))?;
        ensure!(node.address()? == address, "another address after the restart");
        Ok(())
    });
}

#[test]
fn each_refused_key_has_its_own_sentence() {
    story(|lab| {
        let headscale = headscale(lab)?;
        let site = lab.site(NatKind::PortRestricted)?;
        let host = site.host("a")?;

        let (_, short) = headscale.create_key(KeyOptions {
            expiration: Some("1s"),
            ..KeyOptions::default()
        })?;
        let made = std::time::Instant::now();
        eventually("the key's end", Duration::from_secs(5), || {
            (made.elapsed() > Duration::from_millis(1500))
                .then_some(())
                .context("not yet")
        })?;
        is_refused(&headscale, &host, &short, &["expired"])?;

        // Headscale's words for a revoked key are those for an expired one: ours must name both.
        let (id, revoked) = headscale.create_key(KeyOptions {
            reusable: true,
            ..KeyOptions::default()
        })?;
        headscale.expire_key(id)?;
        is_refused(&headscale, &host, &revoked, &["expired", "revoked"])?;

        let (id, deleted) = headscale.create_key(KeyOptions::default())?;
        headscale.delete_key(id)?;
        is_refused(&headscale, &host, &deleted, &["unknown"])?;
        is_refused(&headscale, &host, "hskey-auth-never-was-one", &["malformed"])?;
        Ok(())
    });
}

#[test]
fn a_revoked_key_leaves_its_nodes_alone() {
    story(|lab| {
        let headscale = headscale(lab)?;
        let (_site_a, a, _site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
        let (id, key) = headscale.create_key(KeyOptions {
            reusable: true,
            ..KeyOptions::default()
        })?;
        let options = SanddOptions::new(headscale.url(), Some(&key)).with_tun();
        let (_node_a, node_b) = (
            Sandd::join(&a, Role::Node, &options)?,
            Sandd::join(&b, Role::Node, &options)?,
        );
        headscale.expire_key(id)?;
        let pinger = Pinger::start(a.namespace(), node_b.address()?, Duration::from_millis(20))?;
        pinger.first_answer(Duration::from_secs(10))?;
        Ok(())
    });
}

#[test]
fn a_removed_node_is_cut_off_says_so_and_comes_back_with_a_new_key() {
    story(removed_and_back);
}

fn removed_and_back(lab: &Lab) -> Result<()> {
    let mut headscale = headscale(lab)?;
    let (_site_a, a, _site_b, b) = lab.pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
    let (node_a, node_b) = two_nodes(&headscale, &a, &b)?;
    let pinger = Pinger::start(a.namespace(), node_b.address()?, Duration::from_millis(20))?;
    pinger.first_answer(Duration::from_secs(10))?;

    let before = headscale.node("a")?;
    headscale.delete_node(before.id)?;
    // The other side has the map without it within the tuned 150 ms, and 1 s from then.
    let told = std::time::Instant::now();
    let address_a = node_a.address()?;
    eventually("the cut", Duration::from_secs(3), || match node_b.path(address_a) {
        Ok(_) => bail!("still a peer"),
        Err(_) => Ok(()),
    })?;
    ensure!(
        told.elapsed() < Duration::from_secs(2),
        "cut off only after {:?}",
        told.elapsed()
    );

    // Headscale tells a deleted node nothing; the next contact does.
    headscale.kill()?;
    headscale.restart()?;
    eventually("the word that it was removed", Duration::from_secs(8), || {
        let log = node_a.process().log().to_lowercase();
        log.contains("removed").then_some(()).context("its log does not say so")
    })?;
    drop(pinger);
    drop(node_a);

    let key = headscale.reusable_key()?;
    let node_a = Sandd::join(
        &a,
        Role::Node,
        &SanddOptions::new(headscale.url(), Some(&key)).with_tun(),
    )?;
    let after = headscale.node("a")?;
    ensure!(
        after.id != before.id && after.node_key != before.node_key,
        "not a new identity: {after:?}"
    );
    let pinger = Pinger::start(b.namespace(), node_a.address()?, Duration::from_millis(20))?;
    pinger.first_answer(Duration::from_secs(10))?;
    Ok(())
}

/// Tries to join with `key` as a new machine; it must end with an error that has all of `words`, in one line.
fn is_refused(headscale: &Headscale<'_>, host: &Host, key: &str, words: &[&str]) -> Result<()> {
    forget_state(host, Role::Node)?;
    let mut node = Sandd::spawn(host, Role::Node, &SanddOptions::new(headscale.url(), Some(key)))?;
    let status = node.process_mut().wait(Duration::from_secs(15))?;
    ensure!(!status.success(), "it ended as if all were well");
    let log = node.process().log();
    let said = log.to_lowercase();
    ensure!(
        said.lines().any(|line| words.iter().all(|word| line.contains(word))),
        "no line with {words:?} in:\n{said}"
    );
    ensure!(!log.contains(key), "the key stands in the log");
    Ok(())
}
