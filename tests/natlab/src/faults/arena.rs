//! The lab of a fault: two nodes behind home routers, a relay that can be killed by itself, and what runs between them.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::{
    lab::{
        Derper, Headscale, HeadscaleOptions, Host, Lab, NatKind, Obstacle, Process, Relays, Role, Run, Sandd,
        SanddOptions, Site, SiteOptions, Timings, Wire, eventually,
        probe::{DirectWatch, Flow, FlowRecord, SteadyStream, WireGuardKind},
    },
    measure::{Contestant, NodeOptions, PathSeen, Running},
};

/// The daemon that runs the command.
const WORKER: &str = "worker";

/// How long a path may take to become what it must before anything is measured.
const PATIENCE: Duration = Duration::from_secs(60);

/// What runs between the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// Numbered packets both ways at this interval, a TCP stream and, between our own nodes, a command.
    Flows(Duration),
    /// Nothing.
    Idle,
}

/// What an arena is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ArenaOptions {
    /// Who is at the far end.
    pub(crate) right: Contestant,
    /// The wire before each router.
    pub(crate) wire: Option<Wire>,
    /// What runs between the nodes.
    pub(crate) load: Load,
    /// The direct path is blocked from the beginning.
    pub(crate) relayed: bool,
}

pub(crate) struct Arena<'lab> {
    pub(crate) derper: &'lab mut Derper<'lab>,
    pub(crate) site_a: &'lab mut Site,
    pub(crate) site_b: &'lab Site,
    pub(crate) a: &'lab Host,
    left: Running<'lab>,
    right: Running<'lab>,
    addresses: (Ipv4Addr, Ipv4Addr),
    watches: [DirectWatch; 2],
    flows: Option<[Flow; 2]>,
    commanders: Option<(Sandd<'lab>, Sandd<'lab>)>,
}

/// What has to outlive each fault.
pub(crate) struct Survivors {
    stream: Option<SteadyStream>,
    command: Option<LongCommand>,
}

/// How the survivors came through, `None` for what did not run.
#[derive(Debug, Default)]
pub(crate) struct Survival {
    pub(crate) stream: Option<Result<u64>>,
    pub(crate) command: Option<Result<u64>>,
}

/// Builds an arena, lets `play` play in it, and says how the survivors came through.
pub(crate) fn in_arena<T>(
    options: &ArenaOptions,
    play: impl FnOnce(&mut Arena<'_>) -> Result<T>,
) -> Result<(T, Survival)> {
    let lab = Lab::open()?;
    let mut derper = Derper::start(&lab)?;
    let headscale = Headscale::start(
        &lab,
        &HeadscaleOptions {
            timings: Timings::Tuned,
            relays: Relays::Derper,
            ..HeadscaleOptions::default()
        },
    )?;
    let site = |seed| {
        lab.site_with(&SiteOptions {
            wire: options.wire.map(|wire| Wire {
                seed: wire.seed ^ seed,
                ..wire
            }),
            ..SiteOptions::new(NatKind::PortRestricted)
        })
    };
    let (mut site_a, site_b) = (site(1)?, site(2)?);
    let (a, b) = (site_a.host("a")?, site_b.host("b")?);
    if options.relayed {
        block(&site_a, &site_b)?;
    }
    let commanders = start_commanders(options, &headscale, &a, &b)?;
    let key = headscale.reusable_key()?;
    let joining = NodeOptions::new(headscale.url(), Some(&key));
    let mut left = Contestant::Sandd.start(&a, &joining)?;
    let mut right = options.right.start(&b, &joining)?;
    let addresses = (left.address()?, right.address()?);
    let flows = match options.load {
        Load::Idle => None,
        Load::Flows(interval) => Some([
            Flow::start(
                a.namespace(),
                b.namespace(),
                SocketAddrV4::new(addresses.1, 9001),
                interval,
            )?,
            Flow::start(
                b.namespace(),
                a.namespace(),
                SocketAddrV4::new(addresses.0, 9001),
                interval,
            )?,
        ]),
    };
    let mut arena = Arena {
        watches: [
            DirectWatch::anywhere(a.namespace())?,
            DirectWatch::anywhere(b.namespace())?,
        ],
        derper: &mut derper,
        site_a: &mut site_a,
        site_b: &site_b,
        a: &a,
        left,
        right,
        addresses,
        flows,
        commanders,
    };
    let survivors = Survivors::start(options, &arena, &b)?;
    if options.load == Load::Idle {
        eventually("a connection to the relay", PATIENCE, || {
            ensure!(!arena.relay_ports()?.is_empty(), "there is none");
            Ok(())
        })?;
    } else {
        arena.wait_for_kind(!options.relayed)?;
    }
    let played = play(&mut arena);
    let survival = survivors.finish();
    match played {
        Ok(played) => Ok((played, survival)),
        Err(error) => {
            let directory = crate::cell::keep_logs(&lab, "fault").unwrap_or_default();
            Err(error.context(format!("logs are kept in {directory}")))
        }
    }
}

/// A controller on `a` and a daemon on `b` beside the nodes: they have no kernel interface, as most have none.
fn start_commanders<'lab>(
    options: &ArenaOptions,
    headscale: &Headscale<'_>,
    a: &'lab Host,
    b: &'lab Host,
) -> Result<Option<(Sandd<'lab>, Sandd<'lab>)>> {
    if options.right != Contestant::Sandd || options.load == Load::Idle {
        return Ok(None);
    }
    let key = headscale.reusable_key()?;
    let joining = SanddOptions::new(headscale.url(), Some(&key));
    let controller = Sandd::join(a, Role::Controller, &joining)?;
    let dialling = joining.with_arguments(&["--server-url", "ws://a:8765/ws", "--daemon-id", WORKER]);
    Ok(Some((controller, Sandd::join(b, Role::Daemon, &dialling)?)))
}

