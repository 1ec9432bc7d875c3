//! Output of a command, bounded: the beginning and the end are kept, the middle is counted.
//!
//! A v1 peer takes frames of 16 MiB of *JSON*, in which one control character is six. So raw bytes bound the memory while
//! the command runs, and JSON characters bound what is sent.

use std::collections::VecDeque;

/// Raw bytes kept of one stream: half from its beginning, half from its end.
pub(super) const KEPT: usize = 8 * 1024 * 1024;

/// JSON characters that both streams of one command may take together; the rest of the frame is for the envelope.
pub(super) const JSON_BUDGET: usize = 16 * 1024 * 1024 - 64 * 1024;

/// Collects one stream.
#[derive(Debug)]
pub(super) struct Collector {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
    half: usize,
}

/// A stream as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Captured {
    pub text: String,
    pub total: u64,
    pub truncated: bool,
}

impl Collector {
    pub(super) fn new(kept: usize) -> Self {
        Self {
            head: Vec::new(),
            tail: VecDeque::new(),
            total: 0,
            half: kept / 2,
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.total = self.total.saturating_add(bytes.len() as u64);
        let (to_head, rest) = bytes.split_at(bytes.len().min(self.half - self.head.len()));
        self.head.extend_from_slice(to_head);
        let rest = &rest[rest.len().saturating_sub(self.half)..];
        let excess = (self.tail.len() + rest.len()).saturating_sub(self.half);
        self.tail.drain(..excess);
        self.tail.extend(rest);
    }

    /// The text, at most `budget` JSON characters of it.
    pub(super) fn finish(&self, budget: usize) -> Captured {
        let (first, second) = self.tail.as_slices();
        let gap = self.total - self.head.len() as u64 - self.tail.len() as u64;
        if gap == 0 {
            let text = to_text(&[&self.head, first, second].concat());
            if json_length(&text) <= budget {
                return Captured {
                    text,
                    total: self.total,
                    truncated: false,
                };
            }
            let (head, tail) = cut(&text, &text, budget);
            return self.joined(head, tail);
        }
        // A character that the gap cut in two would turn into replacement characters on both edges.
        let head = to_text(without_broken_end(&self.head));
        let tail = to_text(without_broken_start(&[first, second].concat()));
        let (head, tail) = cut(&head, &tail, budget);
        self.joined(head, tail)
    }

    fn joined(&self, head: &str, tail: &str) -> Captured {
        let kept = (head.len() + tail.len()) as u64;
        let left_out = self.total.saturating_sub(kept);
        let text = format!("{head}\n[... about {left_out} bytes left out ...]\n{tail}");
        Captured {
            text,
            total: self.total,
            truncated: true,
        }
    }
}

/// Fits two streams into one frame: a small one leaves its share to the other.
pub(super) fn finish_both(stdout: &Collector, stderr: &Collector, budget: usize) -> (Captured, Captured) {
    let half = budget / 2;
    let (out, err) = (stdout.finish(half), stderr.finish(half));
    match (out.truncated, err.truncated) {
        (true, false) => {
            let room = budget - json_length(&err.text).min(half);
            (stdout.finish(room), err)
        }
        (false, true) => {
            let room = budget - json_length(&out.text).min(half);
            (out, stderr.finish(room))
        }
        (false, false) | (true, true) => (out, err),
    }
}

fn to_text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Characters of one `char` in a JSON string as `serde_json` writes it, counted in bytes.
fn json_cost(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        c if u32::from(c) < 0x20 => 6,
        c => c.len_utf8(),
    }
}

fn json_length(text: &str) -> usize {
    text.chars().map(json_cost).sum()
}

/// Room for the line that stands for the gap.
const MARKER: usize = 96;

/// The longest beginning of `head` and end of `tail` that fit into half of the budget each.
fn cut<'a>(head: &'a str, tail: &'a str, budget: usize) -> (&'a str, &'a str) {
    let half = budget.saturating_sub(MARKER) / 2;
    let fits = |costs: &mut dyn Iterator<Item = char>| -> usize {
        let (mut cost, mut length) = (0, 0);
        for c in costs {
            cost += json_cost(c);
            if cost > half {
                break;
            }
            length += c.len_utf8();
        }
        length
    };
    let head = &head[..fits(&mut head.chars())];
    let tail = &tail[tail.len() - fits(&mut tail.chars().rev())..];
    (head, tail)
}

