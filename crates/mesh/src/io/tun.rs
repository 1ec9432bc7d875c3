//! The kernel TUN device, for programs other than ours: the optional place of the userspace stack.
//!
//! It stands at the inner end of a packet's way, as the netstack does: [`TunDevice::recv_super`] gives what the kernel
//! routes into the mesh, [`TunDevice::send_super`] takes what came out of it, both with a [`VnetHeader`] in front, so
//! that one call carries up to 64 KiB of a flow. Addresses and routes of both families follow the network map.
//! Everything vanishes with the device when it is dropped.

mod configured;
mod joining;
#[cfg_attr(target_os = "linux", path = "tun/netlink_linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "tun/netlink_other.rs")]
mod netlink;
#[cfg_attr(target_os = "linux", path = "tun/queue_linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "tun/queue_other.rs")]
mod queue;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ipnet::IpNet;
use tun_rs::DeviceBuilder;

use self::configured::{Configured, PathMtu};
use self::joining::Joining;
use self::queue::Queue;
use crate::packet::split::Splitter;
use crate::packet::vnet::{GSO_NONE, GSO_UDP_L4, VnetHeader};

/// Longest name that the kernel takes.
const NAME_MAX: usize = 15;
/// Largest payload of a UDP datagram over IPv4: as much of a super-packet travels in one call.
const MAX_SEND: usize = 65_507;
/// Most segments of one call (`UDP_MAX_SEGMENTS` of Linux before 6.9).
const MAX_SEGMENTS: usize = 64;
/// WireGuard's header and tag around each segment.
const SEAL: usize = 32;

/// Which super-packets a device exchanges with us, if the kernel can.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Offload {
    /// TCP and UDP.
    #[default]
    All,
    /// UDP is not joined for it.
    Tcp,
    /// One packet a call.
    Off,
}

/// How a device is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunConfig {
    /// Name of the interface.
    pub name: String,
    /// Largest packet: the ceiling of what [`TunDevice::set_peer_mtu`] allows.
    pub mtu: usize,
    /// Super-packets.
    pub offload: Offload,
}

impl TunConfig {
    /// A device with all offloads that the kernel has.
    #[must_use]
    pub fn new(name: impl Into<String>, mtu: usize) -> Self {
        Self {
            name: name.into(),
            mtu,
            offload: Offload::All,
        }
    }
}

/// A TUN interface that is up. Must be used inside a tokio runtime.
#[derive(Debug)]
pub struct TunDevice {
    name: String,
    shared: Arc<Shared>,
    opened: Instant,
    tcp: Joining,
    udp: Joining,
    refused: AtomicU64,
}

struct Shared {
    queue: Queue,
    index: u32,
    set: Mutex<Configured>,
    /// Packet sizes of peers that a task will set in a moment.
    sizes: Mutex<BTreeMap<IpAddr, u32>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("index", &self.index)
            .field("set", &self.set)
            .finish_non_exhaustive()
    }
}

