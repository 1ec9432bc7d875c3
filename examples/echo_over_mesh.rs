//! Two mesh nodes and their coordinator in one process, without any privilege: one node listens and echoes, the other
//! dials it by name and prints the echo and the path that the bytes took.
//!
//! `cargo run -p sandd-examples --bin echo_over_mesh`

#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use std::time::Duration;

use anyhow::{Context as _, Result};
use sandd_coordinator::{Coordinator, KeyOptions};
use sandd_mesh::{AuthKey, ControlUrl, Mesh, PeerPath, TcpListener};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const PORT: u16 = 7;
/// Long enough for a direct path where there can be one.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<()> {
    let coordinator = Coordinator::builder().listen("127.0.0.1:0".parse()?).start().await?;
    println!("coordinator   {}", coordinator.url());

    let server = join(&coordinator, "echo").await?;
    let client = join(&coordinator, "caller").await?;
    tokio::spawn(echo(server.tcp_listen(PORT).await?));

    let mut stream = client.tcp_connect(("echo", PORT)).await?;
    stream.write_all(b"hello over the mesh").await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    println!("echo          {answer:?}");

    // The first bytes went over the relay. Ask until they go straight.
    let direct = tokio::time::timeout(PATIENCE, async {
        loop {
            let reply = client.ping("echo", Duration::from_secs(2)).await?;
            println!("ping          {:.1} ms, {}", reply.rtt_ms, reply.path);
            if matches!(reply.path, PeerPath::Direct(_)) {
                return Ok::<_, anyhow::Error>(());
            }
        }
    });
    if direct.await.is_err() {
        println!("no direct path within {} s; the relay goes on", PATIENCE.as_secs());
    }

    client.shutdown().await;
    server.shutdown().await;
    coordinator.shutdown().await;
    Ok(())
}

/// A node with a key of its own, which dies with its use.
async fn join(coordinator: &Coordinator, name: &str) -> Result<Mesh> {
    let key = coordinator.create_key(KeyOptions::default()).await?;
    let url = ControlUrl::parse(&coordinator.url())?;
    let mesh = Mesh::builder()
        .hostname(name)
        .port(0)
        .join(url, Some(AuthKey::new(key)))
        .await
        .with_context(|| format!("{name} cannot join"))?;
    println!(
        "{name:<13} {:?} at {:?}",
        mesh.name().unwrap_or_default(),
        mesh.addresses()
    );
    Ok(mesh)
}

/// Sends back what comes, one connection after the other.
async fn echo(listener: TcpListener) -> Result<()> {
    loop {
        let (stream, from) = listener.accept().await?;
        println!("accepted      {from}");
        let (mut reader, mut writer) = tokio::io::split(stream);
        tokio::io::copy(&mut reader, &mut writer).await?;
        writer.shutdown().await?;
    }
}
