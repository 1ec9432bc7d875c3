//! The body of a map stream: the whole map, then what is new as soon as it is, then keep-alives.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use h2::SendStream;
use sandd_control_client::wire::{DerpMap, MapResponse};
use tokio::time::Instant;

use super::shared::Shared;
use crate::hooks::MapLie;
use crate::limits::with_jitter;
use crate::map::{MapWriter, Told};
use crate::membership::NodeId;

/// Why a stream ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamEnd {
    #[error("the node is no member any longer")]
    NotAMember,
    #[error("the client left")]
    ClientLeft,
    #[error("the client does not read")]
    ClientStuck,
    #[error("the coordinator stops")]
    Stopping,
    #[error("http/2")]
    Http2(#[source] h2::Error),
    #[error("map message")]
    Message(#[from] sandd_control_client::map_stream::MapStreamError),
    #[error("json")]
    Json(#[from] serde_json::Error),
    #[error("ended by a hook")]
    Hook,
}

/// A stream that membership counts as open; dropping it tells that it has ended.
pub(crate) struct Presence<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) id: NodeId,
}

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        self.shared
            .change(|core, now| core.membership.stream_closed(self.id, now));
    }
}

/// One stream to one node.
pub(crate) struct MapStream<'a> {
    pub(crate) presence: Presence<'a>,
    pub(crate) zstd: bool,
    pub(crate) derp_map: DerpMap,
    pub(crate) body: SendStream<Bytes>,
}

impl std::fmt::Debug for MapStream<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MapStream")
            .field("id", &self.presence.id)
            .finish_non_exhaustive()
    }
}

impl MapStream<'_> {
    /// Serves until something ends it. The client sees a clean end only when it is no member any longer.
    pub(crate) async fn run(mut self) -> StreamEnd {
        let end = match self.serve().await {
            Ok(()) => StreamEnd::Stopping,
            Err(end) => end,
        };
        if matches!(end, StreamEnd::NotAMember | StreamEnd::Hook) {
            let _ = self.body.send_data(Bytes::new(), true);
        }
        end
    }

    async fn serve(&mut self) -> Result<(), StreamEnd> {
        let (shared, id) = (self.presence.shared, self.presence.id);
        let mut worlds = shared.worlds();
        let mut pushes = shared.hooks.pushes();
        let mut writer = MapWriter::new(id);
        let world = Arc::clone(&worlds.borrow_and_update());
        let full = writer.full(
            &world,
            &self.derp_map,
            &shared.dns,
            &shared.base_domain,
            SystemTime::now(),
        );
        self.tell(full).await?;
        // After 50 to 59 s of silence, as Headscale's.
        let interval = with_jitter(shared.limits.map_keep_alive, 5);
        let mut keep_alive_at = Instant::now() + interval;
        loop {
            tokio::select! {
                changed = worlds.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let world = Arc::clone(&worlds.borrow_and_update());
                    let told = writer.delta(&world);
                    if told == Told::Nothing {
                        continue;
                    }
                    if let Some(delay) = shared.hooks.delay() {
                        tokio::time::sleep(delay).await;
                    }
                    self.tell(told).await?;
                }
                _ = pushes.changed() => {
                    while let Some(json) = shared.hooks.take_pushed(id) {
                        self.send_message(&json).await?;
                    }
                }
                () = tokio::time::sleep_until(keep_alive_at) => {
                    self.send_message(br#"{"KeepAlive":true}"#).await?;
                }
                reset = std::future::poll_fn(|cx| self.body.poll_reset(cx)) => {
                    return Err(reset.map_or_else(StreamEnd::Http2, |_| StreamEnd::ClientLeft));
                }
            }
            keep_alive_at = Instant::now() + interval;
        }
    }

    async fn tell(&mut self, told: Told) -> Result<(), StreamEnd> {
        let mut message: Box<MapResponse> = match told {
            Told::Nothing => return Ok(()),
            Told::Gone => return Err(StreamEnd::NotAMember),
            Told::Message(message) => message,
        };
        match self.presence.shared.hooks.lie(self.presence.id, &mut message) {
            MapLie::Send => self.send_message(&serde_json::to_vec(&message)?).await,
            MapLie::Drop => Ok(()),
            MapLie::Replace(json) => self.send_message(&json).await,
            MapLie::Raw(bytes) => self.send(Bytes::from(bytes)).await,
            MapLie::End => Err(StreamEnd::Hook),
        }
    }

    async fn send_message(&mut self, json: &[u8]) -> Result<(), StreamEnd> {
        let frame = self.presence.shared.frames.frame(json, self.zstd)?;
        self.send(frame).await
    }

    async fn send(&mut self, mut data: Bytes) -> Result<(), StreamEnd> {
        while !data.is_empty() {
            self.body.reserve_capacity(data.len());
            while self.body.capacity() == 0 {
                let more = std::future::poll_fn(|cx| self.body.poll_capacity(cx));
                match tokio::time::timeout(self.presence.shared.limits.map_write, more).await {
                    Ok(Some(Ok(_))) => {}
                    Ok(Some(Err(error))) => return Err(StreamEnd::Http2(error)),
                    Ok(None) => return Err(StreamEnd::ClientLeft),
                    Err(_) => return Err(StreamEnd::ClientStuck),
                }
            }
            let count = self.body.capacity().min(data.len());
            self.body
                .send_data(data.split_to(count), false)
                .map_err(StreamEnd::Http2)?;
        }
        Ok(())
    }
}
