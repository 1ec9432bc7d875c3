//! [`Message`]: what a disco box holds. Type, version, body; read as leniently as stock peers read it.
//!
//! Stock peers ignore the padding of a ping and whatever follows a pong; there our own nodes put a marker that says
//! what they can do ([`Features`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use sandd_control_client::keys::{DiscoPublicKey, NodePublicKey};

use super::features::Features;

/// A transaction id.
pub type TxId = [u8; 12];

const PING: u8 = 0x01;
const PONG: u8 = 0x02;
const CALL_ME_MAYBE: u8 = 0x03;
const BIND: u8 = 0x04;
const BIND_CHALLENGE: u8 = 0x05;
const BIND_ANSWER: u8 = 0x06;
const CALL_ME_MAYBE_VIA: u8 = 0x07;
const ALLOCATE_REQUEST: u8 = 0x08;
const ALLOCATE_RESPONSE: u8 = 0x09;
/// Ours: stock peers drop what they do not know.
const GUESS: u8 = 0x81;
const ENDPOINT_LEN: usize = 18;
const RELAY_ENDPOINT_LEN: usize = 124;
/// Endpoints read from one message; more are ignored.
const MAX_ENDPOINTS: usize = 64;

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Cut off.
    #[error("disco message is too short")]
    Short,
    /// The box does not open.
    #[error("disco box does not open")]
    Unopened,
    /// A type from the future.
    #[error("unknown disco message type {0:#04x}")]
    UnknownType(u8),
}

/// A relay endpoint that two peers may meet at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayEndpoint {
    /// Relay server's disco key.
    pub server: DiscoPublicKey,
    /// Both clients' disco keys, sorted.
    pub clients: [DiscoPublicKey; 2],
    /// Order of allocations.
    pub lamport_id: u64,
    /// Virtual network identifier, 24 bits.
    pub vni: u32,
    /// Nanoseconds an unbound endpoint lives.
    pub bind_lifetime_ns: u64,
    /// Nanoseconds a bound one lives without traffic.
    pub steady_lifetime_ns: u64,
    /// Where the server listens.
    pub addresses: Vec<SocketAddr>,
}

/// Body of the three messages that bind a relay endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayHandshake {
    /// Virtual network identifier.
    pub vni: u32,
    /// Number of this handshake, never 0.
    pub generation: u32,
    /// The other client's disco key.
    pub remote: DiscoPublicKey,
    /// Challenge; zeros in the first message.
    pub challenge: [u8; 32],
}

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// Are you there?
    Ping {
        /// Transaction.
        tx: TxId,
        /// Sender's node key; absent from very old peers.
        node_key: Option<NodePublicKey>,
        /// Bytes of padding behind.
        padding: usize,
        /// Our own marker in that padding.
        ours: Option<Features>,
    },
    /// I am, and I see you at this address.
    Pong {
        /// Transaction of the ping.
        tx: TxId,
        /// Where the ping came from.
        src: SocketAddr,
        /// Our own marker behind.
        ours: Option<Features>,
    },
    /// Ping me at these addresses.
    CallMeMaybe {
        /// Addresses.
        endpoints: Vec<SocketAddr>,
    },
    /// Client to relay: bind me.
    Bind(RelayHandshake),
    /// Relay to client: prove your address.
    BindChallenge(RelayHandshake),
    /// Client to relay: here.
    BindAnswer(RelayHandshake),
    /// Meet me at this relay; nothing when of a later version.
    CallMeMaybeVia(Option<RelayEndpoint>),
    /// Give the two of us an endpoint; nothing when of a later version.
    AllocateRequest(Option<([DiscoPublicKey; 2], u32)>),
    /// Here is one; nothing when of a later version.
    AllocateResponse(Option<(u32, RelayEndpoint)>),
    /// Between nodes of ours: my NAT gives every destination another port and many of them are open towards you now; look
    /// for one of them at this address of mine.
    Guess {
        /// The sender's public address.
        public: Ipv4Addr,
    },
}

