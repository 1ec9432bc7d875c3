//! The device's queue on Linux: super-packets with `IFF_VNET_HDR`, or single packets where the kernel has no offload.

use std::io;

use rustix::io::Errno;
use tun_rs::{AsyncDevice, DeviceBuilder};

use super::Offload;
use crate::packet::vnet::VnetHeader;

/// See the module's text.
pub(super) struct Queue {
    device: AsyncDevice,
    /// A [`VnetHeader`] stands in front of each packet, both ways.
    vnet: bool,
}

impl Queue {
    /// Makes the interface, with offloads if that is wanted and the kernel can.
    pub(super) fn open(builder: impl Fn() -> DeviceBuilder, offload: Offload) -> io::Result<Self> {
        if offload != Offload::Off {
            match builder().with(|option| _ = option.offload(true)).build_async() {
                Ok(device) => return Ok(Self { device, vnet: true }),
                // The kernel, or what plays its part, knows no offload.
                Err(error) if lacks_offload(&error) => {
                    tracing::info!(%error, "the TUN device takes no super-packets: each packet is read and written by itself");
                }
                Err(error) => return Err(error),
            }
        }
        let device = builder().build_async()?;
        Ok(Self { device, vnet: false })
    }

    pub(super) fn device(&self) -> &AsyncDevice {
        &self.device
    }

    /// Whether joined TCP may be written.
    pub(super) fn joins_tcp(&self) -> bool {
        self.vnet
    }

    /// Whether joined UDP may be written: the kernel has told so when it was asked for USO.
    pub(super) fn joins_udp(&self) -> bool {
        self.vnet && self.device.udp_gso()
    }

    /// Whether the kernel finishes a checksum.
    pub(super) fn finishes_checksums(&self) -> bool {
        self.vnet
    }

    /// A packet with its header, if there is one.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let read = if self.vnet {
            self.device.try_recv(buffer)
        } else {
            let Some((header, rest)) = buffer.split_at_mut_checked(VnetHeader::LEN) else {
                return Err(Errno::INVAL.into());
            };
            header.fill(0);
            self.device.try_recv(rest).map(|len| len + VnetHeader::LEN)
        };
        match read {
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes `[header][packet]`. Not by way of the runtime: the kernel takes a packet at once or not at all.
    pub(super) fn write(&self, buffer: &[u8]) -> io::Result<()> {
        let from = if self.vnet { 0 } else { VnetHeader::LEN };
        let bytes = buffer.get(from..).ok_or(Errno::INVAL)?;
        rustix::io::write(&*self.device, bytes)?;
        Ok(())
    }
}

/// The error of a kernel that does not know what was asked for, and not that of a user who may not ask.
fn lacks_offload(error: &io::Error) -> bool {
    let unknown = [Errno::INVAL, Errno::NOTTY, Errno::OPNOTSUPP, Errno::NOSYS];
    error
        .raw_os_error()
        .is_some_and(|code| unknown.iter().any(|errno| errno.raw_os_error() == code))
}

/// A super-packet that the kernel does not take.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    [Errno::INVAL, Errno::OPNOTSUPP]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The interface is gone.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::BADFD.raw_os_error())
}