/// Drops a character that the end of the slice cut in two.
fn without_broken_end(bytes: &[u8]) -> &[u8] {
    for back in 1..=bytes.len().min(3) {
        let byte = bytes[bytes.len() - back];
        let needs = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => 1,
        };
        return if needs > back {
            &bytes[..bytes.len() - back]
        } else {
            bytes
        };
    }
    bytes
}

/// Drops the rest of a character that the start of the slice cut in two.
fn without_broken_start(bytes: &[u8]) -> &[u8] {
    let skip = bytes
        .iter()
        .take(3)
        .take_while(|&&byte| (0x80..=0xbf).contains(&byte))
        .count();
    &bytes[skip..]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn collected(kept: usize, chunks: &[&[u8]]) -> Collector {
        let mut collector = Collector::new(kept);
        for chunk in chunks {
            collector.push(chunk);
        }
        collector
    }

    #[test]
    fn short_output_is_whole() {
        let captured = collected(16, &[b"hello ", b"world"]).finish(1000);
        assert_eq!(
            captured,
            Captured {
                text: "hello world".into(),
                total: 11,
                truncated: false
            }
        );
        assert_eq!(collected(16, &[b"a\xffb"]).finish(1000).text, "a\u{fffd}b");
    }

    #[test]
    fn long_output_keeps_head_and_tail() {
        let captured = collected(8, &[b"abcdefghij", b"klmnopqrstuvwxyz"]).finish(1000);
        assert!(captured.truncated);
        assert_eq!(captured.total, 26);
        assert!(
            captured.text.starts_with("abcd\n[... about 18 bytes left out"),
            "{}",
            captured.text
        );
        assert!(captured.text.ends_with("...]\nwxyz"), "{}", captured.text);
    }

    #[test]
    fn a_cut_never_breaks_a_character() {
        let captured = collected(8, &["ääääääääää".as_bytes()]).finish(1000);
        assert!(!captured.text.contains('\u{fffd}'), "{}", captured.text);
        let captured = collected(10, &["€€€€€€€€€€".as_bytes()]).finish(1000);
        assert!(!captured.text.contains('\u{fffd}'), "{}", captured.text);
    }

    #[test]
    fn control_characters_are_counted_as_json_has_them() {
        let out = collected(KEPT, &[&vec![0; KEPT]]);
        let err = collected(KEPT, &[b"small"]);
        let (out, err) = finish_both(&out, &err, JSON_BUDGET);
        assert!(out.truncated && !err.truncated);
        let length = serde_json::to_string(&out.text).unwrap().len();
        assert!(length <= JSON_BUDGET && length > JSON_BUDGET - 1000, "{length}");
    }

    proptest! {
        #[test]
        fn both_streams_fit_their_budget(
            out in proptest::collection::vec(any::<u8>(), 0..600),
            err in proptest::collection::vec(any::<u8>(), 0..600),
            kept in 2_usize..400,
            budget in 400_usize..2000,
        ) {
            let (stdout, stderr) = (collected(kept, &[&out]), collected(kept, &[&err]));
            let (a, b) = finish_both(&stdout, &stderr, budget);
            let length = |t: &str| serde_json::to_string(t).unwrap().len() - 2;
            prop_assert_eq!(json_length(&a.text), length(&a.text));
            prop_assert!(length(&a.text) + length(&b.text) <= budget);
            if !a.truncated { prop_assert_eq!(&a.text, &String::from_utf8_lossy(&out)); }
            prop_assert_eq!(a.total, out.len() as u64);
        }

        #[test]
        fn pieces_do_not_matter(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0_usize..300, kept in 2_usize..100) {
            let at = at.min(bytes.len());
            let whole = collected(kept, &[&bytes]).finish(100_000);
            let pieces = collected(kept, &[&bytes[..at], &bytes[at..]]).finish(100_000);
            prop_assert_eq!(whole, pieces);
        }
    }
}
