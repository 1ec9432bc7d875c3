//! Values that several commands parse alike.

use std::collections::BTreeMap;

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

/// Parses a daemon id that one of our own flags sets.
pub(super) fn daemon_id() -> impl TypedValueParser<Value = DaemonId> {
    StringValueParser::new().try_map(|text| DaemonId::from_flag(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

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
