//! Validity of a pinned certificate, read from its DER.
//!
//! A pinned leaf needs no chain, so the chain verifier cannot judge it; what is left to check is its time. This walks to
//! the one field, with every length checked.

use std::time::SystemTime;

use crate::wire::parse_time;

/// `(not before, not after)` of a certificate, or nothing when it is malformed.
pub(super) fn validity(certificate: &[u8]) -> Option<(SystemTime, SystemTime)> {
    let (mut tbs, _) = enter(enter(certificate, 0x30)?.0, 0x30)?;
    if tbs.first() == Some(&0xa0) {
        tbs = enter(tbs, 0xa0)?.1;
    }
    let after_serial = enter(tbs, 0x02)?.1;
    let after_algorithm = enter(after_serial, 0x30)?.1;
    let after_issuer = enter(after_algorithm, 0x30)?.1;
    let (validity, _) = enter(after_issuer, 0x30)?;
    let (not_before, rest) = time(validity)?;
    let (not_after, _) = time(rest)?;
    Some((not_before, not_after))
}

/// Content of the element with this tag, and what follows the element.
fn enter(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (
                bytes
                    .iter()
                    .fold(0usize, |length, byte| (length << 8) | usize::from(*byte)),
                rest,
            )
        }
        _ => return None,
    };
    if found != tag {
        return None;
    }
    rest.split_at_checked(length)
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn time(input: &[u8]) -> Option<(SystemTime, &[u8])> {
    let utc_time = input.first() == Some(&0x17);
    let (text, rest) = enter(input, if utc_time { 0x17 } else { 0x18 })?;
    let text = std::str::from_utf8(text).ok()?;
    let text = if utc_time {
        let century = if text.get(..2)?.parse::<u8>().ok()? < 50 {
            "20"
        } else {
            "19"
        };
        format!("{century}{text}")
    } else {
        text.to_owned()
    };
    let part = |range: std::ops::Range<usize>| text.get(range);
    let (date, clock) = (
        (part(0..4)?, part(4..6)?, part(6..8)?),
        (part(8..10)?, part(10..12)?, part(12..14)?),
    );
    if text.get(14..)? != "Z" {
        return None;
    }
    let (year, month, day) = date;
    let (hour, minute, second) = clock;
    Some((
        parse_time(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z"))?,
        rest,
    ))
}