fn block(left: &Site, right: &Site) -> Result<()> {
    left.obstruct(Obstacle::Pair(right.wan()))?;
    right.obstruct(Obstacle::Pair(left.wan()))
}

impl Arena<'_> {
    /// Sends the signal to all that runs on the left host.
    pub(crate) fn signal_left(&self, signal: &str) -> Result<()> {
        if let Some((controller, _)) = &self.commanders {
            controller.process().signal(signal)?;
        }
        self.left.process().signal(signal)
    }

    /// Cuts the direct path.
    pub(crate) fn cut(&self) -> Result<()> {
        block(self.site_a, self.site_b)
    }

    /// Gives it back.
    pub(crate) fn mend(&self) -> Result<()> {
        self.site_a.clear()?;
        self.site_b.clear()
    }

    /// Waits until both nodes say direct, or both relayed.
    pub(crate) fn wait_for_kind(&self, direct: bool) -> Result<()> {
        eventually("the path at both ends", PATIENCE, || {
            let seen = [self.left.path(self.addresses.1)?, self.right.path(self.addresses.0)?];
            let fits = |seen: &PathSeen| matches!(seen, PathSeen::Direct(_)) == direct && *seen != PathSeen::None;
            if !seen.iter().all(fits) {
                bail!("{seen:?}");
            }
            Ok(())
        })
    }

    /// Waits until a packet that was sent after `since` has arrived at either end.
    pub(crate) fn wait_for_traffic(&self, since: Instant) -> Result<()> {
        for flow in self.flows.iter().flatten() {
            flow.wait_after(since, PATIENCE)?;
        }
        Ok(())
    }

    /// When the later end got its first straight packet after `since`.
    pub(crate) fn wait_for_straight(&self, since: Instant) -> Result<Instant> {
        let mut latest = since;
        for watch in &self.watches {
            let first = eventually("a straight packet", PATIENCE, || {
                watch.first_since(WireGuardKind::Data, Some(since)).context("none came")
            })?;
            latest = latest.max(first);
        }
        Ok(latest)
    }

    /// The longest silence of either direction since then.
    pub(crate) fn silence_since(&self, since: Instant) -> Duration {
        let silences = self.flows.iter().flatten().map(|flow| flow.silence_since(since));
        silences.max().unwrap_or_default()
    }

    /// When packets flowed again in both directions, of those sent after `since`.
    pub(crate) fn flowing_after(&self, since: Instant) -> Option<Instant> {
        let firsts = self.flows.iter().flatten().map(|flow| flow.first_after(since));
        firsts.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// What became of the packets of both directions between the two moments.
    pub(crate) fn record(&self, from: Instant, to: Instant) -> FlowRecord {
        let records = self.flows.iter().flatten().map(|flow| flow.record(from, to));
        records.fold(
            FlowRecord {
                sent: 0,
                lost: 0,
                doubled: 0,
            },
            |sum, record| FlowRecord {
                sent: sum.sent + record.sent,
                lost: sum.lost + record.lost,
                doubled: sum.doubled + record.doubled,
            },
        )
    }

    /// Says in which direction and when packets were lost, in milliseconds after `event`.
    pub(crate) fn tell_losses(&self, event: Instant, from: Instant, to: Instant) {
        for (direction, flow) in ["left to right", "right to left"]
            .iter()
            .zip(self.flows.iter().flatten())
        {
            for (at, count) in flow.lost_runs(from, to) {
                let after = at.saturating_duration_since(event).as_secs_f64() * 1e3;
                eprintln!("{direction}: {count} lost in a row, sent {after:.0} ms after the fault");
            }
        }
    }

    /// The local ports of the left node's connections to the relay.
    pub(crate) fn relay_ports(&self) -> Result<Vec<u16>> {
        let (address, port) = Derper::ADDRESS;
        let mut command = self.a.namespace().command("ss");
        command.args(["-tnH", "state", "established", "dst", &format!("{address}:{port}")]);
        let run = Run::of(&mut command)?;
        let local = |line: &str| line.split_whitespace().nth(2)?.rsplit(':').next()?.parse().ok();
        Ok(run.stdout.lines().filter_map(local).collect())
    }

    /// Makes everything of these connections vanish without a trace; new ones are free.
    pub(crate) fn swallow(&self, ports: &[u16]) -> Result<()> {
        ensure!(!ports.is_empty(), "there is no connection to the relay");
        let (address, _) = Derper::ADDRESS;
        let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
        let ports = ports.join(", ");
        self.site_a.router().nft(&format!(
            "table ip swallow\ndelete table ip swallow\ntable ip swallow {{\n  chain f {{ type filter hook forward priority filter; policy accept;\n    \
             ip daddr {address} tcp sport {{ {ports} }} drop\n    ip saddr {address} tcp dport {{ {ports} }} drop\n  }}\n}}\n"
        ))
    }
}

