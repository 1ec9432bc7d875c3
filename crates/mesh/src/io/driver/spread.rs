//! The turn of a node with lanes: as without them, but runs are opened and sealed by other threads while this one reads.

use std::io;
use std::time::Instant;

use super::send::{Wire, send};
use super::{Driver, RECEIVES, skip_stun};
use crate::engine::Opening;

impl Driver {
    /// Takes what the sockets have. True when there was something.
    pub(super) fn receive_spread(&mut self, now: Instant) -> bool {
        let Self {
            udp,
            engine,
            reach,
            device,
            lanes: Some((lanes, queue)),
            ..
        } = self
        else {
            return false;
        };
        let mut busy = false;
        for _ in 0..RECEIVES {
            let more = udp.receive(|from, ecn, buffer, len, stride| {
                let start = skip_stun(reach, &mut buffer[..len], stride, now);
                queue.push((from, ecn), buffer, start..len, stride);
            });
            let mut opening = Opening { queue, engine, now };
            lanes.advance(&mut opening, !more, |opening| opening.deliver(device));
            if !more {
                return busy;
            }
            busy = true;
        }
        let mut opening = Opening { queue, engine, now };
        lanes.advance(&mut opening, true, |opening| opening.deliver(device));
        busy
    }

    /// Takes what the device has, and sends it. True when there may be more.
    pub(super) fn read_device_spread(&mut self, now: Instant) -> io::Result<bool> {
        let Self {
            device,
            engine,
            udp,
            derp,
            state,
            lanes: Some((lanes, _)),
            ..
        } = self
        else {
            return Ok(false);
        };
        let mut unsent = Vec::new();
        let mut wire = Wire { udp, derp };
        let busy = device.read(|header, packet| {
            engine.handle_overlay(header, packet, now);
            lanes.advance(engine.queue(), false, |queue| {
                if queue.len() > 1 {
                    state.blocked = !send(queue, &mut wire, &mut unsent);
                }
            });
            !state.blocked
        });
        lanes.advance(engine.queue(), true, |queue| {
            state.blocked = !send(queue, &mut wire, &mut unsent);
        });
        self.note_unsent(unsent, now);
        busy
    }
}
