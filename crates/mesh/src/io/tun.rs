//! The kernel TUN device, for programs other than ours: the optional place of the userspace stack.
//!
//! It stands at the inner end of a packet's way, as the netstack does: [`TunDevice::recv`] gives what the kernel routes
//! into the mesh, [`TunDevice::try_send`] takes what came out of it. Addresses and routes of both families follow the
//! network map. Everything vanishes with the device when it is dropped.

#[cfg_attr(target_os = "linux", path = "tun/route_linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "tun/route_other.rs")]
mod route;

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use tun_rs::{AsyncDevice, DeviceBuilder};

use crate::packet::PacketBuf;

/// Longest name that the kernel takes.
const NAME_MAX: usize = 15;

/// How a device is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunConfig {
    /// Name of the interface.
    pub name: String,
    /// Largest packet.
    pub mtu: usize,
}

/// A TUN interface that is up. Must be used inside a tokio runtime.
#[derive(Debug)]
pub struct TunDevice {
    name: String,
    mtu: usize,
    shared: Arc<Shared>,
}

struct Shared {
    device: AsyncDevice,
    index: u32,
    set: Mutex<Configured>,
}

/// What was set, so that only differences are.
#[derive(Debug, Default)]
struct Configured {
    addresses: Vec<IpAddr>,
    routes: Vec<IpNet>,
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
        let device = DeviceBuilder::new()
            .name(name.as_str())
            .mtu(mtu)
            .build_async()
            .map_err(explained)?;
        let index = device.if_index().map_err(explained)?;
        let name = device.name().map_err(explained)?;
        let shared = Arc::new(Shared {
            device,
            index,
            set: Mutex::default(),
        });
        Ok(Self {
            name,
            mtu: usize::from(mtu),
            shared,
        })
    }

    /// Name of the interface.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes these the addresses of the interface. Those that stay are not touched. Where the system has IPv6 off, its
    /// addresses are left out with a warning.
    ///
    /// # Errors
    ///
    /// What the system says, with the address.
    pub async fn set_addresses(&self, addresses: &[IpAddr]) -> io::Result<()> {
        let wanted = addresses.to_vec();
        self.blocking(move |shared, set| {
            // New ones first: with the last address of a family the system would drop the routes, too.
            for address in &wanted {
                if set.addresses.contains(address) {
                    continue;
                }
                match (address, shared.add_address(*address)) {
                    (_, Ok(())) => set.addresses.push(*address),
                    (IpAddr::V4(_), Err(error)) => return Err(about("set address", address, &error)),
                    (IpAddr::V6(_), Err(error)) => {
                        tracing::warn!(%address, %error, "no IPv6 on the TUN device: the system does not take it");
                    }
                }
            }
            for gone in set.addresses.extract_if(.., |old| !wanted.contains(old)) {
                // The system may have dropped it by itself.
                let _ = shared.device.remove_address(gone);
            }
            let Configured { addresses, routes } = set;
            routes.retain(|route| {
                addresses
                    .iter()
                    .any(|address| address.is_ipv4() == route.addr().is_ipv4())
            });
            Ok(())
        })
        .await
    }

    /// Makes these the routes into the interface. Routes of a family without address are left out, since the system
    /// would refuse them; they are set once there is one.
    ///
    /// # Errors
    ///
    /// What the system says, with the route.
    pub async fn set_routes(&self, routes: &[IpNet]) -> io::Result<()> {
        let wanted: Vec<IpNet> = routes.iter().map(IpNet::trunc).collect();
        self.blocking(move |shared, set| {
            for gone in set.routes.extract_if(.., |old| !wanted.contains(old)) {
                // A route goes with its interface or address, so it may be gone already.
                let _ = route::remove(shared.index, gone);
            }
            for wanted in wanted {
                let has_source = set
                    .addresses
                    .iter()
                    .any(|address| address.is_ipv4() == wanted.addr().is_ipv4());
                if has_source && !set.routes.contains(&wanted) {
                    route::add(shared.index, wanted).map_err(|error| about("set route", &wanted, &error))?;
                    set.routes.push(wanted);
                }
            }
            Ok(())
        })
        .await
    }

    /// Waits for a packet that the kernel routed into the mesh.
    ///
    /// # Errors
    ///
    /// What the system says, for instance that the interface was deleted.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no packet.
    pub async fn recv(&self) -> io::Result<PacketBuf> {
        loop {
            if let Some(packet) = self.try_recv()? {
                return Ok(packet);
            }
            self.shared.device.readable().await?;
        }
    }

    /// A packet that is there already.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    pub fn try_recv(&self) -> io::Result<Option<PacketBuf>> {
        let mut packet = PacketBuf::zeroed(self.mtu);
        match self.shared.device.try_recv(&mut packet) {
            Ok(count) => {
                packet.truncate(count);
                Ok(Some(packet))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives a packet to the kernel. It is dropped by an error: the kernel takes packets at once or not at all.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when its queue is full, else what the system says of the packet.
    pub fn try_send(&self, packet: &[u8]) -> io::Result<()> {
        self.shared.device.try_send(packet).map(|_count| ())
    }

    pub async fn readable(&self) -> io::Result<()> {
        self.shared.device.readable().await
    }
    pub fn recv_super(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.shared.device.try_recv(&mut buffer[10..]) {
            Ok(count) => {
                buffer[..10].fill(0);
                Ok(Some(count + 10))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
    pub fn send_super(&self, buffer: &[u8]) -> io::Result<()> {
        self.try_send(&buffer[10..])
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

impl Shared {
    fn add_address(&self, address: IpAddr) -> io::Result<()> {
        match address {
            IpAddr::V4(address) => self.device.add_address_v4(address, 32_u8),
            IpAddr::V6(address) => self.device.add_address_v6(address, 128_u8),
        }
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

fn about(what: &str, which: &dyn std::fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("cannot {what} {which} on the TUN device: {error}"),
    )
}

#[cfg(test)]
mod tests;