impl Message {
    /// The bytes that go into the box.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ping {
                tx,
                node_key,
                padding,
                ours,
            } => encode_ping(tx, node_key.as_ref(), *padding, *ours),
            Self::Pong { tx, src, ours } => {
                let mut out = vec![PONG, 0];
                out.extend_from_slice(tx);
                put_addr(&mut out, *src);
                if let Some(ours) = ours {
                    ours.encode(&mut out);
                }
                out
            }
            Self::CallMeMaybe { endpoints } => {
                let mut out = vec![CALL_ME_MAYBE, 0];
                endpoints.iter().for_each(|addr| put_addr(&mut out, *addr));
                out
            }
            Self::Bind(handshake) => encode_handshake(BIND, handshake),
            Self::BindChallenge(handshake) => encode_handshake(BIND_CHALLENGE, handshake),
            Self::BindAnswer(handshake) => encode_handshake(BIND_ANSWER, handshake),
            Self::CallMeMaybeVia(endpoint) => {
                let mut out = vec![CALL_ME_MAYBE_VIA, u8::from(endpoint.is_none())];
                put_endpoint(&mut out, endpoint.as_ref());
                out
            }
            Self::AllocateRequest(request) => {
                let mut out = vec![ALLOCATE_REQUEST, u8::from(request.is_none())];
                if let Some((clients, generation)) = request {
                    clients.iter().for_each(|key| out.extend_from_slice(key.as_bytes()));
                    out.extend_from_slice(&generation.to_be_bytes());
                }
                out
            }
            Self::AllocateResponse(response) => {
                let mut out = vec![ALLOCATE_RESPONSE, u8::from(response.is_none())];
                if let Some((generation, endpoint)) = response {
                    out.extend_from_slice(&generation.to_be_bytes());
                    put_endpoint(&mut out, Some(endpoint));
                }
                out
            }
            Self::Guess { public } => {
                let mut out = vec![GUESS, 0];
                out.extend_from_slice(&public.octets());
                out
            }
        }
    }

    /// Reads what a box held.
    ///
    /// # Errors
    /// [`DecodeError`] for a body that is cut off or an unknown type; both are dropped silently.
    pub fn decode(plain: &[u8]) -> Result<Self, DecodeError> {
        let [kind, version, body @ ..] = plain else {
            return Err(DecodeError::Short);
        };
        let current = *version == 0;
        let mut reader = Reader(body);
        match *kind {
            PING => decode_ping(&mut reader),
            PONG => {
                let (tx, src) = (reader.array()?, reader.addr()?);
                Ok(Self::Pong {
                    tx,
                    src,
                    ours: Features::decode(reader.0),
                })
            }
            CALL_ME_MAYBE => {
                let usable = current && body.len().is_multiple_of(ENDPOINT_LEN);
                let endpoints = if usable { reader.addrs() } else { Vec::new() };
                Ok(Self::CallMeMaybe { endpoints })
            }
            BIND => reader.handshake().map(Self::Bind),
            BIND_CHALLENGE => reader.handshake().map(Self::BindChallenge),
            BIND_ANSWER => reader.handshake().map(Self::BindAnswer),
            CALL_ME_MAYBE_VIA if current => reader.endpoint().map(|endpoint| Self::CallMeMaybeVia(Some(endpoint))),
            CALL_ME_MAYBE_VIA => Ok(Self::CallMeMaybeVia(None)),
            ALLOCATE_REQUEST if current => {
                let clients = [reader.disco_key()?, reader.disco_key()?];
                Ok(Self::AllocateRequest(Some((clients, reader.u32()?))))
            }
            ALLOCATE_REQUEST => Ok(Self::AllocateRequest(None)),
            ALLOCATE_RESPONSE if current => {
                let generation = reader.u32()?;
                Ok(Self::AllocateResponse(Some((generation, reader.endpoint()?))))
            }
            ALLOCATE_RESPONSE => Ok(Self::AllocateResponse(None)),
            GUESS if current => Ok(Self::Guess {
                public: Ipv4Addr::from(reader.array::<4>()?),
            }),
            other => Err(DecodeError::UnknownType(other)),
        }
    }
}

