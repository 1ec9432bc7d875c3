//! [`netcheck`]: the network measured without a node, from sockets of its own.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use sandd_control_client::ControlUrl;
use sandd_control_client::dial::{DialError, Dialer};
use sandd_control_client::netmap::{DerpMap, RegionId};
use tokio::net::UdpSocket;

use super::derp::targets;
use super::https;
use super::net_report::{HttpsAnswers, net_report};
use super::or_never::or_never;
use super::reach::Reach;
use super::resolve::stun_servers;
use crate::status::NetReport;

/// Longest datagram that is of interest.
const MAX_ANSWER: usize = 1_500;

/// Measures the network with these relays and STUN servers: once, for some eight seconds at most.
///
/// # Errors
/// [`DialError`] when the certificates file cannot be used or no socket can be opened.
pub async fn netcheck(map: DerpMap, control: &ControlUrl, ca_file: Option<&Path>) -> Result<NetReport, DialError> {
    let dialer = Dialer::new(ca_file)?;
    let map = Arc::new(map);
    let v4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .await
        .map_err(DialError::Io)?;
    // A host without IPv6 has nothing to measure there.
    let v6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await.ok();
    let port = |socket: &UdpSocket| socket.local_addr().map(|addr| addr.port());
    let ports = (
        port(&v4).map_err(DialError::Io)?,
        v6.as_ref().and_then(|socket| port(socket).ok()),
    );
    let mut reach = Reach::new(ports, None, Instant::now());
    reach.set_map(Arc::clone(&map));
    // Nobody is to be told, so nothing keeps the home from being the fastest.
    reach.set_control_connected(true, Instant::now());
    let servers = stun_servers(Arc::clone(&map)).await;
    reach.set_servers(servers, Instant::now());
    while reach.measuring() {
        for (to, request) in reach.poll_requests(|| false, Instant::now()) {
            let socket = if to.is_ipv4() { Some(&v4) } else { v6.as_ref() };
            if let Some(socket) = socket
                && let Err(error) = socket.send_to(&request, to).await
            {
                tracing::debug!(%to, %error, "no request sent");
            }
        }
        let mut datagram = [0u8; MAX_ANSWER];
        let deadline = reach.poll_timeout().max(Instant::now());
        tokio::select! {
            received = receive(&v4, v6.as_ref(), &mut datagram) => match received {
                Ok((length, _)) => drop(reach.handle_response(&datagram[..length], Instant::now())),
                Err(error) => tracing::debug!(%error, "nothing received"),
            },
            () = tokio::time::sleep_until(deadline.into()) => {}
        }
    }
    let mut answers = HttpsAnswers::new();
    if reach.take_wants_https() {
        let first = |(id, region): (&RegionId, &Arc<_>)| Some((*id, targets(region, control).into_iter().next()?));
        answers = https::measure(map.regions.iter().filter_map(first).collect(), dialer).await;
        reach.note_https(&https::latencies(&answers), Instant::now());
    }
    Ok(net_report(&reach, &map, &answers))
}

async fn receive(v4: &UdpSocket, v6: Option<&UdpSocket>, datagram: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    let ready = tokio::select! {
        ready = v4.readable() => ready.map(|()| v4),
        ready = or_never(v6.map(UdpSocket::readable)) => ready.map(|()| v6.unwrap_or(v4)),
    }?;
    match ready.try_recv_from(datagram) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok((0, (Ipv4Addr::UNSPECIFIED, 0).into())),
        received => received,
    }
}
