//! The plot: bars of the medians, one panel a metric, as SVG.

use std::fmt::Write as _;

use crate::{
    engine::{Engine, WITH_INTERFACE},
    run::Bench,
};

/// Title, metric, engines.
type Panel = (&'static str, &'static str, &'static [Engine]);

const TUNNELS: &[Engine] = &[
    Engine::Sandd,
    Engine::WireguardGo,
    Engine::Tailscaled,
    Engine::Gotatun,
    Engine::Boringtun,
];

const EMBEDDED: &[Engine] = &[Engine::Sandd, Engine::Tsnet];

const PANELS: [Panel; 11] = [
    ("TCP, 1 stream, Gbit/s", "tcp_gbit", TUNNELS),
    ("TCP, reverse, Gbit/s", "reverse_gbit", TUNNELS),
    ("TCP, 8 streams, Gbit/s", "streams8_gbit", TUNNELS),
    ("CPU s per GB, both ends", "cpu_s_per_gb", TUNNELS),
    ("ping idle, ms", "ping_idle_avg_ms", &WITH_INTERFACE),
    ("ping p99 under load, ms", "ping_loaded_p99_ms", &WITH_INTERFACE),
    ("peak RSS, MiB", "rss_peak_mib", TUNNELS),
    ("userspace TCP, Gbit/s", "userspace_gbit", EMBEDDED),
    ("userspace CPU s per GB", "userspace_cpu_s_per_gb", EMBEDDED),
    (
        "TCP through one relay, Gbit/s",
        "relayed_gbit",
        &[Engine::Sandd, Engine::Tailscaled],
    ),
    (
        "emulated link, 0.1 % loss, Mbit/s",
        "link_loss_0.1_mbit",
        &[Engine::Kernel, Engine::Sandd, Engine::Tsnet],
    ),
];

const COLUMNS: usize = 2;
const PANEL_WIDTH: usize = 440;
const BAR: usize = 18;
const GAP: usize = 6;
const NAME_WIDTH: usize = 100;
const VALUE_WIDTH: usize = 60;

/// Everything that was measured, as one picture.
pub fn svg(bench: &Bench) -> String {
    let mut body = String::new();
    let (mut y, mut row_height, mut column) = (10, 0, 0);
    for (title, metric, engines) in PANELS {
        let bars: Vec<(&str, f64)> = engines
            .iter()
            .filter_map(|engine| Some((engine.name(), bench.figures.median(metric, engine.name())?.median)))
            .collect();
        if bars.is_empty() {
            continue;
        }
        let height = panel(&mut body, 10 + column * PANEL_WIDTH, y, title, &bars);
        row_height = row_height.max(height);
        column += 1;
        if column == COLUMNS {
            (column, y, row_height) = (0, y + row_height, 0);
        }
    }
    let height = y + row_height + 30;
    let width = COLUMNS * PANEL_WIDTH + 20;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}\
         <text x=\"10\" y=\"{}\" fill=\"#666\" font-size=\"10\">{}; medians of {} interleaved rounds</text>\n</svg>\n",
        height - 10,
        escaped(&format!("{}, Linux {}", bench.machine.cpu, bench.machine.kernel)),
        bench.options.rounds,
    )
}

/// Draws one panel and returns how high it is.
fn panel(out: &mut String, x: usize, y: usize, title: &str, bars: &[(&str, f64)]) -> usize {
    let most = bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let room = (PANEL_WIDTH - NAME_WIDTH - VALUE_WIDTH - 20) as f64;
    let _ = writeln!(
        out,
        "<text x=\"{x}\" y=\"{}\" font-weight=\"bold\">{}</text>",
        y + 14,
        escaped(title)
    );
    for (number, (name, value)) in bars.iter().enumerate() {
        let top = y + 22 + number * (BAR + GAP);
        let length = value / most * room;
        let colour = if *name == Engine::Sandd.name() {
            "#c2410c"
        } else {
            "#94a3b8"
        };
        let left = x + NAME_WIDTH;
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{left}\" y=\"{top}\" width=\"{length:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\n\
             <text x=\"{:.1}\" y=\"{base}\">{}</text>",
            left - 6,
            escaped(name),
            left as f64 + length + 4.0,
            figure(*value),
            base = top + 13,
        );
    }
    22 + bars.len() * (BAR + GAP) + 16
}

fn figure(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_its_room() {
        let mut out = String::new();
        let height = panel(&mut out, 0, 0, "a < b", &[("sandd", 2.0), ("other", 1.0)]);
        assert!(out.contains("a &lt; b") && out.contains("width=\"260.0\"") && out.contains("width=\"130.0\""));
        assert_eq!(height, 22 + 2 * 24 + 16);
    }
}
