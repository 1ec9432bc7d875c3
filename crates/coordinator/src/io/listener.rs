//! The one TCP port. It serves plain HTTP and TLS alike, told apart by the first byte: real clients speak DERP over TLS
//! only, while a coordinator in a closed network is often plain, and both must meet at the same relay.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::admission::{Admission, Place};
use super::http;
use super::shared::Shared;

/// A peer that acknowledges nothing for so long is gone.
const USER_TIMEOUT: Duration = Duration::from_secs(20);
const KEEPALIVE: Duration = Duration::from_secs(30);
/// First byte of a TLS connection: a handshake record.
const TLS_HANDSHAKE: u8 = 0x16;
/// Pause after an error of accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until the task is dropped; its connections end with it.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener, tls: TlsAcceptor) {
    let admission = Admission::new(shared.limits);
    let mut connections = JoinSet::new();
    let mut cuts = shared.hooks.cuts();
    cuts.mark_unchanged();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((tcp, from)) => {
                    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                    if shared.hooks.refuses() {
                        continue;
                    }
                    let Some(place) = admission.enter(from.ip()) else {
                        tracing::debug!(%from, "too many connections");
                        continue;
                    };
                    connections.spawn(connection(Arc::clone(&shared), tcp, from, tls.clone(), place));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(finished) = connections.join_next(), if !connections.is_empty() => {
                if finished.is_err_and(|error| error.is_panic()) {
                    tracing::error!("a connection ended by a panic");
                }
            }
            _ = cuts.changed() => {
                connections.abort_all();
                while connections.join_next().await.is_some() {}
            }
        }
    }
}

fn tune(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3))?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

async fn connection(shared: Arc<Shared>, tcp: TcpStream, from: SocketAddr, tls: TlsAcceptor, place: Place) {
    if let Err(error) = tune(&tcp) {
        tracing::debug!(%from, %error, "cannot set socket options");
    }
    let mut first = [0u8];
    let peeked = tokio::time::timeout(shared.limits.opening, tcp.peek(&mut first)).await;
    if !matches!(peeked, Ok(Ok(1))) {
        return;
    }
    let ended = if first[0] == TLS_HANDSHAKE {
        match tokio::time::timeout(shared.limits.opening, tls.accept(tcp)).await {
            Ok(Ok(stream)) => http::serve(shared, stream, place, true).await,
            Ok(Err(error)) => {
                tracing::debug!(%from, %error, "tls handshake failed");
                return;
            }
            Err(_) => return,
        }
    } else {
        http::serve(shared, tcp, place, false).await
    };
    if let Err(error) = ended {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::debug!(%from, %error, cause, "connection ended");
    }
}
