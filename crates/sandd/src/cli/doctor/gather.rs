//! What is: asked of the node, of the coordinator and of the system.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sandd_control_client::dial::{Dialer, request};
use sandd_control_client::wire::parse_time;
use sandd_mesh::{ControlUrl, MeshStatus, NetReport, PeerPath, PingReply};

use crate::cli::error::CliError;
use crate::cli::node::{self, NodeArgs};
use crate::cli::state;
use crate::local::Request;

/// A peer is pinged for so long, or until its path is direct.
const PINGS_FOR: Duration = Duration::from_secs(5);
const PING_GAP: Duration = Duration::from_millis(300);

/// Everything that is judged.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Seconds since 1970.
    pub now: u64,
    /// Why the node cannot be asked.
    pub not_running: Option<String>,
    pub status: Option<MeshStatus>,
    pub report: Option<NetReport>,
    pub control: Option<ControlAnswer>,
    /// The state directory, and what is wrong with it.
    pub state_dir: Option<(PathBuf, Option<String>)>,
    /// Largest packet of the interface that packets leave by.
    pub underlay_mtu: Option<u32>,
    /// A kernel device could be made.
    pub may_tun: bool,
    /// The answer to our pings of the peer that was named.
    pub ping: Option<Result<PingReply, String>>,
}

/// What the coordinator answered to this program itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ControlAnswer {
    /// It is there; its clock is ahead of ours by so many seconds, where it told its time.
    Answered { ahead: Option<i64> },
    /// Its certificate does not prove it.
    BadCertificate(String),
    /// It cannot be reached.
    Unreachable(String),
}

/// Looks at everything.
pub(super) async fn gather(args: &NodeArgs, peer: Option<&str>, ca_file: Option<&Path>) -> Result<Facts, CliError> {
    let mut facts = Facts {
        now: seconds_now(),
        underlay_mtu: underlay_mtu(),
        may_tun: may_tun(),
        ..Facts::default()
    };
    let socket = match args.socket().await {
        Ok(socket) => socket,
        Err(error) => {
            facts.not_running = Some(error.message().to_owned());
            return Ok(facts);
        }
    };
    facts.state_dir = socket.parent().map(|directory| {
        let wrong = state::ensure(directory).err();
        (directory.to_owned(), wrong.map(|error| error.message().to_owned()))
    });
    if let Err(error) = node::status(&socket).await {
        facts.not_running = Some(error.message().to_owned());
        return Ok(facts);
    }
    if let Some(peer) = peer {
        facts.ping = Some(ping(&socket, peer).await);
    }
    facts.report = node::ask(&socket, &Request::Netcheck).await.ok();
    let status = node::status(&socket).await?;
    if let Ok(url) = ControlUrl::parse(&status.coordinator) {
        facts.control = Some(ask_control(&url, ca_file).await?);
    }
    facts.status = Some(status);
    Ok(facts)
}

/// Gives the nodes a reason to look for a direct path, and the time to find it.
async fn ping(socket: &Path, peer: &str) -> Result<PingReply, String> {
    let began = Instant::now();
    let question = Request::Ping {
        peer: peer.to_owned(),
        timeout: Duration::from_secs(2),
    };
    loop {
        let answer = node::ask::<PingReply>(socket, &question).await;
        let direct = matches!(&answer, Ok(reply) if matches!(reply.path, PeerPath::Direct(_) | PeerPath::Local));
        if direct || began.elapsed() >= PINGS_FOR {
            return answer.map_err(|error| error.message().to_owned());
        }
        tokio::time::sleep(PING_GAP).await;
    }
}

async fn ask_control(url: &ControlUrl, ca_file: Option<&Path>) -> Result<ControlAnswer, CliError> {
    let dialer = Dialer::new(ca_file)?;
    let answered = async {
        let stream = dialer.dial(&url.dial_target()).await?;
        let head = format!(
            "GET /health HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            url.authority()
        );
        request(stream, &head).await
    };
    Ok(match answered.await {
        Ok(head) => ControlAnswer::Answered {
            ahead: head.header("date").and_then(http_time).map(|theirs| {
                let signed = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
                signed(theirs).saturating_sub(signed(seconds_now()))
            }),
        },
        Err(error) if error.is_certificate() => ControlAnswer::BadCertificate(error.to_string()),
        Err(error) => ControlAnswer::Unreachable(error.to_string()),
    })
}

/// `Tue, 24 Nov 2026 18:05:27 GMT` in seconds since 1970.
pub(super) fn http_time(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let mut words = text.split_once(", ")?.1.split(' ');
    let (day, month, year, clock) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    let time = parse_time(&format!("{year}-{month:02}-{day}T{clock}Z"))?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

fn seconds_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Of the interface with the IPv4 default route, as Linux tells it.
fn underlay_mtu() -> Option<u32> {
    let routes = std::fs::read_to_string("/proc/net/route").ok()?;
    let default = routes.lines().skip(1).find_map(|line| {
        let mut columns = line.split_whitespace();
        let interface = columns.next()?;
        (columns.next()? == "00000000").then_some(interface)
    })?;
    let mtu = std::fs::read_to_string(Path::new("/sys/class/net").join(default).join("mtu")).ok()?;
    mtu.trim().parse().ok()
}

/// `CAP_NET_ADMIN` is in force and the device's file is there.
fn may_tun() -> bool {
    const NET_ADMIN: u64 = 1 << 12;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = capabilities.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    capabilities.is_some_and(|set| set & NET_ADMIN != 0) && Path::new("/dev/net/tun").exists()
}
