//! SSDP, the search for UPnP devices: HTTP-like text in datagrams to port 1900.

use std::net::Ipv4Addr;

use super::igd::HttpPlace;

/// Where devices listen.
pub(crate) const PORT: u16 = 1_900;
/// The group they are searched in.
pub(crate) const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
const MAX_LEN: usize = 4_096;
const IGD: &str = ":internetgatewaydevice:";

/// What is sent, in this order: some hosts' firewalls open by the first, some routers answer the multicast only, and some
/// answer `ssdp:all` with one device that is not the one wanted.
pub(crate) fn searches(gateway: Ipv4Addr) -> [(Ipv4Addr, String); 3] {
    let search = |target: &str| {
        format!(
            "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nST: {target}\r\nMAN: \"ssdp:discover\"\r\nMX: 2\r\n\r\n"
        )
    };
    [
        (gateway, search("ssdp:all")),
        (GROUP, search("ssdp:all")),
        (GROUP, search("urn:schemas-upnp-org:device:InternetGatewayDevice:1")),
    ]
}

/// A gateway device that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Port and path of its description. The host it names is not heeded: the gateway's is used.
    pub(crate) description: HttpPlace,
    /// It speaks version 2 of the device.
    pub(crate) second_version: bool,
}

/// Reads an answer; nothing when it is none of a gateway device.
pub(crate) fn parse(datagram: &[u8]) -> Option<Found> {
    if datagram.len() > MAX_LEN {
        return None;
    }
    let text = std::str::from_utf8(datagram).ok()?;
    let mut lines = text.lines();
    let status = lines.next()?;
    if !status.starts_with("HTTP/1.") || status.split_whitespace().nth(1) != Some("200") {
        return None;
    }
    let (mut description, mut device) = (None, None);
    for line in lines.take(64) {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        if name.eq_ignore_ascii_case("location") {
            description = HttpPlace::parse(value);
        } else if name.eq_ignore_ascii_case("st") || name.eq_ignore_ascii_case("usn") {
            let lower = value.to_ascii_lowercase();
            if let Some(at) = lower.find(IGD) {
                device = Some(lower[at + IGD.len()..].starts_with('2'));
            }
        }
    }
    Some(Found {
        description: description?,
        second_version: device?,
    })
}
