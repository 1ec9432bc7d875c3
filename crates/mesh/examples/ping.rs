//! Joins a tailnet and pings a peer through the tunnel, telling the path of each answer.
//!
//! `cargo run -p sandd-mesh --example ping -- URL KEY PEER [CA-FILE]`

use std::time::{Duration, Instant};

use sandd_mesh::{AuthKey, ControlUrl, Mesh};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let started = Instant::now();
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, key, peer, rest @ ..] = args.as_slice() else {
        return Err("usage: ping URL KEY PEER [CA-FILE]".into());
    };
    let mut builder = Mesh::builder().hostname("ping-example").port(0);
    if let Some(ca_file) = rest.first() {
        builder = builder.ca_file(ca_file);
    }
    let mesh = builder.join(ControlUrl::parse(url)?, Some(AuthKey::new(key))).await?;
    eprintln!(
        "joined as {:?} {:?} after {:?}",
        mesh.name(),
        mesh.addresses(),
        started.elapsed()
    );
    for _ in 0..5 {
        match mesh.ping(peer.as_str(), Duration::from_secs(5)).await {
            Ok(reply) => eprintln!(
                "{:?}: {} {:.2} ms, {}",
                started.elapsed(),
                reply.name,
                reply.rtt_ms,
                reply.path
            ),
            Err(error) => eprintln!("{:?}: {error}", started.elapsed()),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    mesh.shutdown().await;
    Ok(())
}
