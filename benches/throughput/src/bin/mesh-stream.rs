//! `mesh-stream`: a program that embeds the mesh in userspace and pushes bytes through it, the twin of `benches/rivals/tsnet`.
//!
//! `sink PORT` takes what each connection brings; `send HOST PORT SECONDS` waits for a direct path, sends for one second on
//! a connection that is thrown away and then for so long on a second one. Answers are lines of JSON, the same as the
//! twin's. Both stay until they are ended, so that what they cost can be read. The key comes from `BENCH_AUTH_KEY`.

use std::{
    io::{Write as _, stdout},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use sandd_mesh::{AuthKey, ControlUrl, Mesh, PeerPath, TcpStream};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const USAGE: &str = "usage: mesh-stream SERVER HOSTNAME sink PORT | send HOST PORT SECONDS";

/// What is written and read at once, as in the twin.
const PIECE: usize = 128 * 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [server, hostname, verb @ ..] = words.as_slice() else {
        bail!("{USAGE}")
    };
    let key = std::env::var("BENCH_AUTH_KEY").ok().map(AuthKey::new);
    let builder = Mesh::builder().hostname(*hostname);
    let mesh = builder.join(ControlUrl::parse(server)?, key).await?;
    say(&json!({ "addresses": mesh.addresses() }))?;
    match verb {
        ["sink", port] => sink(&mesh, port.parse()?).await,
        ["send", host, port, seconds] => send(&mesh, host, port.parse()?, seconds.parse()?).await,
        _ => bail!("{USAGE}"),
    }
}

async fn sink(mesh: &Mesh, port: u16) -> Result<()> {
    let listener = mesh.tcp_listen(port).await?;
    say(&json!({ "listening": port }))?;
    loop {
        let (stream, _) = listener.accept().await?;
        say(&take(stream).await?)?;
    }
}

async fn take(mut stream: TcpStream) -> Result<Value> {
    let mut piece = vec![0; PIECE];
    let mut bytes = 0_u64;
    let mut began = None;
    loop {
        let length = stream.read(&mut piece).await?;
        let began = *began.get_or_insert_with(Instant::now);
        if length == 0 {
            stream.shutdown().await?;
            return Ok(json!({ "received": bytes, "seconds": began.elapsed().as_secs_f64() }));
        }
        bytes += length as u64;
    }
}

async fn send(mesh: &Mesh, host: &str, port: u16, seconds: f64) -> Result<()> {
    say(&json!({ "path": path(mesh, host).await? }))?;
    push(mesh, host, port, Duration::from_secs(1)).await?;
    say(&json!({ "streaming": true }))?;
    let sent = push(mesh, host, port, Duration::from_secs_f64(seconds)).await?;
    say(&json!({ "sent": sent }))?;
    std::future::pending().await
}

/// Waits for a direct path, at most some seconds.
async fn path(mesh: &Mesh, host: &str) -> Result<&'static str> {
    for _ in 0..100 {
        if let Ok(reply) = mesh.ping(host, Duration::from_millis(500)).await
            && matches!(reply.path, PeerPath::Direct(_))
        {
            return Ok("direct");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok("relay")
}

async fn push(mesh: &Mesh, host: &str, port: u16, length: Duration) -> Result<u64> {
    let mut stream = mesh.tcp_connect((host, port)).await?;
    let piece = vec![0x5a; PIECE];
    let (started, mut sent) = (Instant::now(), 0);
    while started.elapsed() < length {
        stream.write_all(&piece).await?;
        sent += piece.len() as u64;
    }
    stream.shutdown().await?;
    let mut last = [0];
    stream
        .read(&mut last)
        .await
        .context("the far end did not take the stream's end")?;
    Ok(sent)
}

fn say(line: &Value) -> Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
