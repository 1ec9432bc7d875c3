//! Stages without the kernel: split with checksums, seal, open, join.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use anyhow::{Result, ensure};
use sandd_aead::Key;
use sandd_mesh::packet::{
    checksum::Checksum,
    join::Joiner,
    split::Splitter,
    vnet::{GSO_TCPV4, NEEDS_CSUM, VnetHeader},
};

use super::{PAYLOAD, SEGMENTS, clocked, median_of};
use crate::machine::PACKET;

/// WireGuard's header and tag around a packet, which is not padded beyond the MTU.
const STRIDE: usize = 16 + PACKET.next_multiple_of(16) + 16;
const HEADERS: usize = PACKET - PAYLOAD;
const SOURCE: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
const DESTINATION: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);

pub(super) fn times() -> Result<Vec<(&'static str, Duration)>> {
    let packet = super_packet();
    let vnet = VnetHeader {
        flags: NEEDS_CSUM,
        gso_type: GSO_TCPV4,
        hdr_len: u16::try_from(HEADERS)?,
        gso_size: u16::try_from(PAYLOAD)?,
        csum_start: 20,
        csum_offset: 16,
    };
    let mut slots = vec![0; STRIDE * SEGMENTS];
    let split = median_of(|| Ok(clocked(|| split(&vnet, &packet, &mut slots)).0))?;
    split_checked(&vnet, &packet, &mut slots)?;
    let key = Key::new(&[7; 32]);
    let seal = median_of(|| Ok(clocked(|| key.seal_slots(&mut slots, STRIDE)).0))?;
    split_checked(&vnet, &packet, &mut slots)?;
    key.seal_slots(&mut slots, STRIDE);
    let sealed = slots.clone();
    let all = u64::MAX >> (64 - SEGMENTS);
    let open = median_of(|| {
        slots.copy_from_slice(&sealed);
        let (took, opened) = clocked(|| key.open_slots(&mut slots, STRIDE, all));
        ensure!(opened == all, "what was sealed does not open");
        Ok(took)
    })?;
    let mut joiner = Joiner::new();
    let join = median_of(|| {
        let mut written = 0;
        let took = clocked(|| {
            let mut sink = |packet: &mut [u8]| written += packet.len();
            for slot in slots.chunks(STRIDE) {
                joiner.push(slot.get(16..16 + PACKET).unwrap_or_default(), &mut sink);
            }
            joiner.flush(&mut sink);
        });
        ensure!(written > PAYLOAD * SEGMENTS, "nothing was joined");
        Ok(took.0)
    })?;
    Ok(vec![
        ("stage_split_ns", split),
        ("stage_seal_ns", seal),
        ("stage_open_ns", open),
        ("stage_join_ns", join),
    ])
}

fn split_checked(vnet: &VnetHeader, packet: &[u8], slots: &mut [u8]) -> Result<()> {
    ensure!(
        split(vnet, packet, slots) == Some(SEGMENTS),
        "the super-packet does not split"
    );
    Ok(())
}

fn split(vnet: &VnetHeader, packet: &[u8], slots: &mut [u8]) -> Option<usize> {
    let splitter = Splitter::new(vnet, packet).ok()?;
    for (index, slot) in slots.chunks_mut(STRIDE).take(splitter.count()).enumerate() {
        let length = splitter.len_of(index);
        splitter.write(index, slot.get_mut(16..16 + length)?);
    }
    Some(splitter.count())
}

/// IPv4, TCP with timestamps, 45 segments, as the kernel gives them.
fn super_packet() -> Vec<u8> {
    let length = HEADERS + PAYLOAD * SEGMENTS;
    let mut packet = vec![0x5a; length];
    let header = packet.iter_mut().take(HEADERS);
    header.for_each(|byte| *byte = 0);
    let total = u16::try_from(length).unwrap_or_default().to_be_bytes();
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = packet.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    put(0, &[0x45, 0, total[0], total[1], 0, 1, 0x40, 0, 64, 6]);
    put(12, &SOURCE.octets());
    put(16, &DESTINATION.octets());
    // Ports, sequence, acknowledgement, 8 words, ACK, window; then no-ops and a timestamp.
    put(
        20,
        &[0x13, 0x89, 0x14, 0x51, 0, 0, 0, 1, 0, 0, 0, 1, 0x80, 0x10, 0xff, 0xff],
    );
    put(40, &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1]);
    let sum = Checksum::default().with_pseudo_header(IpAddr::V4(SOURCE), IpAddr::V4(DESTINATION), 6, length - 20);
    put(36, &sum.partial().to_be_bytes());
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stages_run_on_what_they_are_given() {
        assert_eq!(times().unwrap().len(), 4);
    }
}
