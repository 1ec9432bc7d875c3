//! The faults, one function each: it does the harm, waits until all is well again, and returns the figure.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use e2e::lab::{
    eventually,
    probe::{DirectWatch, WireGuardKind},
};

use super::arena::Arena;

/// How long after a recovery the flows are watched on: a second silence counts, too.
const AFTERMATH: Duration = Duration::from_secs(2);

/// What is still under way is not lost.
const UNDER_WAY: Duration = Duration::from_millis(500);

/// What one round came to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    /// Milliseconds, or packets.
    pub(crate) figure: f64,
    /// Packets of the flows that were lost.
    pub(crate) lost: usize,
    /// Packets of the flows that came twice.
    pub(crate) doubled: usize,
    /// Datagrams but sealed packets in the first second, where that is of interest.
    pub(crate) burst: Option<usize>,
}

/// What all faults are told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// How long a node sleeps.
    pub(crate) asleep: Duration,
    /// The number of this round.
    pub(crate) round: usize,
}

/// Lets the time pass.
pub(crate) fn pause(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    eventually("the end of a pause", time + Duration::from_secs(10), || {
        (Instant::now() >= end).then_some(()).context("not yet")
    })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The harm is done and traffic flows: watches on, and sums up.
fn silence(arena: &Arena<'_>, event: Instant) -> Result<Round> {
    pause(AFTERMATH)?;
    let record = arena.record(event - UNDER_WAY, Instant::now() - UNDER_WAY);
    Ok(Round {
        figure: milliseconds(arena.silence_since(event)),
        lost: record.lost,
        doubled: record.doubled,
        burst: None,
    })
}

/// The direct path becomes possible while traffic goes by relay: how many packets does the change cost?
pub(crate) fn relay_to_direct(arena: &mut Arena<'_>, _: Settings) -> Result<Round> {
    let event = Instant::now();
    arena.mend()?;
    let straight = arena.wait_for_straight(event)?;
    arena.wait_for_kind(true)?;
    let mut round = silence(arena, event)?;
    if round.lost > 0 {
        let after = straight.duration_since(event);
        eprintln!("first straight packet at the later end {after:?} after the fault");
        arena.tell_losses(event, event - UNDER_WAY, Instant::now() - UNDER_WAY);
    }
    round.figure = f64::from(u32::try_from(round.lost)?);
    arena.cut()?;
    arena.wait_for_kind(false)?;
    pause(AFTERMATH)?;
    Ok(round)
}

/// The left router gets a new public address for all UDP.
pub(crate) fn rebind(arena: &mut Arena<'_>, _: Settings) -> Result<Round> {
    let event = Instant::now();
    arena.site_a.rebind()?;
    arena.wait_for_traffic(Instant::now())?;
    let round = silence(arena, event)?;
    arena.wait_for_kind(true)?;
    Ok(round)
}

/// The left host gets another address.
pub(crate) fn host_moves(arena: &mut Arena<'_>, settings: Settings) -> Result<Round> {
    let event = Instant::now();
    arena.a.move_to(100 + u8::try_from(settings.round % 100)?)?;
    arena.wait_for_traffic(Instant::now())?;
    let round = silence(arena, event)?;
    arena.wait_for_kind(true)?;
    Ok(round)
}

/// The direct path is cut: until traffic flows by relay.
pub(crate) fn cut(arena: &mut Arena<'_>, _: Settings) -> Result<Round> {
    let event = Instant::now();
    arena.cut()?;
    arena.wait_for_traffic(Instant::now())?;
    let round = silence(arena, event)?;
    arena.wait_for_kind(false)?;
    arena.mend()?;
    arena.wait_for_kind(true)?;
    Ok(round)
}

/// The direct path was cut for some seconds and is possible again: until both ends use it.
pub(crate) fn restored(arena: &mut Arena<'_>, settings: Settings) -> Result<Round> {
    arena.cut()?;
    arena.wait_for_kind(false)?;
    // Retries get rarer with time, so not always the same.
    pause(Duration::from_secs(2 + 3 * u64::try_from(settings.round % 4)?))?;
    let event = Instant::now();
    arena.mend()?;
    let back = arena.wait_for_straight(event)?;
    let mut round = silence(arena, event)?;
    round.figure = milliseconds(back.duration_since(event));
    arena.wait_for_kind(true)?;
    Ok(round)
}

/// The relay is killed and started again: from its return until traffic flows.
pub(crate) fn relay_restarts(arena: &mut Arena<'_>, _: Settings) -> Result<Round> {
    let event = Instant::now();
    arena.derper.kill()?;
    pause(Duration::from_secs(1))?;
    arena.derper.restart()?;
    let back = Instant::now();
    arena.wait_for_traffic(back)?;
    let flowing = arena.flowing_after(back).context("no traffic")?;
    let mut round = silence(arena, event)?;
    round.figure = milliseconds(flowing.saturating_duration_since(back));
    Ok(round)
}

/// The left node's connection to the relay dies without a word while traffic goes over it.
pub(crate) fn relay_falls_silent(arena: &mut Arena<'_>, _: Settings) -> Result<Round> {
    let ports = arena.relay_ports()?;
    let event = Instant::now();
    arena.swallow(&ports)?;
    arena.wait_for_traffic(Instant::now())?;
    silence(arena, event)
}

/// The same while nothing is sent: until there is a new connection.
pub(crate) fn idle_relay_falls_silent(arena: &mut Arena<'_>, _: Settings) -> Result<Round> {
    let ports = arena.relay_ports()?;
    let event = Instant::now();
    arena.swallow(&ports)?;
    eventually("a new connection to the relay", Duration::from_secs(150), || {
        let fresh = arena.relay_ports()?.into_iter().any(|port| !ports.contains(&port));
        fresh.then_some(()).context("none")
    })?;
    let figure = milliseconds(event.elapsed());
    pause(AFTERMATH)?;
    Ok(Round {
        figure,
        lost: 0,
        doubled: 0,
        burst: None,
    })
}

/// The left node is stopped and goes on: until traffic flows, and what it sends at once.
pub(crate) fn asleep(arena: &mut Arena<'_>, settings: Settings) -> Result<Round> {
    let outgoing = DirectWatch::start(arena.site_a.router(), arena.a.address())?;
    let event = Instant::now();
    arena.signal_left("STOP")?;
    pause(settings.asleep)?;
    let awake = Instant::now();
    arena.signal_left("CONT")?;
    arena.wait_for_traffic(awake)?;
    let flowing = arena.flowing_after(awake).context("no traffic")?;
    let mut round = silence(arena, awake)?;
    let end = awake + Duration::from_secs(1);
    let burst = outgoing.count_between(WireGuardKind::Other, awake, end)
        + outgoing.count_between(WireGuardKind::Handshake, awake, end);
    round.figure = milliseconds(flowing.saturating_duration_since(awake));
    round.doubled = arena.record(event, Instant::now() - UNDER_WAY).doubled;
    round.burst = Some(burst);
    arena.wait_for_kind(true)?;
    Ok(round)
}
