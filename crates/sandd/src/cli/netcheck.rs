//! `sandd netcheck`: what the network lets through, as the running node sees it or measured from sockets of its own.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use clap::Args;
use sandd_control_client::netmap::{DerpMap, DerpNode, DerpRegion, MapSession, RegionId};
use sandd_mesh::{ControlUrl, FileStore, NetReport, StateStore};

use super::error::CliError;
use super::node::{self, NodeArgs};
use super::{output, small_runtime};
use crate::escape::Escaped;
use crate::local::Request;

/// Number of the region that stands for a coordinator's own relay, as Headscale has it.
const OWN_REGION: RegionId = RegionId(999);
const STUN_PORT: u16 = 3478;

/// Flags of `sandd netcheck`.
#[derive(Debug, Args)]
pub(super) struct NetcheckArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Measure without a node, to the relay and STUN server (port 3478) of this coordinator
    #[arg(long, value_name = "URL", conflicts_with_all = ["tunnel_state_dir", "role"])]
    tunnel_server: Option<ControlUrl>,
    /// Certificates to trust besides the system's, when no node is asked
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

impl NetcheckArgs {
    /// Measures and prints.
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        let report = small_runtime()?.block_on(self.report())?;
        if self.node.json() {
            output::print_json(&report);
        } else {
            output::print(&report_text(&report));
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn report(&self) -> Result<NetReport, CliError> {
        let ca_file = self.ca_file.as_deref();
        if let Some(server) = &self.tunnel_server {
            return Ok(sandd_mesh::netcheck(own_relay(server), server, ca_file).await?);
        }
        let not_running = match self.node.socket().await {
            Ok(socket) if socket.exists() => return node::ask(&socket, &Request::Netcheck).await,
            Ok(_) => CliError::failed("no mesh node runs in this directory, and it holds no network map"),
            Err(error) => error,
        };
        for (_, directory) in self.node.directories()? {
            if let Some((map, server)) = saved_relays(&directory) {
                return Ok(sandd_mesh::netcheck(map, &server, ca_file).await?);
            }
        }
        Err(CliError::failed(format!(
            "{}, or name a coordinator with --tunnel-server",
            not_running.message()
        )))
    }
}

/// The relays of the last run of a node that does not run now.
fn saved_relays(directory: &Path) -> Option<(DerpMap, ControlUrl)> {
    if !directory.is_dir() {
        return None;
    }
    let store = FileStore::open(directory).ok()?;
    let server = ControlUrl::parse(&store.load().ok()??.registered_at?).ok()?;
    let saved = serde_json::from_slice(&store.load_netmap().ok()??).ok()?;
    let mut session = MapSession::new();
    session
        .apply::<sandd_control_client::wire::Node>(saved, SystemTime::now())
        .ok()?;
    Some((DerpMap::clone(&session.map().derp_map), server))
}

/// What a coordinator has beside itself, as Headscale and ours have it unless told otherwise.
fn own_relay(server: &ControlUrl) -> DerpMap {
    let node = DerpNode {
        name: OWN_REGION.to_string(),
        host_name: server.host().to_owned(),
        cert_name: String::new(),
        ipv4: String::new(),
        ipv6: String::new(),
        derp_port: server.port(),
        stun_port: Some(STUN_PORT),
        stun_only: false,
        insecure_for_tests: false,
        stun_test_ip: String::new(),
    };
    let region = DerpRegion {
        id: OWN_REGION,
        code: "own".to_owned(),
        name: server.host().to_owned(),
        no_measure_no_home: false,
        avoid: false,
        nodes: vec![node],
    };
    DerpMap {
        regions: [(OWN_REGION, Arc::new(region))].into(),
        ..DerpMap::default()
    }
}

fn report_text(report: &NetReport) -> String {
    let public: Vec<String> = report.public_addresses.iter().map(ToString::to_string).collect();
    let nat = match report.mapping_varies {
        Some(true) => "hard (another port for each destination): direct paths need the other side's help",
        Some(false) => "easy (the same port for all destinations)",
        None => "unknown, it takes two servers or a peer to tell",
    };
    let udp = match (report.udp, report.ipv4, report.ipv6) {
        (false, ..) => "blocked, everything goes by relay",
        (true, true, false) => "works over IPv4",
        (true, false, true) => "works over IPv6",
        (true, ..) => "works over IPv4 and IPv6",
    };
    let public = if public.is_empty() {
        "unknown".to_owned()
    } else {
        public.join(" ")
    };
    let mut text = format!("UDP          {udp}\nseen as      {public}\nNAT          {nat}\n");
    if let Some(mapped) = report.port_mapped {
        text.push_str(&format!("port mapped  {mapped}\n"));
    }
    if let Some(obstacle) = &report.obstacle {
        text.push_str(&format!("in between   {}\n", Escaped(obstacle)));
    }
    for region in &report.regions {
        let latency = region
            .latency_ms
            .map_or("no answer".to_owned(), |ms| format!("{ms:.1} ms"));
        let over = if region.over_tls { " over TLS" } else { "" };
        let home = if report.home_region == Some(region.region) {
            ", home"
        } else {
            ""
        };
        text.push_str(&format!(
            "relay {:<7}{} {latency}{over}{home}\n",
            region.region,
            Escaped(&region.name)
        ));
    }
    if let Some(trouble) = &report.relay_trouble {
        text.push_str(&format!("home relay   {}\n", Escaped(trouble)));
    }
    text
}

#[cfg(test)]
mod tests {
    use sandd_mesh::RegionLatency;

    use super::*;

    fn region(region: u16, latency_ms: Option<f64>, over_tls: bool) -> RegionLatency {
        RegionLatency {
            region,
            name: format!("r{region}"),
            latency_ms,
            over_tls,
        }
    }

    #[test]
    fn what_people_read() {
        let open = NetReport {
            udp: true,
            ipv4: true,
            public_addresses: vec!["203.0.113.5:4000".parse().unwrap()],
            mapping_varies: Some(false),
            home_region: Some(1),
            regions: vec![region(1, Some(12.34), false), region(2, None, false)],
            ..NetReport::default()
        };
        assert_eq!(
            report_text(&open),
            "UDP          works over IPv4\n\
             seen as      203.0.113.5:4000\n\
             NAT          easy (the same port for all destinations)\n\
             relay 1      r1 12.3 ms, home\n\
             relay 2      r2 no answer\n"
        );
        let shut = NetReport {
            obstacle: Some("a login page\u{1b}".to_owned()),
            home_region: Some(1),
            relay_trouble: Some("no answer".to_owned()),
            regions: vec![region(1, Some(80.0), true)],
            ..NetReport::default()
        };
        assert_eq!(
            report_text(&shut),
            "UDP          blocked, everything goes by relay\n\
             seen as      unknown\n\
             NAT          unknown, it takes two servers or a peer to tell\n\
             in between   a login page\\u{1b}\n\
             relay 1      r1 80.0 ms over TLS, home\n\
             home relay   no answer\n"
        );
    }

    #[test]
    fn a_coordinator_is_measured_at_its_own_relay() {
        let server = ControlUrl::parse("https://control.example:8443").unwrap();
        let map = own_relay(&server);
        let node = &map.regions[&OWN_REGION].nodes[0];
        assert_eq!(
            (node.host_name.as_str(), node.derp_port, node.stun_port),
            ("control.example", 8443, Some(3478))
        );
    }
}
