//! The server's sockets with two clients on loopback: bound as Tailscale's clients do it, then a run of packets through.

use std::net::Ipv4Addr;

use tokio::net::UdpSocket;

use super::*;
use crate::disco::{DiscoBox, GeneveProtocol, Message, RelayHandshake};

struct Client {
    key: DiscoPrivateKey,
    socket: UdpSocket,
}

impl Client {
    async fn new() -> Self {
        Self {
            key: DiscoPrivateKey::generate(),
            socket: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(),
        }
    }

    async fn control(&self, endpoint: &RelayEndpoint, to: SocketAddr, message: Message) {
        let header = GeneveHeader {
            control: true,
            protocol: GeneveProtocol::Disco,
            vni: endpoint.vni,
        };
        let sealed = DiscoBox::new(&self.key, &endpoint.server).seal(&self.key.public(), &message);
        self.socket
            .send_to(&[&header.encode()[..], &sealed].concat(), to)
            .await
            .unwrap();
    }

    async fn bind(&self, endpoint: &RelayEndpoint, to: SocketAddr, remote: &Self) {
        let told = RelayHandshake {
            vni: endpoint.vni,
            generation: 1,
            remote: remote.key.public(),
            challenge: [0; 32],
        };
        self.control(endpoint, to, Message::Bind(told)).await;
        let mut buffer = [0; 512];
        let len = self.socket.recv(&mut buffer).await.unwrap();
        let (_, packet) = GeneveHeader::parse(&buffer[..len]).unwrap();
        let opened = DiscoBox::new(&self.key, &endpoint.server).open(packet).unwrap();
        let Message::BindChallenge(challenge) = opened else {
            panic!("{opened:?}");
        };
        self.control(endpoint, to, Message::BindAnswer(challenge)).await;
    }
}

#[tokio::test]
async fn packets_of_a_bound_pair_arrive_as_they_were_sent() {
    let host = RelayHost::start(0).unwrap();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, host.status().port));
    held(&host.shared.server).set_addresses(vec![to]);
    let (a, b) = (Client::new().await, Client::new().await);
    let endpoint = host
        .allocate(a.key.public(), [a.key.public(), b.key.public()], Instant::now())
        .unwrap();
    a.bind(&endpoint, to, &b).await;
    b.bind(&endpoint, to, &a).await;
    let packet = |number: u8| {
        let mut packet = vec![0, 0, 0x7a, 0x12, 0, 0, 0, 0];
        packet[4..7].copy_from_slice(&endpoint.vni.to_be_bytes()[1..]);
        packet.extend(std::iter::repeat_n(number, 100 + usize::from(number % 3)));
        packet
    };
    // The answer of the last handshake and the first packet may be read in one go, but in order.
    for (from, at) in [(&a, &b), (&b, &a)] {
        for number in 0..50 {
            from.socket.send_to(&packet(number), to).await.unwrap();
        }
        for number in 0..50 {
            let mut buffer = [0; 512];
            let (len, source) = at.socket.recv_from(&mut buffer).await.unwrap();
            assert_eq!((&buffer[..len], source), (&packet(number)[..], to));
        }
    }
    let status = host.status();
    assert_eq!(
        (status.endpoints, status.bound, status.packets, status.dropped),
        (1, 1, 100, 0)
    );
    drop(host);
    // Its port is free again once the thread has ended.
    let free = async {
        while std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, to.port())).is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), free).await.unwrap();
}

#[tokio::test]
async fn a_port_that_is_taken_is_refused() {
    let taken = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = RelayHost::start(port).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    // A node that was to have it does not start, and says so.
    let coordinator = crate::ControlUrl::parse("http://127.0.0.1:1").unwrap();
    let refused = crate::Mesh::builder()
        .port(0)
        .port_mapping(false)
        .peer_relay(port)
        .start(coordinator, None)
        .await;
    assert!(matches!(refused, Err(crate::JoinError::PeerRelay { port: named, .. }) if named == port));
}

#[tokio::test]
async fn a_stun_server_tells_the_public_address() {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let host = RelayHost::start(0).unwrap();
    host.set_stun_servers(std::iter::once(server.local_addr().unwrap()));
    let mut buffer = [0; 512];
    let (len, from) = server.recv_from(&mut buffer).await.unwrap();
    assert!(stun::looks_like(&buffer[..len]) && from.port() == host.status().port);
    let (tx, seen) = (
        stun::parse_request(&buffer[..len]).unwrap(),
        SocketAddr::from(([203, 0, 113, 5], 4242)),
    );
    let answer = stun::binding_response(&tx, seen);
    server.send_to(&answer, from).await.unwrap();
    let port = host.status().port;
    let wanted = [4242, port].map(|port| SocketAddr::from(([203, 0, 113, 5], port)));
    let told = async {
        while !wanted.iter().all(|addr| host.status().addresses.contains(addr)) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), told).await.unwrap();
}
