//! What comes to the sockets of port guessing.

use std::time::Instant;

use super::Driver;
use crate::io::guess::Knock;

impl Driver {
    /// Something came to a socket of port guessing: the right peer keeps it.
    pub(super) fn receive_knock(&mut self, mut knock: Knock, now: Instant) {
        if !self.engine.accepts_guess(knock.from, &knock.datagram) {
            return;
        }
        let Some(socket) = self.state.guess.take().map(|guess| guess.take(knock.at)) else {
            return;
        };
        if let Err(error) = self.udp.adopt(knock.from, socket) {
            tracing::debug!(%error, "a guessed path is lost again");
            return;
        }
        let stride = knock.datagram.len();
        self.engine
            .handle_udp(knock.from, 0, &mut knock.datagram, stride, now, &mut self.device);
    }
}
