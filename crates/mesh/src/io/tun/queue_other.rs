//! The device's queue where there is no offload: one packet a call, behind the same interface.

use std::io;

use tun_rs::{AsyncDevice, DeviceBuilder};

use super::Offload;
use crate::packet::vnet::VnetHeader;

/// See the module's text.
pub(super) struct Queue {
    device: AsyncDevice,
}

impl Queue {
    /// Makes the interface.
    pub(super) fn open(builder: impl Fn() -> DeviceBuilder, _offload: Offload) -> io::Result<Self> {
        let device = builder().build_async()?;
        Ok(Self { device })
    }

    pub(super) fn device(&self) -> &AsyncDevice {
        &self.device
    }

    /// Never.
    pub(super) fn joins_tcp(&self) -> bool {
        false
    }

    /// Never.
    pub(super) fn joins_udp(&self) -> bool {
        false
    }

    /// Never.
    pub(super) fn finishes_checksums(&self) -> bool {
        false
    }

    /// A packet with a header that says nothing, if there is one.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let Some((header, rest)) = buffer.split_at_mut_checked(VnetHeader::LEN) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        header.fill(0);
        match self.device.try_recv(rest) {
            Ok(len) => Ok(Some(len + VnetHeader::LEN)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the packet behind the header.
    pub(super) fn write(&self, buffer: &[u8]) -> io::Result<()> {
        let bytes = buffer.get(VnetHeader::LEN..).ok_or(io::ErrorKind::InvalidInput)?;
        self.device.try_send(bytes).map(|_len| ())
    }
}

/// No super-packet is ever written.
pub(super) fn is_refusal(_error: &io::Error) -> bool {
    false
}

/// The system's own words tell it.
pub(super) fn is_gone(_error: &io::Error) -> bool {
    false
}
