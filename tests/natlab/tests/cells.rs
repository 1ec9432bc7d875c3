//! A handful of cells, asked as soon as they should be as expected. The whole matrix is `cargo xtask natlab`.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{lab::skip_reason, measure::Contestant};
use natlab::{Cell, Peers, cases, run_cell};

#[test]
fn a_private_address_wins_in_one_network() {
    cell("same lan, prc", Contestant::Sandd);
}

#[test]
fn a_full_cone_lets_a_hard_router_in() {
    cell("hard x full-cone", Contestant::Sandd);
}

#[test]
fn a_port_forward_lets_a_hard_router_in() {
    cell("hard x hard+forward", Contestant::Tailscaled);
}

#[test]
fn two_routers_in_a_row_are_no_obstacle() {
    cell("double prc x prc", Contestant::Sandd);
}

#[test]
fn ipv6_firewalls_are_opened_from_both_sides() {
    cell("v6 only x v6 only", Contestant::Sandd);
}

#[test]
fn two_versions_of_ip_meet_at_the_relay() {
    cell("v6 only x v4 only", Contestant::Sandd);
}

#[test]
fn where_only_the_web_is_allowed_the_relay_carries() {
    cell("only web x prc", Contestant::Tailscaled);
}

#[test]
fn a_path_that_carries_one_way_is_none() {
    cell("deaf to peer x prc", Contestant::Sandd);
}

/// Plays the cell of that name with that right node.
fn cell(name: &str, right: Contestant) {
    if let Some(reason) = skip_reason() {
        assert!(
            std::env::var_os("SANDD_E2E_REQUIRED").is_none(),
            "{name} cannot be played: {reason}"
        );
        let _ = std::fs::write("/dev/stderr", format!("SKIPPED {name}: {reason}\n"));
        return;
    }
    if let Err(error) = play(name, right) {
        panic!("{name}: {error:#}");
    }
}

fn play(name: &str, right: Contestant) -> Result<()> {
    let case = cases()
        .into_iter()
        .find(|case| case.name == name)
        .context("no such cell")?;
    let outcome = run_cell(&Cell {
        case,
        peers: Peers {
            left: Contestant::Sandd,
            right,
        },
        settled: Duration::from_secs(3),
        port_guessing: false,
    });
    ensure!(outcome.failure.is_none(), "{outcome:?}");
    Ok(())
}
