//! One cell: a lab of its own, two nodes, and what became of their path.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    lab::{
        Derper, Headscale, HeadscaleOptions, Host, Lab, Relays, Timings, eventually,
        probe::{DirectWatch, HashingSink, Pinger, WireGuardKind, send_hashed},
    },
    measure::{Contestant, NodeOptions, PathSeen, Running},
};
use serde::Serialize;

use crate::{
    terrain::{Case, Plot},
    truth::{Expected, Kind, Via, expected},
};

/// When both ends are asked, counted from the first answer.
pub(crate) const SETTLED: Duration = Duration::from_secs(10);

/// How long a first answer may take at all.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two echo requests.
const INTERVAL: Duration = Duration::from_millis(10);

/// What must get through when all has settled.
const STREAM: u64 = 500_000;

/// Who stands where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Peers {
    /// The node that starts last and speaks first.
    pub left: Contestant,
    /// The other.
    pub right: Contestant,
}

/// A cell to play.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Where.
    pub case: Case,
    /// Who.
    pub peers: Peers,
    /// When both ends are asked, counted from the first answer.
    pub settled: Duration,
    /// Whether our own nodes may guess ports.
    pub port_guessing: bool,
}

/// What became of a cell.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Its name.
    pub case: String,
    /// Who stood where.
    pub peers: Peers,
    /// What had to become of it.
    pub expected: Expected,
    /// What each end said at the end.
    pub left: String,
    /// See `left`.
    pub right: String,
    /// From the start of the left process to the first answer.
    pub first_answer_ms: Option<f64>,
    /// From there to the first sealed packet that came straight, at the later of both ends.
    pub direct_ms: Option<f64>,
    /// What is wrong; `None` when all is as expected.
    pub failure: Option<String>,
    /// How long the cell took.
    pub took_s: f64,
}

/// The figures and the sight of a cell that ran to its end.
struct Seen {
    left: PathSeen,
    right: PathSeen,
    first_answer: Duration,
    direct: Option<Duration>,
    judged: Result<()>,
}

/// Plays a cell; what fails in it is part of its outcome.
#[must_use]
pub fn run_cell(cell: &Cell) -> Outcome {
    let started = Instant::now();
    let milliseconds = |time: Duration| (time.as_secs_f64() * 10_000.0).round() / 10.0;
    let mut outcome = Outcome {
        case: cell.case.name.clone(),
        peers: cell.peers,
        expected: expected(&cell.case.arrangement, cell.port_guessing),
        left: "-".to_owned(),
        right: "-".to_owned(),
        first_answer_ms: None,
        direct_ms: None,
        failure: None,
        took_s: 0.0,
    };
    match play(cell, outcome.expected) {
        Ok(seen) => {
            outcome.left = text(seen.left);
            outcome.right = text(seen.right);
            outcome.first_answer_ms = Some(milliseconds(seen.first_answer));
            outcome.direct_ms = seen.direct.map(milliseconds);
            outcome.failure = seen.judged.err().map(|error| format!("{error:#}"));
        }
        Err(error) => outcome.failure = Some(format!("{error:#}")),
    }
    outcome.took_s = started.elapsed().as_secs_f64();
    outcome
}

fn play(cell: &Cell, expected: Expected) -> Result<Seen> {
    let lab = Lab::open_with(cell.case.arrangement.internet())?;
    let seen = furnish_and_meet(cell, expected, &lab);
    if seen.as_ref().is_ok_and(|seen| seen.judged.is_ok()) {
        return seen;
    }
    match keep_logs(&lab, &cell.case.name) {
        Ok(directory) => eprintln!("{}: logs are kept in {directory}", cell.case.name),
        Err(error) => eprintln!("{}: logs could not be kept: {error:#}", cell.case.name),
    }
    seen
}

fn furnish_and_meet(cell: &Cell, expected: Expected, lab: &Lab) -> Result<Seen> {
    let plot = cell.case.arrangement.build(lab)?;
    // Two STUN servers show what kind of router one has.
    let second = (!lab.has_ipv6()).then(|| Derper::start(lab)).transpose()?;
    let headscale = Headscale::start(
        lab,
        &HeadscaleOptions {
            timings: Timings::Tuned,
            relays: if second.is_some() {
                Relays::EmbeddedAndDerper
            } else {
                Relays::Embedded
            },
            ..HeadscaleOptions::default()
        },
    )?;
    meet(cell, expected, &plot, &headscale)
}