impl TunDevice {
    /// Creates the interface and brings it up, without addresses.
    ///
    /// # Errors
    ///
    /// The sentence names the missing right and the alternative; the kind is the system's.
    pub fn open(config: &TunConfig) -> io::Result<Self> {
        let name = &config.name;
        let is_name = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%');
        if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(is_name) || name.starts_with('.') {
            let sentence = format!(
                "'{name}' cannot name a TUN device: 1 to {NAME_MAX} visible characters without '/', ':' and '%' are needed"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
        }
        let mtu = u16::try_from(config.mtu).unwrap_or(u16::MAX);
        let explained = |error: io::Error| explain(name, &error);
        let builder = || DeviceBuilder::new().name(name.as_str()).mtu(mtu);
        let queue = Queue::open(builder, config.offload).map_err(explained)?;
        let index = queue.device().if_index().map_err(explained)?;
        let name = queue.device().name().map_err(explained)?;
        let sealed = usize::from(mtu).next_multiple_of(16) + SEAL;
        let segments = (MAX_SEND / sealed).clamp(1, MAX_SEGMENTS);
        if let Err(error) = netlink::set_max_segments(index, u32::try_from(segments).unwrap_or(1)) {
            tracing::debug!(%error, "the kernel keeps its own limit of segments in a super-packet");
        }
        let (tcp, udp) = (queue.joins_tcp(), queue.joins_udp() && config.offload == Offload::All);
        let shared = Arc::new(Shared {
            queue,
            index,
            set: Mutex::new(Configured::new(u32::from(mtu))),
            sizes: Mutex::default(),
        });
        Ok(Self {
            name,
            shared,
            opened: Instant::now(),
            tcp: Joining::new(tcp),
            udp: Joining::new(udp),
            refused: AtomicU64::new(0),
        })
    }

    /// Name of the interface.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Index of the interface.
    #[must_use]
    pub fn interface(&self) -> u32 {
        self.shared.index
    }

    /// Makes these the addresses of the interface. Those that stay are not touched. Where the system has IPv6 off, its
    /// addresses are left out with a warning.
    ///
    /// # Errors
    ///
    /// What the system says, with the address.
    pub async fn set_addresses(&self, addresses: &[IpAddr]) -> io::Result<()> {
        let wanted = addresses.to_vec();
        self.blocking(move |shared, set| set.set_addresses(shared, &wanted))
            .await
    }

    /// Makes these the routes into the interface. Routes of a family without address are left out, since the system
    /// would refuse them; they are set once there is one. Where the interface takes more than the smallest MTU of IPv6,
    /// they carry that one, until [`set_peer_mtu`](Self::set_peer_mtu) tells better for a peer.
    ///
    /// # Errors
    ///
    /// What the system says, with the route.
    pub async fn set_routes(&self, routes: &[IpNet]) -> io::Result<()> {
        let wanted = routes.iter().map(IpNet::trunc).collect();
        self.blocking(move |shared, set| set.set_routes(shared, wanted)).await
    }

    /// Packets for these addresses may be so large, up to the interface's own MTU, whatever the routes around them say.
    /// Takes effect a little later; an error is told in the log, since the old size stays right.
    pub fn set_peer_mtu(&self, addresses: &[IpAddr], mtu: usize) {
        let mtu = u32::try_from(mtu).unwrap_or(u32::MAX);
        let idle = {
            let mut sizes = self.shared.sizes.lock().unwrap_or_else(PoisonError::into_inner);
            let idle = sizes.is_empty();
            sizes.extend(addresses.iter().map(|address| (*address, mtu)));
            idle
        };
        if !idle {
            return;
        }
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || {
            // In this order: whoever comes later finds what was told later, and the last word stands.
            let mut set = shared.set.lock().unwrap_or_else(PoisonError::into_inner);
            let sizes = std::mem::take(&mut *shared.sizes.lock().unwrap_or_else(PoisonError::into_inner));
            for (address, mtu) in sizes {
                if let Err(error) = set.set_peer_mtu(&shared, address, mtu) {
                    tracing::debug!(%error, "a route keeps its packet size");
                }
            }
        });
    }

    /// Whether joined TCP is welcome to [`send_super`](Self::send_super); it is taken apart again otherwise.
    pub fn joins_tcp(&self) -> bool {
        self.tcp.is_welcome(|| self.opened.elapsed())
    }

    /// Whether joined UDP is.
    pub fn joins_udp(&self) -> bool {
        self.udp.is_welcome(|| self.opened.elapsed())
    }

    /// Packets that the kernel did not take from us.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Waits until there is something to receive, or the interface has failed.
    ///
    /// # Errors
    ///
    /// What the system says.
    ///
    /// # Cancel safety
    ///
    /// Nothing is read here.
    pub async fn readable(&self) -> io::Result<()> {
        self.shared.queue.device().readable().await
    }

