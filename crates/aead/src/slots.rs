//! Where the slots of a run lie. Everything above works on whole slots, everything below on their parts.

/// Bytes before the body: type, reserved, receiver index, counter.
pub const HEADER: usize = 16;
/// Bytes after the body.
pub const TAG: usize = 16;
/// The shortest slot: an empty body.
pub const MIN_SLOT: usize = HEADER + TAG;
/// How many slots [`crate::Key::open_slots`] looks at: the bits of its result.
pub const MAX_SLOTS: usize = 64;

/// A run of slots, none of them shorter than [`MIN_SLOT`].
pub(crate) struct Slots<'a> {
    bytes: &'a mut [u8],
    stride: usize,
    count: usize,
}

impl<'a> Slots<'a> {
    /// The first `most` slots of `bytes`; `None` when a slot of `stride` bytes cannot be one.
    pub(crate) fn new(bytes: &'a mut [u8], stride: usize, most: usize) -> Option<Self> {
        if stride < MIN_SLOT {
            return None;
        }
        let rest = bytes.len() % stride;
        let count = bytes.len() / stride + usize::from(rest >= MIN_SLOT);
        Some(Self {
            bytes,
            stride,
            count: count.min(most),
        })
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// How many slots are `stride` bytes long: all, or all but the last.
    pub(crate) fn equal(&self) -> usize {
        self.count.min(self.bytes.len() / self.stride)
    }

    /// The body's length of those.
    pub(crate) fn body(&self) -> usize {
        self.stride - MIN_SLOT
    }

    /// Where slot `index` starts.
    pub(crate) fn start(&self, index: usize) -> usize {
        index * self.stride
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        self.bytes
    }

    /// Slot `index`, which is below [`Self::count`].
    pub(crate) fn slot(&mut self, index: usize) -> &mut [u8] {
        let start = self.start(index);
        let end = self.bytes.len().min(start + self.stride);
        &mut self.bytes[start..end]
    }
}