fn meet(cell: &Cell, expected: Expected, plot: &Plot, headscale: &Headscale<'_>) -> Result<Seen> {
    let key = headscale.reusable_key()?;
    let arguments: &[String] = if cell.port_guessing {
        &[]
    } else {
        &["--no-port-guessing".to_owned()]
    };
    let options = NodeOptions {
        arguments,
        ..NodeOptions::new(headscale.url(), Some(&key))
    };
    let right_options = NodeOptions {
        port: plot.right_port,
        ..options
    };
    let mut right = cell.peers.right.start(&plot.right, &right_options)?;
    let right_address = right.address().context("the right node")?;
    let watches = [
        DirectWatch::anywhere(plot.left.namespace())?,
        DirectWatch::anywhere(plot.right.namespace())?,
    ];
    let pinger = Pinger::start(plot.left.namespace(), right_address, INTERVAL)?;
    let mut left = cell.peers.left.start(&plot.left, &options)?;
    let answered = pinger.first_answer(PATIENCE)?;
    let left_address = left.address().context("the left node")?;
    let ends = Ends {
        left: (&left, left_address),
        right: (&right, right_address),
    };
    if expected.kind == Kind::Direct && cell.settled < SETTLED {
        // A short look: as soon as it is as it should be.
        let _ = eventually("a direct path at both ends", SETTLED, || ends.judge(expected));
    }
    let end = answered + cell.settled;
    eventually("the end of the wait", PATIENCE + cell.settled, || {
        (Instant::now() >= end).then_some(()).context("not yet")
    })?;
    let (seen_left, seen_right) = ends.look()?;
    let judged = ends
        .judge(expected)
        .and_then(|()| carries(&plot.left, &plot.right, right_address))
        .and_then(|()| ends.judge(expected).context("after a stream"))
        .and_then(|()| stays_off(expected, &watches));
    let _ = pinger.stop();
    let [at_left, at_right] = watches.map(|watch| watch.first(WireGuardKind::Data));
    Ok(Seen {
        left: seen_left,
        right: seen_right,
        first_answer: answered.duration_since(left.started()),
        direct: at_left
            .zip(at_right)
            .map(|(left, right)| left.max(right).saturating_duration_since(answered)),
        judged,
    })
}

/// Both nodes, with their mesh addresses.
struct Ends<'a, 'lab> {
    left: (&'a Running<'lab>, Ipv4Addr),
    right: (&'a Running<'lab>, Ipv4Addr),
}

impl Ends<'_, '_> {
    fn look(&self) -> Result<(PathSeen, PathSeen)> {
        Ok((self.left.0.path(self.right.1)?, self.right.0.path(self.left.1)?))
    }

    fn judge(&self, expected: Expected) -> Result<()> {
        let (left, right) = self.look()?;
        for (name, seen) in [("left", left), ("right", right)] {
            let right_kind = match seen {
                PathSeen::Direct(address) => expected.kind == Kind::Direct && leads_over(address, expected.via),
                PathSeen::Relayed => expected.kind == Kind::Relay,
                PathSeen::None => false,
            };
            ensure!(right_kind, "{name} says {}", text(seen));
        }
        Ok(())
    }
}

fn leads_over(address: SocketAddr, via: Via) -> bool {
    match via {
        Via::Any => true,
        Via::Private => matches!(address.ip(), IpAddr::V4(address) if address.is_private()),
        Via::Ipv6 => address.is_ipv6(),
    }
}

/// A hashed stream over the mesh arrives whole.
fn carries(from: &Host, to: &Host, address: Ipv4Addr) -> Result<()> {
    let sink = HashingSink::listen(to.namespace(), (address, 0).into())?;
    let sent = send_hashed(from.namespace(), sink.address(), STREAM)?;
    let received = sink.finish()?;
    ensure!(sent.digest == received.digest, "the stream arrived with another digest");
    Ok(())
}

/// Where no packet can come straight, none did.
fn stays_off(expected: Expected, watches: &[DirectWatch; 2]) -> Result<()> {
    let straight: usize = watches.iter().map(|watch| watch.count(WireGuardKind::Data)).sum();
    ensure!(
        expected.kind == Kind::Direct || straight == 0,
        "{straight} sealed packets came straight"
    );
    Ok(())
}

fn text(seen: PathSeen) -> String {
    match seen {
        PathSeen::Direct(address) => format!("direct {address}"),
        PathSeen::Relayed => "relay".to_owned(),
        PathSeen::None => "nothing".to_owned(),
    }
}

/// Copies the logs of a lab that failed to a place of their own.
pub(crate) fn keep_logs(lab: &Lab, case: &str) -> Result<String> {
    let name: String = case
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' })
        .collect();
    let directory = std::env::temp_dir().join("natlab-failures").join(name);
    std::fs::create_dir_all(&directory)?;
    for entry in std::fs::read_dir(lab.directory())? {
        let path = entry?.path();
        if let (Some("log"), Some(file)) = (path.extension().and_then(|text| text.to_str()), path.file_name()) {
            std::fs::copy(&path, directory.join(file))?;
        }
    }
    Ok(directory.display().to_string())
}
