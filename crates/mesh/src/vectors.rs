//! Test vectors made with the code of real peers; tests/vectors/README.md says how.

/// All vectors of disco, STUN, DERP and the in-tunnel advertisement.
pub(crate) fn vectors() -> serde_json::Value {
    serde_json::from_str(include_str!("../tests/vectors/paths.json")).unwrap()
}

/// The bytes of a hex text.
pub(crate) fn bytes(value: &serde_json::Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}
