//! Which figures stand in which table.

use crate::{
    cells,
    engine::{Engine, WITH_INTERFACE},
    options::Options,
};

/// One table of the report.
#[derive(Debug)]
pub struct Table {
    /// Its heading.
    pub title: String,
    /// Its rows.
    pub engines: Vec<Engine>,
    /// Its columns.
    pub columns: Vec<Column>,
}

/// One column.
#[derive(Debug)]
pub struct Column {
    /// Its head.
    pub head: String,
    /// What it shows.
    pub metric: String,
    /// With how many decimals.
    pub decimals: usize,
}

const TUNNELS: [(&str, &str, usize); 10] = [
    ("MTU", "mtu", 0),
    ("TCP, Gbit/s", "tcp_gbit", 2),
    ("reverse", "reverse_gbit", 2),
    ("8 streams", "streams8_gbit", 2),
    ("CPU s/GB", "cpu_s_per_gb", 2),
    ("ping, ms", "ping_idle_avg_ms", 3),
    ("loaded p50", "ping_loaded_p50_ms", 2),
    ("loaded p99", "ping_loaded_p99_ms", 2),
    ("RSS idle, MiB", "rss_idle_mib", 1),
    ("peak", "rss_peak_mib", 1),
];

const USERSPACE: [(&str, &str, usize); 4] = [
    ("TCP, Gbit/s", "userspace_gbit", 2),
    ("CPU s/GB", "userspace_cpu_s_per_gb", 2),
    ("peak RSS of the sender, MiB", "userspace_peak_sender_mib", 1),
    ("of the sink", "userspace_peak_sink_mib", 1),
];

const RELAYED: [(&str, &str, usize); 2] = [
    ("TCP, Gbit/s", "relayed_gbit", 3),
    ("CPU of the relay, %", "relay_cpu_percent", 0),
];

const STAGES: [(&str, &str, usize); 8] = [
    ("TUN read", "stage_tun_read_ns", 0),
    ("split, checksum", "stage_split_ns", 0),
    ("seal", "stage_seal_ns", 0),
    ("UDP send", "stage_udp_send_ns", 0),
    ("UDP receive", "stage_udp_recv_ns", 0),
    ("open", "stage_open_ns", 0),
    ("join, checksum", "stage_join_ns", 0),
    ("TUN write", "stage_tun_write_ns", 0),
];

const ENDURANCE: [(&str, &str, usize); 5] = [
    ("minutes", "endurance_minutes", 0),
    ("TCP, Gbit/s", "endurance_gbit", 2),
    ("sessions renewed", "endurance_rekeys", 0),
    ("records lost", "endurance_records_lost", 0),
    ("segments sent again", "endurance_retransmits", 0),
];

/// All tables that a run with these options may fill.
#[must_use]
pub fn tables(options: &Options) -> Vec<Table> {
    let peers = options.peers.iter().flat_map(|count| {
        [
            Column::new(format!("{count} peers: TCP, Gbit/s"), cells::peers_speed(*count), 2),
            Column::new("RSS idle, MiB", cells::peers_memory(*count), 1),
        ]
    });
    let link = options
        .losses
        .iter()
        .map(|loss| Column::new(format!("loss {loss} %, Mbit/s"), cells::link_metric(*loss), 0));
    let mut tunnels = columns(&TUNNELS);
    for rate in &options.udp {
        tunnels.push(Column::new(
            format!("UDP of {rate}, Mbit/s"),
            cells::udp_arrived(*rate),
            1,
        ));
        tunnels.push(Column::new("lost, %", cells::udp_lost(*rate), 2));
    }
    vec![
        Table::new("Kernel interface, direct", &WITH_INTERFACE, tunnels),
        Table::new(
            "Userspace, direct",
            &[Engine::Sandd, Engine::Tsnet],
            columns(&USERSPACE),
        ),
        Table::new(
            "Kernel interface, through Headscale's relay",
            &[Engine::Sandd, Engine::Tailscaled],
            columns(&RELAYED),
        ),
        Table::new(
            "Many peers, one stream to one of them",
            &WITH_INTERFACE,
            peers.collect(),
        ),
        Table::new(
            &format!("One stream over the emulated link, {:.0} Mbit/s, 20 ms", options.rate),
            &[Engine::Kernel, Engine::Sandd, Engine::Tsnet],
            link.collect(),
        ),
        Table::new("Endurance", &[Engine::Sandd], columns(&ENDURANCE)),
        Table::new(
            "Stages, ns for each packet of 1,420 B",
            &[Engine::Sandd],
            columns(&STAGES),
        ),
    ]
}

fn columns(columns: &[(&str, &str, usize)]) -> Vec<Column> {
    columns
        .iter()
        .map(|(head, metric, decimals)| Column::new(*head, *metric, *decimals))
        .collect()
}

impl Table {
    fn new(title: &str, engines: &[Engine], columns: Vec<Column>) -> Self {
        Self {
            title: title.to_owned(),
            engines: engines.to_vec(),
            columns,
        }
    }
}

impl Column {
    fn new(head: impl Into<String>, metric: impl Into<String>, decimals: usize) -> Self {
        Self {
            head: head.into(),
            metric: metric.into(),
            decimals,
        }
    }
}
