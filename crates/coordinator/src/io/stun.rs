//! STUN: tells whoever asks where his datagram came from. Requests of any other form get silence.

use std::net::SocketAddr;

use sandd_mesh::stun;
use tokio::net::UdpSocket;

/// Answers until the task is dropped.
pub(crate) async fn serve(socket: UdpSocket) {
    let mut datagram = [0u8; 1500];
    loop {
        let (length, from) = match socket.recv_from(&mut datagram).await {
            Ok(received) => received,
            Err(error) => {
                // Errors of earlier answers come back here; the socket itself is fine.
                tracing::debug!(%error, "stun socket");
                tokio::task::yield_now().await;
                continue;
            }
        };
        if let Some(answer) = datagram.get(..length).and_then(|request| answer(request, from)) {
            let _ = socket.try_send_to(&answer, from);
        }
    }
}

fn answer(request: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
    stun::parse_request(request).map(|tx| stun::binding_response(&tx, from))
}
