//! `mesh-peer`: a program that embeds the mesh, for stories about nodes without a kernel interface.
//!
//! `sink PORT` hashes what each connection brings; `send HOST PORT BYTES` sends and hashes; `ping PEER` tells when the
//! first echo reply came; `meet COUNT` tells when so many peers have answered one; `hold` is there for others to reach. `MESH_PEER_TUN` names a kernel interface to use after all,
//! `MESH_PEER_STATE` a directory to keep the identity in. Each answer is one line of JSON. The key comes from `SANDD_TUNNEL_AUTH_KEY`.

use std::{
    collections::HashSet,
    io::{Write as _, stdout},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use sandd_mesh::{AuthKey, ControlUrl, FileStore, Mesh, TcpStream};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

const USAGE: &str = "usage: mesh-peer SERVER HOSTNAME sink PORT | send HOST PORT BYTES | ping PEER | meet COUNT | hold";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [server, hostname, verb @ ..] = words.as_slice() else {
        bail!("{USAGE}")
    };
    let key = std::env::var("SANDD_TUNNEL_AUTH_KEY").ok().map(AuthKey::new);
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let mut builder = Mesh::builder().hostname(*hostname);
    if let Ok(name) = std::env::var("MESH_PEER_TUN") {
        builder = builder.tun(name);
    }
    if let Some(directory) = std::env::var_os("MESH_PEER_STATE") {
        builder = builder.store(Arc::new(FileStore::open(directory.as_ref())?));
    }
    let mesh = builder.join(ControlUrl::parse(server)?, key).await?;
    say(&json!({ "addresses": mesh.addresses(), "node_key": mesh.status().await?.node_key }))?;
    match verb {
        ["sink", port] => sink(&mesh, port.parse()?).await,
        ["send", host, port, bytes] => send(&mesh, host, port.parse()?, bytes.parse()?).await,
        ["ping", peer] => ping(&mesh, peer).await,
        ["meet", count] => meet(&mesh, count.parse()?).await,
        ["hold"] => hold(&mesh).await,
        _ => bail!("{USAGE}"),
    }
}

async fn sink(mesh: &Mesh, port: u16) -> Result<()> {
    let listener = mesh.tcp_listen(port).await?;
    say(&json!({ "listening": port }))?;
    loop {
        let (stream, from) = listener.accept().await?;
        let received = take(stream).await.with_context(|| format!("from {from}"))?;
        say(&received)?;
    }
}

async fn take(mut stream: TcpStream) -> Result<Value> {
    let bytes = stream.read_u64().await?;
    let (mut hash, mut rest, mut buffer) = (Sha256::new(), bytes, vec![0; 64 * 1024]);
    while rest > 0 {
        let most = usize::try_from(rest).unwrap_or(usize::MAX).min(buffer.len());
        let length = stream.read(buffer.get_mut(..most).context("no room")?).await?;
        let chunk = buffer
            .get(..length)
            .filter(|chunk| !chunk.is_empty())
            .with_context(|| format!("end with {rest} bytes to go"))?;
        hash.update(chunk);
        rest -= chunk.len() as u64;
    }
    stream.write_all(b".").await?;
    stream.shutdown().await?;
    Ok(json!({ "bytes": bytes, "digest": hex::encode(hash.finalize()) }))
}

async fn send(mesh: &Mesh, host: &str, port: u16, bytes: u64) -> Result<()> {
    let mut stream = mesh.tcp_connect((host, port)).await?;
    stream.write_u64(bytes).await?;
    let (mut hash, mut rest, mut round) = (Sha256::new(), bytes, 0_u64);
    while rest > 0 {
        round += 1;
        let chunk: Vec<u8> = (0..8192_u64)
            .flat_map(|word| (word.wrapping_mul(round) ^ round).to_le_bytes())
            .collect();
        let length = usize::try_from(rest).unwrap_or(usize::MAX).min(chunk.len());
        let chunk = chunk.get(..length).context("empty chunk")?;
        hash.update(chunk);
        stream.write_all(chunk).await?;
        rest -= length as u64;
    }
    stream.shutdown().await?;
    let mut last = [0];
    stream
        .read_exact(&mut last)
        .await
        .context("the far end did not confirm the stream's end")?;
    say(&json!({ "bytes": bytes, "digest": hex::encode(hash.finalize()) }))
}

async fn ping(mesh: &Mesh, peer: &str) -> Result<()> {
    for _ in 0..300 {
        if let Ok(reply) = mesh.ping(peer, Duration::from_millis(100)).await {
            let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
            return say(&json!({ "answered_unix_ms": at.as_secs_f64() * 1000.0, "reply": reply }));
        }
    }
    ensure!(false, "{peer} never answered");
    Ok(())
}

/// Pings every peer as soon as it is known, and goes on as a peer for the others.
async fn meet(mesh: &Mesh, count: usize) -> Result<()> {
    let (mut asked, mut answers) = (HashSet::new(), JoinSet::new());
    let mut answered = 0;
    let mut looks = tokio::time::interval(Duration::from_millis(100));
    while answered < count {
        tokio::select! {
            _ = looks.tick() => {
                let peers = mesh.status().await?.peers;
                for address in peers.iter().filter_map(|peer| peer.addresses.first()) {
                    if asked.insert(*address) {
                        let (mesh, peer) = (mesh.clone(), address.to_string());
                        answers.spawn(async move {
                            while mesh.ping(&peer, Duration::from_secs(1)).await.is_err() {}
                            peer
                        });
                    }
                }
            }
            Some(peer) = answers.join_next() => {
                answered += 1;
                say(&json!({ "answered": peer?, "of": asked.len() }))?;
            }
        }
    }
    let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    say(&json!({ "met": answered, "met_unix_ms": at.as_secs_f64() * 1000.0 }))?;
    hold(mesh).await
}

async fn hold(mesh: &Mesh) -> Result<()> {
    let mut end = signal(SignalKind::terminate())?;
    let mut looks = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            _ = end.recv() => {
                mesh.shutdown().await;
                return Ok(());
            }
            _ = looks.tick() => say(&serde_json::to_value(mesh.status().await?)?)?,
        }
    }
}

fn say(line: &Value) -> Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
