//! Many bytes over TCP, hashed at both ends.
//!
//! A stream says its length in its first eight bytes and is confirmed by one byte: nothing depends on half-closed
//! connections, which tailscaled's SOCKS5 port does not know.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use sha2::{Digest as _, Sha256};

use crate::lab::Namespace;

/// How long a connection may stand still before the transfer counts as failed.
const STALL: Duration = Duration::from_secs(30);

/// A stream's length, digest and duration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashedStream {
    /// How many bytes.
    pub bytes: u64,
    /// SHA-256 of them, hexadecimal.
    pub digest: String,
    /// From the first byte to the last.
    pub took: Duration,
}

/// Takes one connection and hashes its stream.
#[derive(Debug)]
pub struct HashingSink {
    address: SocketAddr,
    thread: JoinHandle<Result<HashedStream>>,
}

impl HashingSink {
    /// Listens in `namespace`.
    pub fn listen(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let listener = namespace
            .inside(|| TcpListener::bind(address))?
            .with_context(|| format!("{address} could not be listened on in {}", namespace.name()))?;
        let address = listener.local_addr()?;
        Ok(Self {
            address,
            thread: thread::spawn(move || take(&listener)),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for the end of the stream.
    pub fn finish(self) -> Result<HashedStream> {
        self.thread
            .join()
            .map_err(|_| anyhow!("the receiving thread panicked"))?
    }
}

fn take(listener: &TcpListener) -> Result<HashedStream> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(STALL))?;
    let started = Instant::now();
    let mut length = [0; 8];
    stream.read_exact(&mut length)?;
    let bytes = u64::from_be_bytes(length);
    let (mut hash, mut rest, mut buffer) = (Sha256::new(), bytes, vec![0; 256 * 1024]);
    while rest > 0 {
        let most = usize::try_from(rest).unwrap_or(usize::MAX).min(buffer.len());
        let length = stream
            .read(buffer.get_mut(..most).context("no room")?)
            .with_context(|| format!("with {rest} bytes to go"))?;
        let chunk = buffer
            .get(..length)
            .filter(|chunk| !chunk.is_empty())
            .with_context(|| format!("end with {rest} bytes to go"))?;
        hash.update(chunk);
        rest -= chunk.len() as u64;
    }
    stream.write_all(b".")?;
    Ok(HashedStream {
        bytes,
        digest: hex::encode(hash.finalize()),
        took: started.elapsed(),
    })
}

/// Connects to `target` from within `namespace` and sends `bytes` bytes; returns when the far end has them all.
pub fn send_hashed(namespace: &Namespace, target: SocketAddr, bytes: u64) -> Result<HashedStream> {
    let stream = namespace
        .inside(|| TcpStream::connect_timeout(&target, STALL))?
        .with_context(|| format!("{target} could not be reached from {}", namespace.name()))?;
    pour(stream, bytes)
}

/// Connects through the SOCKS5 port of a tailscaled without interface, and sends as [`send_hashed`] does.
pub fn socks_send(namespace: &Namespace, target: Ipv4Addr, port: u16, bytes: u64) -> Result<HashedStream> {
    let mut stream = namespace.inside(|| TcpStream::connect(crate::lab::tailscaled::SOCKS))??;
    stream.set_read_timeout(Some(STALL))?;
    stream.write_all(&[5, 1, 0])?;
    let mut choice = [0; 2];
    stream.read_exact(&mut choice)?;
    let mut request = vec![5, 1, 0, 1];
    request.extend(target.octets());
    request.extend(port.to_be_bytes());
    stream.write_all(&request)?;
    let mut answer = [0; 10];
    stream.read_exact(&mut answer)?;
    if answer[1] != 0 {
        bail!("SOCKS5 refused {target}:{port} with code {}", answer[1]);
    }
    pour(stream, bytes)
}

fn pour(mut stream: TcpStream, bytes: u64) -> Result<HashedStream> {
    stream.set_write_timeout(Some(STALL))?;
    stream.set_read_timeout(Some(STALL))?;
    let started = Instant::now();
    stream.write_all(&bytes.to_be_bytes())?;
    let (mut hash, mut rest, mut state) = (Sha256::new(), bytes, 0x9e37_79b9_7f4a_7c15_u64);
    let mut buffer = vec![0; 256 * 1024];
    while rest > 0 {
        for word in buffer.chunks_exact_mut(8) {
            // xorshift: cheap, and no two chunks of the stream are alike.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let length = usize::try_from(rest).unwrap_or(usize::MAX).min(buffer.len());
        let chunk = buffer.get(..length).context("empty chunk")?;
        hash.update(chunk);
        stream
            .write_all(chunk)
            .with_context(|| format!("with {rest} bytes to go"))?;
        rest -= length as u64;
    }
    stream
        .read_exact(&mut [0])
        .context("the far end did not confirm the stream's end")?;
    Ok(HashedStream {
        bytes,
        digest: hex::encode(hash.finalize()),
        took: started.elapsed(),
    })
}
