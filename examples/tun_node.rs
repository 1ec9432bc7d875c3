//! A mesh node with a kernel interface, so that every program of this host reaches the mesh; it tells what happens until
//! Ctrl-C. Needs `CAP_NET_ADMIN` and `/dev/net/tun`.
//!
//! `cargo build -p sandd-examples --bin tun_node`, then as root `tun_node URL [KEY-FILE]`

#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use sandd_mesh::{AuthKey, ControlUrl, FileStore, Mesh, MeshEvent};

const INTERFACE: &str = "sandd0";
/// Kept from run to run: the key is needed once.
const STATE: &str = "tun-node-state";

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().context("usage: tun_node URL [KEY-FILE]")?;
    let key = match arguments.next() {
        Some(file) => Some(AuthKey::new(std::fs::read_to_string(&file).context(file)?.trim())),
        None => None,
    };

    // `start` returns before the node has joined, so that a login address can be shown.
    let mesh = Mesh::builder()
        .hostname("tun-node")
        .store(Arc::new(FileStore::open(Path::new(STATE))?))
        .tun(INTERFACE)
        .start(ControlUrl::parse(&url)?, key)
        .await?;
    let mut events = mesh.events();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            tell(&event);
        }
    });

    mesh.joined().await?;
    println!(
        "{INTERFACE} is {:?} with {:?}",
        mesh.name().unwrap_or_default(),
        mesh.addresses()
    );
    for peer in mesh.status().await?.peers {
        println!("  {:<30} {:?}", peer.name, peer.addresses);
    }
    tokio::signal::ctrl_c().await?;
    mesh.shutdown().await;
    Ok(())
}

fn tell(event: &MeshEvent) {
    if let MeshEvent::LoginRequired { url } = event {
        println!("to let this node in, open {url}");
    } else if let MeshEvent::PathChanged { name, path, .. } = event {
        println!("{}: {path}", name.escape_debug());
    } else if let MeshEvent::NeedsAttention { reason } = event {
        println!("attention: {reason}");
    } else {
        println!("{event:?}");
    }
}
