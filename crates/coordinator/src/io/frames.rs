//! [`Frames`]: one change makes the same message for many streams; it is packed once.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use sandd_control_client::map_stream::{MapStreamError, encode};

/// Messages remembered.
const MAX_KEPT: usize = 4;
/// Longer ones are a stream's first, and nobody else's.
const MAX_LENGTH: usize = 16 << 10;

#[derive(Debug)]
struct Kept {
    json: Vec<u8>,
    zstd: bool,
    frame: Bytes,
}

/// The last few messages, packed.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    kept: Mutex<VecDeque<Kept>>,
}

impl Frames {
    /// The message as it stands in a stream's body.
    pub(crate) fn frame(&self, json: &[u8], zstd: bool) -> Result<Bytes, MapStreamError> {
        if json.len() > MAX_LENGTH {
            return encode(json, zstd).map(Bytes::from);
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = kept.iter().find(|kept| kept.zstd == zstd && kept.json == json) {
            return Ok(same.frame.clone());
        }
        let frame = Bytes::from(encode(json, zstd)?);
        if kept.len() == MAX_KEPT {
            kept.pop_front();
        }
        kept.push_back(Kept {
            json: json.to_vec(),
            zstd,
            frame: frame.clone(),
        });
        Ok(frame)
    }
}

#[cfg(test)]
mod tests {
    use sandd_control_client::map_stream::MapDecoder;

    use super::*;

    #[test]
    fn what_comes_out_is_what_went_in() {
        let frames = Frames::default();
        for number in 0..20u8 {
            for zstd in [false, true, true] {
                let json = vec![b'0' + number % 7; 100];
                let mut decoder = MapDecoder::new();
                decoder.push(&frames.frame(&json, zstd).unwrap());
                assert_eq!(decoder.next_message().unwrap(), Some(json));
            }
        }
        assert_eq!(frames.kept.lock().unwrap().len(), MAX_KEPT);
    }
}
