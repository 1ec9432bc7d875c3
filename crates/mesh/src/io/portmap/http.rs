//! One HTTP request to the gateway. Nothing is followed, nothing is kept, and the answer is bounded in time and length.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::portmap::http::{Answer, MAX_ANSWER, parse, request};
use crate::portmap::igd::Request;

/// From the connection to the end of the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the status was 200, and the body. Nothing when the device did not answer as one should.
pub(super) async fn ask(gateway: Ipv4Addr, wanted: &Request) -> Option<(bool, String)> {
    tokio::time::timeout(PATIENCE, exchange(gateway, wanted)).await.ok()?
}

async fn exchange(gateway: Ipv4Addr, wanted: &Request) -> Option<(bool, String)> {
    let mut stream = TcpStream::connect((gateway, wanted.to.port)).await.ok()?;
    stream.write_all(request(gateway, wanted).as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    loop {
        let ended = (&mut stream).take(4_096).read_buf(&mut answer).await.ok()? == 0;
        match parse(&answer, ended) {
            Answer::Whole { ok, body } => return Some((ok, body)),
            Answer::Nonsense => return None,
            Answer::Incomplete if answer.len() >= MAX_ANSWER => return None,
            Answer::Incomplete => {}
        }
    }
}
