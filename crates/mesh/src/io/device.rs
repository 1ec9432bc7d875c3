//! [`Device`]: what stands above the engine, a userspace TCP/IP stack or a kernel TUN device.
//!
//! Outermost stop on the inner side of a packet's way. Both give packets with a [`VnetHeader`], so that a super-packet
//! needs one look, and both take packets that [`Joiner`] has put together again.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use tokio::sync::Notify;

use crate::engine::Overlay;
#[cfg(feature = "tun")]
use crate::io::tun::TunDevice;
use crate::netstack::SharedStack;
use crate::packet::join::Joiner;
use crate::packet::vnet::VnetHeader;

/// Super-packets taken from the device in one turn.
const TURN: usize = 16;
/// A header and the largest IP packet.
#[cfg(feature = "tun")]
const TUN_BUFFER: usize = VnetHeader::LEN + 65_535;

/// Reads of a kernel device that may fail in a row.
#[cfg(feature = "tun")]
const MAX_FAILURES: u32 = 16;

/// See the module's text.
#[derive(Debug)]
pub(crate) enum Device {
    /// No privileges: sockets live in this process.
    Userspace(Userspace),
    /// A kernel interface with the mesh addresses.
    #[cfg(feature = "tun")]
    Tun(Box<Tun>),
}

/// The stack, and what is on its way to it.
#[derive(Debug)]
pub(crate) struct Userspace {
    stack: SharedStack,
    wake: Arc<Notify>,
    joiner: Joiner,
    deadline: Option<Instant>,
}

/// The kernel's interface, and what is on its way to it.
#[cfg(feature = "tun")]
#[derive(Debug)]
pub(crate) struct Tun {
    device: TunDevice,
    joiner: Joiner,
    buffer: Box<[u8]>,
    /// Reads that failed in a row.
    failures: u32,
}

impl Device {
    /// A userspace stack; `wake` is notified by those who give it work.
    pub(crate) fn userspace(stack: SharedStack, wake: Arc<Notify>) -> Self {
        Self::Userspace(Userspace {
            stack,
            wake,
            joiner: Joiner::new(),
            deadline: None,
        })
    }

    /// A kernel interface.
    #[cfg(feature = "tun")]
    pub(crate) fn tun(device: TunDevice) -> Self {
        let mut joiner = Joiner::new();
        joiner.set_tcp(device.joins_tcp());
        joiner.set_udp(device.joins_udp());
        Self::Tun(Box::new(Tun {
            device,
            joiner,
            buffer: vec![0; TUN_BUFFER].into_boxed_slice(),
            failures: 0,
        }))
    }

    /// Name for status: `userspace` or the interface.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Userspace(_) => "userspace".to_owned(),
            #[cfg(feature = "tun")]
            Self::Tun(tun) => tun.device.name().to_owned(),
        }
    }

    /// Index of the kernel's interface, where there is one.
    pub(crate) fn interface(&self) -> Option<u32> {
        match self {
            Self::Userspace(_) => None,
            #[cfg(feature = "tun")]
            Self::Tun(tun) => Some(tun.device.interface()),
        }
    }

    /// Waits until the device has something for the mesh.
    ///
    /// # Cancel safety
    /// Nothing is read here.
    pub(crate) async fn readable(&self) {
        match self {
            Self::Userspace(userspace) => userspace.wake.notified().await,
            // A failure is found by the read that follows.
            #[cfg(feature = "tun")]
            Self::Tun(tun) => {
                let _ = tun.device.readable().await;
            }
        }
    }

    /// Packets that the device did not take.
    pub(crate) fn refused(&self) -> u64 {
        match self {
            Self::Userspace(_) => 0,
            #[cfg(feature = "tun")]
            Self::Tun(tun) => tun.device.refused(),
        }
    }

    /// When the device wants a turn though nothing happens.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Userspace(userspace) => userspace.deadline,
            #[cfg(feature = "tun")]
            Self::Tun(_) => None,
        }
    }

    /// Hands over what was delivered and is still held back for its successors.
    pub(crate) fn flush(&mut self, now: Instant) {
        match self {
            Self::Userspace(userspace) => userspace.poll(now),
            #[cfg(feature = "tun")]
            Self::Tun(tun) => tun.flush(),
        }
    }

    /// Takes packets for the mesh, and gives them to `handle`; false when there are no more.
    ///
    /// # Errors
    /// What the system says, for instance that the interface was deleted.
    pub(crate) fn read(&mut self, handle: impl FnMut(&VnetHeader, &[u8]) -> bool) -> io::Result<bool> {
        match self {
            Self::Userspace(userspace) => Ok(userspace.read(handle)),
            #[cfg(feature = "tun")]
            Self::Tun(tun) => tun.read(handle),
        }
    }

    /// Packets for these addresses may be so large now.
    pub(crate) fn set_peer_mtu(&mut self, addresses: &[IpAddr], mtu: usize) {
        tracing::debug!(?addresses, mtu, "the path to a peer carries packets of another size");
        #[cfg(feature = "tun")]
        if let Self::Tun(tun) = self {
            tun.device.set_peer_mtu(addresses, mtu);
        }
    }

    /// Follows the map: own addresses, and for a TUN device the routes to the mesh where they have changed.
    #[cfg_attr(
        not(feature = "tun"),
        expect(
            unused_variables,
            clippy::unused_async,
            reason = "only a kernel device has routes, and waits for them"
        )
    )]
    pub(crate) async fn configure(&self, addresses: &[IpAddr], routes: Option<&[IpNet]>) -> io::Result<()> {
        match self {
            Self::Userspace(userspace) => {
                userspace.stack.lock().set_addresses(addresses);
                Ok(())
            }
            #[cfg(feature = "tun")]
            Self::Tun(tun) => {
                tun.device.set_addresses(addresses).await?;
                match routes {
                    Some(routes) => tun.device.set_routes(routes).await,
                    None => Ok(()),
                }
            }
        }
    }
}

