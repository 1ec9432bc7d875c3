//! Values that several commands parse alike.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::builder::{StringValueParser, TypedValueParser};

use crate::wire::ids::DaemonId;

/// `KEY=VALUE`; the first `=` splits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub key: String,
    pub value: String,
}

/// Parses `KEY=VALUE`.
pub(super) fn pair(text: &str) -> Result<Pair, String> {
    match text.split_once('=') {
        Some(("", _)) | None => Err("expected KEY=VALUE".to_owned()),
        Some((key, value)) => Ok(Pair {
            key: key.to_owned(),
            value: value.to_owned(),
        }),
    }
}

/// The pairs as a map; the last of equal keys wins.
pub(super) fn to_map(pairs: &[Pair]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|pair| (pair.key.clone(), pair.value.clone()))
        .collect()
}

/// Parses `90`, `90s`, `15m`, `24h` or `30d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a number and s, m, h or d, for instance 24h".to_owned();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    match count.checked_mul(unit) {
        Some(seconds @ 1..=3_153_600_000) => Ok(Duration::from_secs(seconds)),
        Some(_) | None => Err("expected at least one second and at most 100 years".to_owned()),
    }
}

/// Parses a daemon id that one of our own flags sets.
pub(super) fn daemon_id() -> impl TypedValueParser<Value = DaemonId> {
    StringValueParser::new().try_map(|text| DaemonId::from_flag(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        for (text, seconds) in [("90", 90), ("1s", 1), ("15m", 900), ("24h", 86_400), ("30d", 2_592_000)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "h",
            "-1h",
            "1.5h",
            "1w",
            "1 h",
            "0",
            "99999999999999999999h",
            "18446744073709551615d",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_first_equals_sign_splits() {
        assert_eq!(
            pair("a=b=c").unwrap(),
            Pair {
                key: "a".into(),
                value: "b=c".into()
            }
        );
        assert_eq!(pair("a=").unwrap().value, "");
        assert!(pair("a").is_err() && pair("=b").is_err() && pair("").is_err());
        let pairs = [pair("a=1").unwrap(), pair("a=2").unwrap()];
        assert_eq!(to_map(&pairs)["a"], "2");
    }
}
