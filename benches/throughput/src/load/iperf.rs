//! iperf3: a server on one host, runs from the other, and what its JSON says.

use std::{net::Ipv4Addr, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};
use e2e::lab::{Host, Process, Run, eventually};
use serde_json::Value;

/// A running `iperf3 -s`.
#[derive(Debug)]
pub struct Server {
    _process: Process,
}

impl Server {
    /// Starts it and waits until it listens.
    pub fn start(host: &Host) -> Result<Self> {
        let process = Process::start(
            &format!("iperf3-{}", host.name()),
            host.directory(),
            host.command("iperf3").args(["--server", "--forceflush"]),
        )?;
        process.wait_for_log("Server listening", Duration::from_secs(5))?;
        Ok(Self { _process: process })
    }
}

/// What to send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Flow {
    /// So many TCP streams at once.
    Tcp(usize),
    /// One TCP stream from the server to the client.
    Reverse,
    /// One TCP stream with CUBIC, whatever the system's choice.
    Cubic,
    /// UDP with so many bytes a datagram at so many bit/s.
    Udp(u32, f64),
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// What the receiver took, bit/s.
    pub bits_per_second: f64,
    /// What the receiver took, bytes.
    pub bytes: f64,
    /// Share of the datagrams that did not come, 0 for TCP.
    pub lost: f64,
    /// Segments that had to be sent again.
    pub retransmits: f64,
    /// CPU seconds of both iperf3 for each GB.
    pub cpu_per_gb: f64,
}

/// The command of a run; its standard output is to be given to [`read`].
#[must_use]
pub fn command(host: &Host, to: Ipv4Addr, flow: Flow, length: Duration) -> Command {
    let mut command = host.command("iperf3");
    command
        .args(["--json", "--connect-timeout", "5000", "--client"])
        .arg(to.to_string())
        .args(["--time", &length.as_secs().max(1).to_string()]);
    match flow {
        Flow::Tcp(streams) => command.args(["--parallel", &streams.to_string()]),
        Flow::Reverse => command.arg("--reverse"),
        Flow::Cubic => command.args(["--congestion", "cubic"]),
        Flow::Udp(size, rate) => command.args([
            "--udp",
            "--length",
            &size.to_string(),
            "--bitrate",
            &format!("{rate:.0}"),
        ]),
    };
    command
}

/// Runs it to its end.
pub fn run(host: &Host, to: Ipv4Addr, flow: Flow, length: Duration) -> Result<Outcome> {
    // The server needs a moment after the last run, in which it turns clients away.
    eventually("a free iperf3", Duration::from_secs(10), || {
        let run = Run::of(&mut command(host, to, flow, length))?;
        read(&run.stdout).with_context(|| run.stderr.trim().to_owned())
    })
}

/// Reads what a run printed.
pub fn read(text: &str) -> Result<Outcome> {
    let answer: Value = serde_json::from_str(text).context("iperf3 printed no JSON")?;
    if let Some(error) = answer.get("error").and_then(Value::as_str) {
        bail!("iperf3: {error}");
    }
    let end = answer.get("end").context("iperf3 did not end")?;
    let figure = |path: &str| end.pointer(path).and_then(Value::as_f64);
    let seconds = figure("/sum_sent/seconds").or_else(|| figure("/sum/seconds"));
    let seconds = seconds.filter(|seconds| *seconds > 0.0).context("no time")?;
    let (bytes, lost) = match figure("/sum/lost_packets") {
        // What `sum` counts was sent; the loss is the receiver's word.
        Some(lost) => {
            let packets = figure("/sum/packets")
                .filter(|packets| *packets > 0.0)
                .context("no packets")?;
            let share = lost / packets;
            (figure("/sum/bytes").context("no bytes")? * (1.0 - share), share)
        }
        None => (figure("/sum_received/bytes").context("no bytes")?, 0.0),
    };
    let percent = figure("/cpu_utilization_percent/host_total").unwrap_or_default()
        + figure("/cpu_utilization_percent/remote_total").unwrap_or_default();
    Ok(Outcome {
        bits_per_second: figure("/sum_received/bits_per_second")
            .filter(|_| lost == 0.0)
            .unwrap_or(bytes * 8.0 / seconds),
        bytes,
        lost,
        retransmits: figure("/sum_sent/retransmits").unwrap_or_default(),
        cpu_per_gb: if bytes > 0.0 {
            percent / 100.0 * seconds / (bytes / 1e9)
        } else {
            0.0
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_is_not_counted_as_delivered() {
        let text = r#"{"end":{"sum":{"seconds":2.0,"bytes":1000,"packets":10,"lost_packets":1},
            "cpu_utilization_percent":{"host_total":10.0,"remote_total":20.0}}}"#;
        let outcome = read(text).unwrap();
        assert!((outcome.bytes - 900.0).abs() < 1e-9 && (outcome.bits_per_second - 3600.0).abs() < 1e-9);
        assert!((outcome.lost - 0.1).abs() < 1e-9);
    }

    #[test]
    fn an_error_is_an_error() {
        assert!(read(r#"{"error":"unable to connect"}"#).is_err());
    }
}