impl Overlay for Device {
    fn deliver(&mut self, packet: &mut [u8]) {
        match self {
            Self::Userspace(userspace) => {
                let Userspace { stack, joiner, .. } = userspace;
                joiner.push(packet, &mut |joined| receive(stack, joined));
            }
            #[cfg(feature = "tun")]
            Self::Tun(tun) => {
                let Tun { device, joiner, .. } = &mut **tun;
                joiner.push(packet, &mut |joined| write(device, joined));
            }
        }
    }
}

impl Userspace {
    fn poll(&mut self, now: Instant) {
        let Self { stack, joiner, .. } = self;
        joiner.flush(&mut |joined| receive(stack, joined));
        let mut stack = self.stack.lock();
        stack.poll(now);
        self.deadline = stack.poll_timeout();
    }

    fn read(&mut self, mut handle: impl FnMut(&VnetHeader, &[u8]) -> bool) -> bool {
        for taken in 0..TURN {
            let Some((offload, packet)) = self.stack.lock().poll_transmit_super() else {
                return taken > 0;
            };
            let more = handle(&offload, &packet);
            self.stack.lock().recycle(packet);
            if !more {
                break;
            }
        }
        true
    }
}

/// A joined packet's checksums were verified on the way into it.
fn receive(stack: &SharedStack, joined: &mut [u8]) {
    if let Some((header, packet)) = joined.split_at_mut_checked(VnetHeader::LEN)
        && let Some(header) = VnetHeader::parse(header)
    {
        stack
            .lock()
            .handle_packet(packet, header.needs_checksum(), Instant::now());
    }
}

#[cfg(feature = "tun")]
impl Tun {
    fn flush(&mut self) {
        let Self { device, joiner, .. } = self;
        joiner.flush(&mut |joined| write(device, joined));
        // The kernel may have refused some.
        joiner.set_tcp(device.joins_tcp());
        joiner.set_udp(device.joins_udp());
    }

    fn read(&mut self, mut handle: impl FnMut(&VnetHeader, &[u8]) -> bool) -> io::Result<bool> {
        for _ in 0..TURN {
            let len = match self.device.recv_super(&mut self.buffer) {
                Ok(Some(len)) => len,
                Ok(None) => return Ok(false),
                // One packet that the kernel could not hand over is no reason to end; a device that is gone is.
                Err(error) if error.kind() == io::ErrorKind::NotFound || self.failures >= MAX_FAILURES => {
                    return Err(error);
                }
                Err(error) => {
                    self.failures += 1;
                    tracing::debug!(%error, "the TUN device gave no packet");
                    continue;
                }
            };
            self.failures = 0;
            let Some((header, packet)) = self.buffer[..len].split_at_checked(VnetHeader::LEN) else {
                continue;
            };
            if let Some(header) = VnetHeader::parse(header)
                && !handle(&header, packet)
            {
                break;
            }
        }
        Ok(true)
    }
}

/// The kernel takes packets at once or not at all.
#[cfg(feature = "tun")]
fn write(device: &TunDevice, joined: &[u8]) {
    if let Err(error) = device.send_super(joined) {
        tracing::debug!(%error, "the TUN device took a packet not");
    }
}