fn encode_ping(tx: &TxId, node_key: Option<&NodePublicKey>, padding: usize, ours: Option<Features>) -> Vec<u8> {
    let mut out = vec![PING, 0];
    out.extend_from_slice(tx);
    let Some(key) = node_key else { return out };
    out.extend_from_slice(key.as_bytes());
    let end = out.len() + padding;
    if let Some(ours) = ours {
        ours.encode(&mut out);
    }
    out.resize(end.max(out.len()), 0);
    out
}

fn decode_ping(reader: &mut Reader<'_>) -> Result<Message, DecodeError> {
    let tx = reader.array()?;
    let node_key = reader.array::<32>().ok().map(NodePublicKey::from_bytes);
    let padding = reader.0.len();
    Ok(Message::Ping {
        tx,
        node_key,
        padding,
        ours: Features::decode(reader.0),
    })
}

fn encode_handshake(kind: u8, handshake: &RelayHandshake) -> Vec<u8> {
    let mut out = vec![kind, 0];
    out.extend_from_slice(&handshake.vni.to_be_bytes());
    out.extend_from_slice(&handshake.generation.to_be_bytes());
    out.extend_from_slice(handshake.remote.as_bytes());
    out.extend_from_slice(&handshake.challenge);
    out
}

fn put_addr(out: &mut Vec<u8>, addr: SocketAddr) {
    let ip = match addr.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    out.extend_from_slice(&ip.octets());
    out.extend_from_slice(&addr.port().to_be_bytes());
}

fn put_endpoint(out: &mut Vec<u8>, endpoint: Option<&RelayEndpoint>) {
    let Some(endpoint) = endpoint else { return };
    out.extend_from_slice(endpoint.server.as_bytes());
    endpoint
        .clients
        .iter()
        .for_each(|key| out.extend_from_slice(key.as_bytes()));
    out.extend_from_slice(&endpoint.lamport_id.to_be_bytes());
    out.extend_from_slice(&endpoint.vni.to_be_bytes());
    out.extend_from_slice(&endpoint.bind_lifetime_ns.to_be_bytes());
    out.extend_from_slice(&endpoint.steady_lifetime_ns.to_be_bytes());
    endpoint.addresses.iter().for_each(|addr| put_addr(out, *addr));
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (found, rest) = self.0.split_first_chunk::<N>().ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(*found)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    fn disco_key(&mut self) -> Result<DiscoPublicKey, DecodeError> {
        self.array().map(DiscoPublicKey::from_bytes)
    }

    fn addr(&mut self) -> Result<SocketAddr, DecodeError> {
        let ip = Ipv6Addr::from(self.array::<16>()?);
        let port = u16::from_be_bytes(self.array()?);
        Ok(SocketAddr::new(IpAddr::V6(ip).to_canonical(), port))
    }

    fn addrs(&mut self) -> Vec<SocketAddr> {
        std::iter::from_fn(|| self.addr().ok()).take(MAX_ENDPOINTS).collect()
    }

    fn handshake(&mut self) -> Result<RelayHandshake, DecodeError> {
        Ok(RelayHandshake {
            vni: self.u32()?,
            generation: self.u32()?,
            remote: self.disco_key()?,
            challenge: self.array()?,
        })
    }

    fn endpoint(&mut self) -> Result<RelayEndpoint, DecodeError> {
        let addresses = self.0.len().checked_sub(RELAY_ENDPOINT_LEN).ok_or(DecodeError::Short)?;
        if addresses == 0 || !addresses.is_multiple_of(ENDPOINT_LEN) {
            return Err(DecodeError::Short);
        }
        Ok(RelayEndpoint {
            server: self.disco_key()?,
            clients: [self.disco_key()?, self.disco_key()?],
            lamport_id: self.u64()?,
            vni: self.u32()?,
            bind_lifetime_ns: self.u64()?,
            steady_lifetime_ns: self.u64()?,
            addresses: self.addrs(),
        })
    }
}