    /// What the kernel routed into the mesh, if anything is there: `[vnet header][IP packet]`, with the length of both.
    /// `buffer` takes the largest packet and its header.
    ///
    /// # Errors
    ///
    /// What the system says; a sentence that the interface was deleted.
    pub fn recv_super(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        self.shared.queue.read(buffer).map_err(|error| self.named(error))
    }

    /// Gives `[vnet header][IP packet]` to the kernel. It is dropped by an error: the kernel takes packets at once or not
    /// at all. A super-packet that the kernel does not want is given to it packet by packet, and so are those that follow,
    /// for a while, where it wants the next neither.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when its queue is full, else what the system says of the packet.
    pub fn send_super(&self, buffer: &[u8]) -> io::Result<()> {
        let Some(header) = VnetHeader::parse(buffer) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let queue = &self.shared.queue;
        let joining = match header.gso_type {
            GSO_NONE => None,
            GSO_UDP_L4 => Some(&self.udp),
            _ => Some(&self.tcp),
        };
        let welcome = match joining {
            None => queue.finishes_checksums() || !header.needs_checksum(),
            Some(joining) => joining.is_welcome(|| self.opened.elapsed()),
        };
        if welcome {
            match (queue.write(buffer), joining) {
                (Ok(()), None) => return Ok(()),
                (Ok(()), Some(joining)) => {
                    joining.accepted();
                    return Ok(());
                }
                (Err(error), Some(joining)) if queue::is_refusal(&error) => {
                    if let Some(pause) = joining.refused(self.opened.elapsed()) {
                        tracing::warn!(device = self.name, kind = header.gso_type, %error, ?pause, "the kernel refuses joined packets: each is given to it by itself for a while");
                    }
                }
                (Err(error), _) => return Err(self.dropped(error)),
            }
        }
        self.send_singly(&header, &buffer[VnetHeader::LEN..])
    }

    fn send_singly(&self, header: &VnetHeader, packet: &[u8]) -> io::Result<()> {
        let splitter = Splitter::new(header, packet)
            .map_err(|error| self.dropped(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let mut single = vec![0; VnetHeader::LEN + splitter.len_of(0)];
        let mut outcome = Ok(());
        for index in 0..splitter.count() {
            let single = &mut single[..VnetHeader::LEN + splitter.len_of(index)];
            splitter.write(index, &mut single[VnetHeader::LEN..]);
            if let Err(error) = self.shared.queue.write(single) {
                outcome = Err(self.dropped(error));
            }
        }
        outcome
    }

    fn dropped(&self, error: io::Error) -> io::Error {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.named(error)
    }

    fn named(&self, error: io::Error) -> io::Error {
        if queue::is_gone(&error) {
            let sentence = format!("the interface '{}' was deleted", self.name);
            return io::Error::new(io::ErrorKind::NotFound, sentence);
        }
        error
    }

    /// Netlink and ioctl are short, but they block.
    async fn blocking(
        &self,
        work: impl FnOnce(&Shared, &mut Configured) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let done = tokio::task::spawn_blocking(move || {
            let mut set = shared.set.lock().unwrap_or_else(PoisonError::into_inner);
            work(&shared, &mut set)
        });
        done.await.map_err(io::Error::other)?
    }
}

/// The words to act on.
fn explain(name: &str, error: &io::Error) -> io::Error {
    let instead = "or leave the TUN device out: userspace mode needs neither";
    let needs = "add NET_ADMIN and /dev/net/tun (docker: --cap-add NET_ADMIN --device /dev/net/tun)";
    let advice = if error.kind() == io::ErrorKind::ResourceBusy {
        "another program has that device; stop it or choose another name".to_owned()
    } else {
        format!("{needs}, {instead}")
    };
    io::Error::new(
        error.kind(),
        format!("cannot create the TUN device '{name}': {error}; {advice}"),
    )
}

#[cfg(test)]
mod tests;
