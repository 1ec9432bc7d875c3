//! A TCP stream of a moderate, steady rate that lives as long as a test wants, hashed at both ends.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use sha2::{Digest as _, Sha256};

use crate::lab::Namespace;

/// What is written at once, and how often.
const CHUNK: usize = 4096;
const INTERVAL: Duration = Duration::from_millis(20);

/// How long the connection may stand still before it counts as broken. The kernel itself waits up to a minute between two
/// attempts after a long silence.
const STALL: Duration = Duration::from_secs(150);

/// A stream that is under way.
#[derive(Debug)]
pub struct SteadyStream {
    stop: Arc<AtomicBool>,
    sending: JoinHandle<Result<(u64, String)>>,
    receiving: JoinHandle<Result<(u64, String)>>,
}

impl SteadyStream {
    /// Connects from one namespace to `target` in the other and begins to send.
    pub fn start(from: &Namespace, to: &Namespace, target: SocketAddr) -> Result<Self> {
        let listener = to.inside(|| TcpListener::bind(target))??;
        let target = listener.local_addr()?;
        let receiving = thread::spawn(move || receive(&listener));
        let stream = from
            .inside(|| TcpStream::connect_timeout(&target, Duration::from_secs(10)))?
            .with_context(|| format!("{target} could not be reached"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let sending = thread::spawn({
            let stop = Arc::clone(&stop);
            move || send(stream, &stop)
        });
        Ok(Self {
            stop,
            sending,
            receiving,
        })
    }

    /// Ends the stream and returns how many bytes it was; an error when it broke or a byte was lost, doubled or changed.
    pub fn finish(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sending.join().map_err(|_| anyhow!("the sender panicked"))??;
        let received = self.receiving.join().map_err(|_| anyhow!("the receiver panicked"))??;
        ensure!(sent == received, "{sent:?} became {received:?}");
        Ok(sent.0)
    }
}

fn send(mut stream: TcpStream, stop: &AtomicBool) -> Result<(u64, String)> {
    stream.set_write_timeout(Some(STALL))?;
    stream.set_read_timeout(Some(STALL))?;
    let (mut hash, mut bytes, mut round) = (Sha256::new(), 0_u64, 0_u64);
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let chunk: Vec<u8> = (0..CHUNK as u64 / 8)
            .flat_map(|word| (word.wrapping_mul(round) ^ round).to_le_bytes())
            .collect();
        hash.update(&chunk);
        stream
            .write_all(&chunk)
            .with_context(|| format!("after {bytes} bytes"))?;
        bytes += chunk.len() as u64;
        thread::sleep(INTERVAL);
    }
    stream.shutdown(Shutdown::Write)?;
    stream
        .read_exact(&mut [0])
        .context("the far end did not confirm the stream's end")?;
    Ok((bytes, hex::encode(hash.finalize())))
}

fn receive(listener: &TcpListener) -> Result<(u64, String)> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(STALL))?;
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0_u64, vec![0; 64 * 1024]);
    loop {
        let length = stream
            .read(&mut buffer)
            .with_context(|| format!("after {bytes} bytes"))?;
        if length == 0 {
            stream.write_all(b".")?;
            return Ok((bytes, hex::encode(hash.finalize())));
        }
        hash.update(buffer.get(..length).unwrap_or_default());
        bytes += length as u64;
    }
}