/// A command that prints numbers until it is told to end.
struct LongCommand {
    process: Process,
    end: PathBuf,
}

impl Survivors {
    fn start(options: &ArenaOptions, arena: &Arena<'_>, b: &Host) -> Result<Self> {
        if options.load == Load::Idle {
            return Ok(Self {
                stream: None,
                command: None,
            });
        }
        arena.wait_for_traffic(Instant::now())?;
        let target = (arena.addresses.1, 9002).into();
        let stream = SteadyStream::start(arena.a.namespace(), b.namespace(), target)?;
        let controller = arena.commanders.as_ref().map(|(controller, _)| controller);
        let command = controller.map(LongCommand::start).transpose()?;
        Ok(Self {
            stream: Some(stream),
            command,
        })
    }

    fn finish(self) -> Survival {
        Survival {
            command: self.command.map(LongCommand::finish),
            stream: self.stream.map(SteadyStream::finish),
        }
    }
}

impl LongCommand {
    fn start(controller: &Sandd<'_>) -> Result<Self> {
        eventually("the daemon's registration", Duration::from_secs(20), || {
            let run = Run::of(&mut controller.controller_cli("daemons", &["--json"]))?;
            run.stdout.contains(WORKER).then_some(()).context(run.stdout)
        })?;
        let end = controller.host().directory().join("end-of-command");
        let script = format!(
            "i=0; while [ ! -e {} ]; do echo $i; i=$((i+1)); sleep 0.1; done; exit 7",
            end.display()
        );
        let mut command: Command =
            controller.controller_cli("exec", &["--timeout", "3000", WORKER, "--", "sh", "-c", &script]);
        let process = Process::start("exec", controller.host().directory(), &mut command)?;
        Ok(Self { process, end })
    }

    /// Lets it end and judges its status and its output.
    fn finish(mut self) -> Result<u64> {
        ensure!(
            self.process.is_running(),
            "it ended early:\n{}",
            tail(&self.process.log())
        );
        fs::write(&self.end, "")?;
        let status = self.process.wait(Duration::from_secs(60))?;
        let log = self.process.log();
        ensure!(status.code() == Some(7), "it ended with {status}:\n{}", tail(&log));
        let mut next = 0;
        for line in log.lines() {
            ensure!(line.parse() == Ok(next), "{line:?} in place of {next}");
            next += 1;
        }
        Ok(next)
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines
        .get(lines.len().saturating_sub(3)..)
        .unwrap_or_default()
        .join("\n")
}
