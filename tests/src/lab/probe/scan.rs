//! Which ports a host listens on, from the kernel's own tables.

use std::{fs, net::IpAddr};

use anyhow::{Context as _, Result};

use crate::lab::Namespace;

/// A port that takes connections or datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// `tcp`, `tcp6`, `udp` or `udp6`.
    pub table: &'static str,
    /// The local address.
    pub address: IpAddr,
    /// The local port.
    pub port: u16,
}

/// All TCP sockets that listen and all UDP sockets in `namespace`.
pub fn listeners(namespace: &Namespace) -> Result<Vec<Listener>> {
    let mut found = Vec::new();
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        let text = namespace.inside(|| fs::read_to_string(format!("/proc/thread-self/net/{table}")))??;
        for line in text.lines().skip(1) {
            let mut fields = line.split_whitespace();
            let local = fields.nth(1).context("no local address")?;
            let state = fields.nth(1).context("no state")?;
            // 0A is LISTEN; UDP sockets have no such state.
            if table.starts_with("udp") || state == "0A" {
                let (address, port) = local.split_once(':').context("no port")?;
                found.push(Listener {
                    table,
                    address: address_of(address).with_context(|| format!("odd address {address}"))?,
                    port: u16::from_str_radix(port, 16)?,
                });
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The kernel prints each 32-bit word of an address in the machine's own order.
fn address_of(text: &str) -> Option<IpAddr> {
    let bytes = hex::decode(text).ok()?;
    let words: Vec<u8> = bytes
        .chunks_exact(4)
        .flat_map(|word| word.iter().rev())
        .copied()
        .collect();
    if let Ok(v4) = <[u8; 4]>::try_from(words.as_slice()) {
        return Some(IpAddr::from(v4));
    }
    Some(IpAddr::from(<[u8; 16]>::try_from(words.as_slice()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_the_kernel_prints_them() {
        assert_eq!(address_of("0100007F"), Some("127.0.0.1".parse().unwrap()));
        assert_eq!(
            address_of("00000000000000000000000001000000"),
            Some("::1".parse().unwrap())
        );
    }
}
